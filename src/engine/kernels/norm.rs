//! Norms: of rows over their values, and of columns over the rows.

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

/// Rows computed together, because the steps of one wait for each other.
const ROWS: usize = 4;

impl SimdOp for LayerNorm<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) {
        let Self { x, scale, shift, epsilon, out } = self;
        let affine = Affine { scale, shift, epsilon };
        let dim = scale.len().max(1);
        let whole = x.len() - x.len() % (ROWS * dim);
        for (x, out) in x[..whole].chunks_exact(ROWS * dim).zip(out.chunks_exact_mut(ROWS * dim)) {
            affine.rows::<I, ROWS>(isa, x, out);
        }
        for (x, out) in x[whole..].chunks_exact(dim).zip(out[whole..].chunks_exact_mut(dim)) {
            affine.rows::<I, 1>(isa, x, out);
        }
    }
}

#[derive(Clone, Copy)]
struct Affine<'a> {
    scale: &'a [f32],
    shift: &'a [f32],
    epsilon: f32,
}

impl Affine<'_> {
    /// Normalises `R` rows.
    #[inline(always)]
    fn rows<I: Isa, const R: usize>(self, isa: I, x: &[f32], out: &mut [f32]) {
        let ops = isa.f32();
        let (lanes, dim) = (ops.len(), self.scale.len());
        let whole = dim - dim % lanes;
        let x: [&[f32]; R] = std::array::from_fn(|r| &x[r * dim..][..dim]);
        let mut sums = [ops.zero(); R];
        for at in (0..whole).step_by(lanes) {
            for r in 0..R {
                sums[r] = ops.add(sums[r], ops.load(&x[r][at..]));
            }
        }
        let mut means = [0.0; R];
        for r in 0..R {
            let rest: f32 = x[r][whole..].iter().sum();
            means[r] = (ops.sum(sums[r]) + rest) / dim as f32;
        }
        let mut squares = [ops.zero(); R];
        for at in (0..whole).step_by(lanes) {
            for r in 0..R {
                let away = ops.sub(ops.load(&x[r][at..]), ops.splat(means[r]));
                squares[r] = ops.mul_add(away, away, squares[r]);
            }
        }
        let mut factors = [0.0; R];
        for r in 0..R {
            let rest: f32 = x[r][whole..].iter().map(|x| (x - means[r]) * (x - means[r])).sum();
            let variance = (ops.sum(squares[r]) + rest) / dim as f32;
            factors[r] = (variance + self.epsilon).sqrt().recip();
        }
        for at in (0..whole).step_by(lanes) {
            let (scale, shift) = (ops.load(&self.scale[at..]), ops.load(&self.shift[at..]));
            for r in 0..R {
                let away = ops.mul(ops.sub(ops.load(&x[r][at..]), ops.splat(means[r])), ops.splat(factors[r]));
                ops.store(ops.mul_add(away, scale, shift), &mut out[r * dim + at..]);
            }
        }
        for at in whole..dim {
            for r in 0..R {
                out[r * dim + at] = (x[r][at] - means[r]) * factors[r] * self.scale[at] + self.shift[at];
            }
        }
    }
}

/// x = (x − mean) / √(variance + ε) · scale + shift for every column of `x [rows, scale.len()]`, over all rows.
pub struct ChannelNorm<'a> {
    pub scale: &'a [f32],
    pub shift: &'a [f32],
    pub epsilon: f32,
    pub x: &'a mut [f32],
}

/// Rows whose means and squared distances are computed while they are in the cache.
const BLOCK: usize = 32;

impl SimdOp for ChannelNorm<'_> {
    type Output = ();

    // The compiler vectorises these loops with the instructions of `I`.
    #[inline(always)]
    fn eval<I: Isa>(self, _isa: I) {
        let Self { scale, shift, epsilon, x } = self;
        let dim = scale.len().max(1);
        let (mut means, mut squares, mut rows) = (vec![0.0f64; dim], vec![0.0f64; dim], 0.0);
        let (mut middle, mut away) = (vec![0.0f32; dim], vec![0.0f32; dim]);
        for block in x.chunks(BLOCK * dim) {
            let count = (block.len() / dim) as f32;
            middle.fill(0.0);
            for row in block.chunks_exact(dim) {
                middle.iter_mut().zip(row).for_each(|(sum, x)| *sum += x);
            }
            middle.iter_mut().for_each(|sum| *sum /= count);
            away.fill(0.0);
            for row in block.chunks_exact(dim) {
                let parts = away.iter_mut().zip(row).zip(&middle);
                parts.for_each(|((sum, x), middle)| *sum += (x - middle) * (x - middle));
            }
            // Means and sums of squared distances of both parts together (Chan, Golub and LeVeque, 1979).
            let (earlier, count) = (rows, f64::from(count));
            rows += count;
            for (((mean, square), middle), away) in means.iter_mut().zip(&mut squares).zip(&middle).zip(&away) {
                let apart = f64::from(*middle) - *mean;
                *mean += apart * count / rows;
                *square += f64::from(*away) + apart * apart * earlier * count / rows;
            }
        }
        let means: Vec<f32> = means.iter().map(|&mean| mean as f32).collect();
        let root = |square: f64| (square / rows + f64::from(epsilon)).sqrt();
        let factors: Vec<f32> =
            squares.iter().zip(scale).map(|(&square, scale)| (f64::from(*scale) / root(square)) as f32).collect();
        for row in x.chunks_exact_mut(dim) {
            let parts = row.iter_mut().zip(&means).zip(&factors).zip(shift);
            parts.for_each(|(((x, mean), factor), shift)| *x = (*x - mean) * factor + shift);
        }
    }
}
