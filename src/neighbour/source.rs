//! The source's side: decides which chunks of its stream are offloaded, creates their tasks, and reads the answers.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::bounded;

use super::codec::MAX_MESSAGE_BYTES;
use super::ledger::Ledger;
use super::message::{Answer, Recall, Recalled, Task};
use super::policy::{self, Draws, Exchange, LiveAdaptation, Load, Placement};
use super::roster::{Candidate, Ending, Roster};
use crate::engine::handover::{Handover, Input};
use crate::engine::{Encoder, EngineError, PastChunk};
use crate::exit::{Needs, PolicyName, PolicySpec};
use crate::names::named;
use crate::pack::Pack;
use crate::stream::Session;
use crate::stream::offload::{End, Offer, Offload, Refused, Reply, Returned, Ticket};

/// When chunks continue on neighbours.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Offloading {
    /// As decided by the rules of MDI-Exit.
    #[default]
    Auto,
    /// Never.
    Never,
    /// Whenever a neighbour is available.
    Always,
}

named!(Offloading, "offloading mode", { Auto => "auto", Never => "never", Always => "always" });

/// Maximum time to wait for the result of a chunk of live audio without a deadline.
pub const PATIENCE: Duration = Duration::from_secs(2);

/// Maximum time to wait for the result of a chunk of a file without a deadline: at least as long, and on slow machines as long as the
/// `window` chunks that may wait behind it take here, `stay_seconds` each.
fn patience(stay_seconds: f64, window: usize) -> Duration {
    Duration::try_from_secs_f64(stay_seconds * window as f64).unwrap_or(PATIENCE).max(PATIENCE)
}

/// Carries a task to a neighbour. `on_answer` is called at most once, from any thread, with the answer; dropping it means that none
/// will come.
pub trait Carrier: Send {
    /// Sends `task` to the neighbour of this name. After `within`, its answer is ignored.
    fn carry(&self, neighbour: &str, task: Vec<u8>, within: Duration, on_answer: OnAnswer);

    /// Sends `message` to the neighbour, which returns it.
    fn echo(&self, neighbour: &str, message: Vec<u8>, on_answer: OnAnswer);
}

/// Callback for the answer to a task.
pub type OnAnswer = Box<dyn FnOnce(&[u8]) + Send>;

/// The source's side of a session.
pub struct Source {
    offloading: Offloading,
    pack: String,
    encoder: Arc<Encoder>,
    policy: PolicySpec,
    /// Maximum delay of a chunk.
    deadline: Option<Duration>,
    roster: Arc<Roster>,
    carrier: Box<dyn Carrier>,
    draws: Draws,
    stream: u64,
    /// Whether the policy has thresholds.
    has_thresholds: bool,
    /// How they follow the queue of a live stream.
    adaptation: LiveAdaptation,
    /// The present factor.
    factor: f64,
    /// The neighbour for the next chunk.
    chosen: Option<Candidate>,
    /// The part of the stream's left context that each neighbour has (cached mode).
    known: BTreeMap<usize, Known>,
    /// The neighbour of the chunks in flight, and of those that only it has.
    last: Option<usize>,
    /// Frames of chunks that left as audio and returned: their states are on that neighbour alone (cached mode).
    absent: Vec<Range<u64>>,
    /// Whether chunks of a file may leave as audio.
    as_audio: bool,
    /// What offloading has gained, for a stream from a file; `None` for live audio, whose rate is given.
    ledger: Option<Ledger>,
    began: Instant,
    in_flight: usize,
}

/// The states of earlier chunks that a neighbour has, by first frame.
type Known = BTreeMap<u64, KnownChunk>;

#[derive(Debug, Clone, Default)]
struct KnownChunk {
    /// States sent to the neighbour.
    depths: Vec<usize>,
    /// Depth from which the neighbour has the states, because it computed the chunk from there.
    from: Option<usize>,
    /// The frame after its last one.
    end: u64,
}

impl KnownChunk {
    fn has(&self, depth: usize) -> bool {
        self.depths.contains(&depth) || self.from.is_some_and(|from| depth >= from)
    }
}

impl Source {
    /// A source of chunks of `encoder`, loaded from `pack`, that exit by `policy`.
    ///
    /// # Errors
    ///
    /// [`EngineError::Handover`] if chunks of this pack, or with this policy, cannot be handed over.
    pub fn new(
        pack: &Pack,
        encoder: &Arc<Encoder>,
        policy: &PolicySpec,
        offloading: Offloading,
        roster: Arc<Roster>,
        carrier: Box<dyn Carrier>,
    ) -> Result<Self, EngineError> {
        super::check(encoder)?;
        // A name that does not exist is reported where the policy is made.
        let name = policy.name_for(pack).unwrap_or(PolicyName::Never);
        if name == PolicyName::Periodic && offloading != Offloading::Never {
            let problem =
                "the policy `periodic` counts chunks, but a neighbour does not receive all of them; select another policy, or \
                           --neighbours never"
                    .to_owned();
            return Err(EngineError::Handover { pack: encoder.name().to_owned(), problem });
        }
        let seed = super::random();
        Ok(Self {
            offloading,
            pack: pack.stream_identity(),
            encoder: encoder.clone(),
            policy: policy.clone(),
            deadline: policy.deadline_ms.map(Duration::from_millis),
            roster,
            carrier,
            draws: Draws::new(seed),
            stream: super::random(),
            has_thresholds: !matches!(name, PolicyName::Fixed | PolicyName::Never),
            adaptation: LiveAdaptation::default(),
            factor: 1.0,
            chosen: None,
            known: BTreeMap::new(),
            last: None,
            absent: Vec::new(),
            // Silence is found at h⁰ without any layer, and what the gate remembers is here.
            as_audio: offloading == Offloading::Auto && policy.gate.is_none() && encoder.can_begin_anywhere(),
            ledger: None,
            began: Instant::now(),
            in_flight: 0,
        })
    }

    /// Sets the upper bound of the factor by which the thresholds of a live stream rise while audio waits; 1 leaves them as they are.
    pub fn adapt(mut self, most: f64) -> Self {
        self.adaptation.most = most;
        self
    }

    /// Lets chunks leave as audio also if they always leave.
    #[cfg(test)]
    pub(super) fn as_audio(&mut self) {
        self.as_audio = true;
    }

    /// Takes it for known that a chunk that stays takes `stay` seconds.
    #[cfg(test)]
    pub(super) fn settled(&mut self, stay: f64) {
        self.ledger = Some(Ledger::settled(stay));
    }

    /// Lets chunks of `session` continue on neighbours from the next one on.
    pub fn attach(self, session: &mut Session) {
        session.offload_to(Box::new(self));
    }

    /// Time allowed for the chunk's result.
    fn within(&self, offer: &Offer<'_>) -> Duration {
        match self.deadline {
            Some(deadline) => deadline.saturating_sub(offer.backlog + offer.elapsed),
            None if self.ledger.is_some() => patience(offer.compute_seconds, offer.window),
            None => PATIENCE,
        }
    }

    fn choose(&mut self, offer: &Offer<'_>) -> Option<Candidate> {
        // Comparing a head with the previous one requires the previous one's input.
        if offer.next_needs == Needs::Change && !offer.audio && !self.encoder.feature_is_output() {
            return None;
        }
        let candidates = self.roster.candidates(&self.pack, offer.depth + 1, self.encoder.layers());
        // Chunks of a cached pack attend to earlier ones, so all chunks in flight, and those that are nowhere else, are on one neighbour.
        let bound = self.last.filter(|_| self.encoder.is_cached() && (offer.sent > 0 || !self.absent.is_empty()));
        // What did not leave as audio stays, unless the neighbour cannot take audio.
        let states_only = !offer.audio && self.encoder.is_cached() && self.sends_audio();
        let wait = |one: &Candidate| one.transfer_seconds.unwrap_or(0.0) + one.load.input as f64 * one.load.compute_seconds;
        let within = self.within(offer).as_secs_f64();
        let best = candidates
            .into_iter()
            .filter(|one| bound.is_none_or(|bound| one.number == bound) && !(states_only && one.takes_audio))
            .filter(|one| wait(one) + one.load.compute_seconds < within)
            .min_by(|a, b| wait(a).total_cmp(&wait(b)))?;
        let chance = match self.offloading {
            Offloading::Never => 0.0,
            Offloading::Always => 1.0,
            Offloading::Auto => self.chance(offer, &best),
        };
        // Draw a random number only if the decision depends on it.
        (chance >= 1.0 || chance > 0.0 && self.draws.next_unit() < chance).then_some(best)
    }

    /// Probability of sending the chunk to `best`.
    fn chance(&self, offer: &Offer<'_>, best: &Candidate) -> f64 {
        let allowed = self.ledger.as_ref().is_none_or(|ledger| ledger.allows(offer.sent));
        if !allowed || offer.waiting == 0 && offer.sent == 0 {
            return 0.0;
        }
        let Some(transfer) = best.transfer_seconds else {
            self.measure(best, offer.audio);
            return 0.0;
        };
        let chained = self.encoder.is_cached();
        // A file goes on: what a stretch saves pays for filling its pipeline.
        let stretch = self.ledger.as_ref().map_or(0, |ledger| ledger.stretch() as usize);
        // What a worker has measured before the first chunk is the time of all its layers.
        let exits = self.has_thresholds && best.bytes.is_none();
        let exchange = Exchange {
            stay: offer.compute_seconds,
            leave: offer.leave_seconds.unwrap_or((offer.elapsed - offer.waited).as_secs_f64()),
            transfer,
            there: best.load.compute_seconds * if exits { EXPECTED_DEPTH } else { 1.0 },
            queue: best.load.input,
            waiting: offer.waiting.max(stretch),
            sent: offer.sent,
            window: offer.window,
            chained,
        };
        if !exchange.pays() {
            return 0.0;
        }
        if chained {
            return 1.0;
        }
        let own = Load { input: offer.waiting, output: offer.sent, compute_seconds: offer.compute_seconds };
        // The current chunk is in neither queue yet.
        match policy::place(&own, MOST_OFFERED) {
            Placement::Input => 0.0,
            Placement::Output => policy::offload_probability(&Load { output: own.output + 1, ..own }, &best.load, transfer),
        }
    }

    /// Measures the transfer time with a message of the usual size, unless that is being done.
    fn measure(&self, one: &Candidate, audio: bool) {
        if !self.roster.measure(one.number) {
            return;
        }
        let Some(name) = self.roster.name(one.number) else { return };
        let encoder = &self.encoder;
        let chunk = encoder.default_chunk_frames();
        let around = if encoder.is_cached() { 0 } else { encoder.left_context() + encoder.right_context() };
        let states = |frames: usize| frames * (encoder.dim() + 4);
        // A chunk there and its result back, on average; in cached mode, the result has the states of all layers.
        let both = match (audio, encoder.is_cached()) {
            (true, _) => 2 * encoder.audio().hop * (chunk + around) + states(chunk),
            (false, true) => states(chunk * (1 + encoder.layers())),
            (false, false) => states(2 * chunk + around),
        };
        let bytes = one.bytes.unwrap_or(both / 2).min(MAX_MESSAGE_BYTES);
        let (roster, number, sent) = (self.roster.clone(), one.number, Instant::now());
        let on_answer = move |message: &[u8]| {
            if message.len() == bytes {
                roster.measured(number, sent.elapsed());
            }
        };
        self.carrier.echo(&name, vec![0; bytes], Box::new(on_answer));
    }

    /// The chunk without what the neighbour already has, the earlier chunks that it needs, and whether the chunk lacks samples.
    fn reduced(&mut self, number: usize, chunk: &Handover) -> (Handover, Vec<u64>, bool) {
        let mut chunk = chunk.clone();
        // A window has its context with it.
        if !self.encoder.is_cached() {
            return (chunk, Vec::new(), false);
        }
        let horizon = self.horizon(chunk.first_frame);
        let known = self.known.entry(number).or_default();
        known.retain(|_, earlier| earlier.end > horizon);
        let mut context: Vec<u64> = chunk.past.iter().map(|past| past.first_frame).chain(known.keys().copied()).collect();
        context.sort_unstable();
        context.dedup();
        // It computed the chunk before from its audio.
        let follows = known.values().any(|earlier| earlier.end == chunk.first_frame && earlier.from == Some(0));
        if let Input::Audio(samples) = &mut chunk.input
            && follows
        {
            samples.drain(..self.encoder.shared_samples().min(samples.len()));
        }
        for past in &mut chunk.past {
            // The remaining layers read the deepest state up to the current depth, and all deeper ones.
            let needed = past.states.iter().rposition(|(depth, _)| *depth <= chunk.depth).unwrap_or(0);
            past.states.drain(..needed);
            let there = known.entry(past.first_frame).or_default();
            there.end = past.end();
            past.states.retain(|(depth, _)| !there.has(*depth));
            there.depths.extend(past.states.iter().map(|(depth, _)| *depth));
        }
        chunk.past.retain(|past| !past.states.is_empty());
        let end = chunk.first_frame + chunk.own.len() as u64;
        known.insert(chunk.first_frame, KnownChunk { depths: Vec::new(), from: Some(chunk.depth), end });
        (chunk, context, follows)
    }

    /// The states of chunks that left as audio, by their first frames, from the neighbour that has them.
    fn states_of(&self, frames: Vec<u64>, number: usize, name: &str, until: Instant) -> Vec<PastChunk> {
        let message = Recall { pack: self.pack.clone(), stream: self.stream, frames }.encode();
        let (sent, within) = (message.len(), until.saturating_duration_since(Instant::now()));
        let (reply, answer) = bounded::<Vec<u8>>(1);
        // The answer may come too late.
        let on_answer = move |message: &[u8]| drop(reply.try_send(message.to_vec()));
        self.carrier.carry(name, message, within, Box::new(on_answer));
        let Ok(message) = answer.recv_deadline(until) else { return Vec::new() };
        self.roster.recalled(number, sent, message.len());
        match Recalled::decode(&message) {
            Ok(Recalled(past)) => past,
            Err(_) => {
                self.roster.count_unreadable();
                Vec::new()
            }
        }
    }

    /// The frame before which nothing is in the left context of a chunk that starts at `first_frame`.
    fn horizon(&self, first_frame: u64) -> u64 {
        first_frame.saturating_sub(self.encoder.left_context() as u64)
    }

    /// Whether chunks leave as audio now: those of a file, whose reader waits for them.
    fn sends_audio(&self) -> bool {
        self.as_audio && self.ledger.is_some()
    }
}

/// Share of the layers that a chunk is expected to run before one has left, with a policy that exits: 0.65 with `gain` and daisy-tiny.
const EXPECTED_DEPTH: f64 = 0.65;
/// Maximum number of chunks in flight; above it, the next one stays.
const MOST_OFFERED: usize = 8;

impl Offload for Source {
    fn begin_chunk(&mut self, waiting: usize, live: bool) -> f32 {
        self.roster.own().set_own(waiting);
        if live {
            self.ledger = None;
        } else {
            let now = self.began.elapsed().as_secs_f64();
            self.ledger.get_or_insert_default().begins(now, self.in_flight, waiting);
        }
        if live && self.has_thresholds {
            self.factor = self.adaptation.next(self.factor, waiting);
            self.policy.relax = (self.factor > 1.0).then_some(self.factor as f32);
            self.roster.set_factor(self.factor as f32);
        }
        self.factor as f32
    }

    fn most(&self) -> usize {
        // Chunks of a cached pack that stay wait for those that left, so none stays because many are on their way.
        let limited = self.offloading == Offloading::Auto && self.encoder.is_cached();
        self.ledger.as_ref().filter(|_| limited).map_or(usize::MAX, Ledger::most)
    }

    fn wanted(&mut self, offer: &Offer<'_>) -> bool {
        // A chunk that is lost as states exits at the layer after which it was sent, but not before the first layer.
        let possible = if offer.audio { self.sends_audio() } else { offer.depth > 0 };
        if !possible || self.offloading == Offloading::Never || !self.roster.any_present() {
            return false;
        }
        self.chosen = self.choose(offer);
        self.chosen.is_some()
    }

    fn send(&mut self, offer: &Offer<'_>, chunk: &Handover) -> Option<Ticket> {
        let Candidate { number, load, transfer_seconds, .. } = self.chosen.take()?;
        let name = self.roster.name(number)?;
        let within = self.within(offer);
        let (depth, frames, dim) = (chunk.depth, chunk.own.len(), self.encoder.dim());
        let audio = offer.audio.then_some(chunk.first_frame..chunk.first_frame + frames as u64);
        let first_exit = if offer.audio && self.encoder.may_exit_at_frontend() { 0 } else { depth + 1 };
        let (chunk, context, continues) = self.reduced(number, chunk);
        let task = Task {
            pack: self.pack.clone(),
            stream: self.stream,
            sequence: offer.sequence,
            within,
            policy: self.policy.clone(),
            all_heads: offer.all_heads,
            ctc: offer.ctc,
            mixture: offer.mixture.cloned(),
            chunk,
            context,
            continues,
        };
        let task = match task.encode() {
            Ok(task) if task.len() <= MAX_MESSAGE_BYTES => task,
            Ok(task) => {
                log::warn!("computing a chunk locally: its message would have {} bytes", task.len());
                self.known.remove(&number);
                return None;
            }
            Err(error) => {
                log::warn!("computing a chunk locally: {error}");
                self.known.remove(&number);
                return None;
            }
        };
        let (reply, answer) = bounded::<Reply>(1);
        let (roster, sent) = (self.roster.clone(), Instant::now());
        let without_ctc = (0..=self.encoder.layers()).filter(|&layer| offer.ctc && !self.encoder.has_ctc(layer)).collect();
        let expected =
            Expected { layers: first_exit..=self.encoder.layers(), without_ctc, frames, dim, mixture: offer.mixture.is_some() };
        let on_answer = move |message: &[u8]| {
            let read = Answer::decode(message);
            if let Ok(answer) = &read {
                roster.answered(number, message.len(), sent.elapsed(), answer.took, answer.load);
            }
            let result = match read {
                Ok(Answer { result: Ok(returned), .. }) if expected.fits(&returned) => Ok(returned),
                Ok(Answer { result: Err(refusal), .. }) => {
                    log::debug!("a neighbour refused a chunk: {refusal:?}");
                    Err(Refused)
                }
                Ok(_) | Err(_) => {
                    roster.count_unreadable();
                    Err(Refused)
                }
            };
            // The chunk may have been abandoned.
            let _ = reply.try_send(result);
        };
        self.roster.sent(number, task.len());
        let horizon = audio.as_ref().map_or(0, |frames| self.horizon(frames.start));
        self.absent.retain(|frames| frames.end > horizon);
        self.last = Some(number);
        self.in_flight += 1;
        if let Some(ledger) = &mut self.ledger {
            ledger.leaves(offer.elapsed.as_secs_f64() + transfer_seconds.unwrap_or(0.0) + load.compute_seconds);
        }
        self.carrier.carry(&name, task, within, Box::new(on_answer));
        Some(Ticket { neighbour: number, depth, audio, reply: answer, until: sent + within })
    }

    fn recall(&mut self, first_frame: u64, until: Instant) -> Vec<PastChunk> {
        let horizon = self.horizon(first_frame);
        let wanted: Vec<_> = self.absent.drain(..).filter(|frames| frames.end > horizon).collect();
        let name = self.last.filter(|_| !wanted.is_empty()).and_then(|number| Some((number, self.roster.trusted(number)?)));
        let Some((number, name)) = name else { return Vec::new() };
        // As many at a time as fit into an answer.
        let longest = wanted.iter().map(|frames| frames.end - frames.start).max().unwrap_or(1) as usize;
        let bytes = longest * (self.encoder.layers() + 1) * (self.encoder.dim() + 4);
        let past = wanted.chunks((MAX_MESSAGE_BYTES / 2 / bytes.max(1)).max(1)).flat_map(|part| {
            let frames = part.iter().map(|frames| frames.start).collect();
            self.states_of(frames, number, &name, until)
        });
        // Without the states of every layer up to the last one, a chunk cannot stand in for the input of the next.
        let whole = |chunk: &PastChunk| {
            chunk.states.iter().enumerate().all(|(layer, (depth, _))| layer == *depth)
                && wanted.contains(&(chunk.first_frame..chunk.end()))
        };
        past.filter(whole).collect()
    }

    fn settle(&mut self, ticket: &Ticket, end: &End) {
        let ending = match end {
            End::Returned(returned) => Ending::Returned { layers: returned.exit_layer - ticket.depth },
            End::Refused => Ending::Refused,
            End::Late => Ending::Late,
        };
        match &ticket.audio {
            // It may not have received the states, so everything is sent next time.
            _ if matches!(end, End::Refused | End::Late) => drop(self.known.remove(&ticket.neighbour)),
            Some(frames) if self.encoder.is_cached() => self.absent.push(frames.clone()),
            _ => {}
        }
        self.in_flight = self.in_flight.saturating_sub(1);
        self.roster.settled(ticket.neighbour, ending);
    }

    fn restart(&mut self) {
        self.stream = super::random();
        self.known.clear();
        self.absent.clear();
        self.last = None;
    }
}

/// The expected shape of an answer.
struct Expected {
    layers: std::ops::RangeInclusive<usize>,
    /// Layers at which this chunk cannot exit, because its phones are read.
    without_ctc: Vec<usize>,
    frames: usize,
    dim: usize,
    mixture: bool,
}

impl Expected {
    fn fits(&self, returned: &Returned) -> bool {
        let shaped = |frames: &crate::engine::Frames| frames.frames() == self.frames && frames.dim() == self.dim;
        let evidence = returned.evidence.iter().chain(&returned.ctc_evidence);
        self.layers.contains(&returned.exit_layer)
            && !self.without_ctc.contains(&returned.exit_layer)
            && shaped(&returned.feature)
            && returned.mixed.is_some() == self.mixture
            && returned.mixed.iter().all(shaped)
            && returned
                .states
                .iter()
                .all(|(depth, state)| (*self.layers.start()..=returned.exit_layer).contains(depth) && shaped(state))
            && evidence.into_iter().all(|evidence| self.layers.contains(&evidence.layer))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slow_machines_wait_longer_for_a_result() {
        assert_eq!(patience(0.01, 16), PATIENCE);
        assert_eq!(patience(1.5, 16), Duration::from_secs(24));
        assert_eq!(patience(f64::NAN, 16), PATIENCE);
        assert_eq!(patience(f64::INFINITY, 16), PATIENCE);
    }
}
