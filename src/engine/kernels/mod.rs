//! The numbers' own work: products, attention, norms on plain slices. Vector instructions are chosen while running, through
//! `rten-simd`; nothing here knows graphs or tract.

pub(super) mod activation;
pub(super) mod attention;
pub(super) mod int8;
pub(super) mod norm;
pub(super) mod product;
mod short;
#[cfg(test)]
mod tests;

pub(super) use activation::Activation;

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
