//! One line of JSON per chunk.

use std::io::Write;

use serde::Serialize;

use super::files::write_line;
use super::{Consumer, ConsumerError, Requirements};
use crate::exit::{Evidence, Reason};
use crate::stream::Representation;

/// Optional fields of a line.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct JsonOptions {
    /// The vectors, one array per frame.
    pub vectors: bool,
    /// The most probable unit of each frame at the exit layer.
    pub units: bool,
}

/// Writes lines to any writer.
pub struct JsonLines<W> {
    out: W,
    place: String,
    options: JsonOptions,
}

/// One line.
#[derive(Debug, Serialize)]
pub(super) struct Line<'a> {
    chunk: u64,
    /// Start and length of the chunk, seconds.
    start: f64,
    seconds: f64,
    sample: u64,
    samples: u64,
    frames: usize,
    layer: usize,
    reason: Reason,
    entropy: Vec<LayerValue>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    ctc_entropy: Vec<LayerValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expected_kl: Option<f64>,
    compute_ms: f64,
    #[serde(skip_serializing_if = "is_zero")]
    lost_samples: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    units: Option<Vec<usize>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    vectors: Option<Vec<&'a [f32]>>,
}

fn is_zero(value: &u64) -> bool {
    *value == 0
}

/// Entropy of a layer as `[layer, nats]`; layers whose head did not run are omitted.
#[derive(Debug, Serialize)]
struct LayerValue(usize, Option<f32>);

impl LayerValue {
    fn of(evidence: &Evidence) -> Self {
        Self(evidence.layer, evidence.finite.then_some((evidence.entropy * 1e4).round() / 1e4))
    }
}

impl<'a> Line<'a> {
    pub(super) fn new(representation: &'a Representation, options: JsonOptions) -> Self {
        let round = |value: f64| (value * 1e4).round() / 1e4;
        let rows = |count: usize| 0..count;
        Self {
            chunk: representation.sequence,
            start: round(representation.start_seconds()),
            seconds: round(representation.seconds()),
            sample: representation.first_sample,
            samples: representation.samples,
            frames: representation.vectors.frames(),
            layer: representation.exit_layer,
            reason: representation.reason,
            entropy: representation.evidence.iter().map(LayerValue::of).collect(),
            ctc_entropy: representation.ctc_evidence.iter().map(LayerValue::of).collect(),
            expected_kl: representation.expected_kl.map(|kl| round(f64::from(kl))),
            compute_ms: (representation.compute.as_secs_f64() * 1e6).round() / 1e3,
            lost_samples: representation.lost_samples,
            units: representation
                .log_posteriors
                .as_ref()
                .filter(|_| options.units)
                .map(|posteriors| rows(posteriors.frames()).map(|t| likeliest(posteriors.row(t))).collect()),
            vectors: options.vectors.then(|| {
                let vectors = &representation.vectors;
                rows(vectors.frames()).map(|t| vectors.row(t)).collect()
            }),
        }
    }
}

fn likeliest(row: &[f32]) -> usize {
    row.iter()
        .enumerate()
        .fold((0, f32::NEG_INFINITY), |best, (unit, &value)| if value > best.1 { (unit, value) } else { best })
        .0
}

impl<W: Write + Send> JsonLines<W> {
    /// Writes lines to `out`; `place` names it in errors.
    pub fn new(out: W, place: impl Into<String>, options: JsonOptions) -> Self {
        Self { out, place: place.into(), options }
    }
}

impl<W: Write + Send> Consumer for JsonLines<W> {
    fn name(&self) -> &str {
        "jsonl"
    }

    fn requires(&self) -> Requirements {
        Requirements { posteriors: self.options.units, ..Requirements::default() }
    }

    fn consume(&mut self, representation: &Representation) -> Result<(), ConsumerError> {
        let line = Line::new(representation, self.options);
        // Flush every line, so that readers of a live stream receive each chunk at once.
        write_line(&mut self.out, &self.place, &line)
    }

    fn finish(&mut self) -> Result<(), ConsumerError> {
        self.out.flush().map_err(|error| ConsumerError::write(self.place.clone(), error))
    }
}
