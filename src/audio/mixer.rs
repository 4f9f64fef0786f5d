//! Automatic downmix (`--channel auto`): the mean of the live channels, with those in antiphase inverted.
//!
//! A channel is *dead* if its energy is more than 20 dB below that of the loudest one. The *reference* is the live channel with the largest
//! covariance with the other live ones. A live channel whose correlation with the reference is below −0.5 is *inverted*. The output is the
//! mean of the live channels, the inverted ones with the opposite sign. Energy and covariance are sums over the past, weighted exponentially with a
//! time constant of 30 s: speech outweighs the noise of pauses for minutes.

use crate::sample::is_valid;

/// Converts several channels to mono. The output does not depend on how the input is divided into calls.
#[derive(Debug)]
pub struct ChannelMixer {
    channels: usize,
    /// Frames per decision.
    block_frames: usize,
    /// Frames in the current block.
    frames: usize,
    /// Factor applied to the sums after each block.
    fade: f64,
    /// Sums over the current block: of the products of two channels, and of each channel.
    block_products: Vec<f64>,
    block_sums: Vec<f64>,
    /// Weighted sums of the products over the past, without the DC offset of each block.
    covariance: Vec<f64>,
    /// Weights of the channels at the start and at the end of this block.
    before: Vec<f32>,
    weights: Vec<f32>,
}

/// Blocks per second. Weights change linearly over a block, so that changes are inaudible.
const BLOCKS_PER_SECOND: u32 = 100;
const FADE_SECONDS: f64 = 30.0;
/// Energy below which a channel is dead, relative to the loudest one: −20 dB.
const DEAD: f64 = 0.01;
const INVERTED: f64 = -0.5;

impl ChannelMixer {
    /// A mixer of `channels` channels, at least one.
    pub fn new(channels: u16, sample_rate: u32) -> Self {
        let channels = usize::from(channels.max(1));
        let weights = vec![1.0 / channels as f32; channels];
        Self {
            channels,
            block_frames: (sample_rate / BLOCKS_PER_SECOND).max(1) as usize,
            frames: 0,
            fade: (-1.0 / (FADE_SECONDS * f64::from(BLOCKS_PER_SECOND))).exp(),
            block_products: vec![0.0; channels * channels],
            block_sums: vec![0.0; channels],
            covariance: vec![0.0; channels * channels],
            before: weights.clone(),
            weights,
        }
    }

    /// Appends the mono samples of interleaved frames to `out`.
    pub fn append(&mut self, interleaved: &[f32], out: &mut Vec<f32>) {
        for frame in interleaved.chunks_exact(self.channels) {
            let progress = self.frames as f32 / self.block_frames as f32;
            let weights = self.before.iter().zip(&self.weights).map(|(before, now)| before + progress * (now - before));
            // A sample that is not valid passes, for the ring to count and replace, unless its channel is dead.
            out.push(frame.iter().zip(weights).map(|(sample, weight)| if weight == 0.0 { 0.0 } else { sample * weight }).sum());
            for (first, &a) in frame.iter().enumerate().filter(|(_, sample)| is_valid(**sample)) {
                self.block_sums[first] += f64::from(a);
                for (second, &b) in frame.iter().enumerate().skip(first).filter(|(_, sample)| is_valid(**sample)) {
                    self.block_products[first * self.channels + second] += f64::from(a) * f64::from(b);
                }
            }
            self.frames += 1;
            if self.frames == self.block_frames {
                self.end_block();
            }
        }
    }

    fn end_block(&mut self) {
        let channels = self.channels;
        for first in 0..channels {
            for second in first..channels {
                let at = first * channels + second;
                let offsets = self.block_sums[first] * self.block_sums[second] / self.block_frames as f64;
                self.covariance[at] = self.fade * self.covariance[at] + self.block_products[at] - offsets;
                self.covariance[second * channels + first] = self.covariance[at];
            }
        }
        self.block_products.fill(0.0);
        self.block_sums.fill(0.0);
        self.frames = 0;
        self.before.copy_from_slice(&self.weights);
        self.decide();
    }

    fn decide(&mut self) {
        let channels = self.channels;
        let covariance = |a: usize, b: usize| self.covariance[a * channels + b];
        let energy = |channel: usize| covariance(channel, channel);
        let loudest = (0..channels).map(energy).fold(0.0, f64::max);
        if loudest <= 0.0 {
            return;
        }
        let is_live = |channel: &usize| energy(*channel) >= DEAD * loudest;
        let live = (0..channels).filter(is_live).count() as f32;
        let together = |one: usize| {
            (0..channels).filter(is_live).filter(|other| *other != one).map(|other| covariance(one, other).abs()).sum::<f64>()
        };
        let reference = (0..channels).filter(is_live).rev().max_by(|&a, &b| together(a).total_cmp(&together(b))).unwrap_or(0);
        for channel in 0..channels {
            let correlation = covariance(channel, reference) / (energy(channel) * energy(reference)).sqrt();
            self.weights[channel] = match (is_live(&channel), correlation < INVERTED) {
                (false, _) => 0.0,
                (true, false) => 1.0 / live,
                (true, true) => -1.0 / live,
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: u32 = 16_000;

    /// Noise of a generator of its own.
    fn noise(seed: u32, amplitude: f32, samples: usize) -> Vec<f32> {
        let mut state = seed.wrapping_mul(2_654_435_761) | 1;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            amplitude * (state as f32 / (1u32 << 31) as f32 - 1.0)
        };
        (0..samples).map(|_| next()).collect()
    }

    /// Something like speech: noise below 1 kHz whose loudness changes four times a second.
    fn speech(seconds: usize) -> Vec<f32> {
        let mut low = 0.0;
        let envelope = |at: usize| (at as f32 * std::f32::consts::TAU * 2.0 / RATE as f32).sin().powi(2);
        let source = noise(1, 1.0, seconds * RATE as usize);
        source
            .into_iter()
            .enumerate()
            .map(|(at, sample)| {
                low += 0.3 * (sample - low);
                0.5 * envelope(at) * low
            })
            .collect()
    }

    fn mixed(recording: &[Vec<f32>], frames_at_a_time: usize) -> Vec<f32> {
        let channels = recording.len();
        let interleaved: Vec<f32> =
            (0..recording[0].len()).flat_map(|at| recording.iter().map(move |channel| channel[at])).collect();
        let mut mixer = ChannelMixer::new(channels as u16, RATE);
        let mut out = Vec::new();
        interleaved.chunks(frames_at_a_time * channels).for_each(|part| mixer.append(part, &mut out));
        out
    }

    /// Error relative to the wanted signal after the first 50 ms, dB.
    fn error_db(found: &[f32], wanted: &[f32]) -> f64 {
        let after = RATE as usize / 20;
        let energy = |values: &mut dyn Iterator<Item = f32>| values.map(|value| f64::from(value).powi(2)).sum::<f64>();
        let error = energy(&mut found[after..].iter().zip(&wanted[after..]).map(|(found, wanted)| found - wanted));
        10.0 * (error / energy(&mut wanted[after..].iter().copied())).log10()
    }

    fn plus(signal: &[f32], noise: &[f32], gain: f32) -> Vec<f32> {
        signal.iter().zip(noise).map(|(signal, noise)| gain * signal + noise).collect()
    }

    #[test]
    fn antiphase_stereo_is_not_cancelled() {
        let speech = speech(3);
        let (left, right) =
            (plus(&speech, &noise(2, 0.001, speech.len()), 1.0), plus(&speech, &noise(3, 0.001, speech.len()), -1.0));
        let mean: Vec<f32> = left.iter().zip(&right).map(|(a, b)| (a + b) / 2.0).collect();
        assert!(error_db(&mean, &speech) > -1.0, "the mean is not silent, so nothing is tested");
        let out = mixed(&[left, right], 160);
        // Which of the two is the right way round cannot be known; the encoder does not care.
        let turned: Vec<f32> = out.iter().map(|sample| -sample).collect();
        let error = error_db(&out, &speech).min(error_db(&turned, &speech));
        assert!(error < -30.0, "{error} dB");
    }

    #[test]
    fn dead_channels_of_an_array_are_left_out() {
        let speech = speech(3);
        let silent = vec![0.0; speech.len()];
        let (hum, offset) = (noise(7, 0.002, speech.len()), vec![0.3; speech.len()]);
        let live = |seed: u32| plus(&speech, &noise(seed, 0.01, speech.len()), 1.0);
        let out = mixed(&[silent.clone(), live(2), hum, live(3), offset, live(4), silent, live(5)], 77);
        let error = error_db(&out, &speech);
        assert!(error < -20.0, "{error} dB");
        // Better than any one of the four: their noise is averaged.
        assert!(error < error_db(&live(2), &speech) - 4.0, "{error} dB");
    }

    #[test]
    fn a_quiet_channel_is_told_from_a_dead_one_with_an_offset() {
        for (level, offset) in [(0.003, 0.1), (0.01, 0.9), (1.0, 0.9)] {
            let speech: Vec<f32> = speech(3).iter().map(|sample| level * sample).collect();
            let out = mixed(&[speech.clone(), vec![offset; speech.len()]], 160);
            let error = error_db(&out, &speech);
            assert!(error < -60.0, "{error} dB at {level}, {offset}");
        }
    }

    #[test]
    fn invalid_samples_are_no_reason_to_lose_a_channel() {
        let speech = speech(3);
        for invalid in [f32::NAN, f32::INFINITY, 1e30] {
            let mut left = speech.clone();
            left[RATE as usize] = invalid;
            let mut out = mixed(&[left, noise(2, 1e-5, speech.len())], 160);
            // The ring counts and replaces it.
            assert!(!is_valid(out[RATE as usize]));
            out[RATE as usize] = 0.0;
            assert!(error_db(&out, &speech) < -40.0, "{invalid}");
            let dead = mixed(&[speech.clone(), vec![invalid; speech.len()]], 160);
            assert!(error_db(&dead, &speech) < -100.0, "{invalid}");
        }
    }

    #[test]
    fn ordinary_stereo_is_the_mean_and_one_channel_is_itself() {
        let speech = speech(2);
        let (left, right) = (plus(&speech, &noise(2, 0.1, speech.len()), 1.0), plus(&speech, &noise(3, 0.1, speech.len()), 0.7));
        let mean: Vec<f32> = left.iter().zip(&right).map(|(a, b)| (a + b) / 2.0).collect();
        assert!(error_db(&mixed(&[left, right], 160), &mean) < -100.0);
        assert!(error_db(&mixed(std::slice::from_ref(&speech), 160), &speech) < -100.0);
    }

    #[test]
    fn a_channel_that_dies_or_comes_to_life_later_is_followed_without_a_click() {
        let speech = speech(60);
        let half = speech.len() / 2;
        let late: Vec<f32> = speech.iter().enumerate().map(|(at, sample)| if at < half { 0.0 } else { *sample }).collect();
        let out = mixed(&[speech.clone(), late], 160);
        assert!(error_db(&out[..half], &speech[..half]) < -60.0, "half the level before the other one lives");
        assert!(error_db(&out[half + 20 * RATE as usize..], &speech[half + 20 * RATE as usize..]) < -60.0);
        let jump = |signal: &[f32]| signal.windows(2).map(|pair| (pair[1] - pair[0]).abs()).fold(0.0, f32::max);
        assert!(jump(&out[800..]) < 1.05 * jump(&speech[800..]));
    }

    #[test]
    fn the_output_does_not_depend_on_how_the_input_is_cut() {
        let speech = speech(2);
        let recording = [speech.clone(), speech.iter().map(|sample| -sample).collect(), vec![0.0; speech.len()]];
        let whole = mixed(&recording, usize::MAX / 4);
        for frames in [1, 37, 160, 4_096] {
            assert_eq!(mixed(&recording, frames), whole);
        }
    }
}
