//! A session whose chunks may continue on neighbours: several are on their way at a time, and leave in the order of the stream.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::Vectors;
use super::descent::{Descent, Judge};
use super::offload::{End, Offer, Offload, Returned, Ticket};
use super::representation::Representation;
use super::session::{Outputs, Place, Session, SessionOptions};
use crate::engine::handover::Handover;
use crate::engine::{EncoderState, EngineError, Frames};
use crate::exit::Reason;

/// Most chunks between the oldest that is on its way and the newest.
const MOST_ON_THEIR_WAY: usize = 16;
/// The same for cached packs, in which a chunk that stays waits for all of them.
const MOST_CHAINED: usize = 8;
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
    /// Mean time here of a chunk that leaves, seconds, and when the last one left.
    leaving: Option<(f64, Instant)>,
    /// First frame from which the left context has the states of all layers; `None` before the next chunk.
    complete_from: Option<u64>,
    /// Factor of the policy's thresholds.
    factor: f32,
}

enum Entry {
    Done(Box<Representation>),
    Sent(Box<Sent>),
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
    /// To continue here after all (windowed packs).
    handover: Option<Handover>,
    compute: Duration,
}

impl Neighbourhood {
    pub fn new(offload: Box<dyn Offload>, state: &mut EncoderState) -> Self {
        let mut new = Self {
            offload,
            queue: VecDeque::new(),
            queued_before: 0,
            live: false,
            compute_seconds: 0.0,
            leaving: None,
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
    fn left(&mut self, seconds: f64) {
        let known = self.leaving.filter(|(_, at)| at.elapsed() < LEAVE_VALID).map(|(mean, _)| mean);
        let mean = known.map_or(seconds, |mean| mean + CHUNK_WEIGHT * (seconds - mean));
        self.leaving = Some((mean, Instant::now()));
    }

    fn window(cached: bool) -> usize {
        if cached { MOST_CHAINED } else { MOST_ON_THEIR_WAY }
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

impl Session {
    /// Lets chunks continue on neighbours from the next one on. Chunks that are on their way return as before.
    pub(crate) fn offload_to(&mut self, offload: Box<dyn Offload>) {
        match &mut self.neighbourhood {
            Some(neighbourhood) => neighbourhood.offload = offload,
            None => self.neighbourhood = Some(Neighbourhood::new(offload, &mut self.state)),
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
            let full = self.on_their_way() >= Neighbourhood::window(self.encoder().is_cached());
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
        let Neighbourhood { offload, queue, queued_before, live, compute_seconds, leaving, complete_from, factor } =
            neighbourhood;
        let waiting = *queued_before + (waiting_samples / chunk_samples.max(1)) as usize;
        let sent = queue.iter().filter(|entry| matches!(entry, Entry::Sent(_))).count();
        let new_factor = offload.begin_chunk(waiting, *live);
        if std::mem::replace(factor, new_factor) != new_factor {
            judge.policy.relax(new_factor);
        }
        judge.begin_chunk();
        let mut pass = state.begin(chunk.audio, chunk.span)?;
        if !encoder.may_exit_at_frontend() {
            pass.step()?;
        }
        // In the middle of a stream, earlier chunks have no states that another machine could continue from.
        let missing = if first_frame == 0 || !encoder.is_cached() { 0 } else { first_frame + encoder.left_context() as u64 };
        let complete = first_frame >= *complete_from.get_or_insert(missing);
        let leave_seconds = leaving.filter(|(_, at)| at.elapsed() < LEAVE_VALID).map(|(mean, _)| mean);
        let window = Neighbourhood::window(encoder.is_cached());
        let (mut gone, mut waited) = (None, Duration::ZERO);
        let descent = judge.descend(&encoder, &mut pass, (began, backlog), |pass, policy| {
            let depth = pass.depth();
            // A chunk that is lost on its way exits here.
            if complete && (!options.ctc || encoder.has_ctc(depth)) {
                let mixture = match &options.vectors {
                    Vectors::Last => None,
                    Vectors::Mixture(mixture) => Some(mixture),
                };
                let (all_heads, ctc, compute_seconds) = (options.all_heads, options.ctc, *compute_seconds);
                let elapsed = began.elapsed();
                let offer = Offer {
                    sequence,
                    depth,
                    elapsed,
                    waited,
                    waiting,
                    sent,
                    compute_seconds,
                    leave_seconds,
                    window,
                    backlog,
                    mixture,
                    all_heads,
                    ctc,
                    policy,
                };
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
                        let end = sent.ticket.wait();
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
                Entry::Sent(Box::new(Sent { ticket, end: None, place, first_frame, features, descent, handover, compute }))
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
                None if wait => Some(sent.ticket.wait()),
                None => match sent.ticket.poll() {
                    Some(end) => Some(end),
                    None => return Ok(None),
                },
            },
        };
        match (neighbourhood.queue.pop_front(), end) {
            (Some(Entry::Done(done)), _) => Ok(Some(*done)),
            (Some(Entry::Sent(sent)), Some(end)) => {
                neighbourhood.offload.settle(&sent.ticket, &end);
                let returned = matches!(end, End::Returned(_));
                let representation = sent.complete(end, state, judge, options)?;
                if returned {
                    neighbourhood.left(representation.compute.as_secs_f64());
                }
                Ok(Some(representation))
            }
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
        let began = Instant::now();
        let Self { ticket, place, first_frame, features, mut descent, handover, compute, .. } = *self;
        let depth = ticket.depth;
        // What was kept from layer to layer belongs to another chunk by now.
        judge.measurer.begin_chunk();
        let outputs = match (end, handover) {
            (End::Returned(returned), _) => {
                let Returned { exit_layer, reason, evidence, ctc_evidence, expected_kl, feature, states, mixed } = *returned;
                state.add_states(first_frame, states);
                let vectors = match (&options.vectors, mixed) {
                    (Vectors::Mixture(mixture), Some(deep)) => mixture.join(&mixture.part(0, &features), &deep, exit_layer),
                    (Vectors::Mixture(mixture), None) => mixture.mix(&features),
                    (Vectors::Last, _) => feature.clone(),
                };
                descent.evidence.extend(evidence);
                descent.ctc_evidence.extend(ctc_evidence);
                (descent.reason, descent.forecast) = (Some(reason), None);
                let mut pass = state.revisit(exit_layer, feature);
                let outputs = Outputs::at_exit(&mut pass, descent, vectors, judge, options)?;
                Outputs { expected_kl, ..outputs }
            }
            // The window's states are still here, and there is time: continue.
            (End::Refused, Some(handover)) if began < ticket.until => {
                let mut pass = state.take_over(handover)?;
                pass.step()?;
                let rest = judge.descend(&encoder, &mut pass, (began, Duration::ZERO), |_, _| false)?;
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
        Ok(place.representation(&encoder, outputs, compute + began.elapsed()))
    }
}
