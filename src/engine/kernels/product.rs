//! Products of a few rows with constant weights, packed once: rows · weights + bias, an activation, a residual.
//!
//! The weights lie in panels as wide as a tile of the result, so that a panel is read from front to back while a tile of
//! rows × columns stays in registers. A stream reads all weights once a chunk, far more than a cache next to the core holds:
//! what bounds it is bytes (docs/kernels.md). So weights that came from 16 bits stay in 16 bits, exactly, and are widened panel by
//! panel, and the next panel is fetched while this one is computed.

use std::cell::RefCell;

use rten_simd::ops::{Extend, IntOps, NumOps};
use rten_simd::{Isa, Simd, SimdOp};

use super::short::Short;
use super::{Activation, Rows};

/// Rows of a tile at the most.
const MOST_ROWS: usize = 8;
/// Vectors in a panel's width.
const PANEL_VECTORS: usize = 2;

/// Panel after panel, `inputs × panel width` numbers each; the last one is filled with zeros.
#[derive(Debug, PartialEq)]
enum Panels {
    F32(Vec<f32>),
    /// What [`Short`] makes of them, and the factor that it takes back.
    Short(Vec<i16>, f32),
}

/// Constant weights `[inputs, outputs]` in panels, and the bias of the outputs.
#[derive(Debug, PartialEq)]
pub struct PackedWeights {
    panels: Panels,
    /// As wide as all panels.
    bias: Vec<f32>,
    pub inputs: usize,
    pub outputs: usize,
}

thread_local! {
    /// A panel in f32, and a tile of the result.
    static SCRATCH: RefCell<(Vec<f32>, Vec<f32>)> = const { RefCell::new((Vec::new(), Vec::new())) };
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
        let panels = match Short::of(&panels) {
            Some(short) => Panels::Short(panels.iter().map(|&weight| short.code(weight)).collect(), short.factor()),
            None => Panels::F32(panels),
        };
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
        SCRATCH.with_borrow_mut(|(widened, tile)| {
            Product { weights: self, rows, activation, residual, widened, tile, out }.dispatch();
        });
    }
}

struct Product<'a> {
    weights: &'a PackedWeights,
    rows: Rows<'a>,
    activation: Activation,
    residual: Option<&'a [f32]>,
    widened: &'a mut Vec<f32>,
    tile: &'a mut Vec<f32>,
    out: &'a mut [f32],
}

impl SimdOp for Product<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(mut self, isa: I) {
        let width = isa.f32().len() * PANEL_VECTORS;
        let size = width * self.weights.inputs.max(1);
        self.tile.resize(MOST_ROWS * width, 0.0);
        match &self.weights.panels {
            Panels::F32(panels) => {
                for (index, panel) in panels.chunks_exact(size).enumerate() {
                    let next = panels[(index + 1) * size..].as_ptr().cast();
                    self.panel(isa, panel, index * width, next, size * size_of::<f32>());
                }
            }
            Panels::Short(panels, factor) => {
                let mut widened = std::mem::take(self.widened);
                widened.resize(size, 0.0);
                for (index, panel) in panels.chunks_exact(size).enumerate() {
                    widen(isa, panel, *factor, &mut widened);
                    let next = panels[(index + 1) * size..].as_ptr().cast();
                    self.panel(isa, &widened, index * width, next, size * size_of::<i16>());
                }
                *self.widened = widened;
            }
        }
    }
}

/// A panel of [`Short`]'s codes in f32.
#[inline(always)]
fn widen<I: Isa>(isa: I, codes: &[i16], factor: f32, out: &mut [f32]) {
    let (ops, ints, shorts) = (isa.f32(), isa.i32(), isa.i16());
    let lanes = ops.len();
    let (mask, factor) = (ints.splat(Short::MASK), ops.splat(factor));
    for (codes, out) in codes.chunks_exact(2 * lanes).zip(out.chunks_exact_mut(2 * lanes)) {
        let (low, high) = shorts.extend(shorts.load(codes));
        for (half, out) in [low, high].into_iter().zip(out.chunks_exact_mut(lanes)) {
            let bits = ints.and(ints.shift_left::<{ Short::SHIFT }>(half), mask);
            ops.store(ops.mul(bits.reinterpret_cast::<I::F32>(), factor), out);
        }
    }
}

impl Product<'_> {
    /// All rows × one panel. `next_bytes` from `next` on are wanted after it.
    #[inline(always)]
    fn panel<I: Isa>(&mut self, isa: I, panel: &[f32], column: usize, next: *const f32, next_bytes: usize) {
        // As many rows as the registers hold: 16 of them on x86 without AVX-512, 32 elsewhere.
        let most = if cfg!(target_arch = "x86_64") && isa.f32().len() < 16 { 6 } else { MOST_ROWS };
        let (width, outputs) = (isa.f32().len() * PANEL_VECTORS, self.weights.outputs);
        let columns = (outputs - column).min(width);
        let mut row = 0;
        while row < self.rows.count {
            let rows = (self.rows.count - row).min(most);
            // The first tile of rows asks for the next panel, a step for each of its own.
            let next = (next, if row == 0 { next_bytes / self.weights.inputs.max(1) } else { 0 });
            let bias = &self.weights.bias[column..][..width];
            let tile = &mut self.tile[..rows * width];
            match rows {
                8 => rows_8(isa, self.rows, row, panel, bias, next, tile),
                7 => rows_7(isa, self.rows, row, panel, bias, next, tile),
                6 => rows_6(isa, self.rows, row, panel, bias, next, tile),
                5 => rows_5(isa, self.rows, row, panel, bias, next, tile),
                4 => rows_4(isa, self.rows, row, panel, bias, next, tile),
                3 => rows_3(isa, self.rows, row, panel, bias, next, tile),
                2 => rows_2(isa, self.rows, row, panel, bias, next, tile),
                _ => rows_1(isa, self.rows, row, panel, bias, next, tile),
            }
            for (r, sums) in tile.chunks_exact(width).enumerate() {
                let at = (row + r) * outputs + column;
                let residual = self.residual.map(|residual| &residual[at..][..columns]);
                finish(isa, self.activation, &sums[..columns], residual, &mut self.out[at..][..columns]);
            }
            row += rows;
        }
    }
}

/// A function that computes a tile of so many rows × one panel: `tile [rows, panel width]` = bias + rows · panel. What lies `next.1` bytes a step
/// from `next.0` on is fetched meanwhile.
///
/// Each sum has a name: in an array that anything indexes by a loop, all of them are written to memory at every step.
macro_rules! tile_of_rows {
    ($name:ident, $($row:literal $x:ident $low:ident $high:ident),+) => {
        #[inline(always)]
        fn $name<I: Isa>(isa: I, rows: Rows<'_>, first: usize, panel: &[f32], bias: &[f32], next: (*const f32, usize), tile: &mut [f32]) {
            let ops = isa.f32();
            let lanes = ops.len();
            let width = lanes * PANEL_VECTORS;
            // All as long as the loop below is: so much is checked here, and not number by number there.
            let inputs = rows.width;
            $(let $x = &rows.row(first + $row)[..inputs];)+
            $(let (mut $low, mut $high) = (ops.load(bias), ops.load(&bias[lanes..]));)+
            let (mut ahead, half_step) = (next.0, next.1 / 2);
            for (k, weights) in (0..inputs).zip(panel.chunks_exact(width)) {
                // Two lines a step in f32 on the widest vectors; where a step is shorter, one is asked for more than once, for nothing.
                ops.prefetch(ahead);
                ops.prefetch(ahead.wrapping_byte_add(half_step));
                ahead = ahead.wrapping_byte_add(next.1);
                let (weights_low, weights_high) = (ops.load(weights), ops.load(&weights[lanes..]));
                $(
                    let x = ops.splat($x[k]);
                    $low = ops.mul_add(x, weights_low, $low);
                    $high = ops.mul_add(x, weights_high, $high);
                )+
            }
            $(
                let tile_row = &mut tile[$row * width..][..width];
                ops.store($low, tile_row);
                ops.store($high, &mut tile_row[lanes..]);
            )+
        }
    };
}

tile_of_rows!(rows_1, 0 x0 a0 b0);
tile_of_rows!(rows_2, 0 x0 a0 b0, 1 x1 a1 b1);
tile_of_rows!(rows_3, 0 x0 a0 b0, 1 x1 a1 b1, 2 x2 a2 b2);
tile_of_rows!(rows_4, 0 x0 a0 b0, 1 x1 a1 b1, 2 x2 a2 b2, 3 x3 a3 b3);
tile_of_rows!(rows_5, 0 x0 a0 b0, 1 x1 a1 b1, 2 x2 a2 b2, 3 x3 a3 b3, 4 x4 a4 b4);
tile_of_rows!(rows_6, 0 x0 a0 b0, 1 x1 a1 b1, 2 x2 a2 b2, 3 x3 a3 b3, 4 x4 a4 b4, 5 x5 a5 b5);
tile_of_rows!(rows_7, 0 x0 a0 b0, 1 x1 a1 b1, 2 x2 a2 b2, 3 x3 a3 b3, 4 x4 a4 b4, 5 x5 a5 b5, 6 x6 a6 b6);
tile_of_rows!(rows_8, 0 x0 a0 b0, 1 x1 a1 b1, 2 x2 a2 b2, 3 x3 a3 b3, 4 x4 a4 b4, 5 x5 a5 b5, 6 x6 a6 b6, 7 x7 a7 b7);

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
