//! int8 matmuls with constant weights, by instructions that add four 8-bit products to each 32-bit lane: VNNI on x86, dot product on Arm.
//!
//! The weights are packed in panels of 32 columns, read sequentially while a tile of rows × columns stays in registers, as in
//! [`super::matmul`]. No maintained crate offers these instructions without `unsafe`, so the files of this folder are the only ones of
//! Bellis that use it.

#[cfg(target_arch = "aarch64")]
mod arm;
#[cfg(target_arch = "x86_64")]
mod x86;

use super::int8::Steps;

/// Inputs per instruction.
pub const GROUP: usize = 4;
/// Outputs per panel.
pub const COLUMNS: usize = 32;

/// Sixteen columns × a group of inputs.
pub type Block = [i8; 64];

/// The instructions of this processor that a kernel uses. A value exists only if the processor has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DotKernel {
    #[cfg(target_arch = "x86_64")]
    Avx512Vnni(x86::Avx512Vnni),
    #[cfg(target_arch = "x86_64")]
    AvxVnni(x86::AvxVnni),
    #[cfg(target_arch = "aarch64")]
    DotProduct(arm::DotProduct),
}

impl DotKernel {
    /// The kernels that this processor can run, the fastest first.
    pub fn available() -> impl Iterator<Item = Self> {
        #[cfg(target_arch = "x86_64")]
        return [x86::Avx512Vnni::detect().map(Self::Avx512Vnni), x86::AvxVnni::detect().map(Self::AvxVnni)]
            .into_iter()
            .flatten();
        #[cfg(target_arch = "aarch64")]
        return arm::DotProduct::detect().map(Self::DotProduct).into_iter();
        #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
        std::iter::empty()
    }

    /// Representation of the rows' levels that the instructions multiply with signed weights.
    pub fn steps(self) -> Steps {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Vnni(_) | Self::AvxVnni(_) => Steps::U8,
            #[cfg(target_arch = "aarch64")]
            Self::DotProduct(_) => Steps::I8,
        }
    }

    /// `sums [T, COLUMNS]` = `rows [T, groups]` · `panel`. Prefetches the panel at `next`.
    ///
    /// # Panics
    /// If there are fewer sums than rows, or the panel has more groups than a row.
    #[cfg_attr(not(any(target_arch = "x86_64", target_arch = "aarch64")), allow(unused_variables))]
    pub fn sums(self, rows: &[[u8; GROUP]], groups: usize, panel: &[Block], next: &[Block], sums: &mut [[i32; COLUMNS]]) {
        let groups = groups.max(1);
        assert!(sums.len() >= rows.len() / groups);
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Vnni(kernel) => kernel.sums(rows, groups, panel, next, sums),
            #[cfg(target_arch = "x86_64")]
            Self::AvxVnni(kernel) => kernel.sums(rows, groups, panel, next, sums),
            #[cfg(target_arch = "aarch64")]
            Self::DotProduct(kernel) => kernel.sums(rows, groups, panel, next, sums),
        }
    }
}

/// Quantised constant weights `[inputs, outputs]`, packed for [`DotKernel::sums`].
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
