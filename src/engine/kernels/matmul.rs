//! f32 matmuls of a few rows with constant packed weights: activation(rows · weights + bias) + residual.
//!
//! The weights are stored in panels as wide as a tile of the result, so that a panel is read sequentially while a tile of
//! rows × columns stays in registers. A stream reads all weights once per chunk, far more than fits into L1 or L2: the next panel is
//! prefetched while the current one is computed (docs/notes/kernels.md).

use std::ops::Range;
use std::sync::Arc;

use rten_simd::ops::NumOps;
use rten_simd::{Isa, Simd, SimdOp};

use super::by_lane::{ByLane, FOUR, by_lane, in_order};
use super::helpers::{Helpers, Panels};
use super::{Activation, Block, Rows, in_registers};

/// Maximum rows of a tile.
const MOST_ROWS: usize = 8;
/// Width of a panel in SIMD vectors.
const PANEL_VECTORS: usize = 2;
/// Values per cache line.
const CACHE_LINE: usize = 16;

/// Constant weights `[inputs, outputs]` packed in panels, and the bias of the outputs.
#[derive(Debug, Clone, PartialEq)]
pub struct PackedWeights {
    /// All panels in order, `inputs × panel width` values each; the last one is padded with zeros.
    panels: Vec<f32>,
    /// Padded to the width of all panels.
    bias: Vec<f32>,
    pub inputs: usize,
    pub outputs: usize,
}

/// Lanes of an f32 vector on this processor.
struct Lanes;

impl SimdOp for Lanes {
    type Output = usize;
    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) -> usize {
        isa.f32().len()
    }
}

impl PackedWeights {
    /// Packs `weight(input, output)`; a missing bias is zero.
    pub fn new(inputs: usize, outputs: usize, weight: impl Fn(usize, usize) -> f32, bias: Option<&[f32]>) -> Self {
        let width = panel_width();
        let padded = outputs.next_multiple_of(width);
        let mut panels = Vec::with_capacity(padded * inputs);
        for first in (0..padded).step_by(width) {
            for input in 0..inputs {
                panels.extend((first..first + width).map(|output| if output < outputs { weight(input, output) } else { 0.0 }));
            }
        }
        let mut padded_bias = vec![0.0; padded];
        if let Some(bias) = bias {
            padded_bias[..outputs].copy_from_slice(bias);
        }
        Self { panels, bias: padded_bias, inputs, outputs }
    }

    /// The weights `[inputs, outputs]`.
    pub fn unpacked(&self) -> Vec<f32> {
        let width = panel_width();
        let mut weights = vec![0.0; self.inputs * self.outputs];
        for (panel, values) in self.panels.chunks_exact(self.inputs.max(1) * width).enumerate() {
            let outputs = panel * width..self.outputs.min((panel + 1) * width);
            for (row, values) in weights.chunks_exact_mut(self.outputs).zip(values.chunks_exact(width)) {
                row[outputs.clone()].copy_from_slice(&values[..outputs.len()]);
            }
        }
        weights
    }

    /// Whether these equal the weights and the bias that [`new`](Self::new) would pack, bit for bit.
    pub fn contains(&self, inputs: usize, outputs: usize, weight: impl Fn(usize, usize) -> f32, bias: Option<&[f32]>) -> bool {
        let width = panel_width();
        let same = |a: f32, b: f32| a.to_bits() == b.to_bits();
        let bias_at = |output: usize| bias.map_or(0.0, |bias| bias[output]);
        (self.inputs, self.outputs) == (inputs, outputs)
            && self.bias[..outputs].iter().enumerate().all(|(output, value)| same(*value, bias_at(output)))
            && self.panels.chunks_exact(inputs.max(1) * width).enumerate().all(|(panel, values)| {
                values.chunks_exact(width).enumerate().all(|(input, row)| {
                    let outputs = panel * width..outputs.min((panel + 1) * width);
                    row.iter().zip(outputs).all(|(value, output)| same(*value, weight(input, output)))
                })
            })
    }

    /// `out [rows, outputs]` = activation(rows · weights + bias) + residual.
    ///
    /// # Panics
    /// If the shapes do not match.
    pub fn apply(&self, rows: Rows<'_>, activation: Activation, residual: Option<&[f32]>, out: &mut [f32]) {
        self.apply_to(rows, activation, Block { numbers: out, stride: self.outputs, first: 0, residual });
    }

    /// As [`apply`](Self::apply), to columns of `out`.
    ///
    /// # Panics
    /// If the shapes do not match.
    pub fn apply_to(&self, rows: Rows<'_>, activation: Activation, out: Block<'_>) {
        self.compute(0..self.panel_count(), rows, activation, out);
    }

    /// As [`apply_to`](Self::apply_to), with `helpers` for some of the panels. The result is bit-identical.
    ///
    /// # Panics
    /// If the shapes do not match.
    pub fn apply_with(self: &Arc<Self>, helpers: &Helpers, rows: Rows<'_>, activation: Activation, out: Block<'_>) {
        let Block { numbers, stride, first, residual } = out;
        helpers.share(
            self.panel_count(),
            || self.offered(rows, activation),
            |panel, block| {
                let out = Block { numbers: &mut *numbers, stride, first: first + panel * panel_width(), residual };
                match block {
                    Some(block) => out.put(block, rows.count),
                    None => self.compute(panel..panel + 1, rows, activation, out),
                }
            },
        );
    }

    /// The part that helpers can compute.
    pub(super) fn offered(self: &Arc<Self>, rows: Rows<'_>, activation: Activation) -> Offered {
        Offered { weights: self.clone(), rows: rows.data.to_vec(), count: rows.count, stride: rows.stride, activation }
    }

    pub(super) fn panel_count(&self) -> usize {
        self.panels.len() / (panel_width() * self.inputs.max(1))
    }

    /// Number of outputs in panel `panel`.
    fn columns(&self, panel: usize) -> usize {
        (self.outputs - panel * panel_width()).min(panel_width())
    }

    fn compute(&self, panels: Range<usize>, rows: Rows<'_>, activation: Activation, out: Block<'_>) {
        assert_eq!(rows.width, self.inputs);
        assert!(out.numbers.len() >= rows.count * out.stride);
        Matmul { weights: self, panels, rows, activation, out }.dispatch();
    }
}

/// Rows and weights of a matmul, owned by helpers.
pub struct Offered {
    weights: Arc<PackedWeights>,
    rows: Vec<f32>,
    count: usize,
    stride: usize,
    activation: Activation,
}

impl Panels for Offered {
    fn compute(&self, panel: usize) -> Vec<f32> {
        let columns = self.weights.columns(panel);
        let mut numbers = vec![0.0; self.count * columns];
        let rows = Rows { data: &self.rows, count: self.count, width: self.weights.inputs, stride: self.stride };
        let out = Block { numbers: &mut numbers, stride: columns, first: 0, residual: None };
        self.weights.compute(panel..panel + 1, rows, self.activation, out);
        numbers
    }
}

/// Number of outputs per panel, except the last.
pub(super) fn panel_width() -> usize {
    Lanes.dispatch() * PANEL_VECTORS
}

struct Matmul<'a> {
    weights: &'a PackedWeights,
    panels: Range<usize>,
    rows: Rows<'a>,
    activation: Activation,
    /// The output, from the first of `panels`.
    out: Block<'a>,
}

impl SimdOp for Matmul<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(mut self, isa: I) {
        let width = isa.f32().len() * PANEL_VECTORS;
        let size = width * self.weights.inputs.max(1);
        let panels = &self.weights.panels;
        for index in self.panels.clone() {
            let (panel, next) = panels[index * size..].split_at(size);
            self.panel(isa, panel, index * width, next.as_ptr());
        }
    }
}

impl Matmul<'_> {
    /// Computes all rows × one panel, and prefetches the data at `next`.
    #[inline(always)]
    fn panel<I: Isa>(&mut self, isa: I, panel: &[f32], column: usize, next: *const f32) {
        // As many rows as fit into the registers: 16 registers on x86 without AVX-512, 32 elsewhere.
        let most = if cfg!(target_arch = "x86_64") && isa.f32().len() < 16 { 6 } else { MOST_ROWS };
        let mut row = 0;
        while row < self.rows.count {
            let rows = (self.rows.count - row).min(most);
            // The first two tiles of rows prefetch half of the next panel each, so that the memory is busy all the time, or a single one all of it.
            // Further ones prefetch nothing new.
            let next = match row / most {
                0 => Next { panel: next, whole: self.rows.count <= most },
                1 => Next { panel: next.wrapping_add(panel.len() / 2), whole: false },
                _ => Next { panel: panel.as_ptr(), whole: false },
            };
            match rows {
                8 => self.rows::<I, 8>(isa, row, panel, column, next),
                7 => self.rows::<I, 7>(isa, row, panel, column, next),
                6 => self.rows::<I, 6>(isa, row, panel, column, next),
                5 => self.rows::<I, 5>(isa, row, panel, column, next),
                4 => self.rows::<I, 4>(isa, row, panel, column, next),
                3 => self.rows::<I, 3>(isa, row, panel, column, next),
                2 => self.rows::<I, 2>(isa, row, panel, column, next),
                _ => self.rows::<I, 1>(isa, row, panel, column, next),
            }
            row += rows;
        }
    }

    /// Computes `R` rows × one panel.
    #[inline(always)]
    fn rows<I: Isa, const R: usize>(&mut self, isa: I, row: usize, panel: &[f32], column: usize, next: Next) {
        let ops = isa.f32();
        let lanes = ops.len();
        let width = lanes * PANEL_VECTORS;
        let columns = (self.weights.outputs - column).min(width);
        let first = column - self.panels.start * width;
        let sums = tile::<I, R>(isa, self.rows, row, panel, &self.weights.bias[column..][..width], next);
        for (r, sums) in sums.iter().enumerate() {
            let (residual, out) = self.out.row(row + r, first, columns);
            for (v, &sum) in sums.iter().enumerate() {
                // Only the last panel has partial vectors.
                let (from, to) = ((v * lanes).min(columns), ((v + 1) * lanes).min(columns));
                let mut y = self.activation.apply(isa, sum);
                if let Some(residual) = residual {
                    y = ops.add(y, ops.load_pad(&residual[from..to]).0);
                }
                match to - from == lanes {
                    true => {
                        ops.store(y, &mut out[from..]);
                    }
                    false => out[from..to].copy_from_slice(&y.to_array().as_ref()[..to - from]),
                }
            }
        }
    }
}

/// What a tile prefetches: a panel or half of one.
#[derive(Clone, Copy)]
struct Next {
    panel: *const f32,
    whole: bool,
}

impl Next {
    /// Prefetches the next `values` values.
    #[inline(always)]
    fn prefetch<I: Isa>(&mut self, isa: I, values: usize) {
        for line in (0..values).step_by(CACHE_LINE) {
            isa.f32().prefetch(self.panel.wrapping_add(line));
        }
        self.panel = self.panel.wrapping_add(values);
    }
}

/// bias + `R` rows · one panel. Prefetches the panel at `next`.
#[inline(always)]
fn tile<I: Isa, const R: usize>(
    isa: I,
    rows: Rows<'_>,
    first: usize,
    panel: &[f32],
    bias: &[f32],
    mut next: Next,
) -> [[I::F32; PANEL_VECTORS]; R] {
    let ops = isa.f32();
    let lanes = ops.len();
    let width = lanes * PANEL_VECTORS;
    // Slices as long as the loop: bounds are checked once here, not per element in the loop.
    let inputs = rows.width;
    let rows: [&[f32]; R] = std::array::from_fn(|r| &rows.row(first + r)[..inputs]);
    let mut sums = [[ops.load(bias), ops.load(&bias[lanes..])]; R];
    // Four inputs per iteration: for by-lane multiplication on Arm, and for fewer counters and branches elsewhere.
    let (panel, rest) = panel.split_at(inputs / FOUR * FOUR * width);
    let rows_by_four: [&[[f32; FOUR]]; R] = std::array::from_fn(|r| &rows[r].as_chunks().0[..inputs / FOUR]);
    for (four, weights) in (0..inputs / FOUR).zip(panel.chunks_exact(FOUR * width)) {
        next.prefetch(isa, FOUR * width / 2);
        if next.whole {
            next.prefetch(isa, FOUR * width / 2);
        }
        let x: [ByLane<I>; R] = std::array::from_fn(|r| ByLane::load(isa, &rows_by_four[r][four]));
        by_lane!(LANE => {
            in_order();
            let weights = &weights[LANE as usize * width..][..width];
            let weights = [ops.load(weights), ops.load(&weights[lanes..])];
            for r in 0..R {
                let x = x[r].broadcast::<LANE>(isa);
                for v in 0..PANEL_VECTORS {
                    sums[r][v] = ops.mul_add(weights[v], x, sums[r][v]);
                }
            }
        });
    }
    for (k, weights) in (inputs / FOUR * FOUR..inputs).zip(rest.chunks_exact(width)) {
        let weights = [ops.load(weights), ops.load(&weights[lanes..])];
        for r in 0..R {
            let x = ops.splat(rows[r][k]);
            for v in 0..PANEL_VECTORS {
                sums[r][v] = ops.mul_add(x, weights[v], sums[r][v]);
            }
        }
    }
    in_registers(sums)
}
