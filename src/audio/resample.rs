//! Resampling from the source's rate to the pack's.
//!
//! The resampler works in blocks of fixed size, so the output does not depend on how the input is divided into calls. The filter's
//! delay is removed: output sample n is at input time n / to. S input samples yield round(S · to / from) output samples.

use std::ops::RangeInclusive;

use audioadapter_buffers::direct::InterleavedSlice;
use rubato::Resampler as _;
use rubato::{Async, FixedAsync, SincInterpolationParameters, SincInterpolationType, WindowFunction};

use super::{AudioError, AudioErrorKind};

/// A streaming mono resampler: a windowed sinc of 6 ms, in blocks of 5 ms, so that 8 ms of audio at most are inside.
pub struct Resampler {
    from_hz: u32,
    to_hz: u32,
    /// None when the rates are equal.
    inner: Option<Box<Async<f32>>>,
    /// Input that does not yet fill a block.
    input: Vec<f32>,
    output: Vec<f32>,
    /// Zeros in front of the audio.
    zeros: u64,
    /// The filter's delay in output samples, and those of them still to be removed.
    delay: u64,
    to_trim: usize,
    taken: u64,
    given: u64,
}

const BLOCKS_PER_SECOND: u32 = 200;
/// Length of the sinc in seconds: to 16 kHz with [`CUTOFF`], 0.1 dB is lost at 7.6 kHz, and 75 dB from 8.4 kHz on.
const SINC_SECONDS: f64 = 0.006;
/// The frequency that the filter halves, as a fraction of half the lower rate.
const CUTOFF: f32 = 0.99;
/// Largest number of phases between two input samples of which each has its own filter. Pairs of rates with more interpolate between
/// [`INTERPOLATED_PHASES`] filters.
const MOST_PHASES: u32 = 1024;
const INTERPOLATED_PHASES: usize = 256;

/// The filters of a pair of rates.
struct Filters {
    taps: usize,
    phases: usize,
    interpolation: SincInterpolationType,
    ratio: f64,
}

impl Filters {
    fn new(from_hz: u32, to_hz: u32) -> Self {
        let gcd = |mut a: u32, mut b: u32| {
            while b != 0 {
                (a, b) = (b, a % b);
            }
            a
        };
        let phases = to_hz / gcd(from_hz, to_hz);
        let (phases, interpolation) = match phases <= MOST_PHASES {
            true => (phases as usize, SincInterpolationType::Nearest),
            false => (INTERPOLATED_PHASES, SincInterpolationType::Cubic),
        };
        let taps = (SINC_SECONDS * f64::from(from_hz)).ceil() as usize;
        // rubato requires a multiple of 8.
        Self { taps: taps.next_multiple_of(8), phases, interpolation, ratio: f64::from(to_hz) / f64::from(from_hz) }
    }

    /// Number of zeros to put in front of the audio so that the filter's delay is a whole number of output samples, or nearly so between
    /// interpolated phases, and that delay. Without zeros it is (taps/2 − 1/phases) · ratio − 1.
    fn whole_delay(&self) -> (usize, usize) {
        const MOST_ZEROS: usize = 1 << 15;
        let delay = |zeros: usize| (self.taps as f64 / 2.0 - 1.0 / self.phases as f64 + zeros as f64) * self.ratio - 1.0;
        let error = |zeros: &usize| ((delay(*zeros) - delay(*zeros).round()).abs() * 1e9).round();
        let zeros =
            (0..MOST_ZEROS).filter(|&zeros| delay(zeros) >= 0.0).min_by(|a, b| error(a).total_cmp(&error(b))).unwrap_or(0);
        (zeros, delay(zeros).round().max(0.0) as usize)
    }
}

/// Sample rates of sources and packs, Hz.
pub const SAMPLE_RATES: RangeInclusive<u32> = 1_000..=384_000;

impl Resampler {
    /// Creates a resampler from `from_hz` to `to_hz`.
    ///
    /// # Errors
    ///
    /// [`AudioErrorKind::Unsupported`] if a rate is not in [`SAMPLE_RATES`].
    pub fn new(from_hz: u32, to_hz: u32) -> Result<Self, AudioError> {
        if !SAMPLE_RATES.contains(&from_hz) || !SAMPLE_RATES.contains(&to_hz) {
            let message = format!("both rates must be between 1,000 and 384,000 Hz, got {from_hz} Hz to {to_hz} Hz");
            return Err(AudioError::new(AudioErrorKind::Unsupported, "resampler", message));
        }
        let failed = |error: rubato::ResamplerConstructionError| {
            AudioError::new(AudioErrorKind::Unsupported, "resampler", format!("{from_hz} Hz to {to_hz} Hz: {error}"))
        };
        let (input, output) = (Vec::new(), Vec::new());
        let mut resampler =
            Self { from_hz, to_hz, inner: None, input, output, zeros: 0, delay: 0, to_trim: 0, taken: 0, given: 0 };
        if from_hz == to_hz {
            return Ok(resampler);
        }
        let filters = Filters::new(from_hz, to_hz);
        let parameters = SincInterpolationParameters {
            sinc_len: filters.taps,
            f_cutoff: Some(CUTOFF),
            interpolation: filters.interpolation,
            oversampling_factor: filters.phases,
            window: WindowFunction::Blackman,
        };
        let block = (from_hz / BLOCKS_PER_SECOND) as usize;
        let inner = Async::new_sinc(filters.ratio, 1.0, &parameters, block, 1, FixedAsync::Input).map_err(failed)?;
        resampler.input = Vec::with_capacity(inner.input_frames_max());
        resampler.output = vec![0.0; inner.output_frames_max()];
        resampler.inner = Some(Box::new(inner));
        let (zeros, delay) = filters.whole_delay();
        (resampler.zeros, resampler.delay, resampler.to_trim) = (zeros as u64, delay as u64, delay);
        resampler.feed(&vec![0.0; zeros], &mut Vec::new(), u64::MAX);
        Ok(resampler)
    }

    /// Resamples `samples` and appends the completed output to `out`.
    pub fn push(&mut self, samples: &[f32], out: &mut Vec<f32>) {
        self.taken += samples.len() as u64;
        self.feed(samples, out, u64::MAX);
    }

    /// Appends the remaining output. The total is then round(taken · to / from) samples.
    pub fn finish(&mut self, out: &mut Vec<f32>) {
        let (taken, from, to) = (u128::from(self.taken), u128::from(self.from_hz), u128::from(self.to_hz));
        let total = ((2 * taken * to + from) / (2 * from)) as u64;
        const SILENCE: [f32; 256] = [0.0; 256];
        while self.given < total {
            self.feed(&SILENCE, out, total);
        }
    }

    /// Audio inside the resampler: in the block that is being filled, and in the filter.
    pub fn pending(&self) -> std::time::Duration {
        let (taken, given) = (self.taken as f64 / f64::from(self.from_hz), self.given as f64 / f64::from(self.to_hz));
        std::time::Duration::from_secs_f64((taken - given).max(0.0))
    }

    /// Number of input samples that yield at least `samples` more output samples.
    pub fn input_for(&self, samples: u64) -> u64 {
        let Some(inner) = &self.inner else { return samples };
        let (from, to, block) = (u128::from(self.from_hz), u128::from(self.to_hz), inner.input_frames_next() as u128);
        // rubato turns the first n samples, whole blocks, into ⌊(n − 2) · to / from⌋.
        let output = u128::from(self.given + self.delay + samples);
        let input = ((output * from).div_ceil(to) + 2).next_multiple_of(block);
        input.saturating_sub(u128::from(self.zeros + self.taken)) as u64
    }

    /// Resamples `samples`; the output is limited to `total` samples over the resampler's lifetime.
    fn feed(&mut self, mut samples: &[f32], out: &mut Vec<f32>, total: u64) {
        // More than fit into the memory of a 32-bit system.
        let left = |given: u64| usize::try_from(total - given).unwrap_or(usize::MAX);
        let Some(inner) = &mut self.inner else {
            let count = samples.len().min(left(self.given));
            out.extend_from_slice(&samples[..count]);
            self.given += count as u64;
            return;
        };
        while !samples.is_empty() {
            let block = inner.input_frames_next();
            let (now, later) = samples.split_at((block - self.input.len()).min(samples.len()));
            self.input.extend_from_slice(now);
            samples = later;
            if self.input.len() < block {
                return;
            }
            let written = {
                let (frames_in, frames_out) = (self.input.len(), self.output.len());
                let buffers = InterleavedSlice::new(&self.input, 1, frames_in)
                    .and_then(|input| Ok((input, InterleavedSlice::new_mut(&mut self.output, 1, frames_out)?)));
                // Both buffers have the sizes that the resampler requests, so this cannot fail.
                buffers.ok().and_then(|(input, mut output)| inner.process_into_buffer(&input, &mut output, None).ok())
            };
            let written = written.map_or(0, |(_, written)| written);
            self.input.clear();
            let trimmed = self.to_trim.min(written);
            self.to_trim -= trimmed;
            let count = (written - trimmed).min(left(self.given));
            out.extend_from_slice(&self.output[trimmed..trimmed + count]);
            self.given += count as u64;
        }
    }
}
