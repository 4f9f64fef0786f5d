//! Dot products of fixed rows with vectors that come, by the kernel of the layers.

use super::kernels::product::PackedWeights;
use super::kernels::{Activation, Rows};

/// Fixed rows, all of one width.
#[derive(Debug, Clone)]
pub struct Dots {
    rows: PackedWeights,
    count: usize,
    width: usize,
}

impl Dots {
    /// Of rows `[rows, width]`.
    pub fn new(rows: &[f32], width: usize) -> Self {
        let count = rows.len() / width.max(1);
        Self { rows: PackedWeights::new(width, count, |number, row| rows[row * width + number], None), count, width }
    }

    /// The products of vectors `[vectors, width]` with every row, `[vectors, rows]`. What comes out of one vector does not depend on the
    /// others.
    ///
    /// # Panics
    ///
    /// With vectors of another width.
    pub fn with(&self, vectors: &[f32], products: &mut Vec<f32>) {
        let count = vectors.len() / self.width.max(1);
        products.clear();
        products.resize(count * self.count, 0.0);
        self.rows.apply(Rows::new(vectors, count, self.width), Activation::None, None, products);
    }
}
