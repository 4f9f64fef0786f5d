//! The inference thread: ring → resampler → session → consumers.
//!
//! Messages connect another source ([`Input`]) or replace the policy and the consumers.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError};

use super::counters::{Counters, PendingLatencies};
use super::delivery::Queue;
use super::level::LevelMeter;
use super::repeated::Repeated;
use super::{Adjust, StopFlag};
use crate::audio::{Block, ChannelMixer, Gap, Resampler, RingReader};
use crate::exit::ExitPolicy;
use crate::realtime;
use crate::stream::{Representation, Session, SessionError, SessionOptions};

/// Samples read from the ring at a time.
const READ_SAMPLES: usize = 4096;
/// Longest wait for the next chunk's audio, and so the longest interval of heartbeats: a quarter of the time after which the thread
/// counts as stalled. The source wakes it as soon as the chunk is complete.
const LONGEST_WAIT: Duration = Duration::from_millis(500);
/// The same while neighbours compute chunks: their replies do not wake the thread.
const NEIGHBOUR_WAIT: Duration = Duration::from_millis(2);
/// Interval of heartbeats without a source.
const IDLE: Duration = Duration::from_millis(50);

/// Messages to the inference thread. The run ends when all senders are dropped.
pub(super) enum Control {
    /// Audio of another source, after that of the previous one.
    Input(Box<Input>),
    /// Changes from the next chunk on.
    Change(Change),
}

/// A replacement between two chunks; each chunk is affected by all of it or none.
pub(super) struct Change {
    /// The new policy.
    pub policy: Option<Box<dyn ExitPolicy>>,
    /// Contents of the representations.
    pub session: SessionOptions,
    /// Labels of the consumers that continue; the others receive nothing more.
    pub keep: Vec<String>,
    /// New consumers.
    pub add: Vec<Queue>,
    /// Further changes to the session.
    pub adjust: Option<Adjust>,
}

/// Audio of one source.
pub(super) struct Input {
    /// Name of the source, for messages.
    pub name: String,
    pub ring: RingReader,
    /// Makes frames of several channels mono.
    pub mixer: Option<ChannelMixer>,
    pub resampler: Resampler,
    pub source_rate: u32,
    pub live: bool,
    /// Samples at the pack's rate that were not captured between the previous source and this one.
    pub missed: u64,
    /// Set once the source has stopped: an empty ring is then the end, even if a hanging device still holds the writer.
    pub source_stopped: Arc<AtomicBool>,
    /// Whether its first sample has arrived.
    started: bool,
    /// Samples of the source dropped so far.
    lost: u64,
    drops: Repeated,
    /// End of its last representation, in samples at the pack's rate from its first one, including dropped samples.
    out: i64,
}

impl Input {
    pub fn new(
        name: String,
        ring: RingReader,
        mixer: Option<ChannelMixer>,
        resampler: Resampler,
        source_rate: u32,
        live: bool,
        missed: u64,
    ) -> Self {
        let (source_stopped, drops) = (Arc::default(), Repeated::default());
        Self { name, ring, mixer, resampler, source_rate, live, missed, source_stopped, started: false, lost: 0, drops, out: 0 }
    }

    /// Time since the audio behind the resampler was captured: in the device's buffer, in the ring and in the resampler.
    fn age(&self) -> Duration {
        self.ring.stats().age() + self.queued() + self.resampler.pending()
    }

    /// Audio in the ring.
    fn queued(&self) -> Duration {
        Duration::from_secs_f64(self.ring.queued() as f64 / f64::from(self.source_rate))
    }
}

pub(super) struct Inference {
    pub control: Receiver<Control>,
    pub session: Session,
    pub queues: Vec<Queue>,
    pub counters: Arc<Counters>,
    pub priority: Option<u8>,
    /// Requests to drop the remaining audio.
    pub discard: StopFlag,
    pub pending: PendingLatencies,
    pub level: LevelMeter,
    pub inputs: VecDeque<Input>,
    /// Whether any audio has arrived.
    pub began: bool,
}

impl Inference {
    /// Runs until all senders are dropped and the last source's ring is closed and empty; processes everything in it.
    pub fn run(mut self) -> Result<(), SessionError> {
        if let Some(priority) = self.priority {
            realtime::request(priority);
        }
        let outcome = self.all_inputs();
        self.counters.finish(&mut self.pending);
        outcome
    }

    fn all_inputs(&mut self) -> Result<(), SessionError> {
        while let Some(input) = self.next_input() {
            self.stream(input)?;
        }
        Ok(())
    }

    fn next_input(&mut self) -> Option<Input> {
        loop {
            if let Some(input) = self.inputs.pop_front() {
                return Some(input);
            }
            self.counters.heartbeat();
            match self.control.recv_timeout(IDLE) {
                Ok(control) => self.handle(control),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return None,
            }
        }
    }

    fn handle(&mut self, control: Control) {
        match control {
            Control::Input(input) => self.inputs.push_back(*input),
            Control::Change(Change { policy, session, keep, add, adjust }) => {
                if let Some(policy) = policy {
                    self.session.set_policy(policy);
                }
                // `Pipeline::change` has checked them.
                if let Err(error) = self.session.set_options(session) {
                    log::error!("cannot change the contents of representations: {error}");
                }
                if let Some(adjust) = adjust {
                    adjust(&mut self.session);
                }
                self.queues.retain(|queue| keep.iter().any(|label| label == queue.label()));
                let first = self.session.next_sequence();
                self.queues.extend(add.into_iter().map(|mut queue| {
                    queue.first = first;
                    queue
                }));
            }
        }
    }

    /// Processes everything that a source delivers.
    fn stream(&mut self, mut input: Input) -> Result<(), SessionError> {
        let mut block = vec![0.0; READ_SAMPLES];
        let (mut mono, mut resampled) = (Vec::with_capacity(READ_SAMPLES), Vec::with_capacity(2 * READ_SAMPLES));
        self.level.begin(&input.name, input.source_rate);
        loop {
            self.counters.heartbeat();
            while let Ok(control) = self.control.try_recv() {
                self.handle(control);
            }
            let stopped = input.source_stopped.load(Ordering::Acquire);
            if stopped && self.discard.is_set() {
                let (discarded, chunks) = (input.ring.discard(), 1 + self.session.on_their_way());
                log::warn!("the time for a shutdown is over: dropped {discarded} samples and the last {chunks} chunk(s)");
                input.started = false;
                break;
            }
            match input.ring.read(&mut block) {
                Block::Samples(samples) => {
                    mono.clear();
                    match &mut input.mixer {
                        Some(mixer) => mixer.append(samples, &mut mono),
                        None => mono.extend_from_slice(samples),
                    }
                    if let Some(levels) = self.level.push(&mut mono) {
                        self.counters.offer_levels(levels);
                    }
                    input.resampler.push(&mono, &mut resampled);
                    self.begin(&mut input)?;
                    self.session.push(&resampled)?;
                    resampled.clear();
                    self.drain(&mut input)?;
                }
                Block::Gap(gap) => {
                    self.begin(&mut input)?;
                    self.gap(gap, &mut input)?;
                }
                Block::Empty if !stopped => {
                    let mut longest = LONGEST_WAIT;
                    if self.session.on_their_way() > 0 {
                        self.drain(&mut input)?;
                        longest = NEIGHBOUR_WAIT;
                    }
                    let needed = input.resampler.input_for(self.session.missing_samples());
                    input.ring.wait(needed as usize, longest);
                }
                Block::Empty | Block::Closed => break,
            }
        }
        if input.started {
            input.resampler.finish(&mut resampled);
            self.session.push(&resampled)?;
            self.session.finish();
            self.drain(&mut input)?;
        }
        self.counters.set_levels(self.level.end());
        self.counters.retire_ring(input.ring.stats());
        Ok(())
    }

    /// Handles the first sample of a source: resets the encoder, and reports the time since the previous source as a gap. A
    /// source that delivers nothing has no effect.
    fn begin(&mut self, input: &mut Input) -> Result<(), SessionError> {
        if std::mem::replace(&mut input.started, true) {
            return Ok(());
        }
        if std::mem::replace(&mut self.began, true) {
            input.out = -(self.session.restart(input.missed)? as i64);
        }
        Ok(())
    }

    /// Computes every complete chunk, and delivers it.
    fn drain(&mut self, input: &mut Input) -> Result<(), SessionError> {
        while !self.discard.is_set() {
            #[cfg(feature = "neighbours")]
            {
                self.session.set_queued_before(self.queued_chunks(input), input.live);
                let (counters, discard) = (self.counters.clone(), self.discard.clone());
                self.session.wait_while(move || {
                    counters.heartbeat();
                    !discard.is_set()
                });
            }
            let Some(mut representation) = self.session.next_chunk_live(self.backlog(input))? else { break };
            self.counters.heartbeat();
            input.out += (representation.samples + representation.lost_samples) as i64;
            if input.live {
                let end = input.out as f64 / f64::from(representation.sample_rate);
                representation.captured_at = input.ring.stats().captured_at(end);
            }
            self.deliver(representation);
        }
        Ok(())
    }

    fn deliver(&mut self, representation: Representation) {
        let delay = representation.captured_at.map(|at| at.elapsed());
        self.counters.count(&representation, delay, &mut self.pending);
        self.counters.count_work(self.session.work(), self.session.non_finite());
        let representation = Arc::new(representation);
        for queue in self.queues.iter().filter(|queue| queue.first <= representation.sequence) {
            queue.send(representation.clone());
        }
    }

    /// Chunks in the ring, of files as well.
    #[cfg(feature = "neighbours")]
    fn queued_chunks(&self, input: &Input) -> usize {
        let audio = self.session.encoder().audio();
        let chunk_seconds = (self.session.chunk_frames() * audio.hop) as f64 / f64::from(audio.sample_rate);
        (input.queued().as_secs_f64() / chunk_seconds) as usize
    }

    /// Time since the last sample of the next chunk was captured; zero for files, which have no deadline.
    fn backlog(&self, input: &Input) -> Duration {
        let waiting = self.session.waiting_samples() as f64 / f64::from(self.session.encoder().audio().sample_rate);
        if input.live { input.age() + Duration::from_secs_f64(waiting) } else { Duration::ZERO }
    }

    /// Converts a gap to the pack's rate. Positions and lengths are rounded from exact sums, so that errors do not accumulate.
    fn gap(&mut self, gap: Gap, input: &mut Input) -> Result<(), SessionError> {
        let rate = self.session.encoder().audio().sample_rate;
        let at_pack_rate = |samples: u64| (u128::from(samples) * u128::from(rate) / u128::from(input.source_rate)) as u64;
        let received = at_pack_rate(gap.position - input.lost);
        let lost = at_pack_rate(input.lost + gap.samples) - at_pack_rate(input.lost);
        // A file reports its damage itself. Live audio may be dropped many times per second.
        let due = if input.live { input.drops.due(gap.samples, Instant::now()) } else { None };
        match due {
            Some(samples) if samples == gap.samples => log::warn!("{samples} samples were dropped at sample {}", gap.position),
            Some(samples) => log::warn!("{samples} samples were dropped in a minute, the last ones at sample {}", gap.position),
            None => {}
        }
        input.lost += gap.samples;
        self.session.gap(received, lost)
    }
}
