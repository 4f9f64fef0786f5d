//! Pacing of recorded audio to real time.

use std::time::{Duration, Instant};

/// Length of a simulated callback.
const PERIOD: Duration = Duration::from_millis(20);

/// The clock of a stream that is delivered in real time.
pub(super) struct Pace {
    began: Instant,
    rate: f64,
    samples: u64,
}

impl Pace {
    /// Starts the clock of a stream at `rate` Hz.
    pub fn new(rate: u32) -> Self {
        Self { began: Instant::now(), rate: f64::from(rate), samples: 0 }
    }

    /// Samples of a callback.
    pub fn period(&self) -> usize {
        ((self.rate * PERIOD.as_secs_f64()) as usize).max(1)
    }

    /// Counts samples that a damaged recording lacks.
    pub fn skip(&mut self, samples: u64) {
        self.samples += samples;
    }

    /// Waits until `samples` more samples would have been recorded.
    pub fn wait(&mut self, samples: usize) {
        self.samples += samples as u64;
        let due = self.began + Duration::from_secs_f64(self.samples as f64 / self.rate);
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
    }
}
