//! Matmuls in int8: quantisation of activations per row at run time, and of constant weights per column when they are loaded, and back to f32.
//! The sums in between are those of [`super::dot`] or tract's.

use std::ops::Range;

use rten_simd::ops::{FloatOps, NarrowSaturate, NumOps, ToFloat};
use rten_simd::{Isa, Simd, SimdOp};

use super::by_lane::FOUR;
use super::dot::{COLUMNS, DotKernel, GROUP, PackedSteps};
use super::{Activation, Rows};

/// Quantised constant weights `[inputs, outputs]` with one scale per column.
#[derive(Debug, PartialEq)]
pub struct QuantisedWeights {
    /// Scale of each output column: the value of one step.
    pub scale: Vec<f32>,
    /// Sum of each output column's quantised weights, to correct for the rows' zero points.
    pub sums: Vec<i32>,
    pub bias: Vec<f32>,
}

/// Largest magnitude of a quantised weight.
const MAX_STEP: f32 = 127.0;

impl QuantisedWeights {
    /// Quantises `weights [inputs, outputs]`; returns the quantised values, and the data to dequantise. A missing bias is zero.
    pub fn new(weights: &[f32], outputs: usize, bias: Option<&[f32]>) -> (Vec<i8>, Self) {
        let mut scale = vec![f32::MIN_POSITIVE; outputs];
        for row in weights.chunks_exact(outputs.max(1)) {
            scale.iter_mut().zip(row).for_each(|(scale, weight)| *scale = scale.max(weight.abs() / MAX_STEP));
        }
        let mut sums = vec![0; outputs];
        let mut steps = Vec::with_capacity(weights.len());
        for row in weights.chunks_exact(outputs.max(1)) {
            for ((weight, scale), sum) in row.iter().zip(&scale).zip(&mut sums) {
                let step = (weight / scale).round().clamp(-MAX_STEP, MAX_STEP) as i8;
                *sum += i32::from(step);
                steps.push(step);
            }
        }
        (steps, Self { scale, sums, bias: bias.map_or_else(|| vec![0.0; outputs], <[f32]>::to_vec) })
    }
}

/// Representation of the 256 levels of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Steps {
    /// 0 to 255, for VNNI.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
    U8,
    /// −128 to 127: the u8 value minus 128, which flips its highest bit.
    I8,
}

impl Steps {
    fn middle(self) -> u8 {
        match self {
            Self::U8 => 0,
            Self::I8 => 128,
        }
    }
}

/// Quantises each row to 8 bits over its own range, with an exact zero: x ≈ (step − zero point) · scale.
pub struct Quantise<'a> {
    pub rows: Rows<'a>,
    pub written: Steps,
    /// `[count, width]`
    pub steps: &'a mut [u8],
    /// `[count, 2]`: scale and zero point of each row.
    pub ranges: &'a mut [f32],
}

impl SimdOp for Quantise<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) {
        let Self { rows, written, steps, ranges } = self;
        let middle = written.middle();
        let mut r = 0;
        while r < rows.count {
            // Four rows at once, because the steps of one wait for each other.
            let factors = match rows.count - r {
                4.. => scales::<I, 4>(isa, rows, r, middle, &mut ranges[2 * r..]),
                _ => {
                    let [factor] = scales::<I, 1>(isa, rows, r, middle, &mut ranges[2 * r..]);
                    [factor; 4]
                }
            };
            let count = if rows.count - r < 4 { 1 } else { 4 };
            for (&factor, r) in factors.iter().zip(r..).take(count) {
                let row = rows.row(r);
                let zero = ranges[2 * r + 1] + f32::from(middle);
                quantise(isa, row, factor, zero as i32, middle, &mut steps[r * row.len()..][..row.len()]);
            }
            r += count;
        }
    }
}

/// Writes the scales and zero points of `R` rows from `first` to `ranges`, and returns the steps per unit.
#[inline(always)]
fn scales<I: Isa, const R: usize>(isa: I, rows: Rows<'_>, first: usize, middle: u8, ranges: &mut [f32]) -> [f32; R] {
    let (ops, lanes) = (isa.f32(), isa.f32().len());
    let whole = rows.width - rows.width % lanes;
    let mut data: [&[f32]; R] = [&[]; R];
    for (r, data) in data.iter_mut().enumerate() {
        *data = &rows.row(first + r)[..rows.width];
    }
    let (mut low, mut high) = ([ops.zero(); R], [ops.zero(); R]);
    for at in (0..whole).step_by(lanes) {
        for r in 0..R {
            let x = ops.load(&data[r][at..]);
            low[r] = ops.min(low[r], x);
            high[r] = ops.max(high[r], x);
        }
    }
    let mut factors = [0.0; R];
    for r in 0..R {
        let rest = &data[r][whole..];
        let low = rest.iter().copied().fold(least(low[r].to_array().as_ref()), f32::min);
        let high = rest.iter().copied().fold(-least(ops.neg(high[r]).to_array().as_ref()), f32::max);
        let scale = ((high - low) / 255.0).max(f32::MIN_POSITIVE);
        let zero = (-low / scale).round_ties_even();
        ranges[2 * r] = scale;
        ranges[2 * r + 1] = zero - f32::from(middle);
        factors[r] = scale.recip();
    }
    factors
}

/// The least of the numbers of a vector, four at once, because a minimum waits for the previous one.
#[inline(always)]
fn least(numbers: &[f32]) -> f32 {
    let mut least = [f32::INFINITY; 4];
    for numbers in numbers.as_chunks::<4>().0 {
        for i in 0..4 {
            least[i] = if numbers[i] < least[i] { numbers[i] } else { least[i] };
        }
    }
    let [a, b, c, d] = least;
    let (a, b) = (if b < a { b } else { a }, if d < c { d } else { c });
    if b < a { b } else { a }
}

#[inline(always)]
fn quantise<I: Isa>(isa: I, row: &[f32], factor: f32, zero: i32, middle: u8, steps: &mut [u8]) {
    let (ops, ints, shorts, bytes) = (isa.f32(), isa.i32(), isa.i16(), isa.u8());
    let lanes = ops.len();
    let (factors, zeros, middles) = (ops.splat(factor), ints.splat(zero), bytes.splat(middle));
    let parts = row.chunks_exact(lanes * 4);
    let rest = parts.remainder();
    let whole = row.len() - rest.len();
    for (part, steps) in parts.zip(steps.chunks_exact_mut(lanes * 4)) {
        let mut four = [zeros; 4];
        for (x, step) in ops.load_many::<4>(part).into_iter().zip(&mut four) {
            *step = ints.add(ops.to_int_round(ops.mul(x, factors)), zeros);
        }
        let (low, high) = (ints.narrow_saturate(four[0], four[1]), ints.narrow_saturate(four[2], four[3]));
        bytes.store(bytes.xor(shorts.narrow_saturate(low, high), middles), steps);
    }
    for (&x, step) in rest.iter().zip(&mut steps[whole..]) {
        *step = ((x * factor).round_ties_even() as i32 + zero).clamp(0, 255) as u8 ^ middle;
    }
}

/// Dequantises sums to f32, and applies bias, activation and residual.
pub struct Widen<'a> {
    /// `[rows, stride]`; the first columns are those of `columns`.
    pub sums: &'a [i32],
    pub stride: usize,
    /// The outputs to dequantise.
    pub columns: Range<usize>,
    /// Scale and zero point of each row, from [`Quantise`].
    pub ranges: &'a [f32],
    pub weights: &'a QuantisedWeights,
    pub activation: Activation,
    /// `[rows, outputs]`, as `out`.
    pub residual: Option<&'a [f32]>,
    pub out: &'a mut [f32],
}

impl SimdOp for Widen<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(mut self, isa: I) {
        let (lanes, columns) = (isa.f32().len(), self.columns.clone());
        let mut at = columns.start;
        // Several vectors at once, because the steps of one wait for each other: half of a panel on Arm, all of it with AVX-512.
        if lanes == FOUR {
            while at + 4 * lanes <= columns.end {
                self.vectors::<I, 4>(isa, at);
                at += 4 * lanes;
            }
        }
        while at + 2 * lanes <= columns.end {
            self.vectors::<I, 2>(isa, at);
            at += 2 * lanes;
        }
        while at + lanes <= columns.end {
            self.vectors::<I, 1>(isa, at);
            at += lanes;
        }
        if at < columns.end {
            self.rest(at);
        }
    }
}

impl Widen<'_> {
    /// All rows × `V` vectors from column `at`.
    #[inline(always)]
    fn vectors<I: Isa, const V: usize>(&mut self, isa: I, at: usize) {
        let (ops, ints, outputs) = (isa.f32(), isa.i32(), self.weights.scale.len());
        let (lanes, from) = (ops.len(), at - self.columns.start);
        let count = V * lanes;
        let sum_of = ints.load_many::<V>(&self.weights.sums[at..][..count]);
        let scale_of = ops.load_many::<V>(&self.weights.scale[at..][..count]);
        let bias_of = ops.load_many::<V>(&self.weights.bias[at..][..count]);
        let rows = self.sums.chunks(self.stride).zip(self.ranges.as_chunks::<2>().0);
        for (r, ((sums, &[scale, zero]), out)) in rows.zip(self.out.chunks_exact_mut(outputs)).enumerate() {
            let sums = ints.load_many::<V>(&sums[from..][..count]);
            let (scales, zeros) = (ops.splat(scale), ints.splat(zero as i32));
            let mut y = bias_of;
            for v in 0..V {
                let sum = ints.to_float(ints.sub(sums[v], ints.mul(zeros, sum_of[v])));
                y[v] = ops.mul_add(sum, ops.mul(scales, scale_of[v]), y[v]);
            }
            let mut y = self.activation.apply_after_int8(isa, y);
            if let Some(residual) = self.residual {
                let residual = ops.load_many::<V>(&residual[r * outputs + at..][..count]);
                for v in 0..V {
                    y[v] = ops.add(y[v], residual[v]);
                }
            }
            let out = &mut out[at..][..count];
            for v in 0..V {
                ops.store(y[v], &mut out[v * lanes..]);
            }
        }
    }

    /// All rows × the columns from `at`, less than a vector.
    fn rest(&mut self, at: usize) {
        let (outputs, from) = (self.weights.scale.len(), self.columns.start);
        let rows = self.sums.chunks(self.stride).zip(self.ranges.as_chunks::<2>().0);
        for (r, ((sums, &[scale, zero]), out)) in rows.zip(self.out.chunks_exact_mut(outputs)).enumerate() {
            let out = &mut out[at..self.columns.end];
            for (column, out) in (at..).zip(&mut *out) {
                let sum = sums[column - from] - zero as i32 * self.weights.sums[column];
                *out = sum as f32 * (scale * self.weights.scale[column]) + self.weights.bias[column];
            }
            self.activation.map(out);
            if let Some(residual) = self.residual {
                out.iter_mut().zip(&residual[r * outputs + at..]).for_each(|(out, residual)| *out += residual);
            }
        }
    }
}

/// activation(rows · weights + bias) + residual, by a kernel of [`super::dot`].
pub struct Int8Matmul<'a> {
    pub kernel: DotKernel,
    pub rows: Rows<'a>,
    pub steps: &'a PackedSteps,
    pub weights: &'a QuantisedWeights,
    pub activation: Activation,
    /// `[rows, outputs]`, as `out`.
    pub residual: Option<&'a [f32]>,
    pub scratch: &'a mut Scratch,
    pub out: &'a mut [f32],
}

/// Memory of [`Int8Matmul`], reused from call to call: the quantised rows, their scales and zero points, and the sums of a panel.
#[derive(Default)]
pub struct Scratch {
    steps: Vec<[u8; GROUP]>,
    ranges: Vec<f32>,
    sums: Vec<[i32; COLUMNS]>,
}

impl SimdOp for Int8Matmul<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) {
        let Self { kernel, rows, steps: packed, weights, activation, residual, out, .. } = self;
        let Scratch { steps, ranges, sums } = self.scratch;
        steps.resize(rows.count * packed.groups, [0; GROUP]);
        ranges.resize(2 * rows.count, 0.0);
        sums.resize(rows.count, [0; COLUMNS]);
        Quantise { rows, written: kernel.steps(), steps: steps.as_flattened_mut(), ranges }.eval(isa);
        for (index, (panel, next)) in packed.panels().enumerate() {
            kernel.sums(steps, packed.groups, panel, next, sums);
            let first = index * COLUMNS;
            let (sums, columns) = (sums.as_flattened(), first..(first + COLUMNS).min(weights.scale.len()));
            Widen { sums, stride: COLUMNS, columns, ranges, weights, activation, residual, out }.eval(isa);
        }
    }
}
