//! Just enough of Rust's lexical rules to tell code from comments and strings, and tests from
//! what is shipped.

/// One line of a Rust file.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(super) struct Line {
    /// The code, with comments removed and strings emptied.
    pub(super) code: String,
    /// Inside an item under `#[cfg(test)]`.
    pub(super) test: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Inside {
    Code,
    Comment { depth: u32 },
    Text,
    RawText { hashes: usize },
}

/// The lines of a Rust file.
pub(super) fn lines(text: &str) -> Vec<Line> {
    let mut inside = Inside::Code;
    let mut lines = Vec::new();
    for line in text.lines() {
        let mut code = String::new();
        let mut rest = line;
        while !rest.is_empty() {
            rest = match inside {
                Inside::Code => code_step(rest, &mut code, &mut inside),
                Inside::Comment { depth } => comment_step(rest, depth, &mut inside),
                Inside::Text => text_step(rest, &mut code, &mut inside),
                Inside::RawText { hashes } => raw_text_step(rest, hashes, &mut code, &mut inside),
            };
        }
        lines.push(Line { code, test: false });
    }
    mark_tests(&mut lines);
    lines
}

fn code_step<'a>(rest: &'a str, code: &mut String, inside: &mut Inside) -> &'a str {
    if rest.starts_with("//") {
        return "";
    }
    if let Some(after) = rest.strip_prefix("/*") {
        *inside = Inside::Comment { depth: 1 };
        return after;
    }
    if let Some((hashes, after)) = raw_start(rest, code) {
        *inside = Inside::RawText { hashes };
        code.push('"');
        return after;
    }
    if let Some(after) = rest.strip_prefix('"') {
        *inside = Inside::Text;
        code.push('"');
        return after;
    }
    if let Some(after) = char_literal(rest) {
        code.push_str("' '");
        return after;
    }
    let first = rest.chars().next().expect("the rest is not empty");
    code.push(first);
    &rest[first.len_utf8()..]
}

/// After `r`, hashes and a quote; not where the `r` is the end of a word.
fn raw_start<'a>(rest: &'a str, before: &str) -> Option<(usize, &'a str)> {
    let word = before.chars().next_back().is_some_and(|c| c.is_alphanumeric() && c != 'b');
    let after = rest.strip_prefix('r').filter(|_| !word)?;
    let hashes = after.bytes().take_while(|&byte| byte == b'#').count();
    after[hashes..].strip_prefix('"').map(|after| (hashes, after))
}

/// After a character in quotes; `None` for a lifetime.
fn char_literal(rest: &str) -> Option<&str> {
    let after = rest.strip_prefix('\'')?;
    if let Some(escaped) = after.strip_prefix('\\') {
        let skipped = escaped.chars().next().map_or(0, char::len_utf8);
        return escaped[skipped..].split_once('\'').map(|(_, after)| after);
    }
    let first = after.chars().next()?;
    after[first.len_utf8()..].strip_prefix('\'')
}

fn comment_step<'a>(rest: &'a str, depth: u32, inside: &mut Inside) -> &'a str {
    let open = rest.find("/*").unwrap_or(usize::MAX);
    let close = rest.find("*/").unwrap_or(usize::MAX);
    if open < close {
        *inside = Inside::Comment { depth: depth + 1 };
        &rest[open + 2..]
    } else if close < usize::MAX {
        *inside = if depth == 1 { Inside::Code } else { Inside::Comment { depth: depth - 1 } };
        &rest[close + 2..]
    } else {
        ""
    }
}

fn text_step<'a>(rest: &'a str, code: &mut String, inside: &mut Inside) -> &'a str {
    let Some(end) = rest.find(['"', '\\']) else { return "" };
    if rest[end..].starts_with('"') {
        *inside = Inside::Code;
        code.push('"');
        return &rest[end + 1..];
    }
    let skipped = rest[end + 1..].chars().next().map_or(0, char::len_utf8);
    &rest[end + 1 + skipped..]
}

fn raw_text_step<'a>(
    rest: &'a str,
    hashes: usize,
    code: &mut String,
    inside: &mut Inside,
) -> &'a str {
    let end = format!("\"{}", "#".repeat(hashes));
    let Some(at) = rest.find(&end) else { return "" };
    *inside = Inside::Code;
    code.push('"');
    &rest[at + end.len()..]
}

/// Marks the items under `#[cfg(test)]`, by counting braces.
fn mark_tests(lines: &mut [Line]) {
    let mut at = 0;
    while at < lines.len() {
        if !lines[at].code.trim_start().starts_with("#[cfg(test)]") {
            at += 1;
            continue;
        }
        let mut depth = 0_i32;
        let mut opened = false;
        while at < lines.len() {
            let line = &mut lines[at];
            line.test = true;
            at += 1;
            for byte in line.code.bytes() {
                match byte {
                    b'{' => {
                        depth += 1;
                        opened = true;
                    }
                    b'}' => depth -= 1,
                    _ => {}
                }
            }
            let ended = line.code.trim_end().ends_with(';') && depth == 0;
            if (opened && depth == 0) || ended {
                break;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn codes(text: &str) -> Vec<String> {
        lines(text).into_iter().map(|line| line.code).collect()
    }

    #[test]
    fn comments_and_strings_are_left_out() {
        let cases: [(&str, &[&str]); 8] = [
            ("a(); // todo!()", &["a(); "]),
            ("a /* b /* c */ d */ e", &["a  e"]),
            ("a /* b\nc */ d", &["a ", " d"]),
            (r#"f("x // \" y") + 1"#, &[r#"f("") + 1"#]),
            ("f(r#\"x \" y\"#) + 1", &["f(\"\") + 1"]),
            ("let c = '\"'; g()", &["let c = ' '; g()"]),
            ("let c = '\\''; g::<'a>(\"t\")", &["let c = ' '; g::<'a>(\"\")"]),
            ("var\"text\nmore\" b", &["var\"", "\" b"]),
        ];
        for (text, expected) in cases {
            assert_eq!(codes(text), expected, "{text}");
        }
    }

    #[test]
    fn tests_are_told_from_the_rest() {
        let text = "a\n#[cfg(test)]\nmod b;\nc\n#[cfg(test)]\nmod d {\n fn e() { \"}\" }\n}\nf";
        let test: Vec<bool> = lines(text).iter().map(|line| line.test).collect();
        assert_eq!(test, [false, true, true, false, true, true, true, true, false]);
    }
}
