//! Which score makes so many false accepts an hour: measured on speech that does not hold the keyword, as it is and in babble.
//!
//! Some examples are like nothing in clear speech and like much in a crowd: a drawn out vowel, an echo. So the background is heard a second time
//! in babble of its own, as loud as itself, and the threshold is one that holds both times.
//!
//! Every peak of the background is a false accept that a low enough threshold would make. Rates that are seldom seen in the
//! background's length come from its tail: the distances below the u-th smallest one are taken as exponential (peaks over
//! threshold), so that rate(d) = rate(u) · exp(−(u − d) / scale), scale being their mean excess.

use serde::{Deserialize, Serialize};

use super::spotter::{Spotter, SpotterOptions};
use super::template::Template;
use super::{Posteriors, distance, score};

/// Peaks that the tail is fitted on, at most.
const TAIL_PEAKS: usize = 24;
/// Below so many peaks nothing is extrapolated.
const LEAST_PEAKS: usize = 4;
/// Voices of [`babble`].
const VOICES: usize = 6;
/// Peaks below this score are not looked for: any speech has higher ones.
const FLOOR: f32 = 0.5;

/// How the background was heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Condition {
    /// As it is.
    Plain,
    /// With [`babble`] added.
    Babble,
}

/// The highest peaks of one keyword in background speech.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tail {
    /// How it was heard.
    pub condition: Condition,
    /// How much was heard.
    pub hours: f64,
    /// The highest scores, best first.
    pub peaks: Vec<f32>,
}

/// The score that holds in all of `tails` (see [`Tail::threshold`]); `None` where one of them says too little, or there is none.
pub fn threshold(tails: &[Tail], per_hour: f64) -> Option<f32> {
    let each: Option<Vec<f32>> = tails.iter().map(|tail| tail.threshold(per_hour)).collect();
    each?.into_iter().reduce(f32::max)
}

/// Six voices made of one recording: the sum of itself begun at each seventh, as loud (RMS) as the recording.
pub fn babble(audio: &[f32]) -> Vec<f32> {
    let mut sum = vec![0.0f32; audio.len()];
    for voice in 1..=VOICES {
        let (before, after) = audio.split_at(voice * audio.len() / (VOICES + 1));
        sum.iter_mut().zip(after.iter().chain(before)).for_each(|(sum, x)| *sum += x);
    }
    let power = |samples: &[f32]| samples.iter().map(|x| f64::from(x * x)).sum::<f64>();
    let gain = (power(audio) / power(&sum).max(1e-12)).sqrt() as f32;
    sum.iter_mut().for_each(|x| *x *= gain);
    sum
}

impl Tail {
    /// The score at which `per_hour` false accepts an hour are expected; `None` where the background says too little.
    pub fn threshold(&self, per_hour: f64) -> Option<f32> {
        if self.peaks.len() < LEAST_PEAKS || self.hours <= 0.0 || per_hour <= 0.0 {
            return None;
        }
        let mut distances: Vec<f64> = self.peaks.iter().map(|&peak| f64::from(distance(peak))).collect();
        distances.sort_by(f64::total_cmp);
        let last = *distances.last()?;
        let excess = distances.iter().map(|d| last - d).sum::<f64>() / (distances.len() - 1) as f64;
        let rate = distances.len() as f64 / self.hours;
        let at = last + excess * (per_hour / rate).ln();
        Some(score(at.max(0.0) as f32).clamp(0.0, 1.0))
    }
}

/// Listens to background speech for one keyword.
#[derive(Debug)]
pub struct Background {
    spotter: Spotter,
    frames: u64,
    hop_seconds: f64,
    peaks: Vec<f32>,
}

impl Background {
    /// For a keyword of these examples at frames of `hop_seconds`.
    pub fn new(examples: Vec<Template>, hop_seconds: f64) -> Self {
        let options = SpotterOptions::new(FLOOR, hop_seconds);
        Self { spotter: Spotter::new(examples, options), frames: 0, hop_seconds, peaks: Vec::new() }
    }

    /// One recording, from its start to its end.
    pub fn listen(&mut self, posteriors: &Posteriors) {
        posteriors.blocks(|block| {
            self.spotter.step(block, self.frames, |_, hit| self.peaks.push(hit.score));
            self.frames += block.frames() as u64;
        });
        let hit = self.spotter.reset();
        self.peaks.extend(hit.map(|hit| hit.score));
    }

    /// What was found.
    pub fn tail(mut self, condition: Condition) -> Tail {
        self.peaks.sort_by(|a, b| b.total_cmp(a));
        self.peaks.truncate(TAIL_PEAKS);
        Tail { condition, hours: self.frames as f64 * self.hop_seconds / 3600.0, peaks: self.peaks }
    }
}
