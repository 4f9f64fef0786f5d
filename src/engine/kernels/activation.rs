//! Element-wise activation functions, and the exponential of the softmax.

use rten_simd::ops::{FloatOps, IntOps, NumOps};
use rten_simd::{Isa, Simd, SimdUnaryOp};

/// The activation applied to the result of a matmul.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Activation {
    None,
    /// x · (1 + erf(x / √2)) / 2
    Gelu,
}

impl Activation {
    #[inline(always)]
    pub fn apply<I: Isa>(self, isa: I, x: I::F32) -> I::F32 {
        match self {
            Self::None => x,
            Self::Gelu => rten_vecmath::Gelu {}.eval(isa, x),
        }
    }

    /// Applies the activation to results of int8 matmuls: without division and exponential, and with an error far below that of the quantisation.
    #[inline(always)]
    pub fn apply_after_int8<I: Isa, const V: usize>(self, isa: I, x: [I::F32; V]) -> [I::F32; V] {
        match self {
            Self::None => x,
            Self::Gelu => gelu(isa, x),
        }
    }

    /// Applies the activation to every element of `values`.
    pub fn map(self, values: &mut [f32]) {
        match self {
            Self::None => {}
            Self::Gelu => {
                rten_vecmath::Gelu {}.map_mut(values);
            }
        }
    }
}

/// x · (½ + erf(x / √2) / 2) within 2e-5 for |x| ≤ 9, and exactly x or 0 beyond 4.9.
///
/// erf(x / √2) / 2 = x · P(t) for |x| < 4.8, where t maps x² to −1 … 1: neither a division nor an exponential. P is evaluated by Estrin's
/// scheme, because in Horner's every step waits for the previous one, and on Arm needs a copy of its coefficient.
#[inline(always)]
pub(super) fn gelu<I: Isa, const V: usize>(isa: I, x: [I::F32; V]) -> [I::F32; V] {
    /// 2 / 4.8²
    const STEEPNESS: f32 = 0.086_805_56;
    /// P minimises the largest absolute error of x · P(t), by iterated weighting of least squares. Lowest power first.
    const P: [f32; 10] = [
        0.147_213_2,
        -0.072_964_13,
        0.052_867_045,
        -0.040_847_708,
        0.031_178_484,
        -0.020_871_838,
        0.012_043_514,
        -0.009_648_361,
        0.008_188_305,
        -0.002_992_758_6,
    ];
    let ops = isa.f32();
    let mut y = x;
    for (y, &x) in y.iter_mut().zip(&x) {
        let t = ops.mul_add(ops.mul(x, ops.splat(STEEPNESS)), x, ops.splat(-1.0));
        let t = ops.min(t, ops.one());
        let mut pairs = [t; 5];
        for (i, pair) in pairs.iter_mut().enumerate() {
            *pair = ops.mul_add(ops.splat(P[2 * i + 1]), t, ops.splat(P[2 * i]));
        }
        let t2 = ops.mul(t, t);
        let t4 = ops.mul(t2, t2);
        let low = ops.mul_add(pairs[1], t2, pairs[0]);
        let high = ops.mul_add(pairs[4], t4, ops.mul_add(pairs[3], t2, pairs[2]));
        let p = ops.mul_add(high, t4, low);
        let half = ops.splat(0.5);
        let share = ops.max(ops.min(ops.mul(x, p), half), ops.neg(half));
        *y = ops.mul_add(x, share, ops.mul(x, half));
    }
    y
}

/// 2ˣ of x ≤ 0 within 3e-7 of its value; the smallest normal number below −126.
///
/// x = n + f with |f| ≤ ½, and 2ᶠ by a polynomial that minimises the largest relative error.
#[inline(always)]
pub fn power_of_two<I: Isa>(isa: I, x: I::F32) -> I::F32 {
    const ROUND: f32 = 12_582_912.0;
    const COEFFICIENTS: [f32; 6] = [0.001_327_647_2, 0.009_675_542, 0.055_507_13, 0.240_221_2, 0.693_146_94, 1.000_000_1];
    const LEAST: f32 = -126.0;
    let (ops, ints) = (isa.f32(), isa.i32());
    // The order of the operands keeps NaN on x86.
    let x = ops.max(ops.splat(LEAST), x);
    // The lowest bits of `shifted` are those of n.
    let shifted = ops.add(x, ops.splat(ROUND));
    let f = ops.sub(x, ops.sub(shifted, ops.splat(ROUND)));
    let mut p = ops.splat(COEFFICIENTS[0]);
    for coefficient in &COEFFICIENTS[1..] {
        p = ops.mul_add(p, f, ops.splat(*coefficient));
    }
    // p · 2ⁿ: n is added to the exponent of p.
    let bits: I::I32 = p.reinterpret_cast();
    let n: I::I32 = shifted.reinterpret_cast();
    ints.add(bits, ints.shift_left::<23>(n)).reinterpret_cast()
}
