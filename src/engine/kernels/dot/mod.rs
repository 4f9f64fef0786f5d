//! int8 matmuls with constant weights, by instructions that multiply 8-bit integers exactly: VNNI on x86, dot product and widening
//! multiplication on Arm.
//!
//! The weights are packed in panels of 32 columns, read sequentially while a tile of rows × columns stays in registers, as in
//! [`super::matmul`]. No maintained crate offers these instructions, nor those of [`transpose`], without `unsafe`, so the files of this
//! folder are the only ones of Bellis that use it.

#[cfg(target_arch = "aarch64")]
mod arm;
pub mod transpose;
#[cfg(target_arch = "x86_64")]
mod x86;

use super::int8::Steps;

/// Inputs that are quantised and passed together: those of one lane of a dot product.
pub const GROUP: usize = 4;
/// Outputs per panel.
pub const COLUMNS: usize = 32;

/// A part of the weights in the order in which a kernel reads it: some columns × some inputs, a cache line.
pub type Block = [i8; 64];

/// A row's inputs, by group.
type Row<'a> = &'a [[u8; GROUP]];

/// Order of the weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packing {
    /// A block is 16 columns × 4 inputs. A panel is two blocks, its two halves, per group of inputs.
    ByInput,
    /// A block is 4 columns × 16 inputs. A panel is eight sequences of blocks, one per four columns.
    #[cfg_attr(not(target_arch = "aarch64"), allow(dead_code))]
    ByColumn,
}

impl Packing {
    /// Inputs per block.
    pub const fn depth(self) -> usize {
        match self {
            Self::ByInput => GROUP,
            Self::ByColumn => 16,
        }
    }
}

/// The block from `input` and `output` on, with `DEPTH` inputs of each column.
fn block<const DEPTH: usize>(step: impl Fn(usize, usize) -> i8, input: usize, output: usize) -> Block {
    std::array::from_fn(|i| step(input + i % DEPTH, output + i / DEPTH))
}

/// The instructions of this processor that a kernel uses. A value exists only if the processor has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DotKernel {
    #[cfg(target_arch = "x86_64")]
    Avx512Vnni(x86::Avx512Vnni),
    #[cfg(target_arch = "x86_64")]
    AvxVnni(x86::AvxVnni),
    #[cfg(target_arch = "aarch64")]
    DotProduct(arm::DotProduct),
    #[cfg(target_arch = "aarch64")]
    Neon(arm::Neon),
}

impl DotKernel {
    /// The kernels that this processor can run, the fastest first.
    pub fn available() -> impl Iterator<Item = Self> {
        #[cfg(target_arch = "x86_64")]
        return [x86::Avx512Vnni::detect().map(Self::Avx512Vnni), x86::AvxVnni::detect().map(Self::AvxVnni)]
            .into_iter()
            .flatten();
        #[cfg(target_arch = "aarch64")]
        return [arm::DotProduct::detect().map(Self::DotProduct), arm::Neon::detect().map(Self::Neon)].into_iter().flatten();
        #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
        std::iter::empty()
    }

    /// Name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Vnni(_) => "avx512-vnni",
            #[cfg(target_arch = "x86_64")]
            Self::AvxVnni(_) => "avx-vnni",
            #[cfg(target_arch = "aarch64")]
            Self::DotProduct(_) => "dotprod",
            #[cfg(target_arch = "aarch64")]
            Self::Neon(_) => "neon",
        }
    }

    /// Executes the kernel's multiplications and sums in registers, without loads, and returns the number of MACs: to measure the ceiling of
    /// the kernel on this processor.
    #[cfg_attr(not(any(target_arch = "x86_64", target_arch = "aarch64")), allow(unused_variables))]
    pub fn compute_in_registers(self, rounds: usize) -> usize {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Vnni(kernel) => kernel.compute_in_registers(rounds),
            #[cfg(target_arch = "x86_64")]
            Self::AvxVnni(kernel) => kernel.compute_in_registers(rounds),
            #[cfg(target_arch = "aarch64")]
            Self::DotProduct(kernel) => kernel.compute_in_registers(rounds),
            #[cfg(target_arch = "aarch64")]
            Self::Neon(kernel) => kernel.compute_in_registers(rounds),
        }
    }

    /// Representation of the rows' levels that the instructions multiply with signed weights.
    pub fn steps(self) -> Steps {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Vnni(_) | Self::AvxVnni(_) => Steps::U8,
            #[cfg(target_arch = "aarch64")]
            Self::DotProduct(_) | Self::Neon(_) => Steps::I8,
        }
    }

    /// Order in which the kernel reads the weights.
    pub fn packing(self) -> Packing {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Vnni(_) | Self::AvxVnni(_) => Packing::ByInput,
            #[cfg(target_arch = "aarch64")]
            Self::DotProduct(_) => Packing::ByInput,
            #[cfg(target_arch = "aarch64")]
            Self::Neon(_) => Packing::ByColumn,
        }
    }

    /// `sums [T, COLUMNS]` = `rows [T, groups]` · `panel`. Prefetches the panel at `next`.
    ///
    /// # Panics
    /// If there are fewer sums than rows, or the panel has more groups than a row.
    #[cfg_attr(not(any(target_arch = "x86_64", target_arch = "aarch64")), allow(unused_variables))]
    pub fn sums(self, rows: &[[u8; GROUP]], groups: usize, panel: &[Block], next: &[Block], sums: &mut [[i32; COLUMNS]]) {
        let groups = groups.max(1);
        let sums = &mut sums[..rows.len() / groups];
        let whole = Tile { rows, stride: groups, part: 0, panel, next, sums };
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Vnni(kernel) => whole.split(x86::WIDE_ROWS, 1, |tile| kernel.compute(tile)),
            #[cfg(target_arch = "x86_64")]
            Self::AvxVnni(kernel) => whole.split(x86::NARROW_ROWS, 2, |tile| kernel.compute(tile)),
            #[cfg(target_arch = "aarch64")]
            Self::DotProduct(kernel) => whole.split(arm::DOT_ROWS, 2, |tile| kernel.compute(tile)),
            #[cfg(target_arch = "aarch64")]
            // The kernel itself splits the rows, to save the overhead per tile, which is a tenth of its time at 192 inputs.
            Self::Neon(kernel) => whole.split(usize::MAX, arm::NEON_PARTS, |tile| kernel.compute(tile)),
        }
    }
}

/// What a kernel computes while the sums stay in registers: some rows × a part of a panel's columns.
#[cfg_attr(not(any(target_arch = "x86_64", target_arch = "aarch64")), allow(dead_code))]
struct Tile<'a> {
    /// `[count, stride]`
    rows: Row<'a>,
    /// Groups per row.
    stride: usize,
    /// Index of the part.
    part: usize,
    panel: &'a [Block],
    /// The panel to prefetch, of which the kernel needs the same part; empty if it is already in the cache.
    next: &'a [Block],
    /// All columns of the panel, for each row.
    sums: &'a mut [[i32; COLUMNS]],
}

#[cfg_attr(not(any(target_arch = "x86_64", target_arch = "aarch64")), allow(dead_code))]
impl<'a> Tile<'a> {
    /// Splits a panel into `parts` parts and tiles of at most `most` rows. All rows pass a part before the next part, whose weights stay in
    /// the cache meanwhile. Only the first tile prefetches; of a panel in one part, the first two prefetch half each, so that the memory is busy
    /// all the time.
    fn split(self, most: usize, parts: usize, mut compute: impl FnMut(Tile<'_>)) {
        let one_tile = self.sums.len() <= most;
        for part in 0..parts {
            for (index, (rows, sums)) in
                self.rows.chunks(most.saturating_mul(self.stride)).zip(self.sums.chunks_mut(most)).enumerate()
            {
                let next = match index {
                    0 if parts > 1 || one_tile => self.next,
                    0 => &self.next[..self.next.len() / 2],
                    1 if parts == 1 => &self.next[self.next.len() / 2..],
                    _ => &[],
                };
                compute(Tile { rows, part, next, sums, ..self });
            }
        }
    }

    /// Number of rows.
    fn count(&self) -> usize {
        self.sums.len()
    }

    /// The first `groups` groups of `R` rows, as long as a kernel's loop: bounds are checked once here, not in the loop.
    #[inline(always)]
    fn rows<const R: usize>(&self, groups: usize) -> [Row<'a>; R] {
        first_rows(self.rows, self.stride, groups)
    }
}

/// The first `groups` groups of the first `R` of `rows`.
#[cfg_attr(not(any(target_arch = "x86_64", target_arch = "aarch64")), allow(dead_code))]
#[inline(always)]
fn first_rows<const R: usize>(rows: Row<'_>, stride: usize, groups: usize) -> [Row<'_>; R] {
    let mut first: [Row<'_>; R] = [&[]; R];
    for (r, row) in first.iter_mut().enumerate() {
        *row = &rows[r * stride..][..groups];
    }
    first
}

/// Quantised constant weights `[inputs, outputs]`, packed for [`DotKernel::sums`].
#[derive(Debug)]
pub struct PackedSteps {
    /// All panels in order.
    blocks: Vec<Block>,
    /// Blocks per panel.
    panel: usize,
    /// Groups of inputs.
    pub groups: usize,
}

impl PackedSteps {
    /// Packs `steps [inputs, outputs]`; `None` if the inputs are not a multiple of the packing's depth, or a step is −128: the sum of two
    /// products with it would exceed 16 bits.
    pub fn new(packing: Packing, steps: &[i8], inputs: usize, outputs: usize) -> Option<Self> {
        if !inputs.is_multiple_of(packing.depth()) || steps.len() != inputs * outputs || steps.contains(&i8::MIN) {
            return None;
        }
        let step = |input: usize, output: usize| if output < outputs { steps[input * outputs + output] } else { 0 };
        // Both packings fill whole blocks.
        let panel = inputs * COLUMNS / size_of::<Block>();
        let mut blocks = Vec::with_capacity(outputs.div_ceil(COLUMNS) * panel);
        for first in (0..outputs).step_by(COLUMNS) {
            match packing {
                Packing::ByInput => {
                    for input in (0..inputs).step_by(GROUP) {
                        blocks.extend([first, first + 16].map(|output| block::<GROUP>(step, input, output)));
                    }
                }
                Packing::ByColumn => {
                    for output in (first..first + COLUMNS).step_by(4) {
                        blocks.extend((0..inputs).step_by(16).map(|input| block::<16>(step, input, output)));
                    }
                }
            }
        }
        Some(Self { blocks, panel, groups: inputs / GROUP })
    }

    /// The panels in order, each with the next one.
    pub fn panels(&self) -> impl Iterator<Item = (&[Block], &[Block])> {
        let size = self.panel.max(1);
        let panel = move |index: usize| self.blocks.get(index * size..(index + 1) * size).unwrap_or(&[]);
        (0..self.blocks.len() / size).map(move |index| (panel(index), panel(index + 1)))
    }
}
