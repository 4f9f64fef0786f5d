//! Layer norm.

use rten_simd::ops::NumOps;
use rten_simd::{Isa, SimdOp};

/// `out` = (x − mean) / √(variance + ε) · scale + shift, row by row; a row is as long as `scale`.
pub struct LayerNorm<'a> {
    pub x: &'a [f32],
    pub scale: &'a [f32],
    pub shift: &'a [f32],
    pub epsilon: f32,
    pub out: &'a mut [f32],
}

impl SimdOp for LayerNorm<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) {
        let ops = isa.f32();
        let (lanes, dim) = (ops.len(), self.scale.len());
        let whole = dim - dim % lanes;
        for (x, out) in self.x.chunks_exact(dim.max(1)).zip(self.out.chunks_exact_mut(dim.max(1))) {
            let mut sum = ops.zero();
            for part in x[..whole].chunks_exact(lanes) {
                sum = ops.add(sum, ops.load(part));
            }
            let rest: f32 = x[whole..].iter().sum();
            let mean = (ops.sum(sum) + rest) / dim as f32;
            let middle = ops.splat(mean);
            let mut squares = ops.zero();
            for part in x[..whole].chunks_exact(lanes) {
                let away = ops.sub(ops.load(part), middle);
                squares = ops.mul_add(away, away, squares);
            }
            let rest: f32 = x[whole..].iter().map(|x| (x - mean) * (x - mean)).sum();
            let variance = (ops.sum(squares) + rest) / dim as f32;
            let factor = (variance + self.epsilon).sqrt().recip();
            let factors = ops.splat(factor);
            let affine = self.scale.chunks_exact(lanes).zip(self.shift.chunks_exact(lanes));
            for ((x, out), (scale, shift)) in x.chunks_exact(lanes).zip(out.chunks_exact_mut(lanes)).zip(affine) {
                let away = ops.mul(ops.sub(ops.load(x), middle), factors);
                ops.store(ops.mul_add(away, ops.load(scale), ops.load(shift)), out);
            }
            for at in whole..dim {
                out[at] = (x[at] - mean) * factor * self.scale[at] + self.shift[at];
            }
        }
    }
}
