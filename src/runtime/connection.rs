//! A running source, its state, and the detection of stalls.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::RecvTimeoutError;

use super::counters::Counters;
use super::repeated::Repeated;
use super::{RunError, SUPERVISION};
use crate::audio::{AudioError, EventReceiver, RingReader, RingStats, Source, SourceEvent, SourceSpec, events, ring_of_frames};

/// A started source that is not connected yet.
pub struct Opened {
    pub(super) source: Box<dyn Source>,
    pub(super) spec: SourceSpec,
    pub(super) ring: RingReader,
    pub(super) ring_channels: u16,
    pub(super) events: EventReceiver,
}

impl Opened {
    /// Starts `source` with a ring of this length.
    pub fn start(mut source: Box<dyn Source>, length: Duration) -> Result<Self, AudioError> {
        let spec = source.spec().clone();
        let (writer, ring) = ring_of_frames(
            (length.as_secs_f64() * f64::from(spec.sample_rate)) as usize,
            spec.sample_rate,
            source.ring_channels(),
        );
        let (sender, events) = events();
        match source.start(writer, sender) {
            Ok(()) => Ok(Self { ring_channels: source.ring_channels(), source, spec, ring, events }),
            Err(error) => {
                source.stop();
                Err(error)
            }
        }
    }
}

/// State of a source, returned by [`Connection::poll`].
#[derive(Debug)]
pub enum SourceStatus {
    /// The source is running.
    Running,
    /// The source has delivered its last sample.
    Ended,
    /// The source failed, or delivered nothing for too long.
    Failed(RunError),
}

/// A source that is connected to the inference thread.
pub struct Connection {
    source: Box<dyn Source>,
    spec: SourceSpec,
    events: EventReceiver,
    stats: Arc<RingStats>,
    stopped: Arc<AtomicBool>,
    counters: Arc<Counters>,
    xruns: u64,
    overrun_log: Repeated,
    stall: StallDetector,
    /// Number of polls since its ring was closed and empty.
    polls_after_close: u32,
}

/// Number of polls after which a source with a closed ring counts as ended, even without an event.
const MAX_POLLS_AFTER_CLOSE: u32 = 10;

impl Connection {
    pub(super) fn new(
        source: Box<dyn Source>,
        spec: SourceSpec,
        events: EventReceiver,
        stats: Arc<RingStats>,
        stopped: Arc<AtomicBool>,
        counters: Arc<Counters>,
    ) -> Self {
        Self {
            source,
            spec,
            events,
            stats,
            stopped,
            counters,
            xruns: 0,
            overrun_log: Repeated::default(),
            stall: StallDetector::new(),
            polls_after_close: 0,
        }
    }

    /// Description of the source.
    pub fn spec(&self) -> &SourceSpec {
        &self.spec
    }

    /// Waits up to 100 ms for an event of the source, and returns its state. A live source that has delivered nothing
    /// for `patience` has failed.
    pub fn poll(&mut self, patience: Duration) -> SourceStatus {
        let status = match self.events.receiver().recv_timeout(SUPERVISION) {
            Ok(SourceEvent::Xrun) => SourceStatus::Running,
            Ok(SourceEvent::Error(error)) => SourceStatus::Failed(error.into()),
            Ok(SourceEvent::End) => SourceStatus::Ended,
            Err(RecvTimeoutError::Timeout) => SourceStatus::Running,
            Err(RecvTimeoutError::Disconnected) => {
                std::thread::sleep(SUPERVISION);
                SourceStatus::Running
            }
        };
        self.count_xruns();
        self.stall.update(self.stats.captured());
        self.polls_after_close += u32::from(!self.counters.holds_ring(&self.stats));
        match status {
            SourceStatus::Running if self.polls_after_close >= MAX_POLLS_AFTER_CLOSE => {
                SourceStatus::Failed(RunError::ThreadDied("source"))
            }
            SourceStatus::Running if self.silence() >= patience => {
                SourceStatus::Failed(RunError::Stalled { source_name: self.spec.name.clone(), silence: self.silence() })
            }
            status => status,
        }
    }

    /// Time since a live source last delivered samples.
    pub fn silence(&self) -> Duration {
        if self.spec.live { self.stall.silence } else { Duration::ZERO }
    }

    /// Samples delivered.
    pub fn captured(&self) -> u64 {
        self.stats.captured()
    }

    /// Capture time of the last sample.
    pub fn last_sample_at(&self) -> Option<Instant> {
        let captured = self.stats.captured();
        if captured == 0 {
            return None;
        }
        self.stats.captured_at(captured as f64 / f64::from(self.spec.sample_rate))
    }

    /// Stops the source; audio in the ring is still processed. Returns the source's own result, if it has ended.
    pub fn close(mut self) -> SourceStatus {
        self.source.stop();
        self.stopped.store(true, Ordering::Release);
        self.stats.wake_reader();
        self.count_xruns();
        // A source reports its end after its last sample, possibly between two polls.
        self.events.receiver().try_iter().fold(SourceStatus::Running, |status, event| match event {
            SourceEvent::Error(error) => SourceStatus::Failed(error.into()),
            SourceEvent::End => SourceStatus::Ended,
            SourceEvent::Xrun => status,
        })
    }

    fn count_xruns(&mut self) {
        let xruns = self.events.xruns();
        let more = xruns - self.xruns;
        self.counters.count_xruns(more);
        self.xruns = xruns;
        if let Some(count) = self.overrun_log.due(more, Instant::now()) {
            log::warn!(
                "{}: {count} device overrun(s), audio was lost; if this continues, set a larger buffer (--buffer)",
                self.spec.name
            );
        }
    }
}

/// Observes whether a source still delivers samples.
struct StallDetector {
    captured: u64,
    updated: Instant,
    /// Time at which new samples were last observed.
    moved: Instant,
    silence: Duration,
}

impl StallDetector {
    fn new() -> Self {
        let now = Instant::now();
        Self { captured: 0, updated: now, moved: now, silence: Duration::ZERO }
    }

    /// Ignores time in which this process itself was suspended.
    fn update(&mut self, captured: u64) {
        let now = Instant::now();
        let passed = now.duration_since(self.updated).min(2 * SUPERVISION);
        self.updated = now;
        if captured == self.captured {
            self.silence += passed;
        } else {
            (self.captured, self.moved, self.silence) = (captured, now, Duration::ZERO);
        }
    }
}
