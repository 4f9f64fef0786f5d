//! A worker: computes the remaining layers of chunks that sources send, or all of a chunk from its audio. Without threads and network, which are the transport's.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::message::{Answer, Recall, Recalled, Refusal, Task};
use super::policy::Load;
use crate::engine::handover::{Handover, Input};
use crate::engine::{Encoder, EncoderState, EngineError, Frames};
use crate::exit::{Needs, PolicySpec, Reason};
use crate::pack::Pack;
use crate::stream::descent::{Descent, Judge};
use crate::stream::offload::Returned;

/// Most streams whose keys and values a worker keeps; the one that was used longest ago makes room for a new one.
const MOST_STREAMS: usize = 32;
/// Chunks of the warm-up, and the time after which there are no more.
const WARM_UP_CHUNKS: usize = 8;
const WARM_UP: Duration = Duration::from_secs(1);
/// Weight of the latest task in the mean time per task.
const TASK_WEIGHT: f64 = 0.1;

/// Counts and queue of a worker, readable from any thread.
#[derive(Debug, Default)]
pub struct WorkerCounters {
    /// Tasks that wait or run.
    input: AtomicUsize,
    /// Chunks that wait at the source of the same process.
    own: AtomicUsize,
    compute_seconds: AtomicU64,
    answered: AtomicU64,
    refused: AtomicU64,
}

impl WorkerCounters {
    /// Queues and speed, as published.
    pub fn load(&self) -> Load {
        let compute_seconds = f64::from_bits(self.compute_seconds.load(Ordering::Relaxed));
        let input = self.input.load(Ordering::Relaxed) + self.own.load(Ordering::Relaxed);
        Load { input, output: 0, compute_seconds }
    }

    /// Tasks computed, and tasks refused.
    pub fn totals(&self) -> (u64, u64) {
        (self.answered.load(Ordering::Relaxed), self.refused.load(Ordering::Relaxed))
    }

    pub(super) fn set_own(&self, chunks: usize) {
        self.own.store(chunks, Ordering::Relaxed);
    }

    pub(super) fn reset_queue(&self) {
        self.input.store(0, Ordering::Relaxed);
    }

    pub(super) fn entered(&self) {
        self.input.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn left(&self, outcome: Outcome) {
        // A task of a session that has ended may leave after the reset for the next one.
        let _ = self.input.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |waiting| waiting.checked_sub(1));
        match outcome {
            Outcome::Computed => drop(self.answered.fetch_add(1, Ordering::Relaxed)),
            Outcome::Refused => self.refuse(),
            Outcome::Recalled => {}
        }
    }

    pub(super) fn refuse(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn computed(&self, compute_seconds: f64) {
        self.compute_seconds.store(compute_seconds.to_bits(), Ordering::Relaxed);
    }
}

/// What became of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Its task was computed.
    Computed,
    /// It was refused.
    Refused,
    /// Its states were returned; nothing was computed.
    Recalled,
}

/// Computes tasks, one at a time.
pub struct Worker {
    pack: Pack,
    identity: String,
    encoder: Arc<Encoder>,
    first_layer: usize,
    streams: HashMap<u64, Stream>,
    tasks: u64,
    compute_seconds: f64,
}

/// What a worker keeps of one stream.
struct Stream {
    state: EncoderState,
    judge: Judge,
    policy: PolicySpec,
    /// First frame of the last chunk.
    last: Option<u64>,
    /// The frame that the next chunk of audio may start with, and the samples that it shares with the one before.
    tail: Option<(u64, Vec<f32>)>,
    /// Number of the last task.
    used: u64,
}

impl Worker {
    /// A worker with the layers of `encoder`, which was loaded from `pack`.
    ///
    /// # Errors
    ///
    /// [`EngineError::Handover`] if the encoder cannot continue chunks of others.
    pub fn new(pack: &Pack, encoder: &Arc<Encoder>) -> Result<Self, EngineError> {
        super::check(encoder)?;
        let first_layer = encoder.first_layer();
        let (pack, identity, encoder) = (pack.clone(), pack.stream_identity(), encoder.clone());
        Ok(Self { pack, identity, encoder, first_layer, streams: HashMap::new(), tasks: 0, compute_seconds: 0.0 })
    }

    /// The encoder.
    pub fn encoder(&self) -> &Arc<Encoder> {
        &self.encoder
    }

    /// The pack's identity.
    pub fn identity(&self) -> &str {
        &self.identity
    }

    /// First and last layer that it runs.
    pub fn layers(&self) -> [usize; 2] {
        [self.first_layer, self.encoder.layers()]
    }

    /// Mean time per task, Γ, seconds; 0 before the first, and before [`warm_up`](Self::warm_up).
    pub fn compute_seconds(&self) -> f64 {
        self.compute_seconds
    }

    /// Computes chunks of zeros, so that sources know the time per task before they send the first one. Several, because a processor with
    /// a quota computes a single one in a fraction of the mean.
    ///
    /// # Errors
    ///
    /// [`EngineError`] if a layer fails.
    pub fn warm_up(&mut self) -> Result<(), EngineError> {
        let encoder = self.encoder.clone();
        let chunk = encoder.default_chunk_frames();
        let own = match encoder.is_cached() {
            true => 0..chunk,
            false => encoder.left_context()..encoder.left_context() + chunk,
        };
        let frames = if encoder.is_cached() { chunk } else { own.end + encoder.right_context() };
        let audio = encoder.audio();
        // All that this worker runs.
        let (depth, input) = match self.first_layer {
            1 => (0, Input::Audio(vec![0.0; audio.receptive_field + (frames - 1) * audio.hop])),
            first => (first - 1, Input::States(Frames::from_vec(vec![0.0; frames * encoder.dim()], encoder.dim()))),
        };
        let mut state = EncoderState::new(&encoder)?;
        let mut began = Instant::now();
        for number in 0..=WARM_UP_CHUNKS {
            if number == 1 {
                // The first one also reserves memory.
                began = Instant::now();
            }
            let (first_frame, input, own) = ((own.start + number * chunk) as u64, input.clone(), own.clone());
            let mut pass = state.take_over(Handover { depth, first_frame, input, own, past: Vec::new() })?;
            while pass.depth() < encoder.layers() {
                pass.step()?;
            }
            pass.finish();
            self.compute_seconds = began.elapsed().as_secs_f64() / number.max(1) as f64;
            if number > 0 && began.elapsed() > WARM_UP {
                break;
            }
        }
        Ok(())
    }

    /// Answers a message that arrived at `arrived`; `waiting` others are queued behind it. Never panics, whatever the message.
    pub fn answer(&mut self, message: &[u8], arrived: Instant, waiting: usize) -> (Vec<u8>, Outcome) {
        if Recall::is(message) {
            return self.recall(message);
        }
        let result = match Task::decode(message) {
            Ok(task) => self.compute(task, arrived),
            Err(error) => {
                log::warn!("a neighbour's message is refused: {error}");
                Err(Refusal::Message)
            }
        };
        let load = Load { input: waiting, output: 0, compute_seconds: self.compute_seconds };
        let outcome = if result.is_ok() { Outcome::Computed } else { Outcome::Refused };
        let answer = Answer { result, load, took: arrived.elapsed() };
        match answer.encode() {
            Ok(message) => (message, outcome),
            Err(error) => {
                log::warn!("a neighbour's chunk is refused: {error}");
                (refused(Refusal::Failed, load), Outcome::Refused)
            }
        }
    }

    /// The states that a source asks for, as far as they are known.
    fn recall(&self, message: &[u8]) -> (Vec<u8>, Outcome) {
        let found = Recall::decode(message).map(|recall| {
            let stream = self.streams.get(&recall.stream).filter(|_| recall.pack == self.identity);
            Recalled(stream.map_or_else(Vec::new, |stream| stream.state.chunks(&recall.frames)))
        });
        match found.and_then(|recalled| recalled.encode()) {
            Ok(message) => (message, Outcome::Recalled),
            Err(error) => {
                log::warn!("a neighbour's request for states is refused: {error}");
                (Vec::new(), Outcome::Refused)
            }
        }
    }

    fn compute(&mut self, task: Task, arrived: Instant) -> Result<Returned, Refusal> {
        if task.pack != self.identity {
            return Err(Refusal::Pack);
        }
        if task.chunk.depth + 1 < self.first_layer {
            return Err(Refusal::Layers);
        }
        let began = Instant::now();
        // Far ahead if the source set no limit.
        let until = arrived.checked_add(task.within).unwrap_or(began + Duration::from_secs(3600));
        if began >= until {
            return Err(Refusal::Busy);
        }
        let id = task.stream;
        let stream = self.stream(&task)?;
        match stream.compute(task, began, until) {
            Ok(returned) => {
                let weight = if self.compute_seconds == 0.0 { 1.0 } else { TASK_WEIGHT };
                self.compute_seconds += weight * (began.elapsed().as_secs_f64() - self.compute_seconds);
                Ok(returned)
            }
            Err(error @ Error::Context) => Err(error.refusal()),
            Err(error) => {
                // Its caches may be incomplete.
                self.streams.remove(&id);
                Err(error.refusal())
            }
        }
    }

    /// The task's stream, new or known, with the task's policy.
    fn stream(&mut self, task: &Task) -> Result<&mut Stream, Refusal> {
        // What the source decides by itself before a chunk leaves: silence at h⁰, and deadlines, of which `within` is the rest.
        let policy = PolicySpec { gate: None, gate_hangover: None, deadline_ms: None, ..task.policy.clone() };
        let built = || policy.build(&self.pack).map_err(|_| Refusal::Failed);
        self.tasks += 1;
        if !self.streams.contains_key(&task.stream) {
            let mut state = EncoderState::new(&self.encoder).map_err(|_| Refusal::Failed)?;
            if self.encoder.is_cached() {
                state.keep_states();
            }
            let judge = Judge::new(&self.encoder, built()?);
            if self.streams.len() >= MOST_STREAMS
                && let Some(oldest) = self.streams.iter().min_by_key(|(_, stream)| stream.used).map(|(id, _)| *id)
            {
                self.streams.remove(&oldest);
            }
            self.streams.insert(task.stream, Stream { state, judge, policy: policy.clone(), last: None, tail: None, used: 0 });
        } else if self.streams.get(&task.stream).is_some_and(|stream| stream.policy != policy) {
            let built = built()?;
            if let Some(stream) = self.streams.get_mut(&task.stream) {
                (stream.judge.policy, stream.policy) = (built, policy);
            }
        }
        let stream = self.streams.get_mut(&task.stream).ok_or(Refusal::Failed)?;
        stream.used = self.tasks;
        Ok(stream)
    }
}

/// The answer to a task that is not computed because too much is waiting.
pub fn busy(load: Load) -> Vec<u8> {
    refused(Refusal::Busy, load)
}

fn refused(refusal: Refusal, load: Load) -> Vec<u8> {
    // A refusal has no states, which alone can fail.
    Answer { result: Err(refusal), load, took: Duration::ZERO }.encode().unwrap_or_default()
}

/// Why a stream does not compute a task.
enum Error {
    Context,
    Engine(EngineError),
}

impl Error {
    fn refusal(&self) -> Refusal {
        match self {
            Self::Context => Refusal::Context,
            Self::Engine(error) => {
                log::warn!("a neighbour's chunk is refused: {error}");
                Refusal::Failed
            }
        }
    }
}

impl From<EngineError> for Error {
    fn from(error: EngineError) -> Self {
        Self::Engine(error)
    }
}

impl Stream {
    fn compute(&mut self, mut task: Task, began: Instant, until: Instant) -> Result<Returned, Error> {
        let Self { state, judge, last, tail, .. } = self;
        let encoder = state.encoder().clone();
        let (depth, first_frame) = (task.chunk.depth, task.chunk.first_frame);
        if encoder.is_cached() {
            let sent = |frame: &u64| task.chunk.past.iter().any(|chunk| chunk.first_frame == *frame);
            // A chunk that comes twice or too late has nothing to attend to: its context has moved on.
            let stale = last.is_some_and(|last| first_frame <= last);
            if stale || !task.context.iter().all(|frame| sent(frame) || state.knows(*frame)) {
                return Err(Error::Context);
            }
        }
        if let Input::Audio(samples) = &mut task.chunk.input {
            let tail = tail.take();
            if task.continues {
                let (_, shared) = tail.filter(|(frame, _)| *frame == first_frame).ok_or(Error::Context)?;
                samples.splice(0..0, shared);
            }
        }
        (judge.all_heads, judge.ctc) = (task.all_heads, task.ctc);
        judge.begin_chunk();
        let audio = matches!(task.chunk.input, Input::Audio(_));
        if let Input::Audio(samples) = &task.chunk.input
            && let Some(shared) = samples.len().checked_sub(encoder.shared_samples())
        {
            *tail = Some((first_frame + task.chunk.own.len() as u64, samples[shared..].to_vec()));
        }
        let mut pass = state.take_over(task.chunk)?;
        *last = Some(first_frame);
        if !audio && judge.policy.needs(depth + 1) == Needs::Change && encoder.feature_is_output() {
            // What the next head is compared with.
            judge.measure(&mut pass, encoder.units(), false)?;
        }
        if !audio || !encoder.may_exit_at_frontend() {
            pass.step()?;
        }
        let in_time = |done: usize| {
            let per_layer = began.elapsed() / done.max(1) as u32;
            Instant::now() + per_layer < until
        };
        let may_exit = |layer| !task.ctc || encoder.has_ctc(layer);
        let descent = judge.descend(&encoder, &mut pass, (began, Duration::ZERO), |pass, _| {
            pass.depth() > 0 && may_exit(pass.depth()) && !in_time(pass.depth() - depth)
        })?;
        let Descent { reason, layer, forecast, evidence, ctc_evidence, .. } = descent;
        let exit_layer = pass.depth();
        let expected_kl = forecast.and_then(|log_kl| log_kl.as_slice().get(exit_layer - layer).map(|log_kl| log_kl.exp()));
        let mixed = task.mixture.map(|mixture| match audio {
            true => mixture.mix(pass.features()),
            false => mixture.part(depth + 1, &pass.features()[1..]),
        });
        let returned = Returned {
            exit_layer,
            reason: reason.unwrap_or(Reason::Deadline),
            evidence,
            ctc_evidence,
            expected_kl,
            feature: pass.feature(exit_layer).clone(),
            // Those of audio stay here until the source asks for them.
            states: if encoder.is_cached() && !audio { pass.states() } else { Vec::new() },
            mixed,
        };
        pass.finish();
        Ok(returned)
    }
}
