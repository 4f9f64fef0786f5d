//! The result for one chunk.

use std::time::{Duration, Instant};

use super::chunker::Discontinuity;
use crate::engine::Frames;
use crate::exit::{Evidence, Reason};

/// Predicted distances of layers from full depth; empty without a forecast.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Forecast(Option<(usize, Frames)>);

impl Forecast {
    /// Creates a forecast from ln KL(p_L ‖ p_k) for k = `first`, `first` + 1, …, nats.
    pub fn new(first: usize, log_kl: Frames) -> Self {
        Self(Some((first, log_kl)))
    }

    /// The layers k in order, each with KL(p_L ‖ p_k), nats.
    pub fn iter(&self) -> impl Iterator<Item = (usize, f32)> {
        self.0.iter().flat_map(|(first, log_kl)| (*first..).zip(log_kl.as_slice().iter().map(|log_kl| log_kl.exp())))
    }

    /// KL(p_L ‖ p_k) of layer k, nats, if it was predicted.
    pub fn at(&self, k: usize) -> Option<f32> {
        self.iter().find(|(layer, _)| *layer == k).map(|(_, kl)| kl)
    }
}

/// Representation of one chunk of audio.
#[derive(Debug, Clone)]
pub struct Representation {
    /// Number of the chunk in its stream, from 0.
    pub sequence: u64,
    /// Position of the chunk's first sample at the pack's rate, including dropped samples.
    pub first_sample: u64,
    /// Length in samples; the last chunk of a stream, or before a device was lost, may be short.
    pub samples: u64,
    /// Samples dropped within this chunk or immediately before it, including the time without a device.
    pub lost_samples: u64,
    /// Positions of the gaps within the chunk; usually empty.
    pub discontinuities: Vec<Discontinuity>,
    /// Rate of the positions, Hz.
    pub sample_rate: u32,
    /// Samples between frames.
    pub hop_samples: usize,
    /// The exit layer.
    pub exit_layer: usize,
    /// Reason for the exit.
    pub reason: Reason,
    /// Evidence of the evaluated heads.
    pub evidence: Vec<Evidence>,
    /// Evidence of the evaluated CTC branches (policy `ctc`).
    pub ctc_evidence: Vec<Evidence>,
    /// Predicted KL(p_L ‖ p_k) of the exit layer k, nats: the distance from full depth (policy `gain`).
    pub expected_kl: Option<f32>,
    /// Predicted KL(p_L ‖ p_k) of the layer of the decision and all deeper ones (policy `gain`).
    pub forecast: Forecast,
    /// The vectors, `[frames, dim]`.
    pub vectors: Frames,
    /// Log-posteriors of the units at the exit layer, `[frames, units]`, if requested.
    pub log_posteriors: Option<Frames>,
    /// Keyword embeddings, `[frames, width]`, if requested. The cosine of two embeddings is the similarity of two frames, across
    /// exit layers.
    pub embedding: Option<Frames>,
    /// Logits of the CTC branch at the exit layer, `[frames, vocabulary]`, if requested.
    pub ctc_logits: Option<Frames>,
    /// The chunk's audio at the pack's rate, `samples` values, if requested.
    pub audio: Option<Vec<f32>>,
    /// Audio after the chunk that its frames also cover, if the audio was requested.
    pub lookahead: Option<Vec<f32>>,
    /// Time to compute the chunk.
    pub compute: Duration,
    /// Time at which the chunk's last sample was captured, for live sources.
    pub captured_at: Option<Instant>,
}

impl Representation {
    /// Start of the chunk, seconds from the start of the stream.
    pub fn start_seconds(&self) -> f64 {
        self.first_sample as f64 / f64::from(self.sample_rate)
    }

    /// Position in the stream of the chunk's sample number `offset`, including dropped samples.
    pub fn position(&self, offset: u64) -> u64 {
        let lost: u64 = self
            .discontinuities
            .iter()
            .filter(|discontinuity| discontinuity.offset <= offset)
            .map(|discontinuity| discontinuity.lost_samples)
            .sum();
        self.first_sample + offset + lost
    }

    /// Length of the chunk's audio, seconds.
    pub fn seconds(&self) -> f64 {
        self.samples as f64 / f64::from(self.sample_rate)
    }
}
