//! The kernels on x86: AVX-512 VNNI, whose instruction accumulates four u8 × i8 products in each of sixteen lanes, and AVX-VNNI with
//! eight lanes and half of the registers.
#![allow(unsafe_code)]

use std::arch::x86_64::{
    __m256i, __m512i, _mm256_dpbusd_avx_epi32, _mm256_loadu_si256, _mm256_set1_epi32, _mm256_setzero_si256, _mm256_storeu_si256,
    _mm512_dpbusd_epi32, _mm512_loadu_si512, _mm512_set1_epi32, _mm512_setzero_si512, _mm512_storeu_si512,
};
use std::hint::black_box;

use super::super::in_registers;
use super::{Block, COLUMNS, Tile};

/// Rows per tile of AVX-512 VNNI: with two vectors each, half of the registers.
pub const WIDE_ROWS: usize = 8;
/// Rows per tile of AVX-VNNI: with two vectors each, half of a panel's columns, 12 of 16 registers.
pub const NARROW_ROWS: usize = 6;

/// Proof that the processor has AVX-512 VNNI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Avx512Vnni(());

/// Proof that the processor has AVX-VNNI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AvxVnni(());

impl Avx512Vnni {
    pub fn detect() -> Option<Self> {
        (std::arch::is_x86_feature_detected!("avx512f") && std::arch::is_x86_feature_detected!("avx512vnni")).then_some(Self(()))
    }

    pub(super) fn compute(self, tile: Tile<'_>) {
        // SAFETY: an `Avx512Vnni` exists only if the processor has both features.
        unsafe {
            match tile.count() {
                8 => wide_tile::<8>(tile),
                7 => wide_tile::<7>(tile),
                6 => wide_tile::<6>(tile),
                5 => wide_tile::<5>(tile),
                4 => wide_tile::<4>(tile),
                3 => wide_tile::<3>(tile),
                2 => wide_tile::<2>(tile),
                _ => wide_tile::<1>(tile),
            }
        }
    }

    pub(super) fn compute_in_registers(self, rounds: usize) -> usize {
        // SAFETY: an `Avx512Vnni` exists only if the processor has both features.
        unsafe { wide_in_registers(rounds) }
    }
}

impl AvxVnni {
    pub fn detect() -> Option<Self> {
        (std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("avxvnni")).then_some(Self(()))
    }

    pub(super) fn compute(self, tile: Tile<'_>) {
        // SAFETY: an `AvxVnni` exists only if the processor has both features.
        unsafe {
            match tile.count() {
                6 => narrow_tile::<6>(tile),
                5 => narrow_tile::<5>(tile),
                4 => narrow_tile::<4>(tile),
                3 => narrow_tile::<3>(tile),
                2 => narrow_tile::<2>(tile),
                _ => narrow_tile::<1>(tile),
            }
        }
    }

    pub(super) fn compute_in_registers(self, rounds: usize) -> usize {
        // SAFETY: an `AvxVnni` exists only if the processor has both features.
        unsafe { narrow_in_registers(rounds) }
    }
}

#[target_feature(enable = "avx512f,avx512vnni")]
fn wide_tile<const R: usize>(tile: Tile<'_>) {
    let (panel, _) = tile.panel.as_chunks::<2>();
    let (next, more) = tile.next.split_at(tile.next.len().min(panel.len()));
    let rows = tile.rows::<R>(panel.len());
    let mut vectors = [[_mm512_setzero_si512(); 2]; R];
    for (group, weights) in panel.iter().enumerate() {
        if let Some(next) = next.get(group) {
            fetch(next);
        }
        if let Some(more) = more.get(group) {
            fetch(more);
        }
        let weights = [load(&weights[0]), load(&weights[1])];
        for r in 0..R {
            let x = _mm512_set1_epi32(i32::from_ne_bytes(rows[r][group]));
            for v in 0..2 {
                vectors[r][v] = _mm512_dpbusd_epi32(vectors[r][v], x, weights[v]);
            }
        }
    }
    for (vectors, sums) in in_registers(vectors).into_iter().zip(tile.sums) {
        let (low, high) = sums.split_at_mut(COLUMNS / 2);
        for (vector, half) in vectors.into_iter().zip([low, high]) {
            if let Some(half) = half.first_chunk_mut::<16>() {
                // SAFETY: sixteen i32 have the size of the vector, and the instruction needs no alignment.
                unsafe { _mm512_storeu_si512(half.as_mut_ptr().cast(), vector) };
            }
        }
    }
}

/// `R` rows × half of a panel's columns.
#[target_feature(enable = "avx2,avxvnni")]
fn narrow_tile<const R: usize>(tile: Tile<'_>) {
    let ((panel, _), (next, _), half) = (tile.panel.as_chunks::<2>(), tile.next.as_chunks::<2>(), tile.part.min(1));
    let rows = tile.rows::<R>(panel.len());
    let mut vectors = [[_mm256_setzero_si256(); 2]; R];
    for (group, weights) in panel.iter().enumerate() {
        if let Some(next) = next.get(group) {
            fetch(&next[half]);
        }
        let weights = halves(&weights[half]);
        for r in 0..R {
            let x = _mm256_set1_epi32(i32::from_ne_bytes(rows[r][group]));
            for v in 0..2 {
                vectors[r][v] = _mm256_dpbusd_avx_epi32(vectors[r][v], x, weights[v]);
            }
        }
    }
    for (vectors, sums) in in_registers(vectors).into_iter().zip(tile.sums) {
        let (parts, _) = sums[half * COLUMNS / 2..].as_chunks_mut::<8>();
        for (vector, part) in vectors.into_iter().zip(parts) {
            // SAFETY: eight i32 have the size of the vector, and the instruction needs no alignment.
            unsafe { _mm256_storeu_si256(part.as_mut_ptr().cast(), vector) };
        }
    }
}

/// Sums of the loops without loads: independent of each other, more than a latency's worth.
const INDEPENDENT: usize = 12;

#[target_feature(enable = "avx512f,avx512vnni")]
fn wide_in_registers(rounds: usize) -> usize {
    let x = _mm512_set1_epi32(black_box(0x0101_0101));
    let mut sums = [_mm512_setzero_si512(); INDEPENDENT];
    for (i, sum) in sums.iter_mut().enumerate() {
        *sum = _mm512_set1_epi32(i as i32);
    }
    for _ in 0..rounds {
        for sum in &mut sums {
            *sum = _mm512_dpbusd_epi32(*sum, x, x);
        }
    }
    in_registers(sums);
    rounds * INDEPENDENT * size_of::<__m512i>()
}

#[target_feature(enable = "avx2,avxvnni")]
fn narrow_in_registers(rounds: usize) -> usize {
    let x = _mm256_set1_epi32(black_box(0x0101_0101));
    let mut sums = [_mm256_setzero_si256(); INDEPENDENT];
    for (i, sum) in sums.iter_mut().enumerate() {
        *sum = _mm256_set1_epi32(i as i32);
    }
    for _ in 0..rounds {
        for sum in &mut sums {
            *sum = _mm256_dpbusd_avx_epi32(*sum, x, x);
        }
    }
    in_registers(sums);
    rounds * INDEPENDENT * size_of::<__m256i>()
}

#[inline]
#[target_feature(enable = "avx512f")]
fn load(block: &Block) -> __m512i {
    // SAFETY: a block has the size of the vector, and the instruction needs no alignment.
    unsafe { _mm512_loadu_si512(block.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx2")]
fn halves(block: &Block) -> [__m256i; 2] {
    let (low, high) = block.split_at(32);
    // SAFETY: both halves have the size of the vector, and the instruction needs no alignment.
    unsafe { [_mm256_loadu_si256(low.as_ptr().cast()), _mm256_loadu_si256(high.as_ptr().cast())] }
}

#[inline(always)]
fn fetch(block: &Block) {
    use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
    // SAFETY: every x86-64 processor has the instruction, and it does not access memory.
    unsafe { _mm_prefetch::<_MM_HINT_T0>(block.as_ptr()) };
}
