//! Keyword embeddings and their distance: the rows of examples, and the frames of a stream.
//!
//! The pack's `embedding.k` stages estimate a frame's embedding: the last head's log-posteriors, centred and decorrelated over speech, so that
//! what all frames share does not count. Here they are scaled to unit length. The distance of two such vectors P and Q is
//!
//! ```text
//! d(P, Q) = 1 − P · Q          0 for equal directions, 1 for orthogonal ones, at most 2
//! ```
//!
//! Log-posteriors are a linear function of the state that the head reads. Probabilities are not: unlikely units vanish in them, and with them
//! most of what distinguishes sounds across voices (docs/notes/keywords.md has the figures).

use std::ops::Range;

use crate::engine::Dots;

/// The rows of one example, `[frames, width]`, of unit length.
#[derive(Debug, Clone, PartialEq)]
pub struct Template {
    rows: Vec<f32>,
    width: usize,
}

/// Largest number of frames processed together.
pub const LANES: usize = 16;

/// Up to [`LANES`] consecutive frames of a stream: `[frames, width]`, of unit length, and the logits of the CTC branch, if they were computed.
#[derive(Debug, Clone, Default)]
pub struct FrameBlock {
    vectors: Vec<f32>,
    frames: usize,
    logits: Vec<f32>,
}

/// Appends `vector` scaled to unit length; zeros, whose distance to every row is 1, if it is zero or not finite.
pub(super) fn push_unit(vectors: &mut Vec<f32>, vector: &[f32]) {
    let length = vector.iter().map(|x| x * x).sum::<f32>().sqrt();
    let scale = if length.is_normal() { length.recip() } else { 0.0 };
    vectors.extend(vector.iter().map(|x| if scale > 0.0 { x * scale } else { 0.0 }));
}

impl FrameBlock {
    /// Removes all frames.
    pub fn clear(&mut self) {
        self.vectors.clear();
        self.logits.clear();
        self.frames = 0;
    }

    /// Appends a vector of any length. A vector with a value that is not finite has distance 1 to every row.
    ///
    /// # Panics
    ///
    /// If the block already has [`LANES`] frames.
    pub fn push(&mut self, vector: &[f32]) {
        assert!(self.frames < LANES, "a block has room for {LANES} frames");
        push_unit(&mut self.vectors, vector);
        self.frames += 1;
    }

    /// Replaces its frames by `vectors`, `[frames, width]`, without logits.
    ///
    /// # Panics
    ///
    /// If `vectors` has more than [`LANES`] frames.
    pub fn fill(&mut self, vectors: &[f32], width: usize) {
        self.fill_with(vectors, width, &[]);
    }

    /// Replaces its frames by `vectors`, `[frames, width]`, and its logits by `logits`, `[frames, classes]` or empty.
    ///
    /// # Panics
    ///
    /// If `vectors` has more than [`LANES`] frames.
    pub fn fill_with(&mut self, vectors: &[f32], width: usize, logits: &[f32]) {
        self.clear();
        vectors.chunks_exact(width.max(1)).for_each(|vector| self.push(vector));
        self.logits.extend_from_slice(logits);
    }

    /// Replaces its frames by ones without vectors, with the logits `logits`, `[frames, classes]`.
    #[cfg(feature = "files")]
    pub(super) fn fill_with_logits(&mut self, logits: &[f32], classes: usize) {
        self.clear();
        self.frames = logits.len() / classes.max(1);
        self.logits.extend_from_slice(logits);
    }

    /// The logits of frame `frame`; empty if they were not computed.
    pub(super) fn logits(&self, frame: usize) -> &[f32] {
        let classes = self.logits.len() / self.frames.max(1);
        &self.logits[frame * classes..(frame + 1) * classes]
    }

    /// Number of frames.
    pub fn frames(&self) -> usize {
        self.frames
    }

    /// Its vectors, `[frames, width]`.
    pub fn vectors(&self) -> &[f32] {
        &self.vectors
    }
}

/// Calls `each` with the frames `vectors`, `[frames, width]`, and `logits`, `[frames, classes]` or empty, in blocks.
pub(super) fn blocks<E>(
    block: &mut FrameBlock,
    (vectors, width): (&[f32], usize),
    logits: &[f32],
    mut each: impl FnMut(&FrameBlock) -> Result<(), E>,
) -> Result<(), E> {
    let classes = logits.len() / (vectors.len() / width.max(1)).max(1);
    for (number, rows) in vectors.chunks(LANES * width.max(1)).enumerate() {
        let first = number * LANES * classes;
        block.fill_with(rows, width, &logits[first..first + rows.len() / width.max(1) * classes]);
        each(block)?;
    }
    Ok(())
}

impl Template {
    /// From vectors `[frames, width]` of any length.
    pub fn new(vectors: &[f32], width: usize) -> Self {
        let mut rows = Vec::with_capacity(vectors.len());
        vectors.chunks_exact(width.max(1)).for_each(|row| push_unit(&mut rows, row));
        Self { rows, width: width.max(1) }
    }

    /// Number of frames.
    pub fn frames(&self) -> usize {
        self.rows.len() / self.width
    }

    /// The rows `range`, `[frames, width]`.
    pub(super) fn rows(&self, range: Range<usize>) -> &[f32] {
        &self.rows[range.start * self.width..range.end * self.width]
    }

    /// Dimensions of a row.
    pub(super) fn width(&self) -> usize {
        self.width
    }

    /// The distance of row `i` from row `j` of `other`.
    pub(super) fn distance_to(&self, i: usize, other: &Self, j: usize) -> f32 {
        distance(self.rows(i..i + 1).iter().zip(other.rows(j..j + 1)).map(|(a, b)| a * b).sum())
    }

    /// Its dot products with other vectors.
    pub(super) fn dots(&self) -> Dots {
        Dots::new(&self.rows, self.width)
    }
}

/// The distance of two unit vectors with this dot product, 0 to 2.
#[inline(always)]
pub(super) fn distance(product: f32) -> f32 {
    if product < 1.0 { 1.0 - product } else { 0.0 }
}
