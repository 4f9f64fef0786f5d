//! From scores to detections: one utterance, one detection.
//!
//! The score of a keyword at a frame is the power mean of its examples' scores, (Σ sᵏ / n)^(1/k) with k = 2: the higher the more of
//! them agree. It rises towards the end of an utterance and falls after it; a peak stands when nothing higher ended within
//! [`SpotterOptions::hold`] frames. Then it is looked at again at full depth, if it is one of examples, and the lower score counts
//! ([`SecondLook`]). A peak at or above the threshold is a detection, and after it the keyword rests for the refractory time and does
//! not fire again on sound that the detection holds. A lower peak is a near miss, told to whoever asks.

use std::time::Duration;

use super::detector::Detector;
use super::score;
use super::second_look::SecondLook;
use super::template::{FrameBlock, LANES, Template};
use super::warp::Warp;
use crate::engine::EngineError;
use crate::stream::SessionError;

/// k of the power mean of the examples' scores.
const AGREEMENT: i32 = 2;

/// When a keyword fires.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SpotterOptions {
    /// Least score of a detection.
    pub threshold: f32,
    /// Least score of a near miss; at or above the threshold there are none.
    pub near_miss: f32,
    /// Frames that a peak must outlast.
    pub hold: u32,
    /// Frames after a detection in which no other one ends.
    pub refractory: u32,
}

impl SpotterOptions {
    /// Time after a detection without another one, when nothing else is said.
    pub const REFRACTORY: Duration = Duration::from_millis(1000);
    /// How long a peak must stand, when nothing else is said.
    pub const HOLD: Duration = Duration::from_millis(120);

    /// The usual times at frames of `hop_seconds`, and no near misses.
    pub fn new(threshold: f32, hop_seconds: f64) -> Self {
        Self { threshold, near_miss: f32::INFINITY, hold: 0, refractory: 0 }
            .with_hold(Self::HOLD, hop_seconds)
            .with_refractory(Self::REFRACTORY, hop_seconds)
    }

    /// With this refractory time.
    pub fn with_refractory(self, time: Duration, hop_seconds: f64) -> Self {
        Self { refractory: (time.as_secs_f64() / hop_seconds).round() as u32, ..self }
    }

    fn with_hold(self, time: Duration, hop_seconds: f64) -> Self {
        Self { hold: (time.as_secs_f64() / hop_seconds).round() as u32, ..self }
    }
}

/// What a peak is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// At or above the threshold.
    Detection,
    /// Below it.
    NearMiss,
}

/// One peak.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Hit {
    /// Detection or near miss.
    pub event: Event,
    /// Its score, 0 to 1.
    pub score: f32,
    /// First frame.
    pub start: u64,
    /// The frame after the last one.
    pub end: u64,
    /// Which example matched best, from 0; a trained detector has none, and its span is all that it looks at.
    pub example: Option<usize>,
}

/// What tells how much the end of a stream is like a keyword.
#[derive(Debug)]
pub enum Search {
    /// Recordings of it.
    Examples(Vec<Warp>),
    /// A trained detector.
    Detector(Box<Detector>),
}

impl From<Vec<Template>> for Search {
    fn from(examples: Vec<Template>) -> Self {
        Self::Examples(examples.iter().map(Warp::new).collect())
    }
}

/// What may end at a frame.
#[derive(Clone, Copy, Default)]
struct Candidate {
    score: f32,
    frames: u64,
    example: Option<usize>,
}

impl Search {
    fn reset(&mut self) {
        match self {
            Self::Examples(warps) => warps.iter_mut().for_each(Warp::reset),
            Self::Detector(detector) => detector.reset(),
        }
    }

    fn step(&mut self, block: &FrameBlock, first: u64) -> Result<[Candidate; LANES], EngineError> {
        Ok(match self {
            Self::Examples(warps) => by_examples(warps, block),
            Self::Detector(detector) => {
                let frames = detector.window() as u64;
                detector.step(block, first)?.map(|score| Candidate { score, frames, example: None })
            }
        })
    }

    /// The highest score at full depth of what overlaps `hit` and ends no more than `hold` frames later; its own for a detector.
    fn again(&self, hit: &Hit, hold: u32, second: &mut SecondLook) -> Result<f32, SessionError> {
        let Self::Examples(warps) = self else { return Ok(hit.score) };
        let mut warps = warps.clone();
        warps.iter_mut().for_each(Warp::reset);
        let mut highest = 0.0f32;
        second.again(hit.start, hit.end + u64::from(hold), |first, block| {
            let candidates = (first + 1..).zip(by_examples(&mut warps, block)).take(block.frames());
            highest = candidates.filter(|(end, _)| *end > hit.start).fold(highest, |highest, (_, own)| highest.max(own.score));
        })?;
        Ok(highest)
    }
}

fn by_examples(warps: &mut [Warp], block: &FrameBlock) -> [Candidate; LANES] {
    let mut powers = [0.0f32; LANES];
    let mut best = [(f32::INFINITY, Candidate::default()); LANES];
    for (example, warp) in warps.iter_mut().enumerate() {
        for ((found, powers), (nearest, best)) in warp.step(block).into_iter().zip(&mut powers).zip(&mut best) {
            *powers += score(found.distance).powi(AGREEMENT);
            if found.distance < *nearest {
                *nearest = found.distance;
                *best = Candidate { score: 0.0, frames: u64::from(found.frames), example: Some(example) };
            }
        }
    }
    let count = warps.len() as f32;
    let mean = |powers: f32| (powers / count).powf(1.0 / AGREEMENT as f32).min(1.0);
    std::array::from_fn(|lane| Candidate { score: mean(powers[lane]), ..best[lane].1 })
}

/// One keyword in one stream.
#[derive(Debug)]
pub struct Spotter {
    search: Search,
    options: SpotterOptions,
    /// Frames so far.
    frames: u64,
    peak: Option<Hit>,
    /// Frames since the peak ended.
    age: u32,
    /// End of the last detection.
    fired: Option<u64>,
    /// End and score of the last near miss.
    missed: (u64, f32),
}

impl Spotter {
    /// Looks for what `search` tells.
    pub fn new(search: impl Into<Search>, options: SpotterOptions) -> Self {
        Self { search: search.into(), options, frames: 0, peak: None, age: 0, fired: None, missed: (0, 0.0) }
    }

    /// Takes the next frames. `told` hears each peak with the number of the frame that settled it; with `second`, which has heard those
    /// frames, peaks of examples are looked at again.
    ///
    /// # Errors
    ///
    /// A detector's graph or a layer that cannot be run.
    pub fn step(
        &mut self,
        block: &FrameBlock,
        mut second: Option<&mut SecondLook>,
        mut told: impl FnMut(u64, Hit),
    ) -> Result<(), SessionError> {
        let first = self.frames;
        self.frames += block.frames() as u64;
        let candidates = self.search.step(block, first)?;
        for (frame, Candidate { score, frames, example }) in (first..).zip(candidates).take(block.frames()) {
            self.age = self.age.saturating_add(1);
            if score > 0.0 {
                let (start, end) = ((frame + 1).saturating_sub(frames), frame + 1);
                let hit = Hit { event: self.event(score), score, start, end, example };
                if self.may_peak(&hit) && self.peak.is_none_or(|peak| score > peak.score) {
                    self.peak = Some(hit);
                    self.age = 0;
                }
            }
            if self.age >= self.options.hold
                && let Some(hit) = self.settle(second.as_deref_mut())?
            {
                told(frame, hit);
            }
        }
        Ok(())
    }

    /// The stream ends or has a hole here: what stands is told, and nothing matches across. Frames are counted on.
    ///
    /// # Errors
    ///
    /// A layer that cannot be run.
    pub fn reset(&mut self, second: Option<&mut SecondLook>) -> Result<Option<Hit>, SessionError> {
        let told = self.settle(second);
        self.search.reset();
        told
    }

    /// From here on, the least score of a near miss.
    pub(super) fn set_near_miss(&mut self, score: f32) {
        self.options.near_miss = score;
    }

    fn event(&self, score: f32) -> Event {
        if score >= self.options.threshold { Event::Detection } else { Event::NearMiss }
    }

    fn may_peak(&self, hit: &Hit) -> bool {
        // One miss per stretch of sound, and another only if it is nearer.
        let (end, score) = self.missed;
        let told = hit.score >= self.options.threshold.min(self.options.near_miss) && (hit.start >= end || hit.score > score);
        let rested =
            self.fired.is_none_or(|end| hit.start >= end && hit.end > end.saturating_add(u64::from(self.options.refractory)));
        told && rested
    }

    fn settle(&mut self, second: Option<&mut SecondLook>) -> Result<Option<Hit>, SessionError> {
        let Some(first) = self.peak.take() else { return Ok(None) };
        let score = match second {
            Some(second) => first.score.min(self.search.again(&first, self.options.hold, second)?),
            None => first.score,
        };
        let hit = Hit { event: self.event(score), score, ..first };
        match hit.event {
            Event::Detection => self.fired = Some(hit.end),
            Event::NearMiss => self.missed = (hit.end, first.score),
        }
        Ok(Some(hit).filter(|hit| hit.event == Event::Detection || score >= self.options.near_miss))
    }
}
