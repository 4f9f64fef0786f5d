//! Messages between a source and its neighbours: tasks, answers, and the published state of a worker.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::codec::{CodecError, Reader, Writer};
use super::policy::Load;
use crate::engine::handover::{Handover, Input};
use crate::engine::{PastChunk, States};
use crate::exit::{Evidence, PolicySpec, Reason};
use crate::stream::Mixture;
use crate::stream::offload::Returned;

/// "BNT" and the version of the format of tasks.
const TASK: u32 = u32::from_le_bytes(*b"BNT\x02");
/// "BNA" and the version of the format of answers.
const ANSWER: u32 = u32::from_le_bytes(*b"BNA\x01");
/// "BNR" and the version of the format of requests for states.
const RECALL: u32 = u32::from_le_bytes(*b"BNR\x01");
/// "BNS" and the version of the format of their answers.
const RECALLED: u32 = u32::from_le_bytes(*b"BNS\x01");
/// Version of the published state.
pub const STATE_VERSION: u32 = 2;

const MAX_LAYERS: usize = 256;
const MAX_CONTEXT_CHUNKS: usize = 512;
const MAX_POLICY_BYTES: usize = 16 << 10;
/// A worker publishes its state when it has changed, and at least this often.
pub const HEARTBEAT: Duration = Duration::from_secs(1);
/// Maximum size of a published state.
pub const MAX_STATE_BYTES: usize = 4 << 10;
/// Maximum position: no stream is that long, and sums of positions cannot overflow.
const MAX_POSITION: u64 = 1 << 48;

/// A source's request to compute the remaining layers of a chunk, or all of it from its audio.
#[derive(Debug, Clone)]
pub(crate) struct Task {
    /// [`Pack::identity`](crate::pack::Pack::identity) of the source's pack.
    pub pack: String,
    /// Random identifier of the stream; it changes after a restart.
    pub stream: u64,
    /// Number of the chunk in its stream.
    pub sequence: u64,
    /// Remaining time for the result.
    pub within: Duration,
    /// The exit policy.
    pub policy: PolicySpec,
    pub all_heads: bool,
    pub ctc: bool,
    pub mixture: Option<Mixture>,
    /// The chunk, without those states of its context that the worker already has.
    pub chunk: Handover,
    /// First frames of all earlier chunks whose states the worker needs.
    pub context: Vec<u64>,
    /// Whether the audio lacks the samples that its first frame shares with the frame before, which the worker has.
    pub continues: bool,
}

/// A source's request for the states of chunks that left as audio, which it needs to compute later ones itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Recall {
    /// [`Pack::identity`](crate::pack::Pack::identity) of the source's pack.
    pub pack: String,
    /// The stream.
    pub stream: u64,
    /// First frames of the chunks, ascending.
    pub frames: Vec<u64>,
}

/// The answer to a [`Recall`]: those of the chunks that are known, in order.
#[derive(Debug, Clone)]
pub(crate) struct Recalled(pub Vec<PastChunk>);

/// Why a worker refuses a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Refusal {
    /// The worker has another pack.
    Pack,
    /// The message could not be read.
    Message,
    /// The worker lacks states of earlier chunks, because it has restarted or removed the stream.
    Context,
    /// The worker does not run the next layer.
    Layers,
    /// The queue is too long, or the time is over.
    Busy,
    /// The shapes or the policy do not match the pack, or a stage failed.
    Failed,
}

const REFUSALS: [Refusal; 6] =
    [Refusal::Pack, Refusal::Message, Refusal::Context, Refusal::Layers, Refusal::Busy, Refusal::Failed];

/// A worker's answer.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    /// The result.
    pub result: Result<Returned, Refusal>,
    /// Queues and speed of the worker after the task.
    pub load: Load,
    /// Time between the task's arrival at the worker and its answer.
    pub took: Duration,
}

fn write_states(out: &mut Writer, states: &States) -> Result<(), CodecError> {
    out.u32(states.len() as u32);
    for (depth, state) in states {
        out.u32(*depth as u32);
        out.frames(state)?;
    }
    Ok(())
}

fn read_states(from: &mut Reader<'_>) -> Result<States, CodecError> {
    let count = from.count("states", MAX_LAYERS + 1)?;
    let mut states = States::new();
    for _ in 0..count {
        let depth = from.count("a depth", MAX_LAYERS)?;
        if states.last().is_some_and(|(last, _)| *last >= depth) {
            return Err(CodecError::Invalid { what: "the order of the states" });
        }
        states.push((depth, from.frames("a state")?));
    }
    Ok(states)
}

fn write_past(out: &mut Writer, past: &[PastChunk]) -> Result<(), CodecError> {
    out.u32(past.len() as u32);
    for chunk in past {
        out.u64(chunk.first_frame);
        write_states(out, &chunk.states)?;
    }
    Ok(())
}

fn read_past(from: &mut Reader<'_>) -> Result<Vec<PastChunk>, CodecError> {
    let mut past = Vec::new();
    for _ in 0..from.count("earlier chunks", MAX_CONTEXT_CHUNKS)? {
        let first_frame = position(from, "a frame")?;
        let states = read_states(from)?;
        if states.is_empty() {
            return Err(CodecError::Invalid { what: "an earlier chunk" });
        }
        past.push(PastChunk { first_frame, states });
    }
    Ok(past)
}

fn read_positions(from: &mut Reader<'_>) -> Result<Vec<u64>, CodecError> {
    let count = from.count("earlier chunks", MAX_CONTEXT_CHUNKS)?;
    (0..count).map(|_| position(from, "a frame")).collect()
}

fn read_pack(from: &mut Reader<'_>) -> Result<String, CodecError> {
    let pack = std::str::from_utf8(from.bytes("the pack", 64)?);
    pack.map(str::to_owned).map_err(|_| CodecError::Invalid { what: "the pack" })
}

fn position(from: &mut Reader<'_>, what: &'static str) -> Result<u64, CodecError> {
    match from.u64(what)? {
        found if found <= MAX_POSITION => Ok(found),
        found => Err(CodecError::TooLarge { what, found, most: MAX_POSITION }),
    }
}

fn write_duration(out: &mut Writer, duration: Duration) {
    out.u64(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX));
}

impl Task {
    /// Encodes the message.
    ///
    /// # Errors
    ///
    /// [`CodecError::NotFinite`] for states or samples that are not finite, [`CodecError::Invalid`] for a policy that cannot be written.
    pub fn encode(&self) -> Result<Vec<u8>, CodecError> {
        let mut out = Writer::new(TASK);
        out.bytes(self.pack.as_bytes());
        out.u64(self.stream);
        out.u64(self.sequence);
        write_duration(&mut out, self.within);
        out.bytes(&serde_json::to_vec(&self.policy).map_err(|_| CodecError::Invalid { what: "the policy" })?);
        out.u8(self.all_heads.into());
        out.u8(self.ctc.into());
        match &self.mixture {
            None => out.u8(0),
            Some(mixture) => {
                out.u8(1);
                out.u8(mixture.layer_norm.into());
                out.u32(mixture.weights.len() as u32);
                mixture.weights.iter().for_each(|weight| out.f32(*weight));
            }
        }
        let chunk = &self.chunk;
        out.u32(chunk.depth as u32);
        out.u64(chunk.first_frame);
        out.u32(chunk.own.start as u32);
        out.u32(chunk.own.len() as u32);
        out.u8(matches!(chunk.input, Input::Audio(_)).into());
        out.u8(self.continues.into());
        match &chunk.input {
            Input::States(x) => out.frames(x)?,
            Input::Audio(samples) => out.audio(samples)?,
        }
        out.u32(self.context.len() as u32);
        self.context.iter().for_each(|frame| out.u64(*frame));
        write_past(&mut out, &chunk.past)?;
        Ok(out.finish())
    }

    /// Decodes a message.
    ///
    /// # Errors
    ///
    /// Every [`CodecError`].
    pub fn decode(message: &[u8]) -> Result<Self, CodecError> {
        let mut from = Reader::new(message, TASK)?;
        let invalid = |what| CodecError::Invalid { what };
        let pack = read_pack(&mut from)?;
        let (stream, sequence) = (from.u64("the stream")?, from.u64("the chunk's number")?);
        let within = Duration::from_micros(from.u64("the time")?);
        let policy = from.bytes("the policy", MAX_POLICY_BYTES)?;
        let policy = serde_json::from_slice(policy).map_err(|_| invalid("the policy"))?;
        let (all_heads, ctc) = (from.flag("a flag")?, from.flag("a flag")?);
        let mixture = match from.flag("a flag")? {
            false => None,
            true => {
                let layer_norm = from.flag("a flag")?;
                let count = from.count("weights", MAX_LAYERS + 1)?;
                let weights = (0..count).map(|_| from.f32("a weight")).collect::<Result<Vec<_>, _>>()?;
                if weights.iter().any(|weight| !weight.is_finite()) {
                    return Err(invalid("a weight"));
                }
                Some(Mixture { weights, layer_norm })
            }
        };
        let depth = from.count("the depth", MAX_LAYERS)?;
        let first_frame = position(&mut from, "the first frame")?;
        let start = from.count("the chunk's frames", super::codec::MAX_FRAMES)?;
        let own = start..start + from.count("the chunk's frames", super::codec::MAX_FRAMES)?;
        let (audio, continues) = (from.flag("a flag")?, from.flag("a flag")?);
        let input = match audio {
            false => Input::States(from.frames("the states")?),
            true => Input::Audio(from.audio("the audio")?),
        };
        let (context, past) = (read_positions(&mut from)?, read_past(&mut from)?);
        from.finish()?;
        let chunk = Handover { depth, first_frame, input, own, past };
        Ok(Self { pack, stream, sequence, within, policy, all_heads, ctc, mixture, chunk, context, continues })
    }
}

fn write_evidence(out: &mut Writer, all: &[Evidence]) {
    out.u32(all.len() as u32);
    for evidence in all {
        out.u32(evidence.layer as u32);
        out.u8(evidence.finite.into());
        [evidence.entropy, evidence.max_prob, evidence.margin].into_iter().for_each(|number| out.f32(number));
        optional(out, evidence.change);
        optional(out, evidence.quiet);
    }
}

fn read_evidence(from: &mut Reader<'_>) -> Result<Vec<Evidence>, CodecError> {
    let count = from.count("evidence", MAX_LAYERS + 1)?;
    let mut all = Vec::new();
    for _ in 0..count {
        let layer = from.count("a layer", MAX_LAYERS)?;
        let finite = from.flag("a flag")?;
        let [entropy, max_prob, margin] = [from.f32("evidence")?, from.f32("evidence")?, from.f32("evidence")?];
        let (change, quiet) = (read_optional(from)?, read_optional(from)?);
        all.push(Evidence { layer, entropy, max_prob, margin, change, quiet, finite });
    }
    Ok(all)
}

fn optional(out: &mut Writer, number: Option<f32>) {
    out.u8(number.is_some().into());
    out.f32(number.unwrap_or(0.0));
}

fn read_optional(from: &mut Reader<'_>) -> Result<Option<f32>, CodecError> {
    let present = from.flag("a flag")?;
    let number = from.f32("a number")?;
    Ok(present.then_some(number))
}

impl Answer {
    /// Encodes the message.
    ///
    /// # Errors
    ///
    /// [`CodecError::NotFinite`] for states that are not finite.
    pub fn encode(&self) -> Result<Vec<u8>, CodecError> {
        let mut out = Writer::new(ANSWER);
        out.u32(u32::try_from(self.load.input).unwrap_or(u32::MAX));
        out.u32(u32::try_from(self.load.output).unwrap_or(u32::MAX));
        out.f32(self.load.compute_seconds as f32);
        write_duration(&mut out, self.took);
        match &self.result {
            Err(refusal) => out.u8(1 + REFUSALS.iter().position(|known| known == refusal).unwrap_or(0) as u8),
            Ok(returned) => {
                out.u8(0);
                out.u32(returned.exit_layer as u32);
                out.bytes(returned.reason.name().as_bytes());
                write_evidence(&mut out, &returned.evidence);
                write_evidence(&mut out, &returned.ctc_evidence);
                optional(&mut out, returned.expected_kl);
                // In cached mode, the feature is the last state and is not sent twice.
                let last = returned.states.last().map(|(_, state)| state);
                let same = last.is_some_and(|state| *state == returned.feature);
                out.u8(same.into());
                if !same {
                    out.frames(&returned.feature)?;
                }
                write_states(&mut out, &returned.states)?;
                out.u8(returned.mixed.is_some().into());
                if let Some(mixed) = &returned.mixed {
                    out.frames(mixed)?;
                }
            }
        }
        Ok(out.finish())
    }

    /// Decodes a message.
    ///
    /// # Errors
    ///
    /// Every [`CodecError`].
    pub fn decode(message: &[u8]) -> Result<Self, CodecError> {
        let mut from = Reader::new(message, ANSWER)?;
        let invalid = |what| CodecError::Invalid { what };
        let (input, output) = (from.u32("a queue")? as usize, from.u32("a queue")? as usize);
        let compute_seconds = f64::from(from.f32("the time per task")?);
        let took = Duration::from_micros(from.u64("the time")?);
        let result = match from.u8("the result")? {
            0 => {
                let exit_layer = from.count("the exit layer", MAX_LAYERS)?;
                let reason = std::str::from_utf8(from.bytes("the reason", 32)?).ok().and_then(|name| name.parse().ok());
                let reason: Reason = reason.ok_or(invalid("the reason"))?;
                let (evidence, ctc_evidence) = (read_evidence(&mut from)?, read_evidence(&mut from)?);
                let expected_kl = read_optional(&mut from)?;
                let same = from.flag("a flag")?;
                let feature = if same { None } else { Some(from.frames("the feature")?) };
                let states = read_states(&mut from)?;
                let last = states.last().map(|(_, state)| state.clone());
                let feature = feature.or(last).ok_or(invalid("the feature"))?;
                let mixed = if from.flag("a flag")? { Some(from.frames("the mixture")?) } else { None };
                Ok(Returned { exit_layer, reason, evidence, ctc_evidence, expected_kl, feature, states, mixed })
            }
            code => Err(*REFUSALS.get(usize::from(code) - 1).ok_or(invalid("the result"))?),
        };
        from.finish()?;
        Ok(Self { result, load: Load { input, output, compute_seconds }, took })
    }
}

impl Recall {
    /// Whether `message` is such a request.
    pub fn is(message: &[u8]) -> bool {
        message.starts_with(&RECALL.to_le_bytes())
    }

    /// Encodes the message.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::new(RECALL);
        out.bytes(self.pack.as_bytes());
        out.u64(self.stream);
        out.u32(self.frames.len() as u32);
        self.frames.iter().for_each(|frame| out.u64(*frame));
        out.finish()
    }

    /// Decodes a message.
    ///
    /// # Errors
    ///
    /// Every [`CodecError`].
    pub fn decode(message: &[u8]) -> Result<Self, CodecError> {
        let mut from = Reader::new(message, RECALL)?;
        let (pack, stream, frames) = (read_pack(&mut from)?, from.u64("the stream")?, read_positions(&mut from)?);
        from.finish()?;
        Ok(Self { pack, stream, frames })
    }
}

impl Recalled {
    /// Encodes the message.
    ///
    /// # Errors
    ///
    /// [`CodecError::NotFinite`] for states that are not finite.
    pub fn encode(&self) -> Result<Vec<u8>, CodecError> {
        let mut out = Writer::new(RECALLED);
        write_past(&mut out, &self.0)?;
        Ok(out.finish())
    }

    /// Decodes a message.
    ///
    /// # Errors
    ///
    /// Every [`CodecError`].
    pub fn decode(message: &[u8]) -> Result<Self, CodecError> {
        let mut from = Reader::new(message, RECALLED)?;
        let past = read_past(&mut from)?;
        from.finish()?;
        Ok(Self(past))
    }
}

/// The published state of a worker, as JSON.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WorkerState {
    /// Version of this format.
    pub version: u32,
    /// The pack's name.
    pub name: String,
    /// The pack's identity.
    pub pack: String,
    /// First and last layer that the worker runs.
    pub layers: [usize; 2],
    /// Tasks queued or running, I.
    pub input: usize,
    /// Tasks queued for the worker's own neighbours, O.
    pub output: usize,
    /// Mean time per task, Γ, seconds; 0 before the first task.
    pub compute_seconds: f64,
    /// Temperature of the processor, °C, if the system reports it.
    pub temperature: Option<f64>,
}

impl WorkerState {
    /// Encodes the message.
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Reads a published state; `None` for anything else, and for another version.
    pub fn decode(message: &[u8]) -> Option<Self> {
        let state: Self = (message.len() <= MAX_STATE_BYTES).then(|| serde_json::from_slice(message).ok()).flatten()?;
        let sensible = state.version == STATE_VERSION && state.compute_seconds.is_finite() && state.compute_seconds >= 0.0;
        sensible.then_some(state)
    }

    /// Its queues and speed.
    pub fn load(&self) -> Load {
        Load { input: self.input, output: self.output, compute_seconds: self.compute_seconds }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::engine::Frames;

    fn frames(count: usize, value: f32) -> Frames {
        Frames::from_vec(vec![value; 3 * count], 3)
    }

    fn task() -> Task {
        Task {
            pack: "ab".repeat(32),
            stream: 7,
            sequence: 5,
            within: Duration::from_millis(120),
            policy: "gain:0.05".parse().unwrap(),
            all_heads: false,
            ctc: true,
            mixture: Some(Mixture { weights: vec![0.5, 1.0], layer_norm: true }),
            chunk: Handover {
                depth: 2,
                first_frame: 32,
                input: Input::States(frames(4, 1.0)),
                own: 0..4,
                past: vec![PastChunk { first_frame: 28, states: vec![(2, frames(4, 1.0)), (5, frames(4, -2.0))] }],
            },
            context: vec![24, 28],
            continues: false,
        }
    }

    fn answer() -> Answer {
        let evidence = |layer| Evidence { layer, entropy: 1.0, finite: true, quiet: Some(0.5), ..Evidence::default() };
        let returned = Returned {
            exit_layer: 4,
            reason: Reason::Gain,
            evidence: vec![evidence(3), evidence(4)],
            ctc_evidence: vec![evidence(4)],
            expected_kl: Some(0.25),
            feature: frames(4, 3.0),
            states: vec![(3, frames(4, 2.0)), (4, frames(4, 3.0))],
            mixed: Some(frames(4, 0.5)),
        };
        let load = Load { input: 2, output: 1, compute_seconds: 0.25 };
        Answer { result: Ok(returned), load, took: Duration::from_millis(9) }
    }

    fn recall() -> Recall {
        Recall { pack: "ab".repeat(32), stream: 7, frames: vec![16, 32] }
    }

    fn recalled() -> Recalled {
        Recalled(vec![PastChunk { first_frame: 16, states: vec![(0, frames(4, 1.0)), (1, frames(4, -2.0))] }])
    }

    #[test]
    fn a_task_and_its_answer_come_back_as_they_were() {
        let task = task();
        let audio = Task {
            chunk: Handover { depth: 0, input: Input::Audio(vec![0.0, -1.0, 0.25]), ..task.chunk.clone() },
            continues: true,
            ..task.clone()
        };
        for task in [task, audio] {
            let found = Task::decode(&task.encode().unwrap()).unwrap();
            assert_eq!(format!("{found:?}"), format!("{task:?}"));
        }
        let recall = recall();
        assert!(Recall::is(&recall.encode()) && !Recall::is(&answer().encode().unwrap()));
        assert_eq!(Recall::decode(&recall.encode()), Ok(recall));
        let found = Recalled::decode(&recalled().encode().unwrap()).unwrap();
        assert_eq!(format!("{found:?}"), format!("{:?}", recalled()));
        let mut refused = answer();
        refused.result = Err(Refusal::Context);
        for answer in [answer(), refused] {
            let found = Answer::decode(&answer.encode().unwrap()).unwrap();
            assert_eq!(format!("{found:?}"), format!("{answer:?}"));
        }
    }

    #[test]
    fn another_version_is_named() {
        let mut message = task().encode().unwrap();
        message[3] = 9;
        let error = Task::decode(&message).unwrap_err();
        assert!(error.to_string().contains("use the same version on both machines"), "{error}");
        // A task is not an answer.
        assert!(matches!(Answer::decode(&task().encode().unwrap()), Err(CodecError::Format { .. })));
    }

    #[test]
    fn a_published_state_is_bounded_and_sensible() {
        let state = WorkerState {
            version: STATE_VERSION,
            name: "daisy-tiny".into(),
            pack: "ab".repeat(32),
            layers: [5, 10],
            input: 1,
            output: 0,
            compute_seconds: 0.01,
            temperature: None,
        };
        assert_eq!(WorkerState::decode(&state.encode()), Some(state.clone()));
        for wrong in [
            WorkerState { version: 1, ..state.clone() },
            WorkerState { compute_seconds: -1.0, ..state.clone() },
            WorkerState { name: "x".repeat(MAX_STATE_BYTES), ..state },
        ] {
            assert_eq!(WorkerState::decode(&wrong.encode()), None);
        }
    }

    proptest! {
        /// Truncated or corrupted messages are decoded or rejected, and never cause a panic.
        #[test]
        fn damaged_messages_are_read_or_refused(
            cut in any::<prop::sample::Index>(), flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
            noise in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            for message in [task().encode().unwrap(), answer().encode().unwrap(), recall().encode(), recalled().encode().unwrap()] {
                let shorter = &message[..cut.index(message.len())];
                prop_assert!(Task::decode(shorter).is_err() && Answer::decode(shorter).is_err());
                prop_assert!(Recall::decode(shorter).is_err() && Recalled::decode(shorter).is_err());
                let mut changed = message.clone();
                for (place, value) in &flips {
                    let place = place.index(changed.len());
                    changed[place] = *value;
                }
                let _ = (Task::decode(&changed), Answer::decode(&changed), Recall::decode(&changed), Recalled::decode(&changed));
                let _ = (Task::decode(&[&message[..4], &noise].concat()), Answer::decode(&[&message[..4], &noise].concat()));
            }
            let _ = WorkerState::decode(&noise);
        }
    }
}
