//! Kernels on plain slices: matmuls, attention, norms. `rten-simd` selects the vector instructions at run time. Nothing here depends on
//! graphs or tract.

pub(super) mod activation;
pub(super) mod attention;
mod by_lane;
pub(super) mod ceiling;
pub(super) mod dot;
pub(super) mod fft;
pub(super) mod helpers;
pub(super) mod int8;
pub(super) mod log_mel;
pub(super) mod matmul;
pub(super) mod norm;
#[cfg(test)]
mod speed;
#[cfg(test)]
mod tests;

pub(super) use activation::Activation;

/// Copies the sums of a tile after its inner loop. Otherwise, a later loop that indexes the array makes the compiler keep the sums in
/// memory and store each of them at every step of the inner loop, which takes twice the time.
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

/// Columns of a result: those of row `r` begin at `numbers[r * stride + first]`.
pub(super) struct Block<'a> {
    pub numbers: &'a mut [f32],
    pub stride: usize,
    pub first: usize,
    /// The residual, in the layout of `numbers`.
    pub residual: Option<&'a [f32]>,
}

impl Block<'_> {
    /// The residual and the output of `columns` elements of row `r`, from column `from`.
    #[inline(always)]
    fn row(&mut self, r: usize, from: usize, columns: usize) -> (Option<&[f32]>, &mut [f32]) {
        let at = r * self.stride + self.first + from;
        (self.residual.map(|residual| &residual[at..][..columns]), &mut self.numbers[at..][..columns])
    }

    /// Writes `rows` rows in `computed`, and adds the residual.
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
