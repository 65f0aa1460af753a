//! "Did you mean …?": the known word nearest to a mistyped one.

/// The word of `known` that is nearest to `wrong`, if any is near enough to be what was meant.
pub(super) fn nearest<'a>(wrong: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let distance_max = (wrong.len() / 3).max(1);
    known
        .map(|word| (distance(wrong, word), word))
        .filter(|(distance, _)| *distance <= distance_max)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, word)| word)
}

/// How many single-character insertions, deletions, changes and swaps of neighbours apart.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut before = vec![0; b.len() + 1];
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 0..a.len() {
        let mut row = vec![i + 1];
        for j in 0..b.len() {
            let change = last[j] + usize::from(a[i] != b[j]);
            let mut best = change.min(last[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && a[i] == b[j - 1] && a[i - 1] == b[j] {
                best = best.min(before[j - 1] + 1);
            }
            row.push(best);
        }
        before = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn typos_are_found_and_strangers_are_not() {
        let known = ["dir", "listen", "zone", "shards"];
        let near = |wrong| nearest(wrong, known.into_iter());
        assert_eq!(near("zonne"), Some("zone"));
        assert_eq!(near("lisetn"), Some("listen"));
        assert_eq!(near("shard"), Some("shards"));
        assert_eq!(near("port"), None);
    }

    #[test]
    fn distances_count_single_slips() {
        for (a, b, expected) in
            [("", "abc", 3), ("abc", "abc", 0), ("ab", "ba", 1), ("abc", "axc", 1)]
        {
            assert_eq!(distance(a, b), expected, "{a} {b}");
        }
    }
}
