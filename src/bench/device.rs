//! The device-like stream: 30 % speech, half of it in noise, 40 % silence, 30 % noise alone.

use rand::rngs::SmallRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use serde::{Deserialize, Serialize};

use super::BenchError;
use super::noise::{NoiseKind, SEED, Speech, power, scale_for};

/// Share of speech in the stream.
pub(super) const SPEECH_SHARE: f64 = 0.3;
/// Seconds of silence, and of noise, per second of speech.
const SILENCE: f64 = 0.4 / SPEECH_SHARE;
const NOISE: f64 = 0.3 / SPEECH_SHARE;
/// Maximum length of silence or noise, seconds.
const LONGEST_RUN: f64 = 8.0;
/// SNR of the speech in noise, dB.
const SNR_DB: f64 = 10.0;
/// Level of noise alone relative to speech, dB.
const NOISE_UNDER_SPEECH_DB: f64 = 5.0;
/// Level of room tone (pink noise), dBFS. Every second silence is digital: zeros.
const ROOM_TONE_DB: f64 = -65.0;

/// Content of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SegmentKind {
    /// Speech.
    Speech,
    /// Digital silence or room tone.
    Silence,
    /// Noise without speech.
    Noise,
}

impl SegmentKind {
    /// All kinds.
    pub const ALL: [Self; 3] = [Self::Speech, Self::Silence, Self::Noise];

    /// Display name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Speech => "speech",
            Self::Silence => "silence",
            Self::Noise => "noise",
        }
    }
}

/// A segment of the stream.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Segment {
    /// Content.
    pub kind: SegmentKind,
    /// Start, seconds.
    pub start: f64,
    /// Length, seconds.
    pub seconds: f64,
}

/// The stream's samples and segments.
pub(super) fn stream(speech: &Speech, noises: &[NoiseKind], rate: u32) -> Result<(Vec<f32>, Vec<Segment>), BenchError> {
    let mut rng = SmallRng::seed_from_u64(SEED);
    let white = [NoiseKind::White];
    let noises = if noises.is_empty() { &white[..] } else { noises };
    let spoken: usize = speech.clips.iter().map(std::ops::Range::len).sum();
    let mean_power = speech.clips.iter().map(|clip| power(&speech.samples[clip.clone()]) * clip.len() as f64).sum::<f64>()
        / spoken.max(1) as f64;
    let of_level = |mut samples: Vec<f32>, level: f64| {
        let scale = (level / power(&samples).max(1e-20)).sqrt() as f32;
        samples.iter_mut().for_each(|x| *x *= scale);
        samples
    };

    let mut runs: Vec<(SegmentKind, Vec<f32>)> = Vec::new();
    for (index, clip) in speech.clips.iter().enumerate() {
        let mut samples = speech.samples[clip.clone()].to_vec();
        if index % 2 == 1 {
            let noise = speech.noise(&noises[index / 2 % noises.len()], samples.len(), rate)?;
            let scale = scale_for(&samples, &noise, SNR_DB);
            samples.iter_mut().zip(&noise).for_each(|(out, noise)| *out += scale * noise);
        }
        runs.push((SegmentKind::Speech, samples));
    }
    for (index, count) in pieces(spoken as f64 * SILENCE, rate, 2).into_iter().enumerate() {
        let samples = match index % 2 {
            0 => vec![0.0; count],
            _ => of_level(speech.noise(&NoiseKind::Pink, count, rate)?, 10f64.powf(ROOM_TONE_DB / 10.0)),
        };
        runs.push((SegmentKind::Silence, samples));
    }
    for (index, count) in pieces(spoken as f64 * NOISE, rate, noises.len()).into_iter().enumerate() {
        let level = mean_power * 10f64.powf(-NOISE_UNDER_SPEECH_DB / 10.0) * 10f64.powf(rng.random_range(-0.3..0.3));
        runs.push((SegmentKind::Noise, of_level(speech.noise(&noises[index % noises.len()], count, rate)?, level)));
    }
    runs.shuffle(&mut rng);

    let (mut samples, mut segments) = (Vec::new(), Vec::new());
    for (kind, run) in runs {
        let (start, seconds) = (samples.len() as f64 / f64::from(rate), run.len() as f64 / f64::from(rate));
        segments.push(Segment { kind, start, seconds });
        samples.extend(run);
    }
    Ok((samples, segments))
}

/// Splits `total` samples into equal pieces of at most [`LONGEST_RUN`], at least `least` of them.
fn pieces(total: f64, rate: u32, least: usize) -> Vec<usize> {
    let count = ((total / (LONGEST_RUN * f64::from(rate))).ceil() as usize).max(least).max(1);
    vec![(total / count as f64).round() as usize; count]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stream_has_the_shares_that_it_says() {
        let tone: Vec<f32> = (0..96_000).map(|n| 0.1 * (n as f32 * 0.05).sin()).collect();
        let speech = Speech { samples: tone, clips: vec![0..40_000, 46_000..96_000], files: Vec::new() };
        let (samples, segments) = stream(&speech, &[NoiseKind::White, NoiseKind::Pink], 16_000).unwrap();
        let total = samples.len() as f64 / 16_000.0;
        for (kind, share) in [(SegmentKind::Speech, 0.3), (SegmentKind::Silence, 0.4), (SegmentKind::Noise, 0.3)] {
            let found: f64 = segments.iter().filter(|segment| segment.kind == kind).map(|segment| segment.seconds).sum();
            assert!((found / total - share).abs() < 0.01, "{kind:?}: {found} of {total}");
        }
        // Contiguous segments.
        let ends = segments.windows(2).all(|pair| (pair[0].start + pair[0].seconds - pair[1].start).abs() < 1e-9);
        assert!(ends && segments[0].start == 0.0);
        let level = |segment: &Segment| {
            let first = (segment.start * 16_000.0) as usize;
            power(&samples[first..first + (segment.seconds * 16_000.0) as usize])
        };
        let loudest = segments.iter().filter(|s| s.kind == SegmentKind::Silence).map(level).fold(0.0, f64::max);
        let softest = segments.iter().filter(|s| s.kind != SegmentKind::Silence).map(level).fold(f64::MAX, f64::min);
        assert!(loudest < 1e-6 && softest > 1e-4, "{loudest} {softest}");
    }
}
