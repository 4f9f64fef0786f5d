//! Computation that a consumer does itself, beyond the encoder's.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Live counters of a consumer's own computation, for the metrics.
#[derive(Debug, Default)]
pub struct ConsumerWork {
    passes: AtomicU64,
    compute_nanos: AtomicU64,
}

impl ConsumerWork {
    /// Adds `passes` that took `compute` together.
    pub fn add(&self, passes: u64, compute: Duration) {
        self.passes.fetch_add(passes, Ordering::Relaxed);
        self.compute_nanos.fetch_add(compute.as_nanos() as u64, Ordering::Relaxed);
    }

    /// Number of passes: for keywords, verification passes at full depth.
    pub fn passes(&self) -> u64 {
        self.passes.load(Ordering::Relaxed)
    }

    /// Time spent.
    pub fn compute(&self) -> Duration {
        Duration::from_nanos(self.compute_nanos.load(Ordering::Relaxed))
    }
}
