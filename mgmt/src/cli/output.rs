//! Where words go: data to stdout in the form asked for, everything else to stderr.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use clap::ValueEnum;
use comfy_table::{CellAlignment, Table, presets};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::Value;

pub use lockstep_proto::figures::{bytes, span, thousands};

/// A moment as people and programs read it; `ms` since 1970.
#[must_use]
pub fn moment(ms: u64) -> String {
    let micros = i64::try_from(ms).unwrap_or(i64::MAX).saturating_mul(1_000);
    lockstep_proto::value::Value::Timestamp(micros).to_string()
}

/// The form of what goes to stdout.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Format {
    /// For people.
    Table,
    /// One JSON document.
    Json,
    /// One JSON object per line.
    Jsonl,
    /// Comma-separated text (`table export` only).
    Csv,
}

impl Format {
    /// Whether programs read it.
    #[must_use]
    pub fn is_json(self) -> bool {
        match self {
            Self::Json | Self::Jsonl => true,
            Self::Table | Self::Csv => false,
        }
    }
}

/// How much a command says, and how: the global flags.
#[derive(Clone, Copy, Debug)]
pub struct Voice {
    /// The form of data.
    pub format: Format,
    /// Say nothing but data and errors.
    pub quiet: bool,
    /// Say more.
    pub verbose: bool,
    /// Colours and moving bars are welcome on stderr.
    pub color: bool,
}

impl Voice {
    /// A message on stderr, unless quiet.
    pub fn say(&self, text: impl AsRef<str>) {
        if !self.quiet {
            // A closed stderr is no reason to fail: the work itself goes on.
            let _ = writeln!(io::stderr(), "{}", text.as_ref());
        }
    }

    /// A message on stderr, only with `-v`.
    pub fn detail(&self, text: impl AsRef<str>) {
        if self.verbose {
            self.say(text);
        }
    }

    /// Data on stdout: the JSON form or the text for people.
    ///
    /// # Errors
    /// Those of stdout; a reader that went away is not one.
    pub fn data(&self, json: &Value, text: impl FnOnce() -> String) -> io::Result<()> {
        match self.format {
            Format::Json => print(&format!("{json}\n")),
            Format::Jsonl => print(&format!("{json}\n")),
            Format::Table | Format::Csv => print(&text()),
        }
    }

    /// A list on stdout: a JSON object with `key`, one object per line, or the text for people.
    ///
    /// # Errors
    /// Those of stdout.
    pub fn list(
        &self,
        schema: &str,
        key: &str,
        rows: &[Value],
        text: impl FnOnce() -> String,
    ) -> io::Result<()> {
        match self.format {
            Format::Json => {
                let mut object = serde_json::Map::new();
                object.insert("schema".into(), schema.into());
                object.insert(key.into(), Value::Array(rows.to_vec()));
                print(&format!("{}\n", Value::Object(object)))
            }
            Format::Jsonl => rows.iter().try_for_each(|row| print(&format!("{row}\n"))),
            Format::Table | Format::Csv => print(&text()),
        }
    }

    /// A progress bar over `total` steps named `unit`: moving on a terminal, else silent (callers
    /// print plain lines of their own).
    #[must_use]
    pub fn progress(&self, what: &str, total: u64, unit: &'static str) -> Progress {
        let moving = self.color && !self.quiet && io::stderr().is_terminal();
        let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr_with_hz(8));
        if !moving {
            bar.set_draw_target(ProgressDrawTarget::hidden());
        }
        let template = format!(
            "{{prefix}} {{wide_bar:.cyan/dim}} {{human_pos}}/{{human_len}} {unit}  {{per_sec}}  \
             {{eta}} left"
        );
        if let Ok(style) = ProgressStyle::with_template(&template) {
            bar.set_style(style.progress_chars("━╸─"));
        }
        bar.set_prefix(what.to_owned());
        let now = std::time::Instant::now();
        Progress { bar, plain: !moving && !self.quiet, voice: *self, last: now, start: now, unit }
    }
}

/// Progress of long work; see [`Voice::progress`].
pub struct Progress {
    bar: ProgressBar,
    plain: bool,
    voice: Voice,
    last: std::time::Instant,
    start: std::time::Instant,
    unit: &'static str,
}

/// How often plain progress lines are printed where no bar can move.
const PLAIN_EVERY: Duration = Duration::from_secs(5);

impl Progress {
    /// The work has reached `position`.
    pub fn set(&mut self, position: u64) {
        self.bar.set_position(position);
        if self.plain && self.last.elapsed() >= PLAIN_EVERY {
            self.last = std::time::Instant::now();
            let total = self.bar.length().unwrap_or_default();
            // Of seconds there is one per second.
            let rate = match self.unit {
                "s" => String::new(),
                _ => format!(" ({}/s)", thousands(rate(position, self.start.elapsed()))),
            };
            self.voice.say(format!(
                "  {} of {} {}{rate}",
                thousands(position),
                thousands(total),
                self.unit,
            ));
        }
    }

    /// The work has reached `position` of `total`, which is only known now.
    pub fn set_of(&mut self, position: u64, total: u64) {
        self.bar.set_length(total);
        self.set(position);
    }

    /// A line above the bar.
    pub fn say(&self, text: &str) {
        if self.plain {
            self.voice.say(text);
        } else {
            self.bar.println(text);
        }
    }

    /// Takes the bar away.
    pub fn finish(self) {
        self.bar.finish_and_clear();
    }
}

/// Units per second, rounded.
#[must_use]
pub fn rate(count: u64, time: Duration) -> u64 {
    let seconds = time.as_secs_f64();
    if seconds <= 0.0 { 0 } else { (count as f64 / seconds).round() as u64 }
}

/// Writes to stdout; a reader that went away (`| head`) ends the process quietly.
///
/// # Errors
/// Those of stdout, but for a closed pipe.
pub fn print(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}

/// A plain table: headers, then rows; columns whose cells are all numbers stand to the right.
#[must_use]
pub fn table(headers: &[&str], rows: &[Vec<String>]) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    table.set_header(headers.iter().map(|h| h.to_uppercase()));
    for row in rows {
        table.add_row(row);
    }
    for (index, column) in table.column_iter_mut().enumerate() {
        column.set_padding((if index == 0 { 0 } else { 2 }, 0));
        let numeric =
            |cell: &String| cell.bytes().all(|b| b.is_ascii_digit() || b" .%".contains(&b));
        if !rows.is_empty() && rows.iter().all(|row| row.get(index).is_some_and(numeric)) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    let text = table.to_string();
    let lines: Vec<&str> = text.lines().map(str::trim_end).collect();
    lines.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_for_people() {
        assert_eq!(rate(100, Duration::from_millis(500)), 200);
    }

    #[test]
    fn tables_align_numbers_right() {
        let rows = [vec!["a".into(), "7".into()], vec!["bb".into(), "1 000".into()]];
        assert_eq!(table(&["name", "rows"], &rows), "NAME   ROWS\na         7\nbb    1 000\n");
    }
}
