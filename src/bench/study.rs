//! Comparison of a pack with its own full depth: every layer in one pass, or a policy's exits.
//!
//! A layer's state does not depend on later layers, so one full pass gives the result of every fixed depth.

use std::sync::Arc;

use crate::engine::{Encoder, EncoderState, EngineError};
use crate::exit::ExitPolicy;
use crate::exit::evidence::{Measurer, kl};
use crate::stream::{Chunker, Session, SessionError, SessionOptions};

/// Distance from full depth.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Distance {
    /// Mean KL(p_L ‖ p), nats.
    pub kl: f64,
    /// Share of frames with the same most probable unit.
    pub agreement: f64,
}

/// Accumulates a [`Distance`].
#[derive(Debug, Clone, Copy, Default)]
struct Comparison {
    divergence: f64,
    same: u64,
    frames: u64,
}

impl Comparison {
    /// Adds frames: log-posteriors `[T, units]` of full depth, and those to compare.
    fn add(&mut self, full: &[f32], found: &[f32], units: usize) {
        let likeliest = |row: &[f32]| row.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).map(|(unit, _)| unit);
        for (full, found) in full.chunks_exact(units).zip(found.chunks_exact(units)) {
            self.divergence += kl(full, found);
            self.same += u64::from(likeliest(full) == likeliest(found));
            self.frames += 1;
        }
    }

    fn mean(&self) -> Distance {
        let frames = self.frames.max(1) as f64;
        Distance { kl: self.divergence / frames, agreement: self.same as f64 / frames }
    }
}

/// A full pass over one recording. Empty for a pack without heads.
#[derive(Debug, Default)]
pub(super) struct Study {
    /// Depths that have a head.
    pub depths: Vec<usize>,
    /// Mean entropy of the head at each of `depths`, nats.
    pub entropy: Vec<f64>,
    distance: Vec<Distance>,
    /// Log-posteriors of full depth, `[frames, units]`.
    full: Vec<f32>,
}

impl Study {
    /// Memory of what it keeps.
    pub fn memory_bytes(&self) -> usize {
        size_of_val(&self.full[..])
    }

    /// Streams `audio` (at the pack's rate) through every layer.
    pub fn of(encoder: &Arc<Encoder>, audio: &[f32], chunk_frames: usize) -> Result<Self, EngineError> {
        if !encoder.has_heads() {
            return Ok(Self::default());
        }
        let (layers, units) = (encoder.layers(), encoder.units());
        let depths: Vec<usize> = (usize::from(!encoder.may_exit_at_frontend())..=layers).collect();
        let mut state = EncoderState::new(encoder)?;
        let mut chunker = Chunker::new(encoder, chunk_frames);
        let mut study = Self { depths, ..Self::default() };
        let (mut entropies, mut comparisons) = (vec![0.0; study.depths.len()], vec![Comparison::default(); study.depths.len()]);
        let mut chunks = 0u64;
        let mut posteriors: Vec<Vec<f32>> = vec![Vec::new(); study.depths.len()];
        let mut measurer = Measurer::default();
        let mut blocks = audio.chunks(chunk_frames * encoder.audio().hop);
        loop {
            let block = blocks.next();
            match block {
                Some(block) => chunker.push(block),
                None => chunker.finish(),
            }
            while let Some(chunk) = chunker.next_chunk() {
                let mut pass = state.begin(chunk.audio, chunk.span)?;
                measurer.begin_chunk();
                for depth in 0..=layers {
                    if depth > 0 {
                        pass.step()?;
                    }
                    let Some(index) = study.depths.iter().position(|&has| has == depth) else { continue };
                    let evidence = measurer.measure(depth, pass.head()?.as_slice(), units, false);
                    entropies[index] += f64::from(evidence.entropy);
                    posteriors[index].clear();
                    posteriors[index].extend_from_slice(measurer.log_posteriors().map_or(&[][..], |(_, rows)| rows));
                }
                pass.finish();
                chunks += 1;
                let Some((full, _)) = posteriors.split_last() else { continue };
                for (comparison, rows) in comparisons.iter_mut().zip(&posteriors) {
                    comparison.add(full, rows, units);
                }
                study.full.extend_from_slice(full);
            }
            if block.is_none() {
                break;
            }
        }
        study.entropy = entropies.into_iter().map(|sum| sum / chunks.max(1) as f64).collect();
        study.distance = comparisons.iter().map(Comparison::mean).collect();
        Ok(study)
    }

    /// Whether there is anything to compare.
    pub fn has_heads(&self) -> bool {
        !self.depths.is_empty()
    }

    /// Distance of `depth` from full depth over all chunks; `None` if it has no head.
    pub fn fixed(&self, depth: usize) -> Option<Distance> {
        self.depths.iter().position(|&has| has == depth).map(|index| self.distance[index])
    }

    /// Streams the same audio with `policy`: distance from full depth (`None` without heads), and the exit layer of every chunk.
    pub fn with_policy(
        &self,
        encoder: &Arc<Encoder>,
        audio: &[f32],
        chunk_frames: usize,
        policy: Box<dyn ExitPolicy>,
    ) -> Result<(Option<Distance>, Vec<usize>), SessionError> {
        let units = encoder.units().max(1);
        let options = SessionOptions::default().chunk_frames(chunk_frames).posteriors(encoder.has_heads());
        let mut session = Session::new(encoder, policy, options)?;
        let (mut comparison, mut exits, mut at) = (Comparison::default(), Vec::new(), 0);
        let mut take = |session: &mut Session| -> Result<(), SessionError> {
            session.each(|representation| {
                exits.push(representation.exit_layer);
                if let Some(rows) = &representation.log_posteriors {
                    let rows = rows.as_slice();
                    comparison.add(self.full.get(at..at + rows.len()).unwrap_or_default(), rows, units);
                    at += rows.len();
                }
                Ok(())
            })
        };
        for block in audio.chunks(chunk_frames * encoder.audio().hop) {
            session.push(block)?;
            take(&mut session)?;
        }
        session.finish();
        take(&mut session)?;
        Ok((encoder.has_heads().then(|| comparison.mean()), exits))
    }
}
