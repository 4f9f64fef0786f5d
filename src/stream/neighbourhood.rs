//! A session whose chunks may continue on neighbours: several are on their way at a time, and leave in the order of the stream.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::Vectors;
use super::descent::{Descent, Judge};
use super::offload::{End, Offer, Offload, Returned, Ticket};
use super::representation::Representation;
use super::session::{Outputs, Place, Session, SessionOptions};
use crate::engine::handover::Handover;
use crate::engine::{Encoder, EncoderState, EngineError, Frames, PastChunk};
use crate::exit::Reason;

/// Most chunks between the oldest that is on its way and the newest.
const MOST_ON_THEIR_WAY: usize = 16;
/// The same for cached packs whose chunks leave as states: those of all layers come back, which takes longer on a slow link.
const MOST_CHAINED: usize = 8;
/// Longest wait for the states of earlier chunks that left as audio.
const RECALL_WITHIN: Duration = Duration::from_secs(2);
/// Weight of the latest chunk in the mean time per chunk.
const CHUNK_WEIGHT: f64 = 0.1;
/// After this time without a chunk that left, the time that such a chunk takes here is unknown.
const LEAVE_VALID: Duration = Duration::from_secs(60);

/// Where chunks may continue, and those that have not left the session yet, in order.
pub(super) struct Neighbourhood {
    offload: Box<dyn Offload>,
    queue: VecDeque<Entry>,
    /// Chunks that wait before the session.
    queued_before: usize,
    /// Whether they arrive at their own pace.
    live: bool,
    /// Mean time of a chunk that stays here, seconds; 0 before the first.
    compute_seconds: f64,
    /// Mean time here of a chunk that leaves, seconds, and when the last one left: as states, and as audio.
    leaving: [Leaving; 2],
    /// Called during a long wait; false ends it.
    goes_on: Option<GoesOn>,
    /// First frame from which the left context has the states of all layers; `None` before the next chunk.
    complete_from: Option<u64>,
    /// Factor of the policy's thresholds.
    factor: f32,
}

type Leaving = Option<(f64, Instant)>;

/// Reports that a wait goes on, and returns whether it should.
pub(crate) type GoesOn = Box<dyn Fn() -> bool + Send>;

enum Entry {
    Done(Box<Representation>),
    Sent(Box<Sent>),
}

impl Entry {
    /// Whether it is on its way as audio.
    fn is_audio(&self) -> bool {
        matches!(self, Self::Sent(sent) if sent.ticket.audio.is_some())
    }
}

/// A chunk that continues on a neighbour.
struct Sent {
    ticket: Ticket,
    /// Its end, if that was waited for before its turn.
    end: Option<End>,
    place: Place,
    first_frame: u64,
    /// Those of the layers that ran here.
    features: Vec<Frames>,
    descent: Descent,
    /// To continue here after all: that of windowed packs, and of chunks that left as audio.
    handover: Option<Handover>,
    /// When its computation began.
    began: Instant,
    compute: Duration,
}

impl Neighbourhood {
    pub fn new(offload: Box<dyn Offload>, state: &mut EncoderState) -> Self {
        let mut new = Self {
            offload,
            queue: VecDeque::new(),
            queued_before: 0,
            live: false,
            goes_on: None,
            compute_seconds: 0.0,
            leaving: [None; 2],
            complete_from: None,
            factor: 1.0,
        };
        new.restart(state);
        new
    }

    /// Begins a stream with a fresh `state`.
    pub fn restart(&mut self, state: &mut EncoderState) {
        self.offload.restart();
        self.complete_from = None;
        if state.encoder().is_cached() {
            state.keep_states();
        }
    }

    /// The mean time here of a chunk that leaves, with the latest one.
    fn left(&mut self, audio: bool, seconds: f64) {
        let leaving = &mut self.leaving[usize::from(audio)];
        let mean = recent(leaving).map_or(seconds, |mean| mean + CHUNK_WEIGHT * (seconds - mean));
        *leaving = Some((mean, Instant::now()));
    }

    /// Most chunks that may be complete or on their way behind the oldest one on its way.
    fn most(&self, encoder: &Encoder) -> usize {
        window(encoder, self.queue.iter().any(Entry::is_audio)).min(self.offload.most())
    }

    /// Completes the chunks that are on their way as audio: later ones that stay attend to them, and nothing of them is here. Then brings
    /// back the states of those in the left context of the chunk that starts at `first_frame`. Returns the time that was spent waiting.
    fn bring_back(
        &mut self,
        first_frame: u64,
        state: &mut EncoderState,
        judge: &mut Judge,
        options: &SessionOptions,
    ) -> Result<Duration, EngineError> {
        let began = Instant::now();
        for index in 0..self.queue.len() {
            if self.queue.get(index).is_some_and(Entry::is_audio)
                && let Some(Entry::Sent(sent)) = self.queue.remove(index)
            {
                let end = sent.ticket.wait(self.goes_on.as_deref());
                let done = self.complete(sent, end, state, judge, options)?;
                self.queue.insert(index, Entry::Done(Box::new(done)));
            }
        }
        let past = self.offload.recall(first_frame, Instant::now() + RECALL_WITHIN);
        add_context(state, first_frame, past);
        Ok(began.elapsed())
    }

    /// The representation of a chunk that was sent and has come to its `end`.
    fn complete(
        &mut self,
        sent: Box<Sent>,
        end: End,
        state: &mut EncoderState,
        judge: &mut Judge,
        options: &SessionOptions,
    ) -> Result<Representation, EngineError> {
        let audio = sent.ticket.audio.is_some();
        // What a neighbour has of earlier chunks, while there is time.
        if audio && state.encoder().is_cached() && matches!(end, End::Refused) {
            let past = self.offload.recall(sent.first_frame, sent.ticket.until);
            add_context(state, sent.first_frame, past);
        }
        self.offload.settle(&sent.ticket, &end);
        let returned = matches!(end, End::Returned(_));
        let representation = sent.complete(end, state, judge, options)?;
        if returned {
            self.left(audio, representation.compute.as_secs_f64());
        }
        Ok(representation)
    }

    /// Records that the policy was replaced by one whose thresholds have no factor.
    pub fn policy_replaced(&mut self) {
        self.factor = 1.0;
    }

    /// Chunks that have not left yet.
    pub fn waiting(&self) -> usize {
        self.queue.len()
    }
}

fn window(encoder: &Encoder, audio: bool) -> usize {
    if encoder.is_cached() && !audio { MOST_CHAINED } else { MOST_ON_THEIR_WAY }
}

/// The mean time, if it is not too old.
fn recent(leaving: &Leaving) -> Option<f64> {
    leaving.filter(|(_, at)| at.elapsed() < LEAVE_VALID).map(|(mean, _)| mean)
}

fn add_context(state: &mut EncoderState, first_frame: u64, past: Vec<PastChunk>) {
    if let Err(error) = state.add_context(first_frame, past) {
        log::warn!("the states of earlier chunks that a neighbour returned are not used: {error}");
    }
}

impl Session {
    /// Lets chunks continue on neighbours from the next one on. Chunks that are on their way return as before.
    pub(crate) fn offload_to(&mut self, offload: Box<dyn Offload>) {
        match &mut self.neighbourhood {
            Some(neighbourhood) => neighbourhood.offload = offload,
            None => self.neighbourhood = Some(Neighbourhood::new(offload, &mut self.state)),
        }
    }

    /// Sets what is called during long waits for neighbours.
    pub(crate) fn wait_while(&mut self, goes_on: impl Fn() -> bool + Send + 'static) {
        if let Some(neighbourhood) = &mut self.neighbourhood {
            neighbourhood.goes_on.get_or_insert_with(|| Box::new(goes_on));
        }
    }

    /// Reports how many chunks wait before the session, and whether they arrive at their own pace, as decisions to offload require.
    pub(crate) fn set_queued_before(&mut self, chunks: usize, live: bool) {
        if let Some(neighbourhood) = &mut self.neighbourhood {
            (neighbourhood.queued_before, neighbourhood.live) = (chunks, live);
        }
    }

    /// The next representation in order. Chunks behind one that is on its way are computed in the meantime; at the end of the
    /// stream, and with too many on their way, it is waited for, at most to its deadline.
    pub(super) fn compute_with_neighbours(&mut self, backlog: Duration) -> Result<Option<Representation>, EngineError> {
        loop {
            let most = self.neighbourhood.as_ref().map_or(0, |one| one.most(self.encoder()));
            let full = self.on_their_way() >= most;
            if let Some(chunk) = self.next_in_order(full)? {
                return Ok(Some(chunk));
            }
            if !self.begin_next(backlog)? {
                return if self.chunker.ended() { self.next_in_order(true) } else { Ok(None) };
            }
        }
    }

    /// Computes the next chunk up to its exit, or to where it is sent on. Returns false if samples are missing for it.
    fn begin_next(&mut self, backlog: Duration) -> Result<bool, EngineError> {
        let began = Instant::now();
        let waiting_samples = self.chunker.waiting_samples();
        let chunk_samples = (self.chunk_frames() * self.encoder().audio().hop) as u64;
        let sequence = self.sequence;
        let Self { state, chunker, judge, options, neighbourhood: Some(neighbourhood), .. } = self else { return Ok(false) };
        let Some(chunk) = chunker.next_chunk() else { return Ok(false) };
        let encoder = state.encoder().clone();
        let first_frame = chunk.span.chunk_first;
        let place = Place::new(&chunk, options, sequence);
        (judge.all_heads, judge.ctc) = (options.all_heads, options.ctc);
        let waiting = neighbourhood.queued_before + (waiting_samples / chunk_samples.max(1)) as usize;
        let sent = neighbourhood.queue.iter().filter(|entry| matches!(entry, Entry::Sent(_))).count();
        let new_factor = neighbourhood.offload.begin_chunk(waiting, neighbourhood.live);
        if std::mem::replace(&mut neighbourhood.factor, new_factor) != new_factor {
            judge.policy.relax(new_factor);
        }
        // In the middle of a stream, earlier chunks have no states that another machine could continue from.
        let missing = if first_frame == 0 || !encoder.is_cached() { 0 } else { first_frame + encoder.left_context() as u64 };
        let complete = first_frame >= *neighbourhood.complete_from.get_or_insert(missing);
        let (compute_seconds, leaving) = (neighbourhood.compute_seconds, neighbourhood.leaving);
        let offer = |audio: bool, depth, waited, next_needs| Offer {
            audio,
            sequence,
            depth,
            elapsed: began.elapsed(),
            waited,
            waiting,
            sent,
            compute_seconds,
            leave_seconds: recent(&leaving[usize::from(audio)]),
            window: window(&encoder, audio),
            backlog,
            mixture: match &options.vectors {
                Vectors::Last => None,
                Vectors::Mixture(mixture) => Some(mixture),
            },
            all_heads: options.all_heads,
            ctc: options.ctc,
            next_needs,
        };
        if complete && encoder.can_begin_anywhere() {
            let offer = offer(true, 0, Duration::ZERO, judge.policy.needs(1));
            if neighbourhood.offload.wanted(&offer) {
                let handover = state.hand_over_audio(chunk.audio, chunk.span);
                if let Some(ticket) = neighbourhood.offload.send(&offer, &handover) {
                    let (features, descent, handover) = (Vec::new(), Descent::default(), Some(handover));
                    let compute = began.elapsed();
                    let sent = Sent { ticket, end: None, place, first_frame, features, descent, handover, began, compute };
                    neighbourhood.queue.push_back(Entry::Sent(Box::new(sent)));
                    self.sequence += 1;
                    return Ok(true);
                }
            }
        }
        let mut waited = match encoder.is_cached() {
            true => neighbourhood.bring_back(first_frame, state, judge, options)?,
            false => Duration::ZERO,
        };
        let Neighbourhood { offload, queue, compute_seconds, goes_on, .. } = neighbourhood;
        judge.begin_chunk();
        let mut pass = state.begin(chunk.audio, chunk.span)?;
        if !encoder.may_exit_at_frontend() {
            pass.step()?;
        }
        let mut gone = None;
        let descent = judge.descend(&encoder, &mut pass, (began, backlog), |pass, policy| {
            let depth = pass.depth();
            // A chunk that is lost on its way exits here.
            if complete && (!options.ctc || encoder.has_ctc(depth)) {
                let offer = offer(false, depth, waited, policy.needs(depth + 1));
                if offload.wanted(&offer) {
                    let handover = pass.hand_over();
                    gone = offload.send(&offer, &handover).map(|ticket| (ticket, handover));
                    if gone.is_some() {
                        return true;
                    }
                }
            }
            if encoder.is_cached() {
                // Deeper layers attend to chunks that are on their way.
                for entry in queue.iter_mut() {
                    if let Entry::Sent(sent) = entry
                        && sent.ticket.depth <= depth
                        && sent.end.is_none()
                    {
                        let since = Instant::now();
                        let end = sent.ticket.wait(goes_on.as_deref());
                        waited += since.elapsed();
                        if let End::Returned(returned) = &end {
                            pass.add_states(sent.first_frame, returned.states.clone());
                        }
                        sent.end = Some(end);
                    }
                }
            }
            false
        })?;
        let entry = match gone {
            None => {
                let found = Outputs::of(&mut pass, descent, judge, options)?;
                pass.finish();
                let compute = began.elapsed().saturating_sub(waited);
                let weight = if *compute_seconds == 0.0 { 1.0 } else { CHUNK_WEIGHT };
                *compute_seconds += weight * (compute.as_secs_f64() - *compute_seconds);
                Entry::Done(Box::new(place.representation(&encoder, found, compute)))
            }
            Some((ticket, handover)) => {
                let features = pass.features().to_vec();
                pass.finish();
                let handover = (!encoder.is_cached()).then_some(handover);
                let compute = began.elapsed().saturating_sub(waited);
                let sent = Sent { ticket, end: None, place, first_frame, features, descent, handover, began, compute };
                Entry::Sent(Box::new(sent))
            }
        };
        queue.push_back(entry);
        self.sequence += 1;
        Ok(true)
    }

    /// Takes the oldest chunk if it is complete, or with `wait` once it is.
    fn next_in_order(&mut self, wait: bool) -> Result<Option<Representation>, EngineError> {
        let Self { state, judge, options, neighbourhood: Some(neighbourhood), .. } = self else { return Ok(None) };
        let end = match neighbourhood.queue.front_mut() {
            None => return Ok(None),
            Some(Entry::Done(_)) => None,
            Some(Entry::Sent(sent)) => match sent.end.take() {
                Some(end) => Some(end),
                None if wait => Some(sent.ticket.wait(neighbourhood.goes_on.as_deref())),
                None => match sent.ticket.poll() {
                    Some(end) => Some(end),
                    None => return Ok(None),
                },
            },
        };
        match (neighbourhood.queue.pop_front(), end) {
            (Some(Entry::Done(done)), _) => Ok(Some(*done)),
            (Some(Entry::Sent(sent)), Some(end)) => Ok(Some(neighbourhood.complete(sent, end, state, judge, options)?)),
            _ => Ok(None),
        }
    }
}

impl Sent {
    /// The representation: with the neighbour's result, or without it.
    fn complete(
        self: Box<Self>,
        end: End,
        state: &mut EncoderState,
        judge: &mut Judge,
        options: &SessionOptions,
    ) -> Result<Representation, EngineError> {
        let encoder = state.encoder().clone();
        let completes = Instant::now();
        let Self { ticket, place, first_frame, features, mut descent, handover, began, compute, .. } = *self;
        let (depth, audio) = (ticket.depth, ticket.audio.is_some());
        // What was kept from layer to layer belongs to another chunk by now.
        judge.measurer.begin_chunk();
        let outputs = match (end, handover) {
            (End::Returned(returned), _) => {
                let Returned { exit_layer, reason, evidence, ctc_evidence, expected_kl, feature, states, mixed } = *returned;
                state.add_states(first_frame, states);
                let vectors = match (&options.vectors, mixed) {
                    (Vectors::Mixture(_), Some(mixed)) if audio => mixed,
                    (Vectors::Mixture(mixture), Some(deep)) => mixture.join(&mixture.part(0, &features), &deep, exit_layer),
                    (Vectors::Mixture(mixture), None) if !features.is_empty() => mixture.mix(&features),
                    // It left as audio before the mixture was asked for.
                    (Vectors::Mixture(_), None) | (Vectors::Last, _) => feature.clone(),
                };
                descent.evidence.extend(evidence);
                descent.ctc_evidence.extend(ctc_evidence);
                (descent.reason, descent.forecast) = (Some(reason), None);
                let mut pass = state.revisit(exit_layer, feature);
                let outputs = Outputs::at_exit(&mut pass, descent, vectors, judge, options)?;
                Outputs { expected_kl, ..outputs }
            }
            // Nothing of it was computed here, so it is computed from the beginning, as the policy decides.
            (End::Refused | End::Late, Some(handover)) if audio => {
                judge.begin_chunk();
                let mut pass = state.take_over(handover)?;
                if !encoder.may_exit_at_frontend() || completes >= ticket.until {
                    pass.step()?;
                }
                let descent = judge.descend(&encoder, &mut pass, (began, Duration::ZERO), |_, _| false)?;
                let outputs = Outputs::of(&mut pass, descent, judge, options)?;
                pass.finish();
                outputs
            }
            // The window's states are still here, and there is time: continue.
            (End::Refused, Some(handover)) if completes < ticket.until => {
                let mut pass = state.take_over(handover)?;
                pass.step()?;
                let rest = judge.descend(&encoder, &mut pass, (completes, Duration::ZERO), |_, _| false)?;
                let vectors = match &options.vectors {
                    Vectors::Last => pass.feature(pass.depth()).clone(),
                    Vectors::Mixture(mixture) => {
                        let deep = mixture.part(depth + 1, &pass.features()[1..]);
                        mixture.join(&mixture.part(0, &features), &deep, pass.depth())
                    }
                };
                descent.evidence.extend(rest.evidence);
                descent.ctc_evidence.extend(rest.ctc_evidence);
                let descent = Descent { evidence: descent.evidence, ctc_evidence: descent.ctc_evidence, ..rest };
                Outputs::at_exit(&mut pass, descent, vectors, judge, options)?
            }
            (End::Late | End::Refused, _) => {
                let feature = features.last().cloned().unwrap_or_else(|| Frames::build(0, encoder.dim(), |_| {}));
                let vectors = match &options.vectors {
                    Vectors::Last => feature.clone(),
                    Vectors::Mixture(mixture) => mixture.mix(&features),
                };
                descent.reason = Some(Reason::Deadline);
                let mut pass = state.revisit(depth, feature);
                Outputs::at_exit(&mut pass, descent, vectors, judge, options)?
            }
        };
        Ok(place.representation(&encoder, outputs, compute + completes.elapsed()))
    }
}
