//! Products of a few rows with constant f32 weights, packed once: rows · weights + bias, an activation, a residual.
//!
//! The weights lie in panels as wide as a tile of the result, so that a panel is read from front to back while a tile of
//! rows × columns stays in registers. At 8 to 32 rows this reaches the processor's ceiling (docs/kernels.md).

use rten_simd::ops::NumOps;
use rten_simd::{Isa, SimdOp};

use super::{Activation, Rows};

/// Vectors in a panel's width.
const PANEL_VECTORS: usize = 2;

/// Constant weights `[inputs, outputs]` in panels, and the bias of the outputs.
#[derive(Debug, PartialEq)]
pub struct PackedWeights {
    /// Panel after panel, `inputs × panel width` each; the last one is filled with zeros.
    panels: Vec<f32>,
    /// As wide as all panels.
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
    /// Packs `weight(input, output)`; no bias is a bias of zeros.
    pub fn new(inputs: usize, outputs: usize, weight: impl Fn(usize, usize) -> f32, bias: Option<&[f32]>) -> Self {
        let width = Lanes.dispatch() * PANEL_VECTORS;
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

    /// `out [rows, outputs]` = activation(rows · weights + bias) + residual.
    ///
    /// # Panics
    /// If a shape does not fit.
    pub fn apply(&self, rows: Rows<'_>, activation: Activation, residual: Option<&[f32]>, out: &mut [f32]) {
        assert_eq!(rows.width, self.inputs);
        assert_eq!(out.len(), rows.count * self.outputs);
        assert!(residual.is_none_or(|residual| residual.len() == out.len()));
        Product { weights: self, rows, activation, residual, out }.dispatch();
    }
}

struct Product<'a> {
    weights: &'a PackedWeights,
    rows: Rows<'a>,
    activation: Activation,
    residual: Option<&'a [f32]>,
    out: &'a mut [f32],
}

impl SimdOp for Product<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(mut self, isa: I) {
        let width = isa.f32().len() * PANEL_VECTORS;
        // As many rows as the registers hold: 16 of them on x86 without AVX-512, 32 elsewhere.
        let most = if cfg!(target_arch = "x86_64") && isa.f32().len() < 16 { 6 } else { 8 };
        for (index, panel) in self.weights.panels.chunks_exact(width * self.weights.inputs.max(1)).enumerate() {
            let column = index * width;
            let mut row = 0;
            while row < self.rows.count {
                let rows = (self.rows.count - row).min(most);
                match rows {
                    8 => self.tile::<I, 8>(isa, panel, row, column),
                    7 => self.tile::<I, 7>(isa, panel, row, column),
                    6 => self.tile::<I, 6>(isa, panel, row, column),
                    5 => self.tile::<I, 5>(isa, panel, row, column),
                    4 => self.tile::<I, 4>(isa, panel, row, column),
                    3 => self.tile::<I, 3>(isa, panel, row, column),
                    2 => self.tile::<I, 2>(isa, panel, row, column),
                    _ => self.tile::<I, 1>(isa, panel, row, column),
                }
                row += rows;
            }
        }
    }
}

impl Product<'_> {
    /// `R` rows × one panel of the result.
    #[inline(always)]
    fn tile<I: Isa, const R: usize>(&mut self, isa: I, panel: &[f32], row: usize, column: usize) {
        let ops = isa.f32();
        let lanes = ops.len();
        let width = lanes * PANEL_VECTORS;
        let rows: [&[f32]; R] = std::array::from_fn(|r| self.rows.row(row + r));
        let bias: [I::F32; PANEL_VECTORS] = std::array::from_fn(|v| ops.load(&self.weights.bias[column + v * lanes..]));
        let mut sums = [bias; R];
        for (k, weights) in panel.chunks_exact(width).enumerate() {
            let weights: [I::F32; PANEL_VECTORS] = std::array::from_fn(|v| ops.load(&weights[v * lanes..]));
            for r in 0..R {
                let x = ops.splat(rows[r][k]);
                for v in 0..PANEL_VECTORS {
                    sums[r][v] = ops.mul_add(x, weights[v], sums[r][v]);
                }
            }
        }
        let outputs = self.weights.outputs;
        if self.activation != Activation::None {
            for sum in sums.iter_mut().flatten() {
                *sum = self.activation.apply(isa, *sum);
            }
        }
        for (r, sums) in sums.iter().enumerate() {
            let at = (row + r) * outputs + column;
            for (v, &sum) in sums.iter().enumerate() {
                let left = outputs.saturating_sub(column + v * lanes).min(lanes);
                let at = at + v * lanes;
                if left == lanes {
                    let sum = match self.residual {
                        Some(residual) => ops.add(sum, ops.load(&residual[at..])),
                        None => sum,
                    };
                    ops.store(sum, &mut self.out[at..]);
                } else if left > 0 {
                    let sum = match self.residual {
                        Some(residual) => ops.add(sum, ops.load_pad(&residual[at..at + left]).0),
                        None => sum,
                    };
                    let numbers = rten_simd::Simd::to_array(sum);
                    self.out[at..at + left].copy_from_slice(&numbers.as_ref()[..left]);
                }
            }
        }
    }
}
