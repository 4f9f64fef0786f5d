//! The kernels on Arm: dot products of four i8 × i8 in each of four lanes (`sdot`, by lane), from the Cortex-A55 and A76 on, and widening
//! multiplication (`smull`, `smlal2`, `sadalp`) on every 64-bit core.
#![allow(unsafe_code)]

use std::arch::aarch64::{
    int8x16_t, int32x4_t, vdupq_n_s32, vget_low_s8, vld1q_s8, vmlal_high_s8, vmull_s8, vpadalq_s16, vpaddq_s32,
    vreinterpretq_s8_s32, vst1q_s32,
};
use std::arch::asm;
use std::hint::black_box;

use super::{Block, COLUMNS, Tile, first_rows};

/// Rows per tile of the dot product: with four vectors each, half of the registers.
pub const DOT_ROWS: usize = 4;
/// Rows per tile of widening multiplication: with one vector for each of four columns, half of the registers.
pub const NEON_ROWS: usize = 4;
/// Parts of a panel of widening multiplication, four columns each.
pub const NEON_PARTS: usize = COLUMNS / 4;

/// Proof that the processor has dot products.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DotProduct(());

/// Widening multiplication, which every AArch64 processor has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Neon(());

/// `sum` + the products of `weights` with lane `lane` of `x`. The intrinsic is not stable.
macro_rules! sdot {
    ($sum:expr, $weights:expr, $x:expr, $lane:literal) => {{
        let mut sum: int32x4_t = $sum;
        // SAFETY: the instruction only reads and writes these registers, and the surrounding function requires its feature.
        unsafe {
            asm!(
                concat!("sdot {0:v}.4s, {1:v}.16b, {2:v}.4b[", $lane, "]"),
                inout(vreg) sum, in(vreg) $weights, in(vreg) $x,
                options(pure, nomem, nostack, preserves_flags),
            );
        }
        sum
    }};
}

impl DotProduct {
    pub fn detect() -> Option<Self> {
        std::arch::is_aarch64_feature_detected!("dotprod").then_some(Self(()))
    }

    pub(super) fn compute(self, tile: Tile<'_>) {
        // SAFETY: a `DotProduct` exists only if the processor has the feature.
        unsafe {
            match tile.count() {
                4 => dot_tile::<4>(tile),
                3 => dot_tile::<3>(tile),
                2 => dot_tile::<2>(tile),
                _ => dot_tile::<1>(tile),
            }
        }
    }

    pub(super) fn compute_in_registers(self, rounds: usize) -> usize {
        // SAFETY: a `DotProduct` exists only if the processor has the feature.
        unsafe { dot_in_registers(rounds) }
    }
}

/// `R` rows × half of a panel's columns.
#[target_feature(enable = "neon,dotprod")]
fn dot_tile<const R: usize>(tile: Tile<'_>) {
    let ((panel, _), (next, _), half) = (tile.panel.as_chunks::<2>(), tile.next.as_chunks::<2>(), tile.part.min(1));
    let (quads, rest) = panel.as_chunks::<4>();
    let rows = tile.rows::<R>(panel.len());
    let rows_by_quad = rows.map(|row| row.as_flattened().as_chunks::<16>().0).map(|row| &row[..quads.len()]);
    let mut vectors = [[vdupq_n_s32(0); 4]; R];
    for (quad, panel) in quads.iter().enumerate() {
        if let Some(next) = next.as_chunks::<4>().0.get(quad) {
            next.iter().for_each(|blocks| fetch(&blocks[half]));
        }
        let mut x = [vreinterpretq_s8_s32(vdupq_n_s32(0)); R];
        for (x, row) in x.iter_mut().zip(&rows_by_quad) {
            *x = load(&row[quad]);
        }
        macro_rules! lane {
            ($lane:literal) => {
                let weights = quarters(&panel[$lane][half]);
                for r in 0..R {
                    for v in 0..4 {
                        vectors[r][v] = sdot!(vectors[r][v], weights[v], x[r], $lane);
                    }
                }
            };
        }
        lane!(0);
        lane!(1);
        lane!(2);
        lane!(3);
    }
    for (group, panel) in rest.iter().enumerate() {
        let weights = quarters(&panel[half]);
        for r in 0..R {
            let x = vreinterpretq_s8_s32(vdupq_n_s32(i32::from_ne_bytes(rows[r][4 * quads.len() + group])));
            for v in 0..4 {
                vectors[r][v] = sdot!(vectors[r][v], weights[v], x, 0);
            }
        }
    }
    for (vectors, sums) in vectors.into_iter().zip(tile.sums) {
        let (parts, _) = sums[half * COLUMNS / 2..].as_chunks_mut::<4>();
        for (vector, part) in vectors.into_iter().zip(parts) {
            // SAFETY: four i32 have the size of the vector.
            unsafe { vst1q_s32(part.as_mut_ptr(), vector) };
        }
    }
}

impl Neon {
    pub fn detect() -> Option<Self> {
        std::arch::is_aarch64_feature_detected!("neon").then_some(Self(()))
    }

    pub(super) fn compute(self, tile: Tile<'_>) {
        let whole = tile.count() - tile.count() % NEON_ROWS;
        let (rows, rest_of_rows) = tile.rows.split_at(whole * tile.stride);
        let (sums, rest_of_sums) = tile.sums.split_at_mut(whole);
        let next = if whole == 0 { tile.next } else { &[] };
        let rest = Tile { rows: rest_of_rows, sums: rest_of_sums, next, ..tile };
        // SAFETY: a `Neon` exists only if the processor has the feature.
        unsafe {
            neon_tiles::<NEON_ROWS>(Tile { rows, sums, ..tile });
            match rest.count() {
                3 => neon_tiles::<3>(rest),
                2 => neon_tiles::<2>(rest),
                1 => neon_tiles::<1>(rest),
                _ => {}
            }
        }
    }

    pub(super) fn compute_in_registers(self, rounds: usize) -> usize {
        // SAFETY: a `Neon` exists only if the processor has the feature.
        unsafe { neon_in_registers(rounds) }
    }
}

/// Tiles of `R` rows × four columns. Each lane of a vector sums a quarter of the inputs. Two products fit into 16 bits: a row's steps are at
/// least −128, and those of the weights at least −127.
#[inline(never)]
#[target_feature(enable = "neon")]
fn neon_tiles<const R: usize>(tile: Tile<'_>) {
    let depth = tile.panel.len() / NEON_PARTS;
    // The next four columns follow those of this part, in this panel or the next one.
    let (panel, after) = tile.panel[tile.part * depth..].split_at(depth);
    let mut next = match tile.next {
        [] => &[],
        next if after.is_empty() => &next[..depth.min(next.len())],
        _ => &after[..depth],
    };
    let mut rest = tile.rows;
    for sums in tile.sums.as_chunks_mut::<R>().0 {
        let rows = first_rows::<R>(rest, tile.stride, 4 * depth);
        let rows = rows.map(|row| row.as_flattened().as_chunks::<16>().0).map(|row| &row[..depth]);
        rest = rest.get(R * tile.stride..).unwrap_or(&[]);
        let mut vectors = [[vdupq_n_s32(0); 4]; R];
        for (step, block) in panel.iter().enumerate() {
            if let Some(next) = next.get(step) {
                fetch(next);
            }
            let weights = quarters(block);
            for r in 0..R {
                let x = load(&rows[r][step]);
                for v in 0..4 {
                    let products = vmlal_high_s8(vmull_s8(vget_low_s8(weights[v]), vget_low_s8(x)), weights[v], x);
                    vectors[r][v] = vpadalq_s16(vectors[r][v], products);
                }
            }
        }
        for (vectors, sums) in vectors.into_iter().zip(sums) {
            let part = &mut sums.as_chunks_mut::<4>().0[tile.part % NEON_PARTS];
            let sums = vpaddq_s32(vpaddq_s32(vectors[0], vectors[1]), vpaddq_s32(vectors[2], vectors[3]));
            // SAFETY: four i32 have the size of the vector.
            unsafe { vst1q_s32(part.as_mut_ptr(), sums) };
        }
        // Only the first tile of rows prefetches.
        next = &[];
    }
}

/// Sums of the loops without loads: independent of each other, more than a latency's worth.
const INDEPENDENT: usize = 16;

#[target_feature(enable = "neon,dotprod")]
fn dot_in_registers(rounds: usize) -> usize {
    let mut sums = [vdupq_n_s32(0); INDEPENDENT];
    let x = vreinterpretq_s8_s32(sums[0]);
    for _ in 0..rounds {
        for sum in &mut sums {
            *sum = sdot!(*sum, x, x, 0);
        }
    }
    black_box(sums);
    rounds * INDEPENDENT * size_of::<int8x16_t>()
}

#[target_feature(enable = "neon")]
fn neon_in_registers(rounds: usize) -> usize {
    let mut sums = [vdupq_n_s32(0); INDEPENDENT];
    let x = vreinterpretq_s8_s32(sums[0]);
    for _ in 0..rounds {
        for [a, b, c, d] in sums.as_chunks_mut::<4>().0 {
            // In assembly, because the compiler would move the multiplications out of the loop. Four at a time, because the A53 computes in
            // order.
            // SAFETY: the instructions only read and write these registers, and the surrounding function requires their feature.
            unsafe {
                asm!(
                    "smull {p:v}.8h, {x:v}.8b, {x:v}.8b",
                    "smull {q:v}.8h, {x:v}.8b, {x:v}.8b",
                    "smull {r:v}.8h, {x:v}.8b, {x:v}.8b",
                    "smull {s:v}.8h, {x:v}.8b, {x:v}.8b",
                    "smlal2 {p:v}.8h, {x:v}.16b, {x:v}.16b",
                    "smlal2 {q:v}.8h, {x:v}.16b, {x:v}.16b",
                    "smlal2 {r:v}.8h, {x:v}.16b, {x:v}.16b",
                    "smlal2 {s:v}.8h, {x:v}.16b, {x:v}.16b",
                    "sadalp {a:v}.4s, {p:v}.8h",
                    "sadalp {b:v}.4s, {q:v}.8h",
                    "sadalp {c:v}.4s, {r:v}.8h",
                    "sadalp {d:v}.4s, {s:v}.8h",
                    a = inout(vreg) *a, b = inout(vreg) *b, c = inout(vreg) *c, d = inout(vreg) *d, x = in(vreg) x,
                    p = out(vreg) _, q = out(vreg) _, r = out(vreg) _, s = out(vreg) _,
                    options(nomem, nostack, preserves_flags),
                );
            }
        }
    }
    black_box(sums);
    rounds * INDEPENDENT * size_of::<int8x16_t>()
}

#[inline]
#[target_feature(enable = "neon")]
fn load(bytes: &[u8; 16]) -> int8x16_t {
    // SAFETY: sixteen bytes have the size of the vector.
    unsafe { vld1q_s8(bytes.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "neon")]
fn quarters(block: &Block) -> [int8x16_t; 4] {
    // SAFETY: a block has the size of four vectors.
    unsafe {
        let first = block.as_ptr();
        [vld1q_s8(first), vld1q_s8(first.add(16)), vld1q_s8(first.add(32)), vld1q_s8(first.add(48))]
    }
}

#[inline(always)]
fn fetch(block: &Block) {
    // SAFETY: a prefetch does not access memory.
    unsafe { asm!("prfm pldl1keep, [{0}]", in(reg) block.as_ptr(), options(nostack, preserves_flags, readonly)) };
}
