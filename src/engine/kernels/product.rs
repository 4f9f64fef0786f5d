//! Products of a few rows with constant weights, packed once: rows · weights + bias, an activation, a residual.
//!
//! The weights lie in panels as wide as a tile of the result, so that a panel is read from front to back while a tile of
//! rows × columns stays in registers. At 8 to 32 rows this reaches the processor's ceiling (docs/kernels.md).

use half::f16;
use rten_simd::ops::{Extend, IntOps, NumOps};
use rten_simd::{Isa, Simd, SimdOp};

use super::{Activation, Rows};

/// Vectors in a panel's width.
const PANEL_VECTORS: usize = 2;

/// Constant weights `[inputs, outputs]` in panels, and the bias of the outputs.
#[derive(Debug, PartialEq)]
pub struct PackedWeights {
    panels: Panels,
    /// As wide as all panels.
    bias: Vec<f32>,
    pub inputs: usize,
    pub outputs: usize,
}

/// Panel after panel, `inputs × panel width` each; the last one is filled with zeros.
#[derive(Debug, PartialEq)]
enum Panels {
    F32(Vec<f32>),
    /// Bits of f16, and by panel the factor that turns them back.
    F16(Vec<i16>, Vec<f32>),
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
        Self { panels: Panels::F32(panels), bias: padded_bias, inputs, outputs }
    }

    /// The same weights in 16 bits: exact for those that were f16 before.
    pub fn halved(self) -> Self {
        let Panels::F32(panels) = &self.panels else { return self };
        let panel = (panels.len() / (self.bias.len() / (Lanes.dispatch() * PANEL_VECTORS)).max(1)).max(1);
        let mut bits = Vec::with_capacity(panels.len());
        let mut factors = Vec::new();
        for panel in panels.chunks(panel) {
            // As large as f16 holds, so that no weight that matters is among its subnormal numbers, which are slow: those are zero.
            let most = panel.iter().fold(f32::MIN_POSITIVE, |most, weight| most.max(weight.abs()));
            let shift = (14.0 - most.log2().floor()).clamp(-100.0, 100.0);
            bits.extend(panel.iter().map(|weight| {
                let half = f16::from_f32(weight * shift.exp2());
                if half.is_normal() { half.to_bits() as i16 } else { 0 }
            }));
            factors.push((112.0 - shift).exp2());
        }
        Self { panels: Panels::F16(bits, factors), ..self }
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
        let size = width * self.weights.inputs.max(1);
        match &self.weights.panels {
            Panels::F32(panels) => {
                for (index, panel) in panels.chunks_exact(size).enumerate() {
                    self.panel::<I, f32>(isa, panel, 1.0, index * width, most);
                }
            }
            Panels::F16(panels, factors) => {
                for (index, (panel, &factor)) in panels.chunks_exact(size).zip(factors).enumerate() {
                    self.panel::<I, i16>(isa, panel, factor, index * width, most);
                }
            }
        }
    }
}

/// A weight as it is stored.
trait Weight: Copy {
    /// A panel's row of weights; `factor` turns 16 bits back.
    fn row<I: Isa>(isa: I, weights: &[Self], factor: I::F32) -> [I::F32; PANEL_VECTORS];
}

impl Weight for f32 {
    #[inline(always)]
    fn row<I: Isa>(isa: I, weights: &[Self], _factor: I::F32) -> [I::F32; PANEL_VECTORS] {
        let ops = isa.f32();
        std::array::from_fn(|v| ops.load(&weights[v * ops.len()..]))
    }
}

impl Weight for i16 {
    #[inline(always)]
    fn row<I: Isa>(isa: I, weights: &[Self], factor: I::F32) -> [I::F32; PANEL_VECTORS] {
        let (low, high) = isa.i16().extend(isa.i16().load(weights));
        [low, high].map(|half| {
            // f16's exponent and fraction where f32 has its own, the sign on top; the factor makes up for the other bias.
            let bits = isa.i32().and(isa.i32().shift_left::<13>(half), isa.i32().splat(0x8fff_e000_u32 as i32));
            isa.f32().mul(bits.reinterpret_cast::<I::F32>(), factor)
        })
    }
}

impl Product<'_> {
    #[inline(always)]
    fn panel<I: Isa, W: Weight>(&mut self, isa: I, panel: &[W], factor: f32, column: usize, most: usize) {
        let mut row = 0;
        while row < self.rows.count {
            let rows = (self.rows.count - row).min(most);
            match rows {
                8 => self.tile::<I, W, 8>(isa, panel, factor, row, column),
                7 => self.tile::<I, W, 7>(isa, panel, factor, row, column),
                6 => self.tile::<I, W, 6>(isa, panel, factor, row, column),
                5 => self.tile::<I, W, 5>(isa, panel, factor, row, column),
                4 => self.tile::<I, W, 4>(isa, panel, factor, row, column),
                3 => self.tile::<I, W, 3>(isa, panel, factor, row, column),
                2 => self.tile::<I, W, 2>(isa, panel, factor, row, column),
                _ => self.tile::<I, W, 1>(isa, panel, factor, row, column),
            }
            row += rows;
        }
    }

    /// `R` rows × one panel of the result.
    #[inline(always)]
    fn tile<I: Isa, W: Weight, const R: usize>(&mut self, isa: I, panel: &[W], factor: f32, row: usize, column: usize) {
        let ops = isa.f32();
        let lanes = ops.len();
        let width = lanes * PANEL_VECTORS;
        let rows: [&[f32]; R] = std::array::from_fn(|r| self.rows.row(row + r));
        let bias: [I::F32; PANEL_VECTORS] = std::array::from_fn(|v| ops.load(&self.weights.bias[column + v * lanes..]));
        let (mut sums, factor) = ([bias; R], ops.splat(factor));
        for (k, weights) in panel.chunks_exact(width).enumerate() {
            let weights = W::row(isa, weights, factor);
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
                    let numbers = sum.to_array();
                    self.out[at..at + left].copy_from_slice(&numbers.as_ref()[..left]);
                }
            }
        }
    }
}
