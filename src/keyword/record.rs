//! Takes from a live stream: where a word begins and ends is found while it is spoken.

use std::collections::VecDeque;

/// What a [`Recorder`] heard in the sound that it was given.
#[derive(Debug, Clone, PartialEq)]
pub enum Heard {
    /// Nobody speaks yet.
    Waiting,
    /// Somebody speaks.
    Speaking,
    /// The word and some silence around it.
    Take(Vec<f32>),
}

/// Cuts takes out of a stream of samples.
#[derive(Debug)]
pub struct Recorder {
    sample_rate: u32,
    /// Sound that is kept: the lead while waiting, the whole take while somebody speaks.
    kept: Vec<f32>,
    /// Samples of an incomplete step.
    rest: Vec<f32>,
    /// Levels of the last steps without speech: the floor.
    floor: VecDeque<f32>,
    level: f32,
    speaking: bool,
    /// Steps in a row that were loud, or quiet.
    loud: usize,
    quiet: usize,
}

const STEP_SECONDS: f64 = 0.02;
/// The floor is the quietest tenth of so much sound.
const FLOOR_SECONDS: f64 = 3.0;
/// Before so much sound there is no floor.
const SETTLE_SECONDS: f64 = 0.3;
/// Speech is so far above the floor …
const ABOVE_FLOOR_DB: f32 = 10.0;
/// … and above this in any case.
const LEAST_DBFS: f32 = -55.0;
/// So much sound in a row must be loud: a click is not.
const ONSET_SECONDS: f64 = 0.06;
/// So much quiet ends a take.
const END_SECONDS: f64 = 0.8;
/// Kept in front of the onset.
const LEAD_SECONDS: f64 = 0.5;
/// A take ends here, whatever is heard.
const LONGEST_SECONDS: f64 = 8.0;
const SILENCE_DBFS: f32 = -120.0;

fn steps(seconds: f64) -> usize {
    (seconds / STEP_SECONDS).round() as usize
}

impl Recorder {
    /// For sound at `sample_rate`.
    pub fn new(sample_rate: u32) -> Self {
        Self {
            sample_rate,
            kept: Vec::new(),
            rest: Vec::new(),
            floor: VecDeque::new(),
            level: SILENCE_DBFS,
            speaking: false,
            loud: 0,
            quiet: 0,
        }
    }

    /// Level of the last 20 ms, dB of full scale.
    pub fn level_dbfs(&self) -> f32 {
        self.level
    }

    /// Takes samples. A take is told once; what comes after it begins a new one.
    pub fn push(&mut self, samples: &[f32]) -> Heard {
        let step = (STEP_SECONDS * f64::from(self.sample_rate)) as usize;
        self.rest.extend_from_slice(samples);
        let mut taken = 0;
        let mut take = None;
        while take.is_none() && taken + step <= self.rest.len() {
            let now = self.rest[taken..taken + step].to_vec();
            taken += step;
            take = self.step(&now);
        }
        self.rest.drain(..taken);
        match (take, self.speaking) {
            (Some(take), _) => Heard::Take(take),
            (None, true) => Heard::Speaking,
            (None, false) => Heard::Waiting,
        }
    }

    fn step(&mut self, samples: &[f32]) -> Option<Vec<f32>> {
        let power = samples.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>() / samples.len().max(1) as f64;
        self.level = (10.0 * power.max(1e-12).log10()) as f32;
        self.kept.extend_from_slice(samples);
        let settled = self.floor.len() >= steps(SETTLE_SECONDS);
        let loud = settled && self.level > (self.floor_dbfs() + ABOVE_FLOOR_DB).max(LEAST_DBFS);
        (self.loud, self.quiet) = if loud { (self.loud + 1, 0) } else { (0, self.quiet + 1) };
        if !self.speaking {
            if !loud {
                self.floor.push_back(self.level);
                if self.floor.len() > steps(FLOOR_SECONDS) {
                    self.floor.pop_front();
                }
            }
            self.speaking = self.loud >= steps(ONSET_SECONDS);
            let lead = ((LEAD_SECONDS + ONSET_SECONDS) * f64::from(self.sample_rate)) as usize;
            self.kept.drain(..self.kept.len().saturating_sub(lead));
            return None;
        }
        let long = self.kept.len() as f64 / f64::from(self.sample_rate) >= LONGEST_SECONDS;
        if self.quiet < steps(END_SECONDS) && !long {
            return None;
        }
        self.speaking = false;
        // What was loud for all that time is the new floor.
        if long {
            self.floor.clear();
        }
        Some(std::mem::take(&mut self.kept))
    }

    fn floor_dbfs(&self) -> f32 {
        let mut levels: Vec<f32> = self.floor.iter().copied().collect();
        levels.sort_by(f32::total_cmp);
        levels.get(levels.len() / 10).copied().unwrap_or(SILENCE_DBFS)
    }
}
