//! The kernel on Arm: dot products of four i8 × i8 in each of four lanes (`sdot`, by lane), from the Cortex-A55 and A76 on.
#![allow(unsafe_code)]

use std::arch::aarch64::{int8x16_t, int32x4_t, vdupq_n_s32, vld1q_s8, vreinterpretq_s8_s32, vst1q_s32};
use std::arch::asm;

use super::{Block, COLUMNS, GROUP};

/// Rows per tile: with four vectors each, half of the registers.
const ROWS: usize = 4;

/// Proof that the processor has dot products.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DotProduct(());

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

    pub fn sums(self, rows: &[[u8; GROUP]], groups: usize, panel: &[Block], next: &[Block], sums: &mut [[i32; COLUMNS]]) {
        for (index, (rows, sums)) in rows.chunks(ROWS * groups).zip(sums.chunks_mut(ROWS)).enumerate() {
            for half in 0..2 {
                // Only the first tile prefetches.
                let next = if index + half == 0 { next } else { &[] };
                // SAFETY: a `DotProduct` exists only if the processor has the feature.
                unsafe {
                    match rows.len() / groups {
                        4 => tile::<4>(rows, groups, panel, half, next, sums),
                        3 => tile::<3>(rows, groups, panel, half, next, sums),
                        2 => tile::<2>(rows, groups, panel, half, next, sums),
                        _ => tile::<1>(rows, groups, panel, half, next, sums),
                    }
                }
            }
        }
    }
}

/// `R` rows × half of a panel's columns.
#[target_feature(enable = "neon,dotprod")]
fn tile<const R: usize>(
    rows: &[[u8; GROUP]],
    stride: usize,
    panel: &[Block],
    half: usize,
    next: &[Block],
    sums: &mut [[i32; COLUMNS]],
) {
    let (panel, _) = panel.as_chunks::<2>();
    let groups = panel.len();
    // Slices as long as the loop: bounds are checked once here.
    let mut parts: [&[[u8; GROUP]]; R] = [&[]; R];
    for (r, part) in parts.iter_mut().enumerate() {
        *part = &rows[r * stride..][..groups];
    }
    let mut tile = [[vdupq_n_s32(0); 4]; R];
    let (quads, rest) = panel.as_chunks::<4>();
    for (quad, panel) in quads.iter().enumerate() {
        for block in next.get(8 * quad..8 * quad + 8).unwrap_or(&[]) {
            fetch(block);
        }
        let mut x = [vreinterpretq_s8_s32(vdupq_n_s32(0)); R];
        for (x, part) in x.iter_mut().zip(&parts) {
            *x = load(part[4 * quad..4 * quad + 4].as_flattened());
        }
        macro_rules! lane {
            ($lane:literal) => {
                let weights = quarters(&panel[$lane][half]);
                for r in 0..R {
                    for v in 0..4 {
                        tile[r][v] = sdot!(tile[r][v], weights[v], x[r], $lane);
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
            let x = vreinterpretq_s8_s32(vdupq_n_s32(i32::from_ne_bytes(parts[r][4 * quads.len() + group])));
            for v in 0..4 {
                tile[r][v] = sdot!(tile[r][v], weights[v], x, 0);
            }
        }
    }
    for (tile, sums) in tile.into_iter().zip(sums) {
        let (parts, _) = sums[half * COLUMNS / 2..].as_chunks_mut::<4>();
        for (vector, part) in tile.into_iter().zip(parts) {
            // SAFETY: four i32 have the size of the vector.
            unsafe { vst1q_s32(part.as_mut_ptr(), vector) };
        }
    }
}

/// The first sixteen of `bytes`.
#[inline]
#[target_feature(enable = "neon")]
fn load(bytes: &[u8]) -> int8x16_t {
    assert!(bytes.len() >= 16);
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
