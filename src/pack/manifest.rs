//! `pack.toml`. docs/pack.md explains every key.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::names::named;

/// The contents of `pack.toml`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Manifest {
    /// Version of this format: 2.
    pub format: u32,
    /// Short name.
    pub name: String,
    /// One-line description.
    #[serde(default)]
    pub description: String,
    /// Input of the front end.
    pub audio: AudioSection,
    /// Shape of the encoder.
    pub encoder: EncoderSection,
    /// Parameters of the exit policies.
    #[serde(default)]
    pub exit: ExitSection,
    /// DAISY's featurizer.
    pub mixture: Option<MixtureSection>,
    /// Classes of the `ctc.k` stages.
    pub ctc: Option<CtcSection>,
    /// `[embedding]`; absent for packs without the stage.
    pub embedding: Option<EmbeddingSection>,
    /// Origin and licence.
    pub provenance: Provenance,
    /// The files.
    pub stages: StagesSection,
}

/// `[audio]`: positions and lengths in samples.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct AudioSection {
    /// Hz.
    pub sample_rate: u32,
    /// Samples between frames.
    pub hop: usize,
    /// Input samples of one frame.
    pub receptive_field: usize,
    /// Zeros before the first sample: frame t covers `[t*hop - lead, t*hop - lead + receptive_field)`.
    #[serde(default)]
    pub lead: usize,
    /// Only `mono`.
    pub layout: Layout,
    /// Level normalisation.
    #[serde(default)]
    pub level: Level,
}

/// Channel layout of the front end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Layout {
    /// One channel.
    Mono,
}

/// Level normalisation before the front end.
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
#[non_exhaustive]
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
    /// The unit for silence.
    pub quiet_unit: Option<usize>,
    /// Whether context comes from a KV cache or is recomputed.
    pub mode: Mode,
    /// Supported chunk sizes.
    pub chunk_frames: ChunkFrames,
    /// Default chunk size.
    pub default_chunk_frames: Option<usize>,
    /// Frames of left context for attention.
    pub left_context: usize,
    /// Frames of right context for attention.
    #[serde(default)]
    pub right_context: usize,
    /// The feature of a layer.
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
    /// Default for the keys and values that early exits leave out.
    #[serde(default)]
    pub gap_fill: GapFill,
}

/// Maximum memory of a stream for keys and values, and for the scores of one layer, bytes each.
pub(crate) const MAX_STREAM_BYTES: u128 = 1 << 29;

impl EncoderSection {
    /// Memory of a stream with chunks of `frames` frames, bytes: the larger of keys and values of all layers, and the attention scores of
    /// one layer.
    pub(crate) fn stream_bytes(&self, frames: usize) -> u128 {
        let of = |value: usize| value as u128;
        let columns = of(self.left_context) + of(frames) + of(self.right_context);
        let (cached, queries) = match self.mode {
            Mode::Cached => (of(self.layers), of(frames)),
            Mode::Windowed => (1, columns),
        };
        (4 * 2 * cached * columns * of(self.dim)).max(4 * of(self.heads) * queries * columns)
    }

    /// The chunk size if none is chosen, frames.
    pub(crate) fn default_chunk(&self) -> usize {
        self.default_chunk_frames.or_else(|| self.chunk_frames.middle()).unwrap_or(1)
    }
}

/// Whether context comes from a KV cache or is recomputed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// Each layer caches the keys and values of the last frames.
    Cached,
    /// Each chunk is recomputed with its context.
    Windowed,
}

/// The state of a layer that its head and the consumers receive.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Feature {
    /// The layer's output `y`.
    #[default]
    LayerOutput,
    /// The feed-forward output before residual and norm, `f` (DAISY's released default).
    BeforeNorm,
}

/// Input that a front-end frame depends on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FrontendScope {
    /// Its receptive field: computed once per frame.
    #[default]
    Frame,
    /// The whole window: recomputed for each window.
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

/// How deeper layers get the keys and values of chunks that exited before them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum GapFill {
    /// Runs the skipped layers: exact, but loses part of the saving.
    #[default]
    CatchUp,
    /// Runs only the key and value projections, on the exit state: fast, but needs a model trained for it.
    Project,
}

named!(GapFill, "gap fill", { CatchUp => "catch-up", Project => "project" });

/// Supported chunk sizes, in frames.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub enum ChunkFrames {
    /// A list.
    List(Vec<usize>),
    /// All from `min` to `max`.
    Range(ChunkRange),
}

/// An inclusive range of chunk sizes.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
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

    /// The largest one.
    #[cfg(feature = "neighbours")]
    pub(crate) fn largest(&self) -> usize {
        match self {
            Self::List(list) => list.iter().copied().max().unwrap_or(0),
            Self::Range(range) => range.max,
        }
    }

    /// The middle one: a compromise between latency and cost.
    pub fn middle(&self) -> Option<usize> {
        match self {
            Self::List(list) => {
                let mut sorted = list.clone();
                sorted.sort_unstable();
                sorted.get(sorted.len() / 2).copied()
            }
            Self::Range(range) => Some(range.min.midpoint(range.max)),
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

/// `[exit]`: parameters of the policies. A policy without its parameters cannot be selected.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct ExitSection {
    /// Default policy; `never` if it is missing.
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
    /// Thresholds per target agreement.
    pub calibrated: Option<CalibratedSection>,
    /// Parameter of `gain`.
    pub gain: Option<GainSection>,
}

/// One number for all layers, or one per layer.
#[derive(Debug, Clone, PartialEq, Deserialize, serde::Serialize)]
#[serde(untagged, expecting = "expected a number, or a list with one for each layer")]
pub enum PerLayer {
    /// The same at every layer.
    All(f32),
    /// Layer 1, layer 2, …
    Each(Vec<f32>),
}

impl PerLayer {
    /// Whether a value is not a number.
    pub(crate) fn has_nan(&self) -> bool {
        match self {
            Self::All(value) => value.is_nan(),
            Self::Each(values) => values.iter().any(|value| value.is_nan()),
        }
    }
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
    /// Whether it has a number for each of `layers` layers, or for all but the last, after which every chunk exits.
    pub(crate) fn fits(&self, layers: usize) -> bool {
        match self {
            Self::All(_) => true,
            Self::Each(values) => values.len() + 1 == layers || values.len() == layers,
        }
    }

    /// The number of `layer`; a list has none for layer 0 and past its end.
    pub fn at(&self, layer: usize) -> Option<f32> {
        match self {
            Self::All(value) => Some(*value),
            Self::Each(values) => layer.checked_sub(1).and_then(|index| values.get(index)).copied(),
        }
    }
}

/// `[exit.calibrated]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct CalibratedSection {
    /// The calibration data.
    pub data: String,
    /// One entry per target agreement.
    pub targets: Vec<CalibratedTarget>,
}

/// Thresholds for one target agreement.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct CalibratedTarget {
    /// Share of frames whose unit equals the last head's, 0 to 1.
    pub agreement: f32,
    /// Entropy thresholds of layers 1 … L−1, nats; a negative one never exits.
    pub thresholds: Vec<f32>,
}

/// `[exit.gain]`; the predictors are the stages `gain.k`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct GainSection {
    /// Exit if no deeper layer is predicted to reduce KL(p_L ‖ p_k) by more than this per layer, nats.
    pub lambda: f32,
}

/// `[mixture]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct MixtureSection {
    /// L + 1 numbers before the softmax.
    pub weights: Vec<f32>,
    /// Whether to normalise each state first.
    #[serde(default)]
    pub layer_norm: bool,
}

/// `[ctc]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct CtcSection {
    /// Class names; class 0 is the blank.
    pub vocabulary: Vec<String>,
    /// The languages whose phones it recognises well, as ISO 639-1 codes; empty if this is not known.
    #[serde(default)]
    pub languages: Vec<String>,
}

/// `[provenance]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Provenance {
    /// Where the weights come from.
    pub weights: String,
    /// Training data.
    pub data: String,
    /// Data held out from training.
    #[serde(default)]
    pub held_out: String,
    /// Licence of the weights.
    pub licence: String,
    /// The training command.
    #[serde(default)]
    pub command: String,
    /// Date of the training.
    pub date: String,
}

/// `[embedding]`: the keyword embedding.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct EmbeddingSection {
    /// Dimensions of a vector.
    pub width: usize,
}

/// `[stages]`: keys `frontend`, `position`, `layer.k`, `head.k`, `ctc.k`, `gain.k`, `embedding.k`, `speech`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
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
    /// Keyword embeddings by layer; 0 reads h⁰.
    #[serde(default)]
    pub embedding: BTreeMap<String, StageEntry>,
    /// Posteriorgram of speech, for the thresholds of keywords from text. Not a graph.
    pub speech: Option<StageEntry>,
}

/// One ONNX file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct StageEntry {
    /// File name within the pack's folder.
    pub file: String,
    /// SHA-256, hex.
    pub sha256: String,
    /// Additional state carried from call to call: name to shape.
    #[serde(default)]
    pub state: BTreeMap<String, Vec<usize>>,
}

#[cfg(test)]
mod tests {
    use super::PerLayer;

    #[test]
    fn a_list_has_a_number_for_its_layers_only() {
        let each = PerLayer::Each(vec![0.5, 0.25]);
        assert_eq!([0, 1, 2, 3, usize::MAX].map(|layer| each.at(layer)), [None, Some(0.5), Some(0.25), None, None]);
        assert_eq!([0, 1, 9].map(|layer| PerLayer::All(0.5).at(layer)), [Some(0.5); 3]);
    }
}
