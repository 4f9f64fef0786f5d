//! The inference thread: ring → resampler → session → consumers.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::counters::{Counters, PendingLatencies};
use super::delivery::Outlet;
use crate::audio::{Block, Gap, Resampler, RingReader};
use crate::engine::EngineError;
use crate::stream::Session;

/// Samples read from the ring at a time.
const READ_SAMPLES: usize = 4096;
/// Bounds of the sleep while the next chunk's sound has not come yet.
const SHORTEST_SLEEP: Duration = Duration::from_millis(1);
const LONGEST_SLEEP: Duration = Duration::from_millis(20);

pub(super) struct Inference {
    pub ring: RingReader,
    pub resampler: Resampler,
    pub session: Session,
    pub outlets: Vec<Outlet>,
    pub counters: Arc<Counters>,
    pub source_rate: u32,
    pub live: bool,
    /// Samples of the source that were dropped so far.
    pub lost: u64,
    /// Samples at the pack's rate that the representations so far said to be lost.
    pub lost_out: u64,
    /// Set once the source has stopped: an empty ring is then the end, even if a wedged device still holds the writer.
    pub source_stopped: Arc<AtomicBool>,
}

impl Inference {
    /// Runs until the ring is closed and empty; everything in it is computed.
    pub fn run(mut self) -> Result<(), EngineError> {
        let mut block = vec![0.0; READ_SAMPLES];
        let mut resampled = Vec::with_capacity(2 * READ_SAMPLES);
        let mut pending = PendingLatencies::default();
        let outcome = loop {
            let stopped = self.source_stopped.load(Ordering::Acquire);
            match self.ring.read(&mut block) {
                Block::Samples(samples) => {
                    self.resampler.push(samples, &mut resampled);
                    self.session.push(&resampled);
                    resampled.clear();
                    if let Err(error) = self.drain(&mut pending) {
                        break Err(error);
                    }
                }
                Block::Gap(gap) => self.gap(gap),
                Block::Empty if !stopped => std::thread::sleep(self.until_next_chunk()),
                Block::Empty | Block::Closed => {
                    self.resampler.finish(&mut resampled);
                    self.session.push(&resampled);
                    self.session.finish();
                    break self.drain(&mut pending);
                }
            }
        };
        self.counters.finish(&mut pending);
        outcome
    }

    /// Computes every chunk that is whole, and hands it on.
    fn drain(&mut self, pending: &mut PendingLatencies) -> Result<(), EngineError> {
        while let Some(mut representation) = self.session.next(self.backlog())? {
            self.lost_out += representation.lost_samples;
            if self.live {
                representation.captured_at = Instant::now().checked_sub(self.captured_since(&representation));
            }
            let delay = representation.captured_at.map(|at| at.elapsed());
            self.counters.count(&representation, delay, pending);
            self.counters.count_work(self.session.work(), self.session.not_finite());
            let representation = Arc::new(representation);
            for outlet in &self.outlets {
                outlet.send(representation.clone());
            }
        }
        Ok(())
    }

    /// Sound that waits in the ring.
    fn queued(&self) -> Duration {
        Duration::from_secs_f64(self.ring.queued() as f64 / f64::from(self.source_rate))
    }

    /// Sound that waits behind the next chunk. A file waits for nobody: its sound is late for nothing.
    fn backlog(&self) -> Duration {
        let waiting = self.session.waiting_samples() as f64 / f64::from(self.session.encoder().audio().sample_rate);
        if self.live { self.queued() + Duration::from_secs_f64(waiting) } else { Duration::ZERO }
    }

    /// Sound that was captured after the chunk's last sample, be it computed, waiting or lost.
    fn captured_since(&self, representation: &crate::stream::Representation) -> Duration {
        let end = self.counters.samples_out() + representation.samples + self.lost_out;
        let captured = self.counters.ring().captured() as f64 / f64::from(self.source_rate);
        Duration::from_secs_f64((captured - end as f64 / f64::from(representation.sample_rate)).max(0.0))
    }

    fn until_next_chunk(&self) -> Duration {
        let missing = self.session.missing_samples() as f64 / f64::from(self.session.encoder().audio().sample_rate);
        let sleep = Duration::from_secs_f64(missing).saturating_sub(self.queued());
        sleep.clamp(SHORTEST_SLEEP, if self.live { LONGEST_SLEEP } else { SHORTEST_SLEEP })
    }

    /// Puts a gap where it lies at the pack's rate. Positions and lengths are rounded from exact sums: errors do not add up.
    fn gap(&mut self, gap: Gap) {
        let rate = self.session.encoder().audio().sample_rate;
        let at_pack_rate = |samples: u64| (u128::from(samples) * u128::from(rate) / u128::from(self.source_rate)) as u64;
        let received = at_pack_rate(gap.position - self.lost);
        let lost = at_pack_rate(self.lost + gap.samples) - at_pack_rate(self.lost);
        log::warn!("the ring was full: {} samples dropped from sample {} on", gap.samples, gap.position);
        self.session.gap(received, lost);
        self.lost += gap.samples;
    }
}
