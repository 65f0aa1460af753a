//! The admin port of a process as a monitor sees it.

use std::collections::BTreeMap;

pub use lockstep_mgmt::admin::ask::{Page, get};

/// The values on a page of metrics, by name and labels as they stand there.
///
/// # Panics
/// If a line is none of the text form of Prometheus, or tells a value twice.
#[must_use]
pub fn values(page: &str) -> BTreeMap<String, f64> {
    let mut values = BTreeMap::new();
    for line in page.lines().filter(|line| !line.starts_with("# ")) {
        let (name, value) = line.rsplit_once(' ').expect("a name and a value");
        let value: f64 = value.parse().expect("a number");
        assert_eq!(values.insert(name.to_owned(), value), None, "{name} twice");
    }
    values
}

/// The sum of a metric over its labels; `None` if it is not there.
#[must_use]
pub fn sum(values: &BTreeMap<String, f64>, metric: &str) -> Option<f64> {
    let of = |name: &str| name.split('{').next() == Some(metric);
    let found: Vec<f64> =
        values.iter().filter(|(name, _)| of(name)).map(|(_, value)| *value).collect();
    (!found.is_empty()).then(|| found.iter().sum())
}
