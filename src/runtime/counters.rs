//! What a run counts. Every number can be read at any time, from any thread, and none holds the stream up.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hdrhistogram::Histogram;

use crate::audio::RingStats;
use crate::stream::Representation;

/// Live counters of one run.
#[derive(Debug)]
pub struct Counters {
    ring: Arc<RingStats>,
    source_rate: u32,
    pack_rate: u32,
    chunks: AtomicU64,
    /// Samples at the pack's rate whose representation is out.
    samples_out: AtomicU64,
    compute_nanos: AtomicU64,
    not_finite_heads: AtomicU64,
    layer_frames: AtomicU64,
    projected_frames: AtomicU64,
    multiply_adds: AtomicU64,
    frames: AtomicU64,
    exits: Vec<AtomicU64>,
    latencies: Mutex<Latencies>,
    consumers: Vec<ConsumerCounters>,
}

/// Live counters of one consumer.
#[derive(Debug)]
pub struct ConsumerCounters {
    name: String,
    delivered: AtomicU64,
    dropped: AtomicU64,
}

/// Histograms in microseconds.
#[derive(Debug, Clone)]
pub struct Latencies {
    /// Computing one chunk.
    pub compute: Histogram<u64>,
    /// From the capture of a chunk's last sample to its representation; empty for sources that are not live.
    pub delay: Histogram<u64>,
}

/// From a microsecond to an hour, to three digits.
const LONGEST_MICROS: u64 = 3_600_000_000;

impl Latencies {
    fn new() -> Self {
        // The bounds are constants that the constructor allows.
        let histogram = || {
            Histogram::new_with_bounds(1, LONGEST_MICROS, 3)
                .unwrap_or_else(|_| Histogram::new(3).unwrap_or_else(|_| unreachable!()))
        };
        Self { compute: histogram(), delay: histogram() }
    }
}

/// What the inference thread could not yet put into the shared histograms, because a reader held them.
#[derive(Debug, Default)]
pub(super) struct PendingLatencies(Vec<(u64, Option<u64>)>);

impl Counters {
    pub(super) fn new(ring: Arc<RingStats>, source_rate: u32, pack_rate: u32, layers: usize, consumers: Vec<String>) -> Self {
        let zero = || AtomicU64::new(0);
        Self {
            ring,
            source_rate,
            pack_rate,
            chunks: zero(),
            samples_out: zero(),
            compute_nanos: zero(),
            not_finite_heads: zero(),
            layer_frames: zero(),
            projected_frames: zero(),
            multiply_adds: zero(),
            frames: zero(),
            exits: (0..=layers).map(|_| zero()).collect(),
            latencies: Mutex::new(Latencies::new()),
            consumers: consumers.into_iter().map(|name| ConsumerCounters { name, delivered: zero(), dropped: zero() }).collect(),
        }
    }

    /// Samples captured, read, dropped, queued, at the source's rate.
    pub fn ring(&self) -> &RingStats {
        &self.ring
    }

    /// Rate of the source, Hz.
    pub fn source_rate(&self) -> u32 {
        self.source_rate
    }

    /// Chunks computed.
    pub fn chunks(&self) -> u64 {
        self.chunks.load(Ordering::Relaxed)
    }

    /// Frames computed.
    pub fn frames(&self) -> u64 {
        self.frames.load(Ordering::Relaxed)
    }

    /// Samples at the pack's rate whose representation is out.
    pub fn samples_out(&self) -> u64 {
        self.samples_out.load(Ordering::Relaxed)
    }

    /// Sound whose representation is out.
    pub fn audio(&self) -> Duration {
        Duration::from_secs_f64(self.samples_out() as f64 / f64::from(self.pack_rate))
    }

    /// Time spent on computing chunks.
    pub fn compute(&self) -> Duration {
        Duration::from_nanos(self.compute_nanos.load(Ordering::Relaxed))
    }

    /// Heads whose logits were not all finite.
    pub fn not_finite_heads(&self) -> u64 {
        self.not_finite_heads.load(Ordering::Relaxed)
    }

    /// Frame-passes through whole layers: one frame through one layer is one. Filling in after early exits counts.
    pub fn layer_frames(&self) -> u64 {
        self.layer_frames.load(Ordering::Relaxed)
    }

    /// Frame-passes through key and value projections alone.
    pub fn projected_frames(&self) -> u64 {
        self.projected_frames.load(Ordering::Relaxed)
    }

    /// Multiply-adds of every stage that ran.
    pub fn multiply_adds(&self) -> u64 {
        self.multiply_adds.load(Ordering::Relaxed)
    }

    /// Chunks that stopped after layer 1, 2, …
    pub fn exits(&self) -> Vec<u64> {
        self.exits.iter().map(|count| count.load(Ordering::Relaxed)).collect()
    }

    /// Mean exit layer; `None` before the first chunk.
    pub fn mean_exit_layer(&self) -> Option<f64> {
        let exits = self.exits();
        let chunks: u64 = exits.iter().sum();
        let layers: u64 = exits.iter().zip(0..).map(|(count, layer)| count * layer).sum();
        (chunks > 0).then(|| layers as f64 / chunks as f64)
    }

    /// A copy of the latency histograms.
    pub fn latencies(&self) -> Latencies {
        self.lock().clone()
    }

    /// Counters of the consumers, in the order in which they were given.
    pub fn consumers(&self) -> &[ConsumerCounters] {
        &self.consumers
    }

    fn lock(&self) -> MutexGuard<'_, Latencies> {
        // A histogram is whole even if a thread died while it held the lock.
        self.latencies.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn count(&self, representation: &Representation, delay: Option<Duration>, pending: &mut PendingLatencies) {
        self.chunks.fetch_add(1, Ordering::Relaxed);
        self.frames.fetch_add(representation.vectors.frames() as u64, Ordering::Relaxed);
        self.samples_out.fetch_add(representation.samples, Ordering::Relaxed);
        self.compute_nanos.fetch_add(representation.compute.as_nanos() as u64, Ordering::Relaxed);
        if let Some(count) = self.exits.get(representation.exit_layer) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        pending.0.push((representation.compute.as_micros() as u64, delay.map(|delay| delay.as_micros() as u64)));
        if let Ok(mut latencies) = self.latencies.try_lock() {
            pending.flush(&mut latencies);
        }
    }

    pub(super) fn count_work(&self, work: crate::engine::Work, not_finite_heads: u64) {
        self.layer_frames.store(work.layer_frames, Ordering::Relaxed);
        self.projected_frames.store(work.projected_frames, Ordering::Relaxed);
        self.multiply_adds.store(work.multiply_adds, Ordering::Relaxed);
        self.not_finite_heads.store(not_finite_heads, Ordering::Relaxed);
    }

    pub(super) fn finish(&self, pending: &mut PendingLatencies) {
        pending.flush(&mut self.lock());
    }
}

impl PendingLatencies {
    fn flush(&mut self, latencies: &mut Latencies) {
        for (compute, delay) in self.0.drain(..) {
            latencies.compute.saturating_record(compute);
            delay.into_iter().for_each(|delay| latencies.delay.saturating_record(delay));
        }
    }
}

impl ConsumerCounters {
    /// The consumer's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Representations that it took.
    pub fn delivered(&self) -> u64 {
        self.delivered.load(Ordering::Relaxed)
    }

    /// Representations that it was too slow for.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    pub(super) fn count_delivered(&self) {
        self.delivered.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn count_dropped(&self) {
        self.dropped.fetch_add(1, Ordering::Relaxed);
    }
}
