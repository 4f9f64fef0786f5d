//! Attention of a few queries over keys and values in place: softmax(q · kᵀ · scale + bias) · v per head.
//!
//! Scores are stored as keys × queries, so that a SIMD vector contains one key's scores for several queries. The softmax runs across
//! vectors, and neither keys nor values are transposed or concatenated. Its exponentials are powers of 2: scores and biases are in units of
//! ln 2.

use rten_simd::ops::{FloatOps, NumOps};
use rten_simd::{Isa, SimdOp};

use super::activation::power_of_two;
use super::by_lane::{ByLane, FOUR, by_lane};
use super::dot::transpose::{self, SIDE};
use super::in_registers;

/// Keys computed together if there are fewer than fit into the registers.
const FEW: usize = 4;
/// Queries computed together; a multiple of the lanes of every vector type.
pub const QUERIES: usize = SIDE;
/// Units of ln 2 per nat.
pub const UNITS: f32 = std::f32::consts::LOG2_E;
/// SIMD vectors of a value row that are accumulated together.
const VALUE_VECTORS: usize = 3;

/// Rows by head and frame: that of head h and frame r is `data[h * head_stride + r * frame_stride ..][.. width]`.
#[derive(Clone, Copy)]
pub struct ByHead<'a> {
    pub data: &'a [f32],
    pub frames: usize,
    pub head_stride: usize,
    pub frame_stride: usize,
}

impl<'a> ByHead<'a> {
    #[inline(always)]
    fn row(&self, head: usize, frame: usize, width: usize) -> &'a [f32] {
        &self.data[head * self.head_stride + frame * self.frame_stride..][..width]
    }

    /// The rows of a head from element `first` on.
    #[inline(always)]
    fn rows(&self, head: usize, first: usize) -> impl Iterator<Item = &'a [f32]> {
        let data = self.data.get(head * self.head_stride + first..).unwrap_or(&[]);
        data.chunks(self.frame_stride.max(1)).take(self.frames)
    }
}

/// The arguments of one call. `out` is `[queries, heads * width]`.
pub struct Attention<'a> {
    pub heads: usize,
    pub width: usize,
    pub queries: ByHead<'a>,
    /// Segments of keys and of values, in the order of their frames.
    pub keys: &'a [ByHead<'a>],
    pub values: &'a [ByHead<'a>],
    pub scale: f32,
    /// The result of [`transposed_bias`].
    pub bias: Option<&'a [f32]>,
    pub scratch: &'a mut Vec<f32>,
    pub out: &'a mut [f32],
}

/// Queries, padded to whole groups.
pub fn padded(queries: usize) -> usize {
    queries.next_multiple_of(QUERIES)
}

/// Transposes a bias `[heads, queries, keys]` to the kernel's layout `[heads, keys, queries]`, with the queries padded to whole groups, and
/// converts it to the kernel's [`UNITS`].
pub fn transposed_bias(bias: &[f32], queries: usize, keys: usize, transposed: &mut Vec<f32>) {
    let (from, to) = (queries * keys, keys * padded(queries));
    transposed.clear();
    transposed.resize(bias.len() / from.max(1) * to, 0.0);
    for (bias, transposed) in bias.chunks_exact(from.max(1)).zip(transposed.chunks_exact_mut(to.max(1))) {
        for (query, bias) in bias.chunks_exact(keys).enumerate() {
            for (&bias, transposed) in bias.iter().zip(transposed[query..].iter_mut().step_by(padded(queries))) {
                *transposed = bias * UNITS;
            }
        }
    }
}

impl SimdOp for Attention<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(mut self, isa: I) {
        match isa.f32().len() {
            16 => self.all::<I, 1, 16>(isa),
            8 => self.all::<I, 2, 4>(isa),
            _ => self.all::<I, 4, 4>(isa),
        }
    }
}

impl Attention<'_> {
    /// Computes all heads. `N` SIMD vectors hold a group of queries; `R` keys are computed together.
    #[inline(always)]
    fn all<I: Isa, const N: usize, const R: usize>(&mut self, isa: I) {
        let keys: usize = self.keys.iter().map(|keys| keys.frames).sum();
        let mut scratch = std::mem::take(self.scratch);
        scratch.resize(QUERIES * (self.width + keys + 1), 0.0);
        let (transposed, rest) = scratch.split_at_mut(QUERIES * self.width);
        let (scores, factors) = rest.split_at_mut(QUERIES * keys);
        let scale = self.scale * UNITS;
        for head in 0..self.heads {
            for first in (0..self.queries.frames).step_by(QUERIES) {
                let count = (self.queries.frames - first).min(QUERIES);
                // The padding repeats the last query, which gives finite scores that are never read.
                let rows: [&[f32]; QUERIES] =
                    std::array::from_fn(|query| self.queries.row(head, first + query.min(count - 1), self.width));
                transpose(rows, scale, transposed);
                let bias = self.bias.map(|bias| {
                    let wide = padded(self.queries.frames);
                    (&bias[head * keys * wide + first..], wide)
                });
                let mut most = [isa.f32().splat(f32::NEG_INFINITY); N];
                let mut key = 0;
                for segment in self.keys {
                    let mut frame = 0;
                    while frame < segment.frames {
                        let scores = &mut scores[(key + frame) * QUERIES..];
                        let bias = bias.map(|(bias, wide)| (&bias[(key + frame) * wide..], wide));
                        let left = segment.frames - frame;
                        if left >= R {
                            self.scores::<I, N, R>(isa, segment, head, frame, transposed, bias, scores, &mut most);
                            frame += R;
                        } else if left >= FEW {
                            self.scores::<I, N, FEW>(isa, segment, head, frame, transposed, bias, scores, &mut most);
                            frame += FEW;
                        } else {
                            self.scores::<I, N, 1>(isa, segment, head, frame, transposed, bias, scores, &mut most);
                            frame += 1;
                        }
                    }
                    key += segment.frames;
                }
                softmax::<I, N>(isa, most, scores, factors);
                self.mix(isa, head, first, count, scores, factors);
            }
        }
        *self.scratch = scratch;
    }

    /// Scores of `R` keys for a group of queries, and the highest score of each query.
    #[inline(always)]
    #[allow(clippy::too_many_arguments)]
    fn scores<I: Isa, const N: usize, const R: usize>(
        &self,
        isa: I,
        segment: &ByHead<'_>,
        head: usize,
        frame: usize,
        queries: &[f32],
        bias: Option<(&[f32], usize)>,
        out: &mut [f32],
        most: &mut [I::F32; N],
    ) {
        let ops = isa.f32();
        let lanes = ops.len();
        let rows: [&[f32]; R] = std::array::from_fn(|r| segment.row(head, frame + r, self.width));
        let mut sums = [[ops.zero(); N]; R];
        if let Some((bias, wide)) = bias {
            for (r, sums) in sums.iter_mut().enumerate() {
                for (n, sum) in sums.iter_mut().enumerate() {
                    *sum = ops.load(&bias[r * wide + n * lanes..]);
                }
            }
        }
        let fours = self.width / FOUR;
        let (queries, rest) = queries.split_at(fours * FOUR * QUERIES);
        let rows_by_four: [&[[f32; FOUR]]; R] = std::array::from_fn(|r| &rows[r].as_chunks().0[..fours]);
        for (four, queries) in (0..fours).zip(queries.chunks_exact(FOUR * QUERIES)) {
            let x: [ByLane<I>; R] = std::array::from_fn(|r| ByLane::load(isa, &rows_by_four[r][four]));
            by_lane!(LANE => {
                let query = &queries[LANE as usize * QUERIES..][..QUERIES];
                let query: [I::F32; N] = std::array::from_fn(|n| ops.load(&query[n * lanes..]));
                for r in 0..R {
                    let x = x[r].broadcast::<LANE>(isa);
                    for n in 0..N {
                        sums[r][n] = ops.mul_add(query[n], x, sums[r][n]);
                    }
                }
            });
        }
        for (k, query) in (fours * FOUR..self.width).zip(rest.chunks_exact(QUERIES)) {
            let query: [I::F32; N] = std::array::from_fn(|n| ops.load(&query[n * lanes..]));
            for r in 0..R {
                let x = ops.splat(rows[r][k]);
                for n in 0..N {
                    sums[r][n] = ops.mul_add(x, query[n], sums[r][n]);
                }
            }
        }
        for (sums, out) in in_registers(sums).iter().zip(out.chunks_exact_mut(QUERIES)) {
            for n in 0..N {
                most[n] = ops.max(most[n], sums[n]);
                ops.store(sums[n], &mut out[n * lanes..]);
            }
        }
    }

    /// Writes the weighted mean of the values to `out`.
    #[inline(always)]
    fn mix<I: Isa>(&mut self, isa: I, head: usize, first: usize, count: usize, weights: &[f32], factors: &[f32]) {
        let lanes = isa.f32().len();
        let at_once = if lanes == 8 { 4 } else { 8 };
        let mut query = 0;
        while query < count {
            let many = count - query >= at_once;
            let mut column = 0;
            while column < self.width {
                let vectors = (self.width - column) / lanes;
                macro_rules! rows {
                    ($vectors:literal) => {
                        match (many, at_once) {
                            (true, 8) => self.mix_tile::<I, 8, $vectors>(isa, head, first, query, column, weights, factors),
                            (true, _) => self.mix_tile::<I, 4, $vectors>(isa, head, first, query, column, weights, factors),
                            _ => self.mix_tile::<I, 1, $vectors>(isa, head, first, query, column, weights, factors),
                        }
                    };
                }
                match vectors {
                    0 => rows!(0),
                    1 => rows!(1),
                    2 => rows!(2),
                    _ => rows!(3),
                }
                column += vectors.clamp(1, VALUE_VECTORS) * lanes;
            }
            query += if many { at_once } else { 1 };
        }
    }

    /// `R` queries × `V` SIMD vectors of the values; with `V` = 0, the elements that do not fill a vector.
    #[inline(always)]
    #[allow(clippy::too_many_arguments)]
    fn mix_tile<I: Isa, const R: usize, const V: usize>(
        &mut self,
        isa: I,
        head: usize,
        first: usize,
        query: usize,
        column: usize,
        weights: &[f32],
        factors: &[f32],
    ) {
        let ops = isa.f32();
        let lanes = ops.len();
        let row_width = self.heads * self.width;
        let at = |r: usize| (first + query + r) * row_width + head * self.width + column;
        if V == 0 {
            let rest = self.width - column;
            let mut sums = [ops.zero(); R];
            let mut weights = weights.chunks_exact(QUERIES);
            for segment in self.values {
                for (value, weights) in segment.rows(head, column).zip(weights.by_ref()) {
                    let value = ops.load_pad(&value[..rest]).0;
                    for r in 0..R {
                        sums[r] = ops.mul_add(ops.splat(weights[query + r]), value, sums[r]);
                    }
                }
            }
            for (r, &sum) in in_registers(sums).iter().enumerate() {
                let numbers = rten_simd::Simd::to_array(ops.mul(sum, ops.splat(factors[query + r])));
                self.out[at(r)..at(r) + rest].copy_from_slice(&numbers.as_ref()[..rest]);
            }
            return;
        }
        let mut sums = [[ops.zero(); V]; R];
        let mut weights = weights.chunks_exact(QUERIES);
        for segment in self.values {
            for (value, weights) in segment.rows(head, column).zip(weights.by_ref()) {
                let value = &value[..V * lanes];
                let value: [I::F32; V] = std::array::from_fn(|v| ops.load(&value[v * lanes..]));
                let weights = &weights[query..][..R];
                let (fours, _) = weights.as_chunks::<FOUR>();
                for four in 0..R / FOUR {
                    let weights = ByLane::load(isa, &fours[four]);
                    by_lane!(LANE => {
                        let weight = weights.broadcast::<LANE>(isa);
                        for v in 0..V {
                            let sum = &mut sums[four * FOUR + LANE as usize][v];
                            *sum = ops.mul_add(value[v], weight, *sum);
                        }
                    });
                }
                for r in R / FOUR * FOUR..R {
                    let weight = ops.splat(weights[r]);
                    for v in 0..V {
                        sums[r][v] = ops.mul_add(value[v], weight, sums[r][v]);
                    }
                }
            }
        }
        for (r, sums) in in_registers(sums).iter().enumerate() {
            let factor = ops.splat(factors[query + r]);
            let out = &mut self.out[at(r)..][..V * lanes];
            for (v, &sum) in sums.iter().enumerate() {
                ops.store(ops.mul(sum, factor), &mut out[v * lanes..]);
            }
        }
    }
}

/// Writes `rows`, times `scale`, to `transposed [width, QUERIES]`.
#[inline(always)]
fn transpose(rows: [&[f32]; QUERIES], scale: f32, transposed: &mut [f32]) {
    let (columns, _) = transposed.as_chunks_mut::<QUERIES>();
    let (blocks, rest) = columns.as_chunks_mut::<SIDE>();
    for (index, columns) in blocks.iter_mut().enumerate() {
        let mut block = [&[0.0; SIDE]; QUERIES];
        for (block, row) in block.iter_mut().zip(rows) {
            *block = &row.as_chunks().0[index];
        }
        transpose::transpose(&block, scale, columns);
    }
    for (at, column) in (blocks.len() * SIDE..).zip(rest) {
        for (x, row) in column.iter_mut().zip(rows) {
            *x = row[at] * scale;
        }
    }
}

/// Converts the scores, keys × queries, of which `most` are the highest, to weights that sum to 1 / `factors`.
#[inline(always)]
fn softmax<I: Isa, const N: usize>(isa: I, most: [I::F32; N], scores: &mut [f32], factors: &mut [f32]) {
    let ops = isa.f32();
    let lanes = ops.len();
    let mut sums = [ops.zero(); N];
    for scores in scores.chunks_exact_mut(QUERIES) {
        for n in 0..N {
            let scores = &mut scores[n * lanes..];
            let weight = power_of_two(isa, ops.sub(ops.load(scores), most[n]));
            sums[n] = ops.add(sums[n], weight);
            ops.store(weight, scores);
        }
    }
    for n in 0..N {
        ops.store(ops.div(ops.one(), sums[n]), &mut factors[n * lanes..]);
    }
}
