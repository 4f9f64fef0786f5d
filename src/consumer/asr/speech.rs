//! Probability of speech per frame, from the unit for silence or from the level.

use super::phone::BLANK;
use super::segmenter::SpeechFrame;
use crate::consumer::Requirements;
use crate::stream::Representation;

/// Speech detector.
#[derive(Debug, Clone)]
pub enum SpeechDetector {
    /// 1 − P(quiet unit) at the exit layer. The heads of all layers predict the same units, so frames are comparable across depths.
    Units {
        /// The unit for silence.
        quiet_unit: usize,
        /// Whether phones are looked for in the CTC branch. The quiet unit alone does not tell noise from speech at shallow exits.
        phones: bool,
    },
    /// The level above the noise floor, for packs without such a unit.
    Level(Level),
}

/// Noise floor that falls immediately and rises slowly.
#[derive(Debug, Clone, Default)]
pub struct Level {
    floor: Option<f32>,
}

/// Level above the floor at which the probability is 0.5; it rises from 0 to 1 over twice that.
const ABOVE_FLOOR_DB: f32 = 10.0;
/// Rate at which the floor rises: new noise counts as speech for a few seconds.
const FLOOR_RISES_DB_PER_SECOND: f32 = 3.0;
/// Lower limit of the floor: dither and the last bits of the converter are below.
const LOWEST_FLOOR_DBFS: f32 = -65.0;
/// Upper limit of the initial floor, because a stream may start with speech.
const FIRST_FLOOR_DBFS: f32 = -50.0;

impl SpeechDetector {
    /// Uses units if the pack has a quiet unit, otherwise the level; with units and `phones`, it also reads the CTC branch.
    pub fn new(quiet_unit: Option<usize>, phones: bool) -> Self {
        quiet_unit.map_or_else(|| Self::Level(Level::default()), |quiet_unit| Self::Units { quiet_unit, phones })
    }

    /// Required parts of a representation.
    pub fn requires(&self) -> Requirements {
        match self {
            Self::Units { phones, .. } => Requirements { posteriors: true, ctc: *phones, ..Requirements::default() },
            Self::Level(_) => Requirements { audio: true, ..Requirements::default() },
        }
    }

    /// Evidence of speech in each frame of the chunk; `None` if the chunk lacks the required parts.
    pub fn frames(&mut self, chunk: &Representation) -> Option<Vec<SpeechFrame>> {
        match self {
            Self::Units { quiet_unit, phones } => {
                let rows = chunk.log_posteriors.as_ref()?;
                let logits = if *phones { Some(chunk.ctc_logits.as_ref()?) } else { None };
                // Whether a phone is the most probable class. Logits that are not finite prove nothing.
                let phone = |t: usize| {
                    let Some(row) = logits.map(|logits| logits.row(t)) else { return true };
                    row.iter().any(|logit| !logit.is_finite() || *logit > row[BLANK])
                };
                let frame = |t| {
                    let probability = (1.0 - rows.row(t)[*quiet_unit].exp()).clamp(0.0, 1.0);
                    SpeechFrame { probability, phone: phone(t) }
                };
                Some((0..rows.frames()).map(frame).collect())
            }
            Self::Level(level) => {
                let seconds = chunk.hop_samples as f32 / chunk.sample_rate as f32;
                let frames = chunk.audio.as_ref()?.chunks(chunk.hop_samples.max(1));
                let frame = |audio| SpeechFrame { probability: level.probability(audio, seconds), phone: true };
                Some(frames.map(frame).collect())
            }
        }
    }
}

impl Level {
    fn probability(&mut self, frame: &[f32], seconds: f32) -> f32 {
        let mean = frame.iter().sum::<f32>() / frame.len().max(1) as f32;
        let power = frame.iter().map(|x| (x - mean).powi(2)).sum::<f32>() / frame.len().max(1) as f32;
        let level = (10.0 * power.log10()).max(LOWEST_FLOOR_DBFS);
        let before = self.floor.unwrap_or(FIRST_FLOOR_DBFS);
        let floor = level.min(before + FLOOR_RISES_DB_PER_SECOND * seconds).max(LOWEST_FLOOR_DBFS);
        self.floor = Some(floor);
        ((level - floor) / (2.0 * ABOVE_FLOOR_DB)).clamp(0.0, 1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tone(amplitude: f32) -> Vec<f32> {
        (0..320).map(|n| amplitude * (n as f32 * 0.3).sin()).collect()
    }

    fn last(level: &mut Level, frame: &[f32], frames: usize) -> f32 {
        (0..frames).map(|_| level.probability(frame, 0.02)).last().unwrap()
    }

    #[test]
    fn speech_stands_out_of_the_floor_and_steady_noise_becomes_the_floor() {
        let mut level = Level::default();
        assert!(last(&mut level, &tone(0.1), 5) > 0.9, "a stream that begins with speech");
        assert!(last(&mut level, &tone(0.001), 10) < 0.1);
        assert!(last(&mut level, &tone(0.1), 20) > 0.9);
        assert!(last(&mut level, &tone(0.03), 1000) < 0.1, "a fan that was switched on");
        assert!(last(&mut level, &tone(0.3), 20) > 0.9, "speech over the fan");
    }

    #[test]
    fn digital_silence_is_nobody_and_an_offset_is_no_sound() {
        let mut level = Level::default();
        assert_eq!(last(&mut level, &[0.0; 320], 50), 0.0);
        assert!(last(&mut level, &[0.5; 320], 50) < 0.1);
        assert!(last(&mut level, &tone(0.1), 3) > 0.9);
    }
}
