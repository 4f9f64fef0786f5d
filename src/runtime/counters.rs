//! Counters of a run. All can be read at any time from any thread, without blocking the stream.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::latency::Latencies;
use super::level::{InputLevel, Levels};
use super::samples::Samples;
use crate::audio::RingStats;
use crate::consumer::ConsumerWork;
use crate::exit::Reason;
use crate::stream::Representation;

/// Live counters of one run.
#[derive(Debug)]
pub struct Counters {
    rings: Mutex<Rings>,
    pack_rate: u32,
    xruns: AtomicU64,
    chunks: AtomicU64,
    /// Samples at the pack's rate whose representation has been delivered.
    samples_out: AtomicU64,
    compute_nanos: AtomicU64,
    delay_nanos: AtomicU64,
    non_finite_heads: AtomicU64,
    layer_frames: AtomicU64,
    projected_frames: AtomicU64,
    macs: AtomicU64,
    frames: AtomicU64,
    exits: Vec<AtomicU64>,
    reasons: Vec<(Reason, AtomicU64)>,
    latencies: Mutex<Latencies>,
    levels: Mutex<Levels>,
    consumers: Mutex<Consumers>,
    heartbeats: AtomicU64,
}

/// The rings of a run's sources: the sum of the closed ones, and those in use.
#[derive(Debug)]
struct Rings {
    done: Samples,
    live: Vec<Arc<RingStats>>,
}

/// The consumers of a run. A daemon whose consumers change for years does not keep all of them.
#[derive(Debug, Default)]
struct Consumers {
    kept: Vec<Arc<ConsumerCounters>>,
    /// The verification of those that are not kept.
    verification: (Duration, u64),
}

/// Removed consumers whose counters are kept.
const MOST_REMOVED: usize = 32;

/// Live counters of one consumer.
#[derive(Debug)]
pub struct ConsumerCounters {
    name: String,
    label: String,
    offered: AtomicU64,
    delivered: AtomicU64,
    dropped: AtomicU64,
    failed: AtomicBool,
    closed: AtomicBool,
    work: Arc<ConsumerWork>,
}

/// Latencies that were not added to the shared histograms yet, because a reader held the lock.
#[derive(Debug, Default)]
pub(super) struct PendingLatencies(Vec<(Duration, Option<Duration>)>);

impl Counters {
    pub(super) fn new(pack_rate: u32, layers: usize) -> Self {
        let zero = || AtomicU64::new(0);
        Self {
            rings: Mutex::new(Rings { done: Samples::default(), live: Vec::new() }),
            pack_rate,
            xruns: zero(),
            chunks: zero(),
            samples_out: zero(),
            compute_nanos: zero(),
            delay_nanos: zero(),
            non_finite_heads: zero(),
            layer_frames: zero(),
            projected_frames: zero(),
            macs: zero(),
            frames: zero(),
            exits: (0..=layers).map(|_| zero()).collect(),
            reasons: Reason::all().map(|reason| (reason, zero())).collect(),
            latencies: Mutex::default(),
            levels: Mutex::default(),
            consumers: Mutex::default(),
            heartbeats: zero(),
        }
    }

    /// Samples of all sources so far, each at its source's rate: captured = processed + dropped + left (in the ring), exactly.
    pub fn samples(&self) -> Samples {
        let rings = locked(&self.rings);
        rings.live.iter().fold(rings.done, |sum, ring| sum + Samples::of(ring))
    }

    /// Rings that still contain audio, or may receive some.
    pub fn live_rings(&self) -> usize {
        locked(&self.rings).live.len()
    }

    /// Overruns reported by the devices.
    pub fn xruns(&self) -> u64 {
        self.xruns.load(Ordering::Relaxed)
    }

    /// Increases while the inference thread makes progress: while it computes, and while it waits for audio.
    pub fn heartbeats(&self) -> u64 {
        self.heartbeats.load(Ordering::Relaxed)
    }

    /// Chunks computed.
    pub fn chunks(&self) -> u64 {
        self.chunks.load(Ordering::Relaxed)
    }

    /// Frames computed.
    pub fn frames(&self) -> u64 {
        self.frames.load(Ordering::Relaxed)
    }

    /// Samples at the pack's rate whose representation has been delivered.
    pub fn samples_out(&self) -> u64 {
        self.samples_out.load(Ordering::Relaxed)
    }

    /// Audio whose representation has been delivered.
    pub fn audio(&self) -> Duration {
        Duration::from_secs_f64(self.samples_out() as f64 / f64::from(self.pack_rate))
    }

    /// Time spent computing chunks.
    pub fn compute(&self) -> Duration {
        Duration::from_nanos(self.compute_nanos.load(Ordering::Relaxed))
    }

    /// Sum of all delays from the capture of a chunk's last sample to its representation (live sources).
    pub fn delay(&self) -> Duration {
        Duration::from_nanos(self.delay_nanos.load(Ordering::Relaxed))
    }

    /// Heads with logits that were not all finite.
    pub fn non_finite_heads(&self) -> u64 {
        self.non_finite_heads.load(Ordering::Relaxed)
    }

    /// Frames through whole layers: one frame through one layer is one. Includes gap filling after early exits.
    pub fn layer_frames(&self) -> u64 {
        self.layer_frames.load(Ordering::Relaxed)
    }

    /// Frames through only the key and value projections.
    pub fn projected_frames(&self) -> u64 {
        self.projected_frames.load(Ordering::Relaxed)
    }

    /// MACs of every stage that ran.
    pub fn macs(&self) -> u64 {
        self.macs.load(Ordering::Relaxed)
    }

    /// Chunks that exited after layer 0, 1, 2, …
    pub fn exits(&self) -> Vec<u64> {
        self.exits.iter().map(|count| count.load(Ordering::Relaxed)).collect()
    }

    /// Chunks by exit reason.
    pub fn reasons(&self) -> impl Iterator<Item = (Reason, u64)> {
        self.reasons.iter().map(|(reason, count)| (*reason, count.load(Ordering::Relaxed)))
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
        locked(&self.latencies).clone()
    }

    /// Input level of the run so far, before the gain; `None` before the first samples.
    pub fn level(&self) -> Option<InputLevel> {
        locked(&self.levels).total
    }

    /// Input level of the last complete 10 s, or of the run until then.
    pub fn recent_level(&self) -> Option<InputLevel> {
        locked(&self.levels).recent
    }

    /// Counters of the consumers, in the order in which they were added: all running ones, and the last ones that were removed.
    pub fn consumers(&self) -> Vec<Arc<ConsumerCounters>> {
        locked(&self.consumers).kept.clone()
    }

    /// Time and number of the verification passes of all consumers so far.
    pub fn verification(&self) -> (Duration, u64) {
        let consumers = locked(&self.consumers);
        consumers.kept.iter().fold(consumers.verification, |sum, one| one.add_verification(sum))
    }

    pub(super) fn add_ring(&self, ring: Arc<RingStats>) {
        locked(&self.rings).live.push(ring);
    }

    /// Freezes the counters of a ring that is closed and empty, even if a hanging device still holds it.
    pub(super) fn retire_ring(&self, ring: &Arc<RingStats>) {
        let mut rings = locked(&self.rings);
        let mut last = Samples::of(ring);
        last.dropped += std::mem::take(&mut last.left);
        rings.live.retain(|live| !Arc::ptr_eq(live, ring));
        rings.done = rings.done + last;
    }

    pub(super) fn holds_ring(&self, ring: &Arc<RingStats>) -> bool {
        locked(&self.rings).live.iter().any(|live| Arc::ptr_eq(live, ring))
    }

    pub(super) fn add_consumer(&self, name: &str, label: &str) -> Arc<ConsumerCounters> {
        let counters = Arc::new(ConsumerCounters {
            name: name.to_owned(),
            label: label.to_owned(),
            offered: AtomicU64::new(0),
            delivered: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
            failed: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            work: Arc::default(),
        });
        locked(&self.consumers).kept.push(counters.clone());
        counters
    }

    /// Limits the number of removed consumers, of which the oldest go first. Those that run or have failed stay.
    pub(super) fn limit_removed(&self, runs: impl Fn(&str) -> bool) {
        let mut consumers = locked(&self.consumers);
        let removed = |one: &ConsumerCounters| !one.failed() && !runs(&one.label);
        let mut extra = consumers.kept.iter().filter(|one| removed(one)).count().saturating_sub(MOST_REMOVED);
        if extra == 0 {
            return;
        }
        let Consumers { kept, verification } = &mut *consumers;
        kept.retain(|one| {
            let goes = extra > 0 && removed(one);
            if goes {
                extra -= 1;
                *verification = one.add_verification(*verification);
            }
            !goes
        });
    }

    pub(super) fn count_xruns(&self, more: u64) {
        self.xruns.fetch_add(more, Ordering::Relaxed);
    }

    pub(super) fn heartbeat(&self) {
        self.heartbeats.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn count(&self, representation: &Representation, delay: Option<Duration>, pending: &mut PendingLatencies) {
        self.chunks.fetch_add(1, Ordering::Relaxed);
        self.frames.fetch_add(representation.vectors.frames() as u64, Ordering::Relaxed);
        self.samples_out.fetch_add(representation.samples, Ordering::Relaxed);
        self.compute_nanos.fetch_add(representation.compute.as_nanos() as u64, Ordering::Relaxed);
        self.delay_nanos.fetch_add(delay.unwrap_or_default().as_nanos() as u64, Ordering::Relaxed);
        if let Some(count) = self.exits.get(representation.exit_layer) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        if let Some((_, count)) = self.reasons.iter().find(|(reason, _)| *reason == representation.reason) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        pending.0.push((representation.compute, delay));
        if let Ok(mut latencies) = self.latencies.try_lock() {
            pending.flush(&mut latencies);
        }
    }

    pub(super) fn count_work(&self, work: crate::engine::Work, non_finite_heads: u64) {
        self.layer_frames.store(work.layer_frames, Ordering::Relaxed);
        self.projected_frames.store(work.projected_frames, Ordering::Relaxed);
        self.macs.store(work.macs, Ordering::Relaxed);
        self.non_finite_heads.store(non_finite_heads, Ordering::Relaxed);
    }

    /// Publishes new levels, unless a reader holds the lock: the next ones follow within a second.
    pub(super) fn offer_levels(&self, levels: Levels) {
        if let Ok(mut shared) = self.levels.try_lock() {
            *shared = levels;
        }
    }

    pub(super) fn set_levels(&self, levels: Levels) {
        *locked(&self.levels) = levels;
    }

    pub(super) fn finish(&self, pending: &mut PendingLatencies) {
        pending.flush(&mut locked(&self.latencies));
    }
}

impl PendingLatencies {
    fn flush(&mut self, latencies: &mut Latencies) {
        for (compute, delay) in self.0.drain(..) {
            latencies.compute.record(compute);
            delay.into_iter().for_each(|delay| latencies.delay.record(delay));
        }
    }
}

impl ConsumerCounters {
    /// The consumer's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Unique label.
    pub fn label(&self) -> &str {
        &self.label
    }

    /// Representations delivered.
    pub fn delivered(&self) -> u64 {
        self.delivered.load(Ordering::Relaxed)
    }

    /// Representations dropped because the consumer was too slow or had failed.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Representations queued, including the one being consumed.
    pub fn queued(&self) -> u64 {
        let gone = self.delivered() + self.dropped();
        self.offered.load(Ordering::Relaxed).saturating_sub(gone)
    }

    fn add_verification(&self, (time, passes): (Duration, u64)) -> (Duration, u64) {
        (time + self.work.compute(), passes + self.work.passes())
    }

    /// Computation of the consumer itself.
    pub fn work(&self) -> &Arc<ConsumerWork> {
        &self.work
    }

    /// Whether it has failed.
    pub fn failed(&self) -> bool {
        self.failed.load(Ordering::Relaxed)
    }

    pub(super) fn count_queued(&self) {
        self.offered.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn count_delivered(&self) {
        self.delivered.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn count_dropped(&self) {
        self.dropped.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn set_failed(&self, failed: bool) {
        self.failed.store(failed, Ordering::Relaxed);
    }

    /// Whether the reader of its output closed it.
    pub fn closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    pub(super) fn set_closed(&self, closed: bool) {
        self.closed.store(closed, Ordering::Relaxed);
    }
}

/// Locks even if a thread panicked with the lock held: the data is consistent at any time.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_of_removed_consumers_are_bounded() {
        let counters = Counters::new(16_000, 1);
        counters.add_consumer("jsonl", "runs");
        counters.add_consumer("jsonl", "failed").set_failed(true);
        for number in 0..1000 {
            counters.add_consumer("keyword", &number.to_string()).work().add(1, Duration::from_secs(1));
            counters.limit_removed(|label| label == "runs" || label == number.to_string());
        }
        let kept = counters.consumers();
        let labels: Vec<&str> = kept.iter().map(|one| one.label()).collect();
        let last = (1000 - MOST_REMOVED - 1..1000).map(|number| number.to_string());
        assert_eq!(labels, ["runs".to_owned(), "failed".to_owned()].into_iter().chain(last).collect::<Vec<_>>());
        assert_eq!(counters.verification(), (Duration::from_secs(1000), 1000));
    }
}
