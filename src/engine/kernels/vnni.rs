//! Matrix products of 8-bit rows with constant 8-bit weights on x86 with AVX-512 VNNI, which multiplies four pairs of a u8 and an i8 and adds them up
//! in each of sixteen lanes at once.
//!
//! tract's kernels for this reach 57 % of the ceiling at a stream's 16 rows, these 90 % (docs/notes/kernels.md); elsewhere tract's are taken. No crate
//! that is kept up carries these instructions without `unsafe`, so that this is the one module of Bellis that has some.
#![allow(unsafe_code)]

use std::arch::x86_64::{
    __m512i, _mm512_dpbusd_epi32, _mm512_loadu_si512, _mm512_set1_epi32, _mm512_setzero_si512, _mm512_storeu_si512,
};

use super::in_registers;

/// Inputs that one instruction takes.
pub const GROUP: usize = 4;
/// Outputs of a panel: two vectors.
pub const COLUMNS: usize = 32;
/// Rows of a tile: with two vectors each, half of the registers.
const ROWS: usize = 8;

/// Sixteen columns × a group of inputs.
type Block = [i8; 64];

/// That this processor has the instructions.
#[derive(Clone, Copy, Debug)]
pub struct Vnni(());

impl Vnni {
    pub fn detect() -> Option<Self> {
        (std::arch::is_x86_feature_detected!("avx512f") && std::arch::is_x86_feature_detected!("avx512vnni")).then_some(Self(()))
    }

    /// `sums [T, COLUMNS]` = `rows [T, groups]` · `panel`. The panel at `next` is fetched meanwhile.
    ///
    /// # Panics
    /// If there are fewer sums than rows, or the panel has more groups than a row.
    pub fn sums(self, rows: &[[u8; GROUP]], groups: usize, panel: &[Block], next: &[Block], sums: &mut [[i32; COLUMNS]]) {
        let groups = groups.max(1);
        assert!(sums.len() >= rows.len() / groups);
        for (rows, sums) in rows.chunks(ROWS * groups).zip(sums.chunks_mut(ROWS)) {
            // SAFETY: a `Vnni` is there only where the processor has both features.
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
    // All as long as the loop below is: so much is checked here, and not group by group there.
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
                // SAFETY: sixteen i32 are as long as the vector, and need not be aligned.
                unsafe { _mm512_storeu_si512(half.as_mut_ptr().cast(), vector) };
            }
        }
    }
}

#[target_feature(enable = "avx512f")]
fn load(block: &Block) -> __m512i {
    // SAFETY: a block is as long as the vector, and need not be aligned.
    unsafe { _mm512_loadu_si512(block.as_ptr().cast()) }
}

#[inline(always)]
fn fetch(block: &Block) {
    use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
    // SAFETY: every x86 of 64 bits has it, and it reads nothing.
    unsafe { _mm_prefetch::<_MM_HINT_T0>(block.as_ptr()) };
}

/// Constant weights in steps, `[inputs, outputs]`, as [`Vnni::sums`] reads them.
#[derive(Debug)]
pub struct PackedSteps {
    /// Panel after panel, by group, two blocks each.
    blocks: Vec<Block>,
    /// Groups of inputs.
    pub groups: usize,
}

impl PackedSteps {
    /// Packs `steps [inputs, outputs]`; `None` if the inputs are no whole groups.
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

    /// The panels in order, each with the one that follows it.
    pub fn panels(&self) -> impl Iterator<Item = (&[Block], &[Block])> {
        let size = 2 * self.groups.max(1);
        let panel = move |index: usize| self.blocks.get(index * size..(index + 1) * size).unwrap_or(&[]);
        (0..self.blocks.len() / size).map(move |index| (panel(index), panel(index + 1)))
    }
}
