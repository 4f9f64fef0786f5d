//! State and counters of a daemon, readable at any time from any thread.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;

use super::board::Reading;
use super::events::{EventBus, StatusEvent, StreamEvent};
use crate::consumer::StreamInfo;
use crate::process;
use crate::runtime::Counters;

/// State of a daemon.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// The pack is loaded; no audio has arrived yet.
    #[default]
    Starting,
    /// Audio arrives and is processed.
    Running,
    /// The device is open but delivers nothing, or the inference thread makes no progress.
    Stalled,
    /// The device is missing or was closed after a failure; opening it is retried.
    Reconnecting,
    /// No input is configured; only services run.
    Idle,
    /// All captured audio is processed.
    Stopped,
}

impl State {
    /// Every state.
    pub const ALL: [Self; 6] = [Self::Starting, Self::Running, Self::Stalled, Self::Reconnecting, Self::Idle, Self::Stopped];

    /// The name in the log, the notify status and the metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Stalled => "stalled",
            Self::Reconnecting => "reconnecting",
            Self::Idle => "idle",
            Self::Stopped => "stopped",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// State and counters of a daemon.
#[derive(Debug)]
pub struct Status {
    counters: Arc<Counters>,
    events: Arc<EventBus>,
    phones: bool,
    /// Whether keywords can be enrolled over HTTP.
    pub(super) enrolment: AtomicBool,
    state: AtomicU8,
    started: Instant,
    /// The stream, with the policy in effect.
    stream: Mutex<StreamInfo>,
    reading: Mutex<Reading>,
    #[cfg(feature = "neighbours")]
    neighbours: std::sync::OnceLock<Arc<crate::neighbour::Roster>>,
    absent_nanos: AtomicU64,
    pub(super) source_rate: AtomicU32,
    pub(super) opened: AtomicU64,
    pub(super) lost: AtomicU64,
    pub(super) open_failures: AtomicU64,
    pub(super) reloads: AtomicU64,
    pub(super) rejected_reloads: AtomicU64,
    pub(super) pings: AtomicU64,
    pub(super) throttles: AtomicU64,
    pub(super) consumer_failed: AtomicBool,
}

impl Status {
    pub(super) fn new(counters: Arc<Counters>, stream: StreamInfo, events: Arc<EventBus>, phones: bool) -> Self {
        let zero = || AtomicU64::new(0);
        Self {
            counters,
            events,
            phones,
            enrolment: AtomicBool::new(false),
            state: AtomicU8::new(0),
            started: Instant::now(),
            stream: Mutex::new(stream),
            reading: Mutex::default(),
            #[cfg(feature = "neighbours")]
            neighbours: std::sync::OnceLock::new(),
            absent_nanos: zero(),
            source_rate: AtomicU32::new(0),
            opened: zero(),
            lost: zero(),
            open_failures: zero(),
            reloads: zero(),
            rejected_reloads: zero(),
            pings: zero(),
            throttles: zero(),
            consumer_failed: AtomicBool::new(false),
        }
    }

    /// The runtime's counters.
    pub fn counters(&self) -> &Arc<Counters> {
        &self.counters
    }

    /// Where events are published.
    pub fn events(&self) -> &Arc<EventBus> {
        &self.events
    }

    /// The state.
    pub fn state(&self) -> State {
        State::ALL[usize::from(self.state.load(Ordering::Acquire)) % State::ALL.len()]
    }

    pub(super) fn set_state(&self, state: State) {
        let at = State::ALL.iter().position(|one| *one == state).unwrap_or(0);
        self.state.store(at as u8, Ordering::Release);
    }

    /// Whether audio arrives, is processed, and reaches every consumer; always without an input.
    pub fn healthy(&self) -> bool {
        matches!(self.state(), State::Running | State::Idle) && !self.consumer_has_failed()
    }

    /// Whether a consumer has failed since the last reload.
    pub(super) fn consumer_has_failed(&self) -> bool {
        self.consumer_failed.load(Ordering::Acquire)
    }

    /// The stream, with the policy in effect.
    pub fn stream(&self) -> StreamInfo {
        locked(&self.stream).clone()
    }

    pub(super) fn set_stream(&self, stream: StreamInfo) {
        *locked(&self.stream) = stream;
    }

    /// The latest reading of the board.
    pub fn reading(&self) -> Reading {
        locked(&self.reading).clone()
    }

    pub(super) fn set_reading(&self, reading: Reading) {
        *locked(&self.reading) = reading;
    }

    /// The neighbours, if any were ever configured.
    #[cfg(feature = "neighbours")]
    pub fn neighbours(&self) -> Option<&Arc<crate::neighbour::Roster>> {
        self.neighbours.get()
    }

    /// Adds the neighbours to the metrics and the status.
    #[cfg(feature = "neighbours")]
    pub fn set_neighbours(&self, roster: Arc<crate::neighbour::Roster>) {
        let _ = self.neighbours.set(roster);
    }

    /// Time since the start of the daemon.
    pub fn uptime(&self) -> Duration {
        self.started.elapsed()
    }

    /// Total time without a source, between the last sample of one and the next.
    pub fn absent(&self) -> Duration {
        Duration::from_nanos(self.absent_nanos.load(Ordering::Relaxed))
    }

    pub(super) fn count_absent(&self, absent: Duration) {
        self.absent_nanos.fetch_add(absent.as_nanos() as u64, Ordering::Relaxed);
    }

    /// Sources opened: 1 if none was lost.
    pub fn opened(&self) -> u64 {
        self.opened.load(Ordering::Relaxed)
    }

    /// Sources lost.
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// Failed attempts to open a source.
    pub fn open_failures(&self) -> u64 {
        self.open_failures.load(Ordering::Relaxed)
    }

    /// Reloads applied, and reloads rejected.
    pub fn reloads(&self) -> (u64, u64) {
        (self.reloads.load(Ordering::Relaxed), self.rejected_reloads.load(Ordering::Relaxed))
    }

    /// Watchdog pings sent.
    pub fn pings(&self) -> u64 {
        self.pings.load(Ordering::Relaxed)
    }

    /// Number of times that throttling began.
    pub fn throttles(&self) -> u64 {
        self.throttles.load(Ordering::Relaxed)
    }

    /// Sample rate of the current source, Hz; 0 before the first one.
    pub fn source_rate(&self) -> u32 {
        self.source_rate.load(Ordering::Relaxed)
    }
}

impl StreamEvent {
    /// The current stream.
    pub(super) fn of(status: &Status) -> Self {
        let stream = status.stream();
        Self {
            version: env!("CARGO_PKG_VERSION"),
            started: process::start_time().unwrap_or_default(),
            source: stream.source,
            pack: stream.pack,
            policy: stream.policy,
            layers: stream.layers,
            units: stream.units,
            sample_rate: stream.sample_rate,
            chunk_samples: stream.chunk_frames * stream.hop_samples,
            phones: status.phones,
            enrolment: status.enrolment.load(Ordering::Relaxed),
        }
    }
}

impl StatusEvent {
    /// The current state, without the values that need an earlier one.
    pub(super) fn of(status: &Status) -> Self {
        let (counters, reading) = (status.counters(), status.reading());
        let samples = counters.samples();
        Self {
            state: status.state(),
            healthy: status.healthy(),
            uptime: status.uptime().as_secs_f64(),
            captured: samples.captured,
            dropped: samples.dropped,
            xruns: counters.xruns(),
            device_lost: status.lost(),
            consumer_dropped: counters.consumers().iter().map(|consumer| consumer.dropped()).sum(),
            chunks: counters.chunks(),
            mean_exit_layer: counters.mean_exit_layer(),
            level_dbfs: counters.recent_level().map(|level| (level.rms_dbfs * 100.0).round() / 100.0),
            cpu_percent: None,
            compute_percent: None,
            memory: process::resident_memory(),
            temperature: reading.temperatures.iter().map(|(_, celsius)| *celsius).reduce(f64::max),
            throttled: reading.throttled,
            events_lost: status.events.lost(),
        }
    }
}

/// One line: state, source, pack, policy and the main counters.
impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stream = self.stream();
        let samples = self.counters.samples();
        write!(f, "{}: {} through {} ({})", self.state(), stream.source, stream.pack, stream.policy)?;
        write!(f, "; {:.0} s of audio", self.counters.audio().as_secs_f64())?;
        if let Some(depth) = self.counters.mean_exit_layer() {
            write!(f, ", mean exit layer {depth:.2}")?;
        }
        if let Some(level) = self.counters.recent_level() {
            write!(f, ", input {level}")?;
        }
        write!(f, ", {} samples dropped, device lost {}×", samples.dropped, self.lost())?;
        #[cfg(feature = "neighbours")]
        if let Some(roster) = self.neighbours() {
            write!(f, "; {roster}")?;
        }
        Ok(())
    }
}

/// Locks even if a thread panicked with the lock held: the data is consistent at any time.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
