//! Resampling from the source's rate to the pack's.
//!
//! The resampler works in blocks of fixed size, so the output does not depend on how the input is divided into calls. The filter's
//! delay is removed: output sample n is at input time n / to. S input samples yield round(S · to / from) output samples.

use audioadapter_buffers::direct::InterleavedSlice;
use rubato::{Async, Fft, FixedAsync, FixedSync, SincInterpolationParameters, SincInterpolationType, WindowFunction};

use super::{AudioError, AudioErrorKind};

/// A streaming mono resampler.
pub struct Resampler {
    from_hz: u32,
    to_hz: u32,
    /// None when the rates are equal.
    inner: Option<Box<dyn rubato::Resampler<f32> + Send>>,
    /// Input that does not yet fill a block.
    input: Vec<f32>,
    output: Vec<f32>,
    /// Output samples of the filter's delay still to be removed.
    to_trim: usize,
    taken: u64,
    given: u64,
}

/// Blocks per second: 20 ms each, long enough for a steep filter and short compared with the shortest chunk.
const BLOCKS_PER_SECOND: u32 = 50;
/// Maximum block length, seconds. Pairs of rates that would need a longer one use a windowed sinc instead.
const LONGEST_BLOCK_SECONDS: f64 = 0.1;
const SINC_TAPS: usize = 256;
const SINC_OVERSAMPLING: usize = 256;

/// Input samples of an FFT block: whole periods of both rates, and even, since the filter's delay is half a block and can be removed
/// exactly only if it is a whole number of samples.
fn even_block(from_hz: u32, to_hz: u32) -> usize {
    let gcd = |mut a: u32, mut b: u32| {
        while b != 0 {
            (a, b) = (b, a % b);
        }
        a
    };
    let period = (from_hz / gcd(from_hz, to_hz)) as usize;
    let even = if period.is_multiple_of(2) { period } else { 2 * period };
    let target = (from_hz / BLOCKS_PER_SECOND) as usize;
    even * target.div_ceil(even)
}

/// Number of zeros to put in front of the audio so that the delay of the windowed sinc is nearly a whole number of output samples, and
/// that delay. Without zeros it is (SINC_TAPS/2 − 1/SINC_OVERSAMPLING) · ratio − 1.
fn whole_delay(ratio: f64) -> (usize, usize) {
    const MOST_ZEROS: usize = 1 << 15;
    let delay = |zeros: usize| (SINC_TAPS as f64 / 2.0 - 1.0 / SINC_OVERSAMPLING as f64 + zeros as f64) * ratio - 1.0;
    let error = |zeros: &usize| (delay(*zeros) - delay(*zeros).round()).abs();
    let zeros = (0..MOST_ZEROS).filter(|&zeros| delay(zeros) >= 0.0).min_by(|a, b| error(a).total_cmp(&error(b))).unwrap_or(0);
    (zeros, delay(zeros).round().max(0.0) as usize)
}

impl Resampler {
    /// Creates a resampler from `from_hz` to `to_hz`.
    ///
    /// # Errors
    ///
    /// [`AudioErrorKind::Unsupported`] if a rate is not between 1,000 and 384,000 Hz.
    pub fn new(from_hz: u32, to_hz: u32) -> Result<Self, AudioError> {
        let rates = 1_000..=384_000;
        if !rates.contains(&from_hz) || !rates.contains(&to_hz) {
            let message = format!("both rates must be between 1,000 and 384,000 Hz, got {from_hz} Hz to {to_hz} Hz");
            return Err(AudioError::new(AudioErrorKind::Unsupported, "resampler", message));
        }
        let failed = |error: rubato::ResamplerConstructionError| {
            AudioError::new(AudioErrorKind::Unsupported, "resampler", format!("{from_hz} Hz to {to_hz} Hz: {error}"))
        };
        let mut sinc_start = None;
        let inner: Option<Box<dyn rubato::Resampler<f32> + Send>> = match from_hz == to_hz {
            true => None,
            false => {
                let (from, to) = (from_hz as usize, to_hz as usize);
                let block = even_block(from_hz, to_hz);
                match block as f64 <= LONGEST_BLOCK_SECONDS * f64::from(from_hz) {
                    true => Some(Box::new(Fft::new(from, to, block, 1, FixedSync::Both).map_err(failed)?)),
                    false => {
                        let block = (from_hz / BLOCKS_PER_SECOND) as usize;
                        let parameters = SincInterpolationParameters {
                            sinc_len: SINC_TAPS,
                            f_cutoff: None,
                            interpolation: SincInterpolationType::Cubic,
                            oversampling_factor: SINC_OVERSAMPLING,
                            window: WindowFunction::BlackmanHarris2,
                        };
                        let ratio = f64::from(to_hz) / f64::from(from_hz);
                        sinc_start = Some(whole_delay(ratio));
                        let sinc = Async::new_sinc(ratio, 1.0, &parameters, block, 1, FixedAsync::Input).map_err(failed)?;
                        Some(Box::new(sinc))
                    }
                }
            }
        };
        let (input, output, to_trim) = match &inner {
            None => (Vec::new(), Vec::new(), 0),
            Some(inner) => {
                (Vec::with_capacity(inner.input_frames_max()), vec![0.0; inner.output_frames_max()], inner.output_delay())
            }
        };
        let mut resampler = Self { from_hz, to_hz, inner, input, output, to_trim, taken: 0, given: 0 };
        if let Some((zeros, delay)) = sinc_start {
            resampler.to_trim = delay;
            resampler.feed(&vec![0.0; zeros], &mut Vec::new(), u64::MAX);
        }
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

    /// Number of input samples that yield at least `samples` more output samples; approximate if the rates have no short common period.
    pub fn input_for(&self, samples: u64) -> u64 {
        let Some(inner) = &self.inner else { return samples };
        let (block, output) = (inner.input_frames_next() as u64, inner.output_frames_next().max(1) as u64);
        let blocks = (samples + self.to_trim as u64).div_ceil(output);
        (blocks * block).saturating_sub(self.input.len() as u64)
    }

    /// Resamples `samples`; the output is limited to `total` samples over the resampler's lifetime.
    fn feed(&mut self, mut samples: &[f32], out: &mut Vec<f32>, total: u64) {
        let Some(inner) = &mut self.inner else {
            let count = samples.len().min((total - self.given) as usize);
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
            let count = (written - trimmed).min((total - self.given) as usize);
            out.extend_from_slice(&self.output[trimmed..trimmed + count]);
            self.given += count as u64;
        }
    }
}
