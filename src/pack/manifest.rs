//! `pack.toml` as it is written: docs/pack.md explains every key.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::names::named;

/// The whole of `pack.toml`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Version of this format: 2.
    pub format: u32,
    /// Short name.
    pub name: String,
    /// One line for people.
    #[serde(default)]
    pub description: String,
    /// What the front end expects.
    pub audio: AudioSection,
    /// The encoder's shape.
    pub encoder: EncoderSection,
    /// When to stop.
    #[serde(default)]
    pub exit: ExitSection,
    /// DAISY's featurizer.
    pub mixture: Option<MixtureSection>,
    /// What the `ctc.k` stages predict.
    pub ctc: Option<CtcSection>,
    /// `[embedding]`; absent for packs without the stage.
    pub embedding: Option<EmbeddingSection>,
    /// Where it comes from.
    pub provenance: Provenance,
    /// The files.
    pub stages: StagesSection,
}

/// `[audio]`: positions and lengths in samples.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AudioSection {
    /// Hz.
    pub sample_rate: u32,
    /// Samples between frames.
    pub hop: usize,
    /// Samples that one frame sees.
    pub receptive_field: usize,
    /// Zeros before the stream's first sample: frame t sees `[t*hop - lead, t*hop - lead + receptive_field)`.
    #[serde(default)]
    pub lead: usize,
    /// Only `mono`.
    pub layout: Layout,
    /// What the front end expects of the level.
    #[serde(default)]
    pub level: Level,
}

/// Channels that the front end takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Layout {
    /// One channel.
    Mono,
}

/// Level handling before the front end.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Level {
    /// As captured.
    #[default]
    Raw,
    /// Zero mean and unit variance over the window (`do_normalize` of Hugging Face extractors). Windowed packs only.
    WindowNorm,
}

/// `[encoder]`: lengths in frames.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EncoderSection {
    /// Free text for `bellis inspect`.
    #[serde(default)]
    pub architecture: String,
    /// Transformer layers, L.
    pub layers: usize,
    /// Hidden size, D.
    pub dim: usize,
    /// Attention heads, H.
    pub heads: usize,
    /// Classes of an exit head, U.
    pub units: usize,
    /// The unit that means that nobody speaks.
    pub quiet_unit: Option<usize>,
    /// How context is had.
    pub mode: Mode,
    /// Chunk sizes that it was trained for.
    pub chunk_frames: ChunkFrames,
    /// The chunk size taken when none is asked for.
    pub default_chunk_frames: Option<usize>,
    /// Frames before the chunk that attention sees.
    pub left_context: usize,
    /// Frames after the chunk that attention sees.
    #[serde(default)]
    pub right_context: usize,
    /// What a layer hands on.
    #[serde(default)]
    pub feature: Feature,
    /// Whether a front-end frame depends on its receptive field alone.
    #[serde(default)]
    pub frontend_scope: FrontendScope,
    /// The position term of the attention bias.
    #[serde(default)]
    pub position: Position,
    /// One slope per attention head for `alibi`.
    #[serde(default)]
    pub alibi_slopes: Vec<f32>,
    /// How the frames that an exit left out are filled in by default.
    #[serde(default)]
    pub gap_fill: GapFill,
}

impl EncoderSection {
    /// The chunk size if none is chosen, frames.
    pub(crate) fn default_chunk(&self) -> usize {
        self.default_chunk_frames.or_else(|| self.chunk_frames.middle()).unwrap_or(1)
    }
}

/// Cached keys and values, or every window anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// Each layer keeps the keys and values of the last frames.
    Cached,
    /// Each chunk is computed with its context anew.
    Windowed,
}

/// What a layer hands to its head and to the consumer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Feature {
    /// The layer's output `y`.
    #[default]
    LayerOutput,
    /// The feed-forward output before residual and norm, `f` (DAISY's released default).
    BeforeNorm,
}

/// What a front-end frame depends on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FrontendScope {
    /// Its receptive field: computed once per frame.
    #[default]
    Frame,
    /// The whole window: computed anew for each window.
    Window,
}

/// Position term of the attention bias.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Position {
    /// None: the model has its own.
    #[default]
    None,
    /// −slope · |distance| per head (ALiBi, arXiv 2108.12409).
    Alibi,
}

/// How a deeper layer gets the keys and values of chunks that stopped before it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum GapFill {
    /// Run the layer for the lagging chunks too: exact, and gives back part of the saving.
    #[default]
    CatchUp,
    /// Only the key and value projections run, on the exit state: cheap; wants a model trained for it.
    Project,
}

named!(GapFill, "gap fill", { CatchUp => "catch-up", Project => "project" });

/// The chunk sizes a pack allows, in frames.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub enum ChunkFrames {
    /// These.
    List(Vec<usize>),
    /// All from `min` to `max`.
    Range(ChunkRange),
}

/// An inclusive range of chunk sizes.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChunkRange {
    /// Smallest.
    pub min: usize,
    /// Largest.
    pub max: usize,
}

impl ChunkFrames {
    /// Whether a chunk of `frames` frames is allowed.
    pub fn contains(&self, frames: usize) -> bool {
        match self {
            Self::List(list) => list.contains(&frames),
            Self::Range(range) => (range.min..=range.max).contains(&frames),
        }
    }

    /// The one in the middle: a balance of latency and cost.
    pub fn middle(&self) -> Option<usize> {
        match self {
            Self::List(list) => {
                let mut sorted = list.clone();
                sorted.sort_unstable();
                sorted.get(sorted.len() / 2).copied()
            }
            Self::Range(range) => Some((range.min + range.max) / 2),
        }
    }
}

impl std::fmt::Display for ChunkFrames {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::List(list) => f.write_str(&list.iter().map(usize::to_string).collect::<Vec<_>>().join(", ")),
            Self::Range(range) => write!(f, "{} to {}", range.min, range.max),
        }
    }
}

/// `[exit]`: the numbers of the policies. A policy whose numbers are missing says so when it is asked for.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExitSection {
    /// The policy taken when none is asked for; every layer without one.
    pub policy: Option<String>,
    /// Entropy threshold of `threshold`, nats.
    pub threshold: Option<PerLayer>,
    /// Entropy threshold of `ctc`, nats.
    pub ctc: Option<PerLayer>,
    /// KL threshold of `change`, nats.
    pub change: Option<PerLayer>,
    /// First and last layer of `range`.
    pub range: Option<[usize; 2]>,
    /// Layer of `fixed`.
    pub fixed: Option<usize>,
    /// Thresholds for promised agreements.
    pub calibrated: Option<CalibratedSection>,
    /// The number of `gain`.
    pub gain: Option<GainSection>,
}

/// One number for all layers, or one for each.
#[derive(Debug, Clone, PartialEq, Deserialize, serde::Serialize)]
#[serde(untagged)]
pub enum PerLayer {
    /// The same at every layer.
    All(f32),
    /// Layer 1, layer 2, …
    Each(Vec<f32>),
}

impl From<f32> for PerLayer {
    fn from(value: f32) -> Self {
        Self::All(value)
    }
}

impl From<Vec<f32>> for PerLayer {
    fn from(values: Vec<f32>) -> Self {
        Self::Each(values)
    }
}

impl PerLayer {
    /// The number of `layer` (from 1); infinitely strict past the end of the list.
    pub fn at(&self, layer: usize) -> f32 {
        match self {
            Self::All(value) => *value,
            Self::Each(values) => values.get(layer - 1).copied().unwrap_or(f32::NEG_INFINITY),
        }
    }
}

/// `[exit.calibrated]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CalibratedSection {
    /// What they were calibrated on.
    pub data: String,
    /// One entry per promised agreement.
    pub targets: Vec<CalibratedTarget>,
}

/// Thresholds that keep one promise.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CalibratedTarget {
    /// Share of frames whose unit equals the last head's, 0 to 1.
    pub agreement: f32,
    /// Entropy thresholds of layers 1 … L−1, nats; a negative one never exits.
    pub thresholds: Vec<f32>,
}

/// `[exit.gain]`; the predictors are the stages `gain.k`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GainSection {
    /// Exit where no deeper layer is predicted to bring p_L nearer by more than this per layer, nats.
    pub lambda: f32,
}

/// `[mixture]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MixtureSection {
    /// L + 1 numbers before the softmax.
    pub weights: Vec<f32>,
    /// Normalise each state first.
    #[serde(default)]
    pub layer_norm: bool,
}

/// `[ctc]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CtcSection {
    /// Class names; class 0 is the blank.
    pub vocabulary: Vec<String>,
}

/// `[provenance]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Provenance {
    /// Where the weights come from.
    pub weights: String,
    /// What they were trained on.
    pub data: String,
    /// What was kept out of training.
    #[serde(default)]
    pub held_out: String,
    /// Licence of the weights.
    pub licence: String,
    /// The command that made them.
    #[serde(default)]
    pub command: String,
    /// Date of the training.
    pub date: String,
}

/// `[embedding]`: the keyword embedding.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EmbeddingSection {
    /// Numbers of a vector.
    pub width: usize,
}

/// `[stages]`: keys `frontend`, `position`, `layer.k`, `head.k`, `ctc.k`, `gain.k`, `embedding.k`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StagesSection {
    /// Samples to h⁰.
    pub frontend: StageEntry,
    /// Positional convolution of windowed packs.
    pub position: Option<StageEntry>,
    /// Layers by number.
    pub layer: BTreeMap<String, StageEntry>,
    /// Heads by layer; 0 reads h⁰.
    #[serde(default)]
    pub head: BTreeMap<String, StageEntry>,
    /// CTC branches by layer; 0 reads h⁰.
    #[serde(default)]
    pub ctc: BTreeMap<String, StageEntry>,
    /// Predictors of `gain` by layer; 0 reads h⁰.
    #[serde(default)]
    pub gain: BTreeMap<String, StageEntry>,
    /// What keywords are matched in by layer; 0 reads h⁰.
    #[serde(default)]
    pub embedding: BTreeMap<String, StageEntry>,
}

/// One ONNX file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StageEntry {
    /// Name inside of the pack's folder.
    pub file: String,
    /// SHA-256, hex.
    pub sha256: String,
    /// Further state carried from call to call: name to shape.
    #[serde(default)]
    pub state: BTreeMap<String, Vec<usize>>,
}
