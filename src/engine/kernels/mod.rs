//! The numbers' own work: products, attention, norms on plain slices. Vector instructions are chosen while running, through
//! `rten-simd`; nothing here knows graphs or tract.

pub(super) mod activation;
pub(super) mod attention;
pub(super) mod helpers;
pub(super) mod int8;
pub(super) mod matmul;
pub(super) mod norm;
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

/// Columns of a result to write: those of row `r` begin at `numbers[r * stride + first]`.
pub(super) struct Block<'a> {
    pub numbers: &'a mut [f32],
    pub stride: usize,
    pub first: usize,
    /// What is added; it lies as `numbers` does.
    pub residual: Option<&'a [f32]>,
}

impl Block<'_> {
    /// `columns` numbers of row `r` from its column `from` on: what is added, and where they go.
    #[inline(always)]
    fn row(&mut self, r: usize, from: usize, columns: usize) -> (Option<&[f32]>, &mut [f32]) {
        let at = r * self.stride + self.first + from;
        (self.residual.map(|residual| &residual[at..][..columns]), &mut self.numbers[at..][..columns])
    }

    /// Puts `computed`, `rows` rows that lack what is added.
    fn put(mut self, computed: &[f32], rows: usize) {
        let columns = computed.len() / rows.max(1);
        for (r, computed) in computed.chunks_exact(columns.max(1)).enumerate() {
            match self.row(r, 0, columns) {
                (Some(residual), out) => {
                    let sums = computed.iter().zip(residual).map(|(computed, residual)| computed + residual);
                    out.iter_mut().zip(sums).for_each(|(out, sum)| *out = sum);
                }
                (None, out) => out.copy_from_slice(computed),
            }
        }
    }
}
