//! The gain of an input: fixed, or one that follows the level of the speech.
//!
//! The automatic gain raises quiet speech to ordinary levels. It is decided at the end of each block from the active level so far, so it is causal
//! and does not depend on how the audio is cut. It moves only if the level is off by more than a few decibels, and never attenuates: recordings at ordinary
//! levels pass unchanged.

/// Gain applied to captured audio before the resampler.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum InputGain {
    /// Decibels.
    Fixed(f32),
    /// Raises quiet speech to about −30 dBFS, by 40 dB at most.
    Auto,
}

/// Level to which speech is raised, that of ordinary recordings, dBFS.
const GOOD_DBFS: f64 = -30.0;
const MOST_DB: f64 = 40.0;
/// Least gain other than 0. Quieter speech than this is recognised as well as louder (docs/microphones.md).
const LEAST_DB: f64 = 8.0;
/// Deviation from the wanted gain from which on it moves.
const TOLERANCE_DB: f64 = 3.0;
/// Active blocks from which on the active level counts (0.5 s).
const ACTIVE_BLOCKS: u64 = 10;
/// Largest change per block, dB: 10 dB per second upwards, and quickly down when speech becomes louder.
const UP_DB: f64 = 0.5;
const DOWN_DB: f64 = 6.0;

impl Default for InputGain {
    fn default() -> Self {
        Self::Fixed(0.0)
    }
}

/// The gain of a run, block by block.
#[derive(Debug, Clone)]
pub(super) struct Amplifier {
    gain: InputGain,
    /// Gain at the end of the last block and of the present one, dB.
    from: f64,
    to: f64,
    /// Whether it is on its way to the wanted gain.
    moving: bool,
}

impl Amplifier {
    pub fn new(gain: InputGain) -> Self {
        let initial = match gain {
            InputGain::Fixed(db) => f64::from(db),
            InputGain::Auto => 0.0,
        };
        Self { gain, from: initial, to: initial, moving: false }
    }

    /// Whether it follows the level.
    pub fn is_auto(&self) -> bool {
        self.gain == InputGain::Auto
    }

    /// Gain at the end of the present block, dB.
    pub fn db(&self) -> f64 {
        self.to
    }

    /// Amplifies samples of the present block, from sample `at` of `block_samples` on.
    pub fn amplify(&self, samples: &mut [f32], at: u64, block_samples: u64) {
        let factor = |db: f64| 10f64.powf(db / 20.0) as f32;
        let (from, to) = (factor(self.from), factor(self.to));
        if from == to {
            if to != 1.0 {
                samples.iter_mut().for_each(|sample| *sample *= to);
            }
            return;
        }
        let slope = (to - from) / block_samples as f32;
        for (number, sample) in (at + 1..).zip(samples) {
            *sample *= from + slope * number as f32;
        }
    }

    /// Decides the gain at the end of the next block. `active` is the active level before the gain, dBFS, and the number of active blocks.
    pub fn follow(&mut self, active: Option<(f64, u64)>) {
        self.from = self.to;
        let Some((level, blocks)) = active.filter(|_| self.is_auto()) else { return };
        let wanted = match (GOOD_DBFS - level).min(MOST_DB) {
            wanted if wanted >= LEAST_DB && blocks >= ACTIVE_BLOCKS => wanted,
            wanted if wanted < LEAST_DB => 0.0,
            _ => return,
        };
        self.moving |= (wanted - self.from).abs() > TOLERANCE_DB;
        if self.moving {
            self.to = wanted.clamp(self.from - DOWN_DB, self.from + UP_DB);
            self.moving = self.to != wanted;
        }
    }
}
