//! int8 matmuls with constant weights on x86 with AVX-512 VNNI, whose instruction accumulates four u8 × i8 products in each of sixteen
//! lanes.
//!
//! At a stream's 16 rows, these kernels reach 90 % of the peak and tract's 57 % (docs/notes/kernels.md); other processors use tract's.
//! No maintained crate offers these instructions without `unsafe`, so this is the only module of Bellis that uses it.
#![allow(unsafe_code)]

use std::arch::x86_64::{
    __m512i, _mm512_dpbusd_epi32, _mm512_loadu_si512, _mm512_set1_epi32, _mm512_setzero_si512, _mm512_storeu_si512,
};

use super::in_registers;

/// Inputs per instruction.
pub const GROUP: usize = 4;
/// Outputs per panel: two vectors.
pub const COLUMNS: usize = 32;
/// Rows per tile: with two vectors each, half of the registers.
const ROWS: usize = 8;

/// Sixteen columns × a group of inputs.
type Block = [i8; 64];

/// Proof that the processor has the instructions.
#[derive(Clone, Copy, Debug)]
pub struct Vnni(());

impl Vnni {
    pub fn detect() -> Option<Self> {
        (std::arch::is_x86_feature_detected!("avx512f") && std::arch::is_x86_feature_detected!("avx512vnni")).then_some(Self(()))
    }

    /// `sums [T, COLUMNS]` = `rows [T, groups]` · `panel`. Prefetches the panel at `next`.
    ///
    /// # Panics
    /// If there are fewer sums than rows, or the panel has more groups than a row.
    pub fn sums(self, rows: &[[u8; GROUP]], groups: usize, panel: &[Block], next: &[Block], sums: &mut [[i32; COLUMNS]]) {
        let groups = groups.max(1);
        assert!(sums.len() >= rows.len() / groups);
        for (rows, sums) in rows.chunks(ROWS * groups).zip(sums.chunks_mut(ROWS)) {
            // SAFETY: a `Vnni` exists only if the processor has both features.
            unsafe {
                match rows.len() / groups {
                    8 => tile::<8>(rows, groups, panel, next, sums),
                    7 => tile::<7>(rows, groups, panel, next, sums),
                    6 => tile::<6>(rows, groups, panel, next, sums),
                    5 => tile::<5>(rows, groups, panel, next, sums),
                    4 => tile::<4>(rows, groups, panel, next, sums),
                    3 => tile::<3>(rows, groups, panel, next, sums),
                    2 => tile::<2>(rows, groups, panel, next, sums),
                    _ => tile::<1>(rows, groups, panel, next, sums),
                }
            }
        }
    }
}

#[target_feature(enable = "avx512f,avx512vnni")]
fn tile<const R: usize>(rows: &[[u8; GROUP]], stride: usize, panel: &[Block], next: &[Block], sums: &mut [[i32; COLUMNS]]) {
    let (panel, _) = panel.as_chunks::<2>();
    let groups = panel.len();
    // Slices as long as the loop: bounds are checked once here, not per group in the loop.
    let rows: [&[[u8; GROUP]]; R] = std::array::from_fn(|r| &rows[r * stride..][..groups]);
    let mut tile = [[_mm512_setzero_si512(); 2]; R];
    for (group, weights) in panel.iter().enumerate() {
        if let Some(next) = next.get(2 * group..2 * group + 2) {
            fetch(&next[0]);
            fetch(&next[1]);
        }
        let weights = [load(&weights[0]), load(&weights[1])];
        for r in 0..R {
            let x = _mm512_set1_epi32(i32::from_ne_bytes(rows[r][group]));
            for v in 0..2 {
                tile[r][v] = _mm512_dpbusd_epi32(tile[r][v], x, weights[v]);
            }
        }
    }
    for (tile, sums) in in_registers(tile).into_iter().zip(sums) {
        let (low, high) = sums.split_at_mut(COLUMNS / 2);
        for (vector, half) in tile.into_iter().zip([low, high]) {
            if let Some(half) = half.first_chunk_mut::<16>() {
                // SAFETY: sixteen i32 have the size of the vector, and the instruction needs no alignment.
                unsafe { _mm512_storeu_si512(half.as_mut_ptr().cast(), vector) };
            }
        }
    }
}

#[target_feature(enable = "avx512f")]
fn load(block: &Block) -> __m512i {
    // SAFETY: a block has the size of the vector, and the instruction needs no alignment.
    unsafe { _mm512_loadu_si512(block.as_ptr().cast()) }
}

#[inline(always)]
fn fetch(block: &Block) {
    use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
    // SAFETY: every x86-64 processor has the instruction, and it does not access memory.
    unsafe { _mm_prefetch::<_MM_HINT_T0>(block.as_ptr()) };
}

/// Quantised constant weights `[inputs, outputs]`, packed for [`Vnni::sums`].
#[derive(Debug)]
pub struct PackedSteps {
    /// All panels in order, with two blocks per group.
    blocks: Vec<Block>,
    /// Groups of inputs.
    pub groups: usize,
}

impl PackedSteps {
    /// Packs `steps [inputs, outputs]`; `None` if the inputs are not a multiple of a group.
    pub fn new(steps: &[i8], inputs: usize, outputs: usize) -> Option<Self> {
        let groups = inputs / GROUP;
        if !inputs.is_multiple_of(GROUP) || steps.len() != inputs * outputs {
            return None;
        }
        let step = |input: usize, output: usize| if output < outputs { steps[input * outputs + output] } else { 0 };
        let mut blocks = Vec::with_capacity(outputs.div_ceil(COLUMNS) * groups * 2);
        for first in (0..outputs).step_by(COLUMNS) {
            for group in 0..groups {
                for half in [first, first + COLUMNS / 2] {
                    blocks.push(std::array::from_fn(|i| step(group * GROUP + i % GROUP, half + i / GROUP)));
                }
            }
        }
        Some(Self { blocks, groups })
    }

    /// The panels in order, each with the next one.
    pub fn panels(&self) -> impl Iterator<Item = (&[Block], &[Block])> {
        let size = 2 * self.groups.max(1);
        let panel = move |index: usize| self.blocks.get(index * size..(index + 1) * size).unwrap_or(&[]);
        (0..self.blocks.len() / size).map(move |index| (panel(index), panel(index + 1)))
    }
}
