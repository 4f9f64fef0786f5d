//! Takes from a live stream: finds where a phrase begins and ends while it is spoken.

use std::collections::VecDeque;

/// The state of a [`Recorder`] after some samples.
#[derive(Debug, Clone, PartialEq)]
pub enum RecorderEvent {
    /// No speech yet.
    Waiting,
    /// Speech in progress.
    Speaking,
    /// The phrase with some silence around it.
    Take(Vec<f32>),
}

/// Cuts takes out of a stream of samples.
#[derive(Debug)]
pub struct Recorder {
    sample_rate: u32,
    /// Buffered audio: the lead while waiting, the whole take during speech.
    kept: Vec<f32>,
    /// Samples of an incomplete step.
    rest: Vec<f32>,
    /// Levels of the last steps without speech, dBFS.
    floor: VecDeque<f32>,
    level: f32,
    speaking: bool,
    /// Number of consecutive loud steps, and of quiet ones.
    loud: usize,
    quiet: usize,
}

const STEP_SECONDS: f64 = 0.02;
/// The noise floor is the 10th percentile of the level over this time.
const FLOOR_SECONDS: f64 = 3.0;
/// Time until the noise floor is known.
const SETTLE_SECONDS: f64 = 0.3;
/// Least level of speech above the noise floor …
const ABOVE_FLOOR_DB: f32 = 10.0;
/// … and of full scale.
const LEAST_DBFS: f32 = -55.0;
/// Speech starts after this time above the level; a click is shorter.
const ONSET_SECONDS: f64 = 0.06;
/// Silence that ends a take.
const END_SECONDS: f64 = 0.8;
/// Audio kept before the onset.
const LEAD_SECONDS: f64 = 0.5;
/// Longest take.
const LONGEST_SECONDS: f64 = 8.0;
const SILENCE_DBFS: f32 = -120.0;

fn steps(seconds: f64) -> usize {
    (seconds / STEP_SECONDS).round() as usize
}

impl Recorder {
    /// For audio at `sample_rate`.
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

    /// Level of the last 20 ms, dBFS.
    pub fn level_dbfs(&self) -> f32 {
        self.level
    }

    /// Processes samples. A take is returned once; later samples start a new one.
    pub fn push(&mut self, samples: &[f32]) -> RecorderEvent {
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
            (Some(take), _) => RecorderEvent::Take(take),
            (None, true) => RecorderEvent::Speaking,
            (None, false) => RecorderEvent::Waiting,
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
        // Audio that is loud for this long is the new noise floor.
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
