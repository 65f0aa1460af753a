//! What a measured run yields: latencies as an HDR histogram, counts, and CPU time.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde_json::{Map, Value, json};

use crate::cli::error::{CliError, CliResult, Trouble};

/// Latencies of one kind of operation, recorded in nanoseconds with three significant digits.
#[derive(Clone)]
pub struct Latencies(Histogram<u64>);

/// Longest latency told apart: ten minutes.
const LATENCY_NANOS_MAX: u64 = 600_000_000_000;

impl Default for Latencies {
    fn default() -> Self {
        Self(Histogram::new_with_max(LATENCY_NANOS_MAX, 3).expect("constant, valid bounds"))
    }
}

impl Latencies {
    /// Counts one operation.
    pub fn record(&mut self, latency: Duration) {
        let nanos = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
        self.0.saturating_record(nanos);
    }

    /// Adds all of another's.
    pub fn merge(&mut self, other: &Self) {
        self.0.add(&other.0).expect("same bounds");
    }

    /// How many.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.len()
    }

    /// The latency not exceeded by this share (0–1) of operations, in microseconds.
    #[must_use]
    pub fn micros_at(&self, quantile: f64) -> f64 {
        round_to(self.0.value_at_quantile(quantile) as f64 / 1_000.0, 2)
    }

    /// The longest, in microseconds.
    #[must_use]
    pub fn micros_max(&self) -> f64 {
        round_to(self.0.max() as f64 / 1_000.0, 2)
    }
}

/// A number with few digits behind the point, for reports.
#[must_use]
pub fn round_to(value: f64, digits: i32) -> f64 {
    let factor = 10_f64.powi(digits);
    (value * factor).round() / factor
}

/// One finished run.
#[derive(Clone, Default)]
pub struct Measured {
    /// Operations done, as the bench counts them.
    pub ops: u64,
    /// How long it took.
    pub time: Duration,
    /// All latencies.
    pub latencies: Latencies,
    /// CPU time of the client and all servers together; not known if one of them left meanwhile.
    pub cpu: Option<Duration>,
}

impl Measured {
    /// Operations per second of wall time.
    #[must_use]
    pub fn ops_per_s(&self) -> f64 {
        ratio(self.ops as f64, self.time.as_secs_f64())
    }

    /// Operations per second of CPU time.
    #[must_use]
    pub fn ops_per_cpu_second(&self) -> Option<f64> {
        self.cpu.map(|cpu| ratio(self.ops as f64, cpu.as_secs_f64()))
    }

    /// CPU time per operation, in microseconds.
    #[must_use]
    pub fn cpu_us_per_op(&self) -> Option<f64> {
        self.cpu.map(|cpu| ratio(cpu.as_secs_f64() * 1e6, self.ops as f64))
    }

    /// The CPU time, for a bench whose result is made of it.
    ///
    /// # Errors
    /// If it is not known.
    pub fn known_cpu(&self) -> CliResult<Duration> {
        self.cpu.ok_or_else(|| {
            CliError::new(Trouble::NotVerified, "CPU time is not known")
                .why("a data node left while it was measured")
                .then("measure again; the log of that node says why it left")
        })
    }

    /// Its seconds; none if it is not known.
    #[must_use]
    pub fn cpu_s(&self) -> f64 {
        self.cpu.unwrap_or_default().as_secs_f64()
    }

    /// This run and another one of the same kind as one.
    #[must_use]
    pub fn joined(mut self, other: &Self) -> Self {
        self.ops += other.ops;
        self.time += other.time;
        self.cpu = self.cpu.zip(other.cpu).map(|(one, two)| one + two);
        self.latencies.merge(&other.latencies);
        self
    }

    /// The keys every bench report has.
    #[must_use]
    pub fn to_json(&self) -> Map<String, Value> {
        let object = json!({
            "ops": self.ops,
            "seconds": round_to(self.time.as_secs_f64(), 3),
            "ops_per_s": round_to(self.ops_per_s(), 1),
            "p50_us": self.latencies.micros_at(0.5),
            "p99_us": self.latencies.micros_at(0.99),
            "p999_us": self.latencies.micros_at(0.999),
            "max_us": self.latencies.micros_max(),
            "cpu_us_per_op": self.cpu_us_per_op().map(|cpu| round_to(cpu, 3)),
            "ops_per_cpu_second": self.ops_per_cpu_second().map(|ops| round_to(ops, 1)),
        });
        let Value::Object(map) = object else { unreachable!("written as an object") };
        map
    }
}

fn ratio(a: f64, b: f64) -> f64 {
    if b > 0.0 { a / b } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_what_was_recorded() {
        let mut latencies = Latencies::default();
        (1..=1000).for_each(|n| latencies.record(Duration::from_micros(n)));
        assert_eq!(latencies.count(), 1000);
        let near = |value: f64, expected: f64| (value - expected).abs() / expected < 0.002;
        assert!(near(latencies.micros_at(0.5), 500.0), "{}", latencies.micros_at(0.5));
        assert!(near(latencies.micros_at(0.99), 990.0));
        assert!(near(latencies.micros_max(), 1000.0));
    }

    #[test]
    fn an_empty_run_divides_by_nothing() {
        let json = Measured::default().to_json();
        assert_eq!(json["ops_per_s"], 0.0);
        assert_eq!(json["cpu_us_per_op"], Value::Null);
    }

    #[test]
    fn rates_count_cpu_of_all() {
        let measured = Measured {
            ops: 1000,
            time: Duration::from_secs(2),
            cpu: Some(Duration::from_millis(10)),
            ..Measured::default()
        };
        let json = measured.to_json();
        assert_eq!(json["ops_per_s"], 500.0);
        assert_eq!(json["cpu_us_per_op"], 10.0);
        assert_eq!(json["ops_per_cpu_second"], 100_000.0);
        let unknown = Measured { cpu: None, ..measured.clone() };
        for run in [unknown.clone(), measured.joined(&unknown)] {
            let json = run.to_json();
            assert_eq!(json["cpu_us_per_op"], Value::Null);
            assert_eq!(json["ops_per_cpu_second"], Value::Null);
        }
    }
}
