//! The balance of samples.

use serde::Serialize;

use crate::audio::RingStats;

/// The balance of a run's samples, at the source's rate: captured = processed + dropped + left, exactly.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Samples {
    /// Samples that the source delivered.
    pub captured: u64,
    /// Samples processed.
    pub processed: u64,
    /// Samples that arrived while the ring was full.
    pub dropped: u64,
    /// Samples in the ring; after a run, 0 unless it failed.
    pub left: u64,
    /// Captured samples that were NaN, infinite or far out of range, and were replaced with zeros.
    pub non_finite: u64,
}

impl Samples {
    /// A snapshot of a ring's counters.
    pub(super) fn of(ring: &RingStats) -> Self {
        let (processed, dropped) = (ring.read(), ring.dropped());
        // Read last: while a block is pushed, its drops are counted slightly before its captures.
        let captured = ring.captured().max(processed + dropped);
        Self { captured, processed, dropped, left: captured - processed - dropped, non_finite: ring.non_finite() }
    }
}

impl std::ops::Add for Samples {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            captured: self.captured + other.captured,
            processed: self.processed + other.processed,
            dropped: self.dropped + other.dropped,
            left: self.left + other.left,
            non_finite: self.non_finite + other.non_finite,
        }
    }
}
