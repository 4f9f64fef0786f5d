//! What can be asked of a running daemon, at any time and from any thread.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::board::Reading;
use crate::consumer::StreamInfo;
use crate::runtime::Counters;

/// What a daemon is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// The pack is loaded; no sound has come yet.
    Starting,
    /// Sound comes, and is computed.
    Running,
    /// The device is open and delivers nothing, or the inference thread stands still.
    Stalled,
    /// The device is not there, or was given up; it is looked for again and again.
    Reconnecting,
    /// The end: what was captured has been computed.
    Stopped,
}

impl State {
    /// Every state.
    pub const ALL: [Self; 5] = [Self::Starting, Self::Running, Self::Stalled, Self::Reconnecting, Self::Stopped];

    /// Its name in the log, the notify status and the metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Stalled => "stalled",
            Self::Reconnecting => "reconnecting",
            Self::Stopped => "stopped",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The state and the numbers of a daemon.
#[derive(Debug)]
pub struct Status {
    counters: Arc<Counters>,
    state: AtomicU8,
    began: Instant,
    /// The stream, and where its policy stands after the last reload.
    stream: Mutex<StreamInfo>,
    reading: Mutex<Reading>,
    away_nanos: AtomicU64,
    pub(super) source_rate: AtomicU32,
    pub(super) opened: AtomicU64,
    pub(super) lost: AtomicU64,
    pub(super) not_opened: AtomicU64,
    pub(super) reloads: AtomicU64,
    pub(super) refused_reloads: AtomicU64,
    pub(super) pings: AtomicU64,
    pub(super) throttles: AtomicU64,
    pub(super) consumer_failed: AtomicBool,
}

impl Status {
    pub(super) fn new(counters: Arc<Counters>, stream: StreamInfo) -> Self {
        let zero = || AtomicU64::new(0);
        Self {
            counters,
            state: AtomicU8::new(0),
            began: Instant::now(),
            stream: Mutex::new(stream),
            reading: Mutex::default(),
            away_nanos: zero(),
            source_rate: AtomicU32::new(0),
            opened: zero(),
            lost: zero(),
            not_opened: zero(),
            reloads: zero(),
            refused_reloads: zero(),
            pings: zero(),
            throttles: zero(),
            consumer_failed: AtomicBool::new(false),
        }
    }

    /// The runtime's counters.
    pub fn counters(&self) -> &Arc<Counters> {
        &self.counters
    }

    /// What it is doing.
    pub fn state(&self) -> State {
        State::ALL[usize::from(self.state.load(Ordering::Acquire)) % State::ALL.len()]
    }

    pub(super) fn set_state(&self, state: State) {
        let at = State::ALL.iter().position(|one| *one == state).unwrap_or(0);
        self.state.store(at as u8, Ordering::Release);
    }

    /// Whether sound comes, is computed, and reaches every consumer.
    pub fn healthy(&self) -> bool {
        self.state() == State::Running && !self.consumer_failed.load(Ordering::Acquire)
    }

    /// The stream, with the policy that is in force.
    pub fn stream(&self) -> StreamInfo {
        locked(&self.stream).clone()
    }

    pub(super) fn set_stream(&self, stream: StreamInfo) {
        *locked(&self.stream) = stream;
    }

    /// What the board showed last.
    pub fn reading(&self) -> Reading {
        locked(&self.reading).clone()
    }

    pub(super) fn set_reading(&self, reading: Reading) {
        *locked(&self.reading) = reading;
    }

    /// Time since the start.
    pub fn uptime(&self) -> Duration {
        self.began.elapsed()
    }

    /// Time without a device, between sounds.
    pub fn away(&self) -> Duration {
        Duration::from_nanos(self.away_nanos.load(Ordering::Relaxed))
    }

    pub(super) fn count_away(&self, away: Duration) {
        self.away_nanos.fetch_add(away.as_nanos() as u64, Ordering::Relaxed);
    }

    /// Sources that were opened: 1 after a life without losses.
    pub fn opened(&self) -> u64 {
        self.opened.load(Ordering::Relaxed)
    }

    /// Sources that were lost.
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// Attempts to open a source that failed.
    pub fn not_opened(&self) -> u64 {
        self.not_opened.load(Ordering::Relaxed)
    }

    /// Reloads that took effect, and those that were refused.
    pub fn reloads(&self) -> (u64, u64) {
        (self.reloads.load(Ordering::Relaxed), self.refused_reloads.load(Ordering::Relaxed))
    }

    /// Pings of the watchdog.
    pub fn pings(&self) -> u64 {
        self.pings.load(Ordering::Relaxed)
    }

    /// Times that the board was seen to slow down.
    pub fn throttles(&self) -> u64 {
        self.throttles.load(Ordering::Relaxed)
    }

    /// Rate of the present source, Hz; 0 before the first one.
    pub fn source_rate(&self) -> u32 {
        self.source_rate.load(Ordering::Relaxed)
    }
}

/// One line for people.
impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stream = self.stream();
        let samples = self.counters.samples();
        write!(f, "{}: {} through {} ({})", self.state(), stream.source, stream.pack, stream.policy)?;
        write!(f, "; {:.0} s of sound", self.counters.audio().as_secs_f64())?;
        if let Some(depth) = self.counters.mean_exit_layer() {
            write!(f, ", mean exit layer {depth:.2}")?;
        }
        write!(f, ", {} samples dropped, device lost {}×", samples.dropped, self.lost())
    }
}

/// What is behind these locks is whole at any time, also after a thread died with one.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
