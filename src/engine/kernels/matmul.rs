//! f32 matmuls of a few rows with constant packed weights: activation(rows · weights + bias) + residual.
//!
//! The weights are stored in panels as wide as a tile of the result, so that a panel is read sequentially while a tile of
//! rows × columns stays in registers. A stream reads all weights once per chunk, far more than fits into L1 or L2: the next panel is
//! prefetched while the current one is computed (docs/notes/kernels.md).

use std::cell::RefCell;
use std::ops::Range;
use std::sync::Arc;

use rten_simd::ops::NumOps;
use rten_simd::{Isa, Simd, SimdOp};

use super::by_lane::{ByLane, FOUR, by_lane};
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

thread_local! {
    /// A tile of the result.
    static TILE: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
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
        let out = Block { numbers: out, stride: self.outputs, first: 0, residual };
        self.compute(0..self.panel_count(), rows, activation, out);
    }

    /// As [`apply`](Self::apply), with `helpers` for some of the panels. The result is bit-identical.
    ///
    /// # Panics
    /// If the shapes do not match.
    pub fn apply_with(
        self: &Arc<Self>,
        helpers: &Helpers,
        rows: Rows<'_>,
        activation: Activation,
        residual: Option<&[f32]>,
        out: &mut [f32],
    ) {
        let (stride, width) = (self.outputs, panel_width());
        helpers.share(
            self.panel_count(),
            || self.offered(rows, activation),
            |panel, block| {
                let out = Block { numbers: &mut *out, stride, first: panel * width, residual };
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
        TILE.with_borrow_mut(|tile| Matmul { weights: self, panels, rows, activation, tile, out }.dispatch());
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
    tile: &'a mut Vec<f32>,
    /// The output, from the first of `panels`.
    out: Block<'a>,
}

impl SimdOp for Matmul<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(mut self, isa: I) {
        let width = isa.f32().len() * PANEL_VECTORS;
        let size = width * self.weights.inputs.max(1);
        self.tile.resize(MOST_ROWS * width, 0.0);
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
        let width = isa.f32().len() * PANEL_VECTORS;
        let columns = (self.weights.outputs - column).min(width);
        let first = column - self.panels.start * width;
        let mut row = 0;
        while row < self.rows.count {
            let rows = (self.rows.count - row).min(most);
            // Only the first tile of rows prefetches the next panel; the others point to the current one.
            let next = if row == 0 { next } else { panel.as_ptr() };
            let bias = &self.weights.bias[column..][..width];
            let tile = &mut self.tile[..rows * width];
            match rows {
                8 => self::tile::<I, 8>(isa, self.rows, row, panel, bias, next, tile),
                7 => self::tile::<I, 7>(isa, self.rows, row, panel, bias, next, tile),
                6 => self::tile::<I, 6>(isa, self.rows, row, panel, bias, next, tile),
                5 => self::tile::<I, 5>(isa, self.rows, row, panel, bias, next, tile),
                4 => self::tile::<I, 4>(isa, self.rows, row, panel, bias, next, tile),
                3 => self::tile::<I, 3>(isa, self.rows, row, panel, bias, next, tile),
                2 => self::tile::<I, 2>(isa, self.rows, row, panel, bias, next, tile),
                _ => self::tile::<I, 1>(isa, self.rows, row, panel, bias, next, tile),
            }
            for (r, sums) in tile.chunks_exact(width).enumerate() {
                let (residual, out) = self.out.row(row + r, first, columns);
                finish(isa, self.activation, &sums[..columns], residual, out);
            }
            row += rows;
        }
    }
}

/// `R` rows × one panel: `tile [R, panel width]` = bias + rows · panel. Prefetches the panel at `next`.
#[inline(always)]
fn tile<I: Isa, const R: usize>(
    isa: I,
    rows: Rows<'_>,
    first: usize,
    panel: &[f32],
    bias: &[f32],
    mut next: *const f32,
    tile: &mut [f32],
) {
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
        for line in (0..FOUR * width).step_by(CACHE_LINE) {
            ops.prefetch(next.wrapping_add(line));
        }
        next = next.wrapping_add(FOUR * width);
        let x: [ByLane<I>; R] = std::array::from_fn(|r| ByLane::load(isa, &rows_by_four[r][four]));
        by_lane!(LANE => {
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
    for (sums, tile) in in_registers(sums).into_iter().zip(tile.chunks_exact_mut(width)) {
        for (sum, tile) in sums.into_iter().zip(tile.chunks_exact_mut(lanes)) {
            ops.store(sum, tile);
        }
    }
}

/// `out` = activation(`sums`) + residual.
#[inline(always)]
fn finish<I: Isa>(isa: I, activation: Activation, sums: &[f32], residual: Option<&[f32]>, out: &mut [f32]) {
    let ops = isa.f32();
    let lanes = ops.len();
    for at in (0..sums.len()).step_by(lanes) {
        let left = (sums.len() - at).min(lanes);
        let mut y = activation.apply(isa, ops.load_pad(&sums[at..at + left]).0);
        if let Some(residual) = residual {
            y = ops.add(y, ops.load_pad(&residual[at..at + left]).0);
        }
        match left == lanes {
            true => {
                ops.store(y, &mut out[at..]);
            }
            false => out[at..].copy_from_slice(&y.to_array().as_ref()[..left]),
        }
    }
}
