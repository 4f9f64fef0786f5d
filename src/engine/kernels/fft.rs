//! Power spectra of real signals by FFT, as many at once as a SIMD vector has lanes: each lane computes one signal, so no step moves
//! values between lanes.

use std::f64::consts::TAU;

use rten_simd::Isa;
use rten_simd::ops::{FloatOps, NumOps};

/// The transform of windowed signals of N samples, N even and N/2 a product of 2, 3 and 5.
///
/// N real samples are N/2 complex ones, even samples as real and odd ones as imaginary parts. Their transform is a Stockham FFT of
/// mixed radix, whose results are in order; the spectrum of the real signal follows from pairs of its bins.
#[derive(Debug, Clone, PartialEq)]
pub struct PowerSpectrum {
    /// Half of the window, N values: the factor ½ of the last step.
    window: Vec<f32>,
    stages: Vec<Stage>,
    /// e^(−2πik/N) for k = 0 … N/4.
    turns: Vec<[f32; 2]>,
}

/// One pass over the data.
#[derive(Debug, Clone, PartialEq)]
struct Stage {
    radix: usize,
    /// Length of the transforms that this pass splits into `radix` shorter ones.
    length: usize,
    /// `[length / radix, radix − 1]` factors e^(−2πipk/length).
    turns: Vec<[f32; 2]>,
}

fn turn(index: usize, length: usize) -> [f32; 2] {
    let angle = TAU * index as f64 / length as f64;
    [angle.cos() as f32, -angle.sin() as f32]
}

impl PowerSpectrum {
    /// Plans the transform of signals times `window`; `None` if their length is not supported.
    pub fn new(window: &[f32]) -> Option<Self> {
        let samples = window.len();
        let mut length = samples / 2;
        if length == 0 || !samples.is_multiple_of(2) {
            return None;
        }
        let mut stages = Vec::new();
        for radix in [5, 4, 3, 2] {
            while length.is_multiple_of(radix) {
                let factors = (0..length / radix).flat_map(|p| (1..radix).map(move |k| turn(p * k % length, length)));
                stages.push(Stage { radix, length, turns: factors.collect() });
                length /= radix;
            }
        }
        let turns = (0..=samples / 4).map(|k| turn(k, samples)).collect();
        (length == 1).then(|| Self { window: window.iter().map(|w| w / 2.0).collect(), stages, turns })
    }

    /// N.
    pub fn samples(&self) -> usize {
        self.window.len()
    }

    /// Frequency bins of a spectrum, N/2 + 1.
    pub fn bins(&self) -> usize {
        self.window.len() / 2 + 1
    }

    /// Power of every bin of one vector of signals: `power [bins, lanes]`.
    #[inline(always)]
    pub fn apply<I: Isa>(&self, isa: I, signals: Overlapping<'_>, scratch: &mut Vec<f32>, power: &mut [f32]) {
        let ops = isa.f32();
        let lanes = ops.len();
        let half = self.window.len() / 2;
        scratch.resize(4 * half * lanes, 0.0);
        let (mut from, mut to) = scratch.split_at_mut(2 * half * lanes);
        for (n, (value, &w)) in from.chunks_exact_mut(lanes).zip(&self.window).enumerate() {
            ops.store(ops.mul(signals.sample(isa, n), ops.splat(w)), value);
        }
        let mut stride = 1;
        for stage in &self.stages {
            match stage.radix {
                5 => stage.pass::<I, Dft5, 5>(isa, stride, from, to),
                4 => stage.pass::<I, Dft4, 4>(isa, stride, from, to),
                3 => stage.pass::<I, Dft3, 3>(isa, stride, from, to),
                _ => stage.pass::<I, Dft2, 2>(isa, stride, from, to),
            }
            stride *= stage.radix;
            std::mem::swap(&mut from, &mut to);
        }
        self.powers(isa, from, power);
    }

    /// Powers of the real signals from the transforms of the complex ones.
    #[inline(always)]
    fn powers<I: Isa>(&self, isa: I, z: &[f32], power: &mut [f32]) {
        let ops = isa.f32();
        let lanes = ops.len();
        let half = self.window.len() / 2;
        let power = &mut power[..(half + 1) * lanes];
        let first = Complex::load(isa, z, 0);
        for (bin, sum) in [(0, ops.add(first.re, first.im)), (half, ops.sub(first.re, first.im))] {
            let sum = ops.add(sum, sum);
            ops.store(ops.mul(sum, sum), &mut power[bin * lanes..]);
        }
        for (k, turn) in self.turns.iter().enumerate().skip(1) {
            let (a, b) = (Complex::load(isa, z, k), Complex::load(isa, z, half - k));
            let even = Complex { re: ops.add(a.re, b.re), im: ops.sub(a.im, b.im) };
            let odd = Complex { re: ops.add(a.im, b.im), im: ops.sub(b.re, a.re) }.times(isa, *turn);
            ops.store(even.plus(isa, odd).power(isa), &mut power[k * lanes..]);
            ops.store(even.minus(isa, odd).power(isa), &mut power[(half - k) * lanes..]);
        }
    }
}

impl Stage {
    /// Transforms by `D`, and turns the results for the next pass.
    #[inline(always)]
    fn pass<I: Isa, D: Dft<R>, const R: usize>(&self, isa: I, stride: usize, from: &[f32], to: &mut [f32]) {
        let parts = self.length / R;
        let zero = Complex { re: isa.f32().zero(), im: isa.f32().zero() };
        for p in 0..parts {
            for q in 0..stride {
                let mut values = [zero; R];
                for (j, value) in values.iter_mut().enumerate() {
                    *value = Complex::load(isa, from, q + stride * (p + parts * j));
                }
                let mut results = D::dft(isa, values);
                // The factors of the first results, and of the last pass, are 1.
                if p > 0 {
                    for (result, turn) in results[1..].iter_mut().zip(&self.turns[p * (R - 1)..]) {
                        *result = result.times(isa, *turn);
                    }
                }
                for (k, result) in results.iter().enumerate() {
                    result.store(isa, to, q + stride * (R * p + k));
                }
            }
        }
    }
}

/// Signals in the lanes of vectors, each `step` samples after the previous one.
#[derive(Clone, Copy)]
pub struct Overlapping<'a> {
    /// `[step, columns]`: sample n of the signals is the vector at row n mod `step`, column `first` + n / `step`.
    pub samples: &'a [f32],
    pub step: usize,
    pub columns: usize,
    pub first: usize,
}

impl Overlapping<'_> {
    #[inline(always)]
    fn sample<I: Isa>(&self, isa: I, n: usize) -> I::F32 {
        isa.f32().load(&self.samples[n % self.step * self.columns + self.first + n / self.step..])
    }
}

/// One complex number per lane.
#[derive(Clone, Copy)]
struct Complex<V> {
    re: V,
    im: V,
}

impl<V: Copy> Complex<V> {
    #[inline(always)]
    fn load<I: Isa<F32 = V>>(isa: I, data: &[f32], index: usize) -> Self {
        let lanes = isa.f32().len();
        let (re, im) = data[2 * index * lanes..][..2 * lanes].split_at(lanes);
        Self { re: isa.f32().load(re), im: isa.f32().load(im) }
    }

    #[inline(always)]
    fn store<I: Isa<F32 = V>>(self, isa: I, data: &mut [f32], index: usize) {
        let lanes = isa.f32().len();
        let (re, im) = data[2 * index * lanes..][..2 * lanes].split_at_mut(lanes);
        isa.f32().store(self.re, re);
        isa.f32().store(self.im, im);
    }

    #[inline(always)]
    fn plus<I: Isa<F32 = V>>(self, isa: I, b: Self) -> Self {
        Self { re: isa.f32().add(self.re, b.re), im: isa.f32().add(self.im, b.im) }
    }

    #[inline(always)]
    fn minus<I: Isa<F32 = V>>(self, isa: I, b: Self) -> Self {
        Self { re: isa.f32().sub(self.re, b.re), im: isa.f32().sub(self.im, b.im) }
    }

    /// self − i · b
    #[inline(always)]
    fn minus_i<I: Isa<F32 = V>>(self, isa: I, b: Self) -> Self {
        Self { re: isa.f32().add(self.re, b.im), im: isa.f32().sub(self.im, b.re) }
    }

    /// self + i · b
    #[inline(always)]
    fn plus_i<I: Isa<F32 = V>>(self, isa: I, b: Self) -> Self {
        Self { re: isa.f32().sub(self.re, b.im), im: isa.f32().add(self.im, b.re) }
    }

    /// self + factor · b
    #[inline(always)]
    fn plus_scaled<I: Isa<F32 = V>>(self, isa: I, factor: f32, b: Self) -> Self {
        let (ops, factor) = (isa.f32(), isa.f32().splat(factor));
        Self { re: ops.mul_add(factor, b.re, self.re), im: ops.mul_add(factor, b.im, self.im) }
    }

    #[inline(always)]
    fn scaled<I: Isa<F32 = V>>(self, isa: I, factor: f32) -> Self {
        let (ops, factor) = (isa.f32(), isa.f32().splat(factor));
        Self { re: ops.mul(factor, self.re), im: ops.mul(factor, self.im) }
    }

    /// Squared magnitude.
    #[inline(always)]
    fn power<I: Isa<F32 = V>>(self, isa: I) -> V {
        let ops = isa.f32();
        ops.mul_add(self.re, self.re, ops.mul(self.im, self.im))
    }

    #[inline(always)]
    fn times<I: Isa<F32 = V>>(self, isa: I, [re, im]: [f32; 2]) -> Self {
        let ops = isa.f32();
        let (re, im) = (ops.splat(re), ops.splat(im));
        Self { re: ops.mul_sub_from(self.im, im, ops.mul(self.re, re)), im: ops.mul_add(self.re, im, ops.mul(self.im, re)) }
    }
}

/// A transform of R numbers. Methods of a trait, because closures would not be inlined into the code with the vector instructions.
trait Dft<const R: usize> {
    fn dft<I: Isa>(isa: I, values: [Complex<I::F32>; R]) -> [Complex<I::F32>; R];
}

struct Dft2;

impl Dft<2> for Dft2 {
    #[inline(always)]
    fn dft<I: Isa>(isa: I, [a, b]: [Complex<I::F32>; 2]) -> [Complex<I::F32>; 2] {
        [a.plus(isa, b), a.minus(isa, b)]
    }
}

struct Dft3;

impl Dft<3> for Dft3 {
    #[inline(always)]
    fn dft<I: Isa>(isa: I, [a, b, c]: [Complex<I::F32>; 3]) -> [Complex<I::F32>; 3] {
        const SIN_60: f32 = 0.866_025_4;
        let (sum, difference) = (b.plus(isa, c), b.minus(isa, c).scaled(isa, SIN_60));
        let middle = a.plus_scaled(isa, -0.5, sum);
        [a.plus(isa, sum), middle.minus_i(isa, difference), middle.plus_i(isa, difference)]
    }
}

struct Dft4;

impl Dft<4> for Dft4 {
    #[inline(always)]
    fn dft<I: Isa>(isa: I, [a, b, c, d]: [Complex<I::F32>; 4]) -> [Complex<I::F32>; 4] {
        let (even, odd) = (a.plus(isa, c), b.plus(isa, d));
        let (even_difference, odd_difference) = (a.minus(isa, c), b.minus(isa, d));
        [
            even.plus(isa, odd),
            even_difference.minus_i(isa, odd_difference),
            even.minus(isa, odd),
            even_difference.plus_i(isa, odd_difference),
        ]
    }
}

struct Dft5;

impl Dft<5> for Dft5 {
    #[inline(always)]
    fn dft<I: Isa>(isa: I, [a, b, c, d, e]: [Complex<I::F32>; 5]) -> [Complex<I::F32>; 5] {
        const COS: [f32; 2] = [0.309_017, -0.809_017];
        const SIN: [f32; 2] = [0.951_056_5, 0.587_785_24];
        let (outer, inner) = (b.plus(isa, e), c.plus(isa, d));
        let (outer_difference, inner_difference) = (b.minus(isa, e), c.minus(isa, d));
        let first = a.plus_scaled(isa, COS[0], outer).plus_scaled(isa, COS[1], inner);
        let second = a.plus_scaled(isa, COS[1], outer).plus_scaled(isa, COS[0], inner);
        let first_turned = outer_difference.scaled(isa, SIN[0]).plus_scaled(isa, SIN[1], inner_difference);
        let second_turned = outer_difference.scaled(isa, SIN[1]).plus_scaled(isa, -SIN[0], inner_difference);
        [
            a.plus(isa, outer.plus(isa, inner)),
            first.minus_i(isa, first_turned),
            second.minus_i(isa, second_turned),
            second.plus_i(isa, second_turned),
            first.plus_i(isa, first_turned),
        ]
    }
}
