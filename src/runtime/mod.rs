//! Streams on threads: a source, the inference thread, and a thread per consumer.
//!
//! [`RunBuilder`] puts a source, an encoder, a policy and consumers together, and [`RunBuilder::start`] returns a [`Run`]: the handle
//! that stops the stream, reads its counters and waits for its end.
//!
//! Whatever ends a run (the end of the file, [`Run::stop`], a failed device, a failed consumer), the source stops first, all
//! captured samples are computed, and every consumer finishes its output.
//
// `daemon` supervises the same threads across many sources.

// Some of it serves the daemon only.
#[cfg_attr(not(feature = "serve"), allow(dead_code))]
mod connection;
mod counters;
mod delivery;
mod error;
mod gain;
#[cfg_attr(not(feature = "serve"), allow(dead_code))]
mod inference;
mod latency;
pub(crate) mod level;
#[cfg_attr(not(feature = "serve"), allow(dead_code))]
mod pipeline;
mod repeated;
mod run;
mod samples;
mod summary;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

#[cfg(feature = "serve")]
pub(crate) use connection::Connection;
pub(crate) use connection::{Opened, SourceStatus};
pub use counters::{ConsumerCounters, Counters};
pub use error::RunError;
pub use gain::InputGain;
pub use latency::{Latencies, LatencyHistogram, Percentiles};
pub use level::InputLevel;
#[cfg(feature = "serve")]
pub(crate) use pipeline::EndedConsumer;
pub use pipeline::NamedConsumer;
pub(crate) use pipeline::Pipeline;
pub use run::{Run, RunBuilder, RunReport};
pub use samples::Samples;
pub use summary::{ConsumerSummary, Summary};

use crate::stream::{Session, SessionOptions};

/// A change to a session, made between two chunks.
pub type Adjust = Box<dyn FnOnce(&mut Session) + Send>;

/// A request to end, shared by its clones. Setting it is safe in a signal handler.
#[derive(Debug, Clone, Default)]
pub struct StopFlag(Arc<AtomicBool>);

impl StopFlag {
    /// Requests the end.
    pub fn stop(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// Whether the end has been requested.
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

impl From<Arc<AtomicBool>> for StopFlag {
    /// A flag that is set when `flag` is, for signal handlers.
    fn from(flag: Arc<AtomicBool>) -> Self {
        Self(flag)
    }
}

/// Buffer sizes and limits of a run.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct RunOptions {
    /// Options of the session. The consumers' [`requirements`](crate::consumer::Consumer::requires) are added to them.
    pub session: SessionOptions,
    /// Length of the ring buffer: how long inference may stall before live audio is dropped. Two seconds by default.
    pub ring: Duration,
    /// Representations that may wait for a consumer before it overflows. 16 by default.
    pub queue_chunks: usize,
    /// How long a live source may deliver nothing before it counts as failed. Five seconds by default.
    pub watchdog: Duration,
    /// Real-time priority of the inference thread (SCHED_FIFO), 1 to 49: below 50, the priority of the kernel's interrupt threads. If
    /// the system refuses it, the run continues without and logs a warning. None by default.
    pub priority: Option<u8>,
    /// Gain of captured audio. The input level and the count of clipped samples are measured before it. None by default.
    pub gain: InputGain,
}

impl Default for RunOptions {
    fn default() -> Self {
        Self {
            session: SessionOptions::default(),
            ring: Duration::from_secs(2),
            queue_chunks: 16,
            watchdog: Duration::from_secs(5),
            priority: None,
            gain: InputGain::default(),
        }
    }
}

impl RunOptions {
    /// Sets the session's options.
    pub fn session(mut self, session: SessionOptions) -> Self {
        self.session = session;
        self
    }

    /// Sets the length of the ring buffer.
    pub fn ring(mut self, ring: Duration) -> Self {
        self.ring = ring;
        self
    }

    /// Sets the number of representations that may wait for a consumer.
    pub fn queue_chunks(mut self, chunks: usize) -> Self {
        self.queue_chunks = chunks;
        self
    }

    /// Sets how long a live source may deliver nothing.
    pub fn watchdog(mut self, watchdog: Duration) -> Self {
        self.watchdog = watchdog;
        self
    }

    /// Sets the real-time priority of the inference thread.
    pub fn priority(mut self, priority: u8) -> Self {
        self.priority = Some(priority);
        self
    }

    /// Sets the gain.
    pub fn gain(mut self, gain: InputGain) -> Self {
        self.gain = gain;
        self
    }
}

/// How often a source is polled; its events are handled at once.
pub(crate) const SUPERVISION: Duration = Duration::from_millis(100);
