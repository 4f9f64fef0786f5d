//! Speech and noise for a benchmark, mixed at exact signal-to-noise ratios.

use std::path::PathBuf;

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use rand_distr::StandardNormal;

use super::BenchError;
use crate::audio::{ChannelPick, decode_file_at};

/// Pause between recordings, seconds.
const PAUSE_SECONDS: f64 = 0.4;
/// Voices in generated babble.
const VOICES: usize = 6;
pub(super) const SEED: u64 = 2406_05464;

/// Recordings in sequence, with pauses.
#[derive(Debug, Clone)]
pub struct Speech {
    /// All samples at the pack's rate.
    pub samples: Vec<f32>,
    /// Position of each recording in them.
    pub clips: Vec<std::ops::Range<usize>>,
    /// The files.
    pub files: Vec<PathBuf>,
}

/// A kind of noise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NoiseKind {
    /// Equal power at all frequencies.
    White,
    /// Power falling with frequency, 3 dB an octave.
    Pink,
    /// Power falling with frequency, 6 dB an octave.
    Brown,
    /// The benchmark's own speech, six voices at once from different positions.
    Babble,
    /// A recording, repeated.
    File(PathBuf),
}

impl std::fmt::Display for NoiseKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::White => f.write_str("white"),
            Self::Pink => f.write_str("pink"),
            Self::Brown => f.write_str("brown"),
            Self::Babble => f.write_str("babble"),
            Self::File(path) => write!(f, "{}", path.file_stem().unwrap_or(path.as_os_str()).to_string_lossy()),
        }
    }
}

impl std::str::FromStr for NoiseKind {
    type Err = std::convert::Infallible;

    /// The name of a generated kind; anything else is a path.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(match text {
            "white" => Self::White,
            "pink" => Self::Pink,
            "brown" => Self::Brown,
            "babble" => Self::Babble,
            path => Self::File(path.into()),
        })
    }
}

impl Speech {
    /// Reads `files` at `rate`, in order, up to `seconds` of audio in all.
    pub fn read(files: &[PathBuf], rate: u32, seconds: f64) -> Result<Self, BenchError> {
        let pause = (PAUSE_SECONDS * f64::from(rate)) as usize;
        let longest = (seconds * f64::from(rate)) as usize;
        let mut speech = Self { samples: Vec::new(), clips: Vec::new(), files: Vec::new() };
        for file in files {
            let left = longest.saturating_sub(speech.samples.len());
            if left == 0 {
                break;
            }
            let mut clip = decode_file_at(file, ChannelPick::MixDown, rate)?;
            let start = speech.samples.len();
            clip.truncate(left);
            speech.clips.push(start..start + clip.len());
            speech.samples.extend(clip);
            speech.samples.extend(std::iter::repeat_n(0.0, pause));
            speech.files.push(file.clone());
        }
        match speech.clips.iter().any(|clip| !clip.is_empty()) {
            true => Ok(speech),
            false => Err(BenchError::NoSpeech),
        }
    }

    /// The speech with `noise` at `snr` dB, per clip: 10 log₁₀ of the ratio of mean powers.
    pub fn with_noise(&self, noise: &NoiseKind, snr: f64, rate: u32) -> Result<Vec<f32>, BenchError> {
        let noise = self.noise(noise, self.samples.len(), rate)?;
        let mut mixed = self.samples.clone();
        for (index, clip) in self.clips.iter().enumerate() {
            let scale = scale_for(&self.samples[clip.clone()], &noise[clip.clone()], snr);
            // The pause after a clip has the clip's noise level.
            let end = self.clips.get(index + 1).map_or(mixed.len(), |next| next.start);
            for (out, noise) in mixed[clip.start..end].iter_mut().zip(&noise[clip.start..end]) {
                *out += scale * noise;
            }
        }
        Ok(mixed)
    }

    /// `count` samples of noise, at an arbitrary level.
    pub(super) fn noise(&self, kind: &NoiseKind, count: usize, rate: u32) -> Result<Vec<f32>, BenchError> {
        let mut rng = SmallRng::seed_from_u64(SEED);
        let mut white = || rng.sample::<f32, _>(StandardNormal);
        Ok(match kind {
            NoiseKind::White => (0..count).map(|_| white()).collect(),
            NoiseKind::Pink => {
                // Paul Kellet's filter: three leaky integrators, within 0.5 dB of -3 dB an octave.
                let (mut a, mut b, mut c) = (0.0f32, 0.0f32, 0.0f32);
                let mut next = || {
                    let x = white();
                    a = 0.997_65 * a + x * 0.099_046;
                    b = 0.963 * b + x * 0.296_516_4;
                    c = 0.57 * c + x * 1.052_691_3;
                    a + b + c + x * 0.1848
                };
                (0..count).map(|_| next()).collect()
            }
            NoiseKind::Brown => {
                let mut level = 0.0f32;
                let mut next = || {
                    level = 0.998 * level + white();
                    level
                };
                (0..count).map(|_| next()).collect()
            }
            NoiseKind::Babble => {
                let voices: Vec<f32> = self.clips.iter().flat_map(|clip| &self.samples[clip.clone()]).copied().collect();
                let starts: Vec<usize> = (0..VOICES).map(|_| rng.random_range(0..voices.len())).collect();
                (0..count).map(|n| starts.iter().map(|start| voices[(start + n) % voices.len()]).sum()).collect()
            }
            NoiseKind::File(path) => {
                let recording = decode_file_at(path, ChannelPick::MixDown, rate)?;
                if power(&recording) == 0.0 {
                    return Err(BenchError::SilentNoise(path.clone()));
                }
                recording.into_iter().cycle().take(count).collect()
            }
        })
    }
}

/// Gain of `noise` for `snr` dB relative to `speech`; 0 for silent noise.
pub(super) fn scale_for(speech: &[f32], noise: &[f32], snr: f64) -> f32 {
    let power_of_noise = power(noise);
    if power_of_noise == 0.0 { 0.0 } else { (power(speech) / power_of_noise / 10f64.powf(snr / 10.0)).sqrt() as f32 }
}

/// Mean power.
pub(super) fn power(samples: &[f32]) -> f64 {
    samples.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>() / samples.len().max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn speech() -> Speech {
        let samples: Vec<f32> = (0..48_000).map(|n| 0.1 * (n as f32 * 0.05).sin() * if n < 16_000 { 1.0 } else { 0.3 }).collect();
        Speech { samples, clips: vec![0..16_000, 18_000..48_000], files: Vec::new() }
    }

    #[test]
    fn every_clip_has_the_ratio_that_was_asked_for() {
        let speech = speech();
        for kind in [NoiseKind::White, NoiseKind::Pink, NoiseKind::Brown, NoiseKind::Babble] {
            for snr in [20.0, 0.0, -5.0] {
                let mixed = speech.with_noise(&kind, snr, 16_000).unwrap();
                for clip in &speech.clips {
                    let clean = &speech.samples[clip.clone()];
                    let noise: Vec<f32> = mixed[clip.clone()].iter().zip(clean).map(|(mixed, clean)| mixed - clean).collect();
                    let found = 10.0 * (power(clean) / power(&noise)).log10();
                    assert!((found - snr).abs() < 0.01, "{kind} at {snr} dB: {found}");
                }
            }
        }
    }

    #[test]
    fn colours_fall_as_they_say() {
        let speech = Speech { samples: vec![0.0; 1 << 17], clips: std::iter::once(0..1 << 17).collect(), files: Vec::new() };
        // Power of the differences over power: flat for white, smaller for steeper slopes.
        let roughness = |kind| {
            let noise = speech.noise(&kind, 1 << 17, 16_000).unwrap();
            let steps: Vec<f32> = noise.windows(2).map(|pair| pair[1] - pair[0]).collect();
            power(&steps) / power(&noise)
        };
        let (white, pink, brown) = (roughness(NoiseKind::White), roughness(NoiseKind::Pink), roughness(NoiseKind::Brown));
        assert!((white - 2.0).abs() < 0.05 && pink < 0.8 * white && brown < 0.05 * white, "{white} {pink} {brown}");
    }
}
