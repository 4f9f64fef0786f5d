//! The score of a keyword at each frame of a stream, from all of its examples.
//!
//! It is the weighted power mean of the examples' scores, (Σ w sᵏ / Σ w)^(1/k) with k = 2: higher if more of them agree.

use super::phones::Phones;
use super::template::{FrameBlock, LANES, Template};
use super::warp::{Warp, score};

/// k of the power mean.
const AGREEMENT: i32 = 2;

/// The examples of one keyword, each aligned with one stream.
#[derive(Debug, Clone)]
pub struct Matcher {
    warps: Vec<Warp>,
    /// Share of each example; they add up to 1.
    shares: Vec<f32>,
    /// The phones that the verification pass checks.
    phones: Option<Phones>,
}

/// A match that ends at a frame.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Candidate {
    /// Score, 0 to 1.
    pub score: f32,
    /// Length of the best example's match, frames.
    pub frames: u64,
    /// The example with the highest score, from 0.
    pub example: Option<usize>,
}

impl From<Vec<Template>> for Matcher {
    /// Examples of equal weight.
    fn from(examples: Vec<Template>) -> Self {
        Self::new(examples.into_iter().map(|example| (example, 1.0)))
    }
}

impl Matcher {
    /// Examples with their weights, at the start of a stream.
    pub fn new(examples: impl IntoIterator<Item = (Template, f32)>) -> Self {
        let (warps, mut shares): (Vec<Warp>, Vec<f32>) =
            examples.into_iter().map(|(example, weight)| (Warp::new(&example), weight.max(0.0))).unzip();
        let total = shares.iter().sum::<f32>().max(f32::MIN_POSITIVE);
        shares.iter_mut().for_each(|share| *share /= total);
        Self { warps, shares, phones: None }
    }

    /// Sets the phones that the verification pass checks.
    pub fn with_phones(self, phones: Option<Phones>) -> Self {
        Self { phones, ..self }
    }

    /// The phones that the verification pass checks.
    pub(super) fn phones(&self) -> Option<&Phones> {
        self.phones.as_ref()
    }

    /// Discards the stream so far.
    pub(super) fn reset(&mut self) {
        self.warps.iter_mut().for_each(Warp::reset);
    }

    /// Processes the next frames: the best match that ends at each of them.
    pub(super) fn step(&mut self, block: &FrameBlock) -> [Candidate; LANES] {
        let mut powers = [0.0f32; LANES];
        let mut best = [(f32::INFINITY, Candidate::default()); LANES];
        for (example, (warp, share)) in self.warps.iter_mut().zip(&self.shares).enumerate() {
            for ((found, powers), (nearest, best)) in warp.step(block).into_iter().zip(&mut powers).zip(&mut best) {
                *powers += share * score(found.distance).powi(AGREEMENT);
                if found.distance < *nearest {
                    *nearest = found.distance;
                    *best = Candidate { score: 0.0, frames: u64::from(found.frames), example: Some(example) };
                }
            }
        }
        let mean = |powers: f32| powers.powf(1.0 / AGREEMENT as f32).min(1.0);
        std::array::from_fn(|lane| Candidate { score: mean(powers[lane]), ..best[lane].1 })
    }
}
