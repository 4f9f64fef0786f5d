//! Dot products of vectors with fixed rows, computed with the layers' matmul kernel.

use super::kernels::matmul::PackedWeights;
use super::kernels::{Activation, Rows};

/// Fixed rows of equal width.
#[derive(Debug, Clone)]
pub struct Dots(PackedWeights);

impl Dots {
    /// Packs `rows`, `[rows, width]`.
    pub fn new(rows: &[f32], width: usize) -> Self {
        Self(PackedWeights::new(width, rows.len() / width.max(1), |number, row| rows[row * width + number], None))
    }

    /// Dot products of vectors `[vectors, width]` with every row: `[vectors, rows]`. The results of one vector do not depend on the
    /// others.
    ///
    /// # Panics
    ///
    /// If the vectors have another width.
    pub fn with(&self, vectors: &[f32], products: &mut Vec<f32>) {
        let (width, rows) = (self.0.inputs, self.0.outputs);
        let count = vectors.len() / width.max(1);
        products.clear();
        products.resize(count * rows, 0.0);
        self.0.apply(Rows::new(vectors, count, width), Activation::None, None, products);
    }
}
