//! The score of a keyword at each frame of a stream, from its phones and from its examples.
//!
//! That of the examples is the weighted power mean of their scores, (Σ w sᵏ / Σ w)^(1/k) with k = 2: higher if more of them agree. A keyword with
//! phones and examples has the geometric mean of both.

use super::phone_search::{Classes, PhoneSearch};
use super::phones::Phones;
use super::template::{FrameBlock, LANES, Template};
use super::warp::{Warp, score};

/// k of the power mean.
const AGREEMENT: i32 = 2;

/// Frames for which the score of the phones is held for the examples: a match of the phones ends in the last phone, one of an example after it.
const HELD: u32 = 12;

/// The phones and examples of one keyword, each aligned with one stream.
#[derive(Debug, Clone)]
pub struct Matcher {
    warps: Vec<Warp>,
    /// Share of each example; they add up to 1.
    shares: Vec<f32>,
    phones: Option<Searched>,
}

/// The phones of one keyword in one stream.
#[derive(Debug, Clone)]
struct Searched {
    phones: Phones,
    search: PhoneSearch,
    /// Highest score of the last frames, and its age.
    held: (f32, u32),
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

    /// Adds phones, whose pronunciations are `classes`.
    pub(super) fn with_phones(self, phones: Phones, classes: Vec<Classes>) -> Self {
        Self { phones: Some(Searched { phones, search: PhoneSearch::new(classes), held: (0.0, 0) }), ..self }
    }

    /// Its phones.
    pub(super) fn phones(&self) -> Option<&Phones> {
        self.phones.as_ref().map(|searched| &searched.phones)
    }

    /// Discards the stream so far.
    pub(super) fn reset(&mut self) {
        self.warps.iter_mut().for_each(Warp::reset);
        if let Some(searched) = &mut self.phones {
            searched.search.reset();
            searched.held = (0.0, 0);
        }
    }

    /// Processes the next frames: the best match that ends at each of them.
    pub(super) fn step(&mut self, block: &FrameBlock) -> [Candidate; LANES] {
        let mut found = if self.warps.is_empty() { [Candidate::default(); LANES] } else { self.examples(block) };
        if let Some(searched) = &mut self.phones {
            for (frame, candidate) in found.iter_mut().enumerate().take(block.frames()) {
                let (score, frames) = searched.search.step(block.logits(frame));
                if self.warps.is_empty() {
                    *candidate = Candidate { score, frames: u64::from(frames), example: None };
                } else {
                    let (held, age) = searched.held;
                    searched.held = if score >= held || age >= HELD { (score, 0) } else { (held, age + 1) };
                    candidate.score = (candidate.score * searched.held.0).sqrt();
                }
            }
        }
        found
    }

    /// The best match of the examples that ends at each frame.
    fn examples(&mut self, block: &FrameBlock) -> [Candidate; LANES] {
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
