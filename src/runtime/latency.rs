//! Latency histograms.

use std::fmt;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// Upper bound of the histogram: one hour, in microseconds.
const LONGEST_MICROS: u64 = 3_600_000_000;

/// A histogram of latencies from a microsecond to an hour, to three significant digits.
#[derive(Debug, Clone, PartialEq)]
pub struct LatencyHistogram(Histogram<u64>);

impl Default for LatencyHistogram {
    fn default() -> Self {
        // The bounds are constants that the constructor allows.
        Self(
            Histogram::new_with_bounds(1, LONGEST_MICROS, 3)
                .unwrap_or_else(|_| Histogram::new(3).unwrap_or_else(|_| unreachable!())),
        )
    }
}

impl LatencyHistogram {
    /// Adds a latency.
    pub fn record(&mut self, latency: Duration) {
        self.0.saturating_record(latency.as_micros().try_into().unwrap_or(u64::MAX));
    }

    /// Adds all latencies of `other`.
    pub fn merge(&mut self, other: &Self) {
        for step in other.0.iter_recorded() {
            self.0.saturating_record_n(step.value_iterated_to(), step.count_at_value());
        }
    }

    /// Number of latencies.
    pub fn count(&self) -> u64 {
        self.0.len()
    }

    /// Number of latencies of at most `bound`, to the histogram's precision.
    pub fn count_up_to(&self, bound: Duration) -> u64 {
        self.0.count_between(0, bound.as_micros().try_into().unwrap_or(u64::MAX))
    }

    /// Whether the histogram is empty.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The latency at `quantile`, 0 to 1.
    pub fn quantile(&self, quantile: f64) -> Duration {
        Duration::from_micros(self.0.value_at_quantile(quantile))
    }

    /// The longest latency.
    pub fn max(&self) -> Duration {
        Duration::from_micros(self.0.max())
    }

    /// The usual percentiles; `None` if the histogram is empty.
    pub fn percentiles(&self) -> Option<Percentiles> {
        let milliseconds = |latency: Duration| latency.as_micros() as f64 / 1e3;
        let at = |quantile| milliseconds(self.quantile(quantile));
        (!self.is_empty()).then(|| Percentiles {
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            max: milliseconds(self.max()),
        })
    }
}

/// The latencies of a run.
#[derive(Debug, Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct Latencies {
    /// Time to compute a chunk.
    pub compute: LatencyHistogram,
    /// Time from the capture of a chunk's last sample to its representation; empty for sources that are not live.
    pub delay: LatencyHistogram,
}

/// Percentiles of a latency, milliseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Percentiles {
    /// Median.
    pub p50: f64,
    /// 90th percentile.
    pub p90: f64,
    /// 99th percentile.
    pub p99: f64,
    /// 99.9th percentile.
    pub p999: f64,
    /// Maximum.
    pub max: f64,
}

impl fmt::Display for Percentiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { p50, p90, p99, p999, max } = self;
        write!(f, "p50 {p50:.2}  p90 {p90:.2}  p99 {p99:.2}  p99.9 {p999:.2}  max {max:.2} ms")
    }
}
