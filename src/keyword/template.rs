//! How far two frames are from each other: the rows of examples, and the frames of a stream.
//!
//! Both are what the pack's stages `embedding.k` make of a state: centred and decorrelated over speech, so that what all frames share does not
//! count, and scaled to length 1 here. With P and Q such vectors,
//!
//! ```text
//! d(P, Q) = 1 − P · Q          0 where they point the same way, 1 where they have nothing in common, 2 at the most
//! ```
//!
//! They stand for the last head's log-posteriors, which are a linear picture of the state that it reads. The probabilities themselves are
//! none: what is unlikely vanishes in them, and with it most of what tells sounds of different voices apart from different sounds
//! (docs/keywords.md has the figures).

use std::ops::Range;

use crate::engine::Dots;

/// The rows of one example, `[frames, width]`, each of length 1.
#[derive(Debug, Clone, PartialEq)]
pub struct Template {
    rows: Vec<f32>,
    width: usize,
}

/// Frames that are looked at together.
pub const LANES: usize = 16;

/// Up to [`LANES`] frames of a stream that follow each other: `[frames, width]`, each of length 1.
#[derive(Debug, Clone, Default)]
pub struct FrameBlock {
    vectors: Vec<f32>,
    frames: usize,
}

/// Appends `vector` with the length 1; zeros, which have nothing in common with any row, where it has no direction.
pub(super) fn push_unit(vectors: &mut Vec<f32>, vector: &[f32]) {
    let length = vector.iter().map(|x| x * x).sum::<f32>().sqrt();
    let scale = if length.is_normal() { length.recip() } else { 0.0 };
    vectors.extend(vector.iter().map(|x| if scale > 0.0 { x * scale } else { 0.0 }));
}

impl FrameBlock {
    /// Forgets its frames.
    pub fn clear(&mut self) {
        self.vectors.clear();
        self.frames = 0;
    }

    /// Appends a vector of any length; one with a number that is not finite has nothing in common with any row.
    ///
    /// # Panics
    ///
    /// With [`LANES`] frames it is full.
    pub fn push(&mut self, vector: &[f32]) {
        assert!(self.frames < LANES, "a block has room for {LANES} frames");
        push_unit(&mut self.vectors, vector);
        self.frames += 1;
    }

    /// Holds `vectors`, `[frames, width]`, in place of what it held.
    ///
    /// # Panics
    ///
    /// More than [`LANES`] frames do not fit in.
    pub fn fill(&mut self, vectors: &[f32], width: usize) {
        self.clear();
        vectors.chunks_exact(width.max(1)).for_each(|vector| self.push(vector));
    }

    /// Number of frames.
    pub fn frames(&self) -> usize {
        self.frames
    }

    /// Its vectors, frame after frame.
    pub fn vectors(&self) -> &[f32] {
        &self.vectors
    }
}

impl Template {
    /// Of vectors `[frames, width]` of any lengths.
    pub fn new(vectors: &[f32], width: usize) -> Self {
        let mut rows = Vec::with_capacity(vectors.len());
        vectors.chunks_exact(width.max(1)).for_each(|row| push_unit(&mut rows, row));
        Self { rows, width: width.max(1) }
    }

    /// Number of frames.
    pub fn frames(&self) -> usize {
        self.rows.len() / self.width
    }

    /// Its rows `range`, one after the other.
    pub(super) fn rows(&self, range: Range<usize>) -> &[f32] {
        &self.rows[range.start * self.width..range.end * self.width]
    }

    /// Numbers of a row.
    pub(super) fn width(&self) -> usize {
        self.width
    }

    /// The distance of row `i` from row `j` of `other`.
    pub(super) fn distance_to(&self, i: usize, other: &Self, j: usize) -> f32 {
        distance(self.rows(i..i + 1).iter().zip(other.rows(j..j + 1)).map(|(a, b)| a * b).sum())
    }

    /// Its products with vectors that come.
    pub(super) fn dots(&self) -> Dots {
        Dots::new(&self.rows, self.width)
    }
}

/// The distance of two vectors of length 1 with this product, 0 to 2.
#[inline(always)]
pub(super) fn distance(product: f32) -> f32 {
    if product < 1.0 { 1.0 - product } else { 0.0 }
}
