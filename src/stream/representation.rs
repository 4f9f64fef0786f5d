//! What a consumer gets for each chunk.

use std::time::{Duration, Instant};

use super::chunker::Discontinuity;
use crate::engine::Frames;
use crate::exit::{Evidence, Reason};

/// The representation of one chunk of sound.
#[derive(Debug, Clone)]
pub struct Representation {
    /// Number of the chunk in its stream, from 0.
    pub sequence: u64,
    /// Position of the chunk's first sample at the pack's rate; samples lost before it are counted.
    pub first_sample: u64,
    /// Samples that the chunk holds; the last one of a stream, or before a device was lost, may be short.
    pub samples: u64,
    /// Samples lost inside of this chunk or right before it: its sound has a discontinuity. The time without a device counts as lost.
    pub lost_samples: u64,
    /// Where inside of the chunk they were lost; empty almost always.
    pub discontinuities: Vec<Discontinuity>,
    /// Rate of the positions, Hz.
    pub sample_rate: u32,
    /// Samples between frames.
    pub hop_samples: usize,
    /// The layer after which the chunk stopped.
    pub exit_layer: usize,
    /// Why it stopped there.
    pub reason: Reason,
    /// What the evaluated heads said.
    pub evidence: Vec<Evidence>,
    /// What the evaluated CTC branches said (policy `ctc`).
    pub ctc_evidence: Vec<Evidence>,
    /// What the predictor of the exit layer expects of KL(p_L ‖ p_k), nats: how far from full depth the chunk stopped (policy `gain`).
    pub expected_kl: Option<f32>,
    /// The vectors, `[frames, dim]`.
    pub vectors: Frames,
    /// Log-posteriors of the units at the exit layer, `[frames, units]`, when asked for.
    pub log_posteriors: Option<Frames>,
    /// What keywords are matched in, `[frames, width]`, when asked for: the cosine of two frames tells how alike they are, whatever the
    /// layers where they stopped.
    pub embedding: Option<Frames>,
    /// Logits of the CTC branch at the exit layer, `[frames, vocabulary]`, when asked for.
    pub ctc_logits: Option<Frames>,
    /// The chunk's own sound at the pack's rate, `samples` of it, when asked for.
    pub audio: Option<Vec<f32>>,
    /// The sound behind it that its frames see, with it.
    pub lookahead: Option<Vec<f32>>,
    /// Time that the computation took.
    pub compute: Duration,
    /// When the chunk's last sample was captured, for live sources.
    pub captured_at: Option<Instant>,
}

impl Representation {
    /// Start of the chunk, seconds from the start of the stream.
    pub fn start_seconds(&self) -> f64 {
        self.first_sample as f64 / f64::from(self.sample_rate)
    }

    /// Position in the stream of the chunk's own sample number `offset`, lost samples counted.
    pub fn position(&self, offset: u64) -> u64 {
        let lost: u64 = self
            .discontinuities
            .iter()
            .filter(|discontinuity| discontinuity.offset <= offset)
            .map(|discontinuity| discontinuity.lost_samples)
            .sum();
        self.first_sample + offset + lost
    }

    /// Length of the chunk's own sound, seconds.
    pub fn seconds(&self) -> f64 {
        self.samples as f64 / f64::from(self.sample_rate)
    }
}
