//! Quantisation to 8 bits and back: activations per row at run time, constant weights per column when they are loaded. The matmul in
//! between is that of [`super::dot`] or tract's.

use std::ops::Range;

use rten_simd::ops::{FloatOps, NarrowSaturate, NumOps, ToFloat};
use rten_simd::{Isa, Simd, SimdOp};

use super::by_lane::FOUR;
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
        let (ops, lanes) = (isa.f32(), isa.f32().len());
        for r in 0..self.rows.count {
            let row = self.rows.row(r);
            let (mut low, mut high) = (ops.zero(), ops.zero());
            let parts = row.chunks_exact(lanes);
            let rest = parts.remainder();
            for part in parts {
                let x = ops.load(part);
                low = ops.min(low, x);
                high = ops.max(high, x);
            }
            let low = low.to_array().as_ref().iter().chain(rest).copied().fold(0.0, f32::min);
            let high = high.to_array().as_ref().iter().chain(rest).copied().fold(0.0, f32::max);
            let scale = ((high - low) / 255.0).max(f32::MIN_POSITIVE);
            let zero = (-low / scale).round_ties_even();
            self.ranges[2 * r..2 * r + 2].copy_from_slice(&[scale, zero - f32::from(self.written.middle())]);
            quantise(isa, row, scale.recip(), zero as i32, self.written.middle(), &mut self.steps[r * row.len()..][..row.len()]);
        }
    }
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
        let four = ops.load_many::<4>(part).map(|x| ints.add(ops.to_int_round(ops.mul(x, factors)), zeros));
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
    fn eval<I: Isa>(self, isa: I) {
        let (ops, ints, outputs) = (isa.f32(), isa.i32(), self.weights.scale.len());
        let (lanes, columns) = (ops.len(), self.columns);
        let scale_of = &self.weights.scale[columns.clone()];
        let sum_of = &self.weights.sums[columns.clone()];
        let bias_of = &self.weights.bias[columns.clone()];
        let count = columns.len();
        for (r, out) in self.out.chunks_exact_mut(outputs.max(1)).enumerate() {
            let out = &mut out[columns.clone()];
            let sums = &self.sums[r * self.stride..][..count];
            let residual = self.residual.map(|residual| &residual[r * outputs..][columns.clone()]);
            let (scale, zero) = (self.ranges[2 * r], self.ranges[2 * r + 1] as i32);
            let (scales, zeros) = (ops.splat(scale), ints.splat(zero));
            let mut at = 0;
            macro_rules! vectors {
                ($count:literal) => {
                    while at + $count * lanes <= count {
                        let part = at..at + $count * lanes;
                        let columns = WidenColumns {
                            sums: &sums[part.clone()],
                            sum_of: &sum_of[part.clone()],
                            scale_of: &scale_of[part.clone()],
                            bias_of: &bias_of[part.clone()],
                            residual: residual.map(|residual| &residual[part.clone()]),
                            out: &mut out[part],
                        };
                        columns.widen::<I, $count>(isa, scales, zeros, self.activation);
                        at += $count * lanes;
                    }
                };
            }
            // Several vectors at once, because the steps of one wait for each other: half of a panel on Arm, all of it with AVX-512.
            if lanes == FOUR {
                vectors!(4);
            }
            vectors!(2);
            vectors!(1);
            for at in at..count {
                let sum = sums[at] - zero * sum_of[at];
                out[at] = sum as f32 * (scale * scale_of[at]) + bias_of[at];
            }
            self.activation.map(&mut out[at..]);
            if let Some(residual) = residual {
                out[at..].iter_mut().zip(&residual[at..]).for_each(|(out, residual)| *out += residual);
            }
        }
    }
}

/// Whole vectors of a row.
struct WidenColumns<'a> {
    sums: &'a [i32],
    sum_of: &'a [i32],
    scale_of: &'a [f32],
    bias_of: &'a [f32],
    residual: Option<&'a [f32]>,
    out: &'a mut [f32],
}

impl WidenColumns<'_> {
    /// Dequantises the `V` vectors.
    #[inline(always)]
    fn widen<I: Isa, const V: usize>(self, isa: I, scales: I::F32, zeros: I::I32, activation: Activation) {
        let (ops, ints) = (isa.f32(), isa.i32());
        let (sums, sum_of) = (ints.load_many::<V>(self.sums), ints.load_many::<V>(self.sum_of));
        let (scale_of, mut y) = (ops.load_many::<V>(self.scale_of), ops.load_many::<V>(self.bias_of));
        for v in 0..V {
            let sum = ints.to_float(ints.sub(sums[v], ints.mul(zeros, sum_of[v])));
            y[v] = ops.mul_add(sum, ops.mul(scales, scale_of[v]), y[v]);
        }
        let mut y = activation.apply_after_int8(isa, y);
        if let Some(residual) = self.residual {
            let residual = ops.load_many::<V>(residual);
            for v in 0..V {
                y[v] = ops.add(y[v], residual[v]);
            }
        }
        for (y, out) in y.into_iter().zip(self.out.chunks_exact_mut(ops.len())) {
            ops.store(y, out);
        }
    }
}
