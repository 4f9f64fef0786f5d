//! Synthetic streams for tests of consumers.

use std::time::Duration;

use super::StreamInfo;
use crate::engine::Frames;
use crate::exit::Reason;
use crate::stream::{Forecast, Representation};

/// Samples per frame.
pub const HOP: usize = 320;

/// Description of a stream with `classes` CTC classes `p0`, `p1`, …
pub fn stream(classes: usize) -> StreamInfo {
    StreamInfo {
        source: "test".into(),
        pack: "test".into(),
        sample_rate: 16_000,
        hop_samples: HOP,
        dim: 2,
        vocabulary: (0..classes).map(|class| format!("p{class}")).collect(),
        layers: 3,
        chunk_frames: 8,
        ..StreamInfo::default()
    }
}

/// Chunks of `sizes` frames with CTC logits `[frames, classes]`. The vector of a frame is its number and 0; its
/// samples count from the start of the stream.
pub fn chunks(logits: &[f32], classes: usize, sizes: &[usize]) -> Vec<Representation> {
    let mut first = 0;
    let chunk = |(sequence, &frames): (usize, &usize)| {
        let from = first;
        first += frames;
        let rows = |dim: usize, values: Vec<f32>| Frames::build(frames, dim, |out| out.copy_from_slice(&values));
        Representation {
            sequence: sequence as u64,
            first_sample: (from * HOP) as u64,
            samples: (frames * HOP) as u64,
            lost_samples: 0,
            discontinuities: Vec::new(),
            sample_rate: 16_000,
            hop_samples: HOP,
            exit_layer: 3,
            reason: Reason::LastLayer,
            evidence: Vec::new(),
            ctc_evidence: Vec::new(),
            expected_kl: None,
            forecast: Forecast::default(),
            vectors: rows(2, (from..from + frames).flat_map(|frame| [frame as f32, 0.0]).collect()),
            log_posteriors: None,
            embedding: None,
            ctc_logits: Some(rows(classes, logits[from * classes..(from + frames) * classes].to_vec())),
            audio: Some((from * HOP..(from + frames) * HOP).map(|sample| (sample % 30_000) as f32 / 32_768.0).collect()),
            lookahead: None,
            compute: Duration::ZERO,
            captured_at: None,
        }
    };
    sizes.iter().enumerate().map(chunk).collect()
}
