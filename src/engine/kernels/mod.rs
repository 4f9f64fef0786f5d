//! The numbers' own work: products, attention, norms on plain slices. Vector instructions are chosen while running, through
//! `rten-simd`; nothing here knows graphs or tract.

pub(super) mod activation;
pub(super) mod attention;
pub(super) mod int8;
pub(super) mod norm;
pub(super) mod product;
#[cfg(test)]
mod speed;
#[cfg(test)]
mod tests;
#[cfg(target_arch = "x86_64")]
pub(super) mod vnni;

pub(super) use activation::Activation;

/// The sums of a tile after its loop. A loop that then indexes an array of them would have the compiler keep all of them in memory, and write each
/// one there at every step of the loop before: twice the time. Here the array ends, and what goes on is a copy.
#[inline(always)]
fn in_registers<T>(sums: T) -> T {
    std::hint::black_box(sums)
}

/// Rows to read: row `r` is `data[r * stride ..][.. width]`. Rows may overlap, as the windows of a convolution do.
#[derive(Clone, Copy)]
pub(super) struct Rows<'a> {
    pub data: &'a [f32],
    pub count: usize,
    pub width: usize,
    pub stride: usize,
}

impl<'a> Rows<'a> {
    /// `data` is `[count, width]`, row by row.
    pub fn new(data: &'a [f32], count: usize, width: usize) -> Self {
        Self { data, count, width, stride: width }
    }

    #[inline(always)]
    fn row(&self, r: usize) -> &'a [f32] {
        &self.data[r * self.stride..][..self.width]
    }
}
