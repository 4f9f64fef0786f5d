//! Log-mel features: power spectra of overlapping windows, triangular filters, logarithm.

use rten_simd::ops::{IntOps, NumOps, ToFloat};
use rten_simd::{Isa, Simd, SimdOp};

use super::fft::{Overlapping, PowerSpectrum};

/// The features of every `step` samples: (ln(filters · |DFT(window · samples)|² + floor) + shift) · scale.
#[derive(Debug, Clone, PartialEq)]
pub struct LogMel {
    spectrum: PowerSpectrum,
    step: usize,
    filters: Vec<Filter>,
    floor: f32,
    shift: f32,
    scale: f32,
}

/// The bins of one band.
#[derive(Debug, Clone, PartialEq)]
struct Filter {
    first: usize,
    weights: Vec<f32>,
}

/// Memory of [`LogMel::apply`], reused from call to call.
#[derive(Debug, Default)]
pub struct Scratch {
    samples: Vec<f32>,
    spectrum: Vec<f32>,
    power: Vec<f32>,
    bands: Vec<f32>,
}

impl LogMel {
    /// Creates the features of `spectrum`'s windows; `filters [bins, bands]`. `None` if the floor is not a normal positive number,
    /// which the logarithm requires, or the filters do not have the spectrum's bins.
    pub fn new(spectrum: PowerSpectrum, step: usize, filters: &[f32], floor: f32, [shift, scale]: [f32; 2]) -> Option<Self> {
        let bins = spectrum.bins();
        let bands = filters.len() / bins;
        if step == 0 || bands == 0 || filters.len() != bins * bands || !floor.is_normal() || floor < 0.0 {
            return None;
        }
        let filter = |band: usize| {
            let weights: Vec<f32> = (0..bins).map(|bin| filters[bin * bands + band]).collect();
            let used = |weight: &f32| *weight != 0.0;
            let first = weights.iter().position(used).unwrap_or(0);
            let end = weights.iter().rposition(used).map_or(first, |last| last + 1);
            Filter { first, weights: weights[first..end].to_vec() }
        };
        Some(Self { spectrum, step, filters: (0..bands).map(filter).collect(), floor, shift, scale })
    }

    /// Values per row of features.
    pub fn bands(&self) -> usize {
        self.filters.len()
    }

    /// Samples between the windows of two rows.
    pub fn step(&self) -> usize {
        self.step
    }

    /// Number of whole windows in `samples` samples.
    pub fn rows(&self, samples: usize) -> usize {
        samples.checked_sub(self.spectrum.samples()).map_or(0, |rest| rest / self.step + 1)
    }

    /// Computes `out [rows, bands]` from `samples`, as many rows as there are whole windows.
    ///
    /// # Panics
    /// If `out` has less than those rows.
    pub fn apply(&self, samples: &[f32], scratch: &mut Scratch, out: &mut [f32]) {
        let rows = self.rows(samples.len());
        assert!(out.len() >= rows * self.bands());
        Features { mel: self, samples, rows, scratch, out }.dispatch();
    }
}

struct Features<'a> {
    mel: &'a LogMel,
    samples: &'a [f32],
    rows: usize,
    scratch: &'a mut Scratch,
    out: &'a mut [f32],
}

impl SimdOp for Features<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) {
        let Self { mel, samples, rows, scratch: Scratch { samples: steps, spectrum, power, bands }, out } = self;
        let (ops, lanes, step) = (isa.f32(), isa.f32().len(), mel.step);
        // One column per step, so that neighbouring windows are neighbouring lanes. A window reads some columns past its own.
        let columns = rows.next_multiple_of(lanes) + mel.spectrum.samples() / step;
        steps.resize(step * columns, 0.0);
        for (column, block) in samples.chunks(step).take(columns).enumerate() {
            for (row, &sample) in steps.chunks_exact_mut(columns).zip(block) {
                row[column] = sample;
            }
        }
        power.resize(mel.spectrum.bins() * lanes, 0.0);
        bands.resize(mel.bands() * lanes, 0.0);
        let (floor, shift, scale) = (ops.splat(mel.floor), ops.splat(mel.shift), ops.splat(mel.scale));
        for first in (0..rows).step_by(lanes) {
            mel.spectrum.apply(isa, Overlapping { samples: steps, step, columns, first }, spectrum, power);
            for (filter, band) in mel.filters.iter().zip(bands.chunks_exact_mut(lanes)) {
                let mut sum = floor;
                for (&weight, power) in filter.weights.iter().zip(power[filter.first * lanes..].chunks_exact(lanes)) {
                    sum = ops.mul_add(ops.splat(weight), ops.load(power), sum);
                }
                ops.store(ops.mul(ops.add(ln(isa, sum), shift), scale), band);
            }
            let rows = out[first * mel.bands()..].chunks_exact_mut(mel.bands()).take(lanes.min(rows - first));
            for (lane, row) in rows.enumerate() {
                for (value, band) in row.iter_mut().zip(bands.chunks_exact(lanes)) {
                    *value = band[lane];
                }
            }
        }
    }
}

/// ln x of normal x > 0 within two units of the last place; NaN for x that is not finite.
///
/// x = m · 2ⁿ with √½ ≤ m < √2, and ln m by the polynomial of Cephes' logf.
#[inline(always)]
pub fn ln<I: Isa>(isa: I, x: I::F32) -> I::F32 {
    const ROOT_HALF: i32 = 0x3f35_04f3;
    const COEFFICIENTS: [f32; 9] = [
        7.037_683_6e-2,
        -0.115_146_1,
        0.116_769_984,
        -0.124_201_41,
        0.142_493_23,
        -0.166_680_57,
        0.200_007_14,
        -0.249_999_94,
        0.333_333_3,
    ];
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    let (ops, ints) = (isa.f32(), isa.i32());
    let bits: I::I32 = x.reinterpret_cast();
    let n = ints.shift_right::<23>(ints.sub(bits, ints.splat(ROOT_HALF)));
    let m: I::F32 = ints.sub(bits, ints.shift_left::<23>(n)).reinterpret_cast();
    let (m, n) = (ops.sub(m, ops.one()), ints.to_float(n));
    let square = ops.mul(m, m);
    let mut tail = ops.splat(COEFFICIENTS[0]);
    for coefficient in &COEFFICIENTS[1..] {
        tail = ops.mul_add(tail, m, ops.splat(*coefficient));
    }
    let tail = ops.mul(ops.mul(tail, m), square);
    let tail = ops.mul_add(n, ops.splat(LN_2_LOW), tail);
    let tail = ops.mul_add(square, ops.splat(-0.5), tail);
    let y = ops.mul_add(n, ops.splat(LN_2_HIGH), ops.add(m, tail));
    // 0 · x is NaN if x is not finite.
    ops.mul_add(x, ops.zero(), y)
}
