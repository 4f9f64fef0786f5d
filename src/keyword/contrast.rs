//! How noisy the last seconds of a stream are, from the levels of their frames.
//!
//! Noise lowers the scores of examples, those of the phrase and those of other speech alike: a threshold that was set on clear speech finds
//! little in it, and one that was set in noise accepts too much in clear speech. With phones it is the reverse: in noise none is unlikely, and any
//! speech resembles a phrase more. The level of the loud frames above the quiet ones says which of the two applies, whatever the noise: 25 to 70 dB
//! in clear speech, 10 to 25 dB at a signal-to-noise ratio of 10 dB, 5 to 15 dB at 0 dB.

use std::collections::VecDeque;

use super::speech::levels;

/// Time over which levels are compared.
const SECONDS: f64 = 4.0;
/// Share of the frames below the loud and the quiet level. A word is a tenth of the time.
const LOUD: f64 = 0.95;
const QUIET: f64 = 0.1;
/// Contrast of clear speech, and of speech that is as noisy as the babble that thresholds are set in, dB. Both, and the margin of
/// [`noise_gain`](super::calibrate::noise_gain), were chosen on 24 words in four kinds of noise (docs/notes/keywords.md).
const CLEAR_DB: f32 = 30.0;
const NOISY_DB: f32 = 15.0;

/// The levels of the last seconds.
#[derive(Debug, Default)]
pub struct Contrast {
    levels: VecDeque<f32>,
    sorted: Vec<f32>,
    longest: usize,
}

impl Contrast {
    /// Forgets the stream so far.
    pub fn reset(&mut self) {
        self.levels.clear();
    }

    /// Adds the audio of the next frames, `hop` samples each.
    pub fn push(&mut self, audio: &[f32], hop: usize, sample_rate: u32) {
        self.longest = (SECONDS * f64::from(sample_rate) / hop as f64).round().max(4.0) as usize;
        self.levels.extend(levels(audio, hop, hop));
        self.levels.drain(..self.levels.len().saturating_sub(self.longest));
    }

    /// How noisy the audio is: 0 if it is clear, or less than a second is known; 1 if it is as noisy as babble at equal level.
    pub fn noise(&mut self) -> f32 {
        if self.levels.is_empty() || self.levels.len() < self.longest / 4 {
            return 0.0;
        }
        self.sorted.clear();
        self.sorted.extend(&self.levels);
        let last = (self.sorted.len() - 1) as f64;
        let mut level = |share: f64| *self.sorted.select_nth_unstable_by((share * last).round() as usize, f32::total_cmp).1;
        let contrast = level(LOUD) - level(QUIET);
        ((CLEAR_DB - contrast) / (CLEAR_DB - NOISY_DB)).clamp(0.0, 1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Half a second of a tone at `speech` dBFS in every second, in noise at `noise` dBFS.
    fn audio(speech: f32, noise: f32, seconds: usize) -> Vec<f32> {
        let mut state = 1u32;
        let (loud, quiet) = (10f32.powf((speech + 3.0) / 20.0), 10f32.powf((noise + 4.8) / 20.0));
        (0..16_000 * seconds)
            .map(|at| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                let hiss = quiet * ((state >> 8) as f32 / (1 << 23) as f32 - 1.0);
                hiss + if at % 16_000 < 8_000 { loud * (at as f32 * 0.2).sin() } else { 0.0 }
            })
            .collect()
    }

    fn noise_of(audio: &[f32]) -> f32 {
        let mut contrast = Contrast::default();
        audio.chunks(5_120).for_each(|chunk| contrast.push(chunk, 320, 16_000));
        contrast.noise()
    }

    #[test]
    fn noise_is_measured_by_contrast_whatever_the_level() {
        for level in [-50.0, -20.0] {
            assert_eq!(noise_of(&audio(level, level - 40.0, 6)), 0.0);
            let between = noise_of(&audio(level, level - 22.0, 6));
            assert!((0.2..0.8).contains(&between), "{between}");
            assert_eq!(noise_of(&audio(level, level - 5.0, 6)), 1.0);
        }
    }

    #[test]
    fn what_is_unknown_or_silent_is_clear() {
        assert_eq!(noise_of(&audio(-20.0, -20.0, 6)[..12_000]), 0.0, "less than a second");
        assert_eq!(noise_of(&[]), 0.0);
        // A word after silence.
        let word = [vec![0.0; 48_000], audio(-20.0, -25.0, 1)].concat();
        assert_eq!(noise_of(&word), 0.0);
        // Only the last seconds count.
        let later = [audio(-20.0, -70.0, 6), audio(-20.0, -25.0, 6)].concat();
        assert_eq!(noise_of(&later), 1.0);
    }
}
