//! How far two frames are from each other: the rows of examples, and the frames of a stream.
//!
//! Both are what the pack's stage `matching` makes of log-posteriors: centred and whitened over speech, so that what all frames share does not
//! count, and scaled to length 1 here. With P and Q such vectors,
//!
//! ```text
//! d(P, Q) = 1 − P · Q          0 where they point the same way, 1 where they have nothing in common, 2 at the most
//! ```
//!
//! Log-posteriors are a linear picture of the state that a head read, and whitened they are near to it, whichever head it was. The
//! probabilities themselves are not: what is unlikely vanishes in them, and with it most of what tells sounds of different voices
//! apart from different sounds (docs/keywords.md has the figures).

/// The rows of one example, `[frames, width]`, each of length 1.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Template {
    rows: Vec<f32>,
    width: usize,
}

/// Frames that are looked at together.
pub const LANES: usize = 16;

/// Up to [`LANES`] frames of a stream that follow each other, as templates read them.
#[derive(Debug, Clone, Default)]
pub struct FrameBlock {
    /// Number k of every frame's vector of length 1.
    numbers: Vec<[f32; LANES]>,
    frames: usize,
}

/// What a vector is multiplied with to have length 1; 0 where it has no direction.
fn scale(row: &[f32]) -> f32 {
    let length = row.iter().map(|x| x * x).sum::<f32>().sqrt();
    if length.is_normal() { length.recip() } else { 0.0 }
}

impl FrameBlock {
    /// Forgets its frames.
    pub fn clear(&mut self) {
        self.numbers.iter_mut().for_each(|lanes| *lanes = [0.0; LANES]);
        self.frames = 0;
    }

    /// Appends a vector of any length; one with a number that is not finite has nothing in common with any row.
    ///
    /// # Panics
    ///
    /// With [`LANES`] frames it is full.
    pub fn push(&mut self, vector: &[f32]) {
        assert!(self.frames < LANES, "a block has room for {LANES} frames");
        self.numbers.resize(vector.len().max(self.numbers.len()), [0.0; LANES]);
        let scale = scale(vector);
        if scale > 0.0 {
            self.numbers.iter_mut().zip(vector).for_each(|(lanes, x)| lanes[self.frames] = x * scale);
        }
        self.frames += 1;
    }

    /// Number of frames.
    pub fn frames(&self) -> usize {
        self.frames
    }

    /// The vector of length 1 in frame `lane`.
    pub fn frame(&self, lane: usize) -> impl Iterator<Item = f32> {
        self.numbers.iter().map(move |lanes| lanes[lane])
    }

    /// Whether no other frame fits in.
    pub fn is_full(&self) -> bool {
        self.frames == LANES
    }
}

impl Template {
    /// Of vectors `[frames, width]`.
    pub fn new(vectors: &[f32], width: usize) -> Self {
        let unit = |row: &[f32]| {
            let scale = scale(row);
            row.iter().map(|x| if scale > 0.0 { x * scale } else { 0.0 }).collect::<Vec<f32>>()
        };
        Self { rows: vectors.chunks_exact(width.max(1)).flat_map(unit).collect(), width: width.max(1) }
    }

    /// Number of frames.
    pub fn frames(&self) -> usize {
        self.rows.len() / self.width.max(1)
    }

    /// The distances of row `i` from a block's frames, 0 to 2; meaningless where the block has none.
    #[inline(always)]
    pub fn distances(&self, i: usize, block: &FrameBlock) -> [f32; LANES] {
        let mut alike = [0.0f32; LANES];
        for (x, lanes) in self.rows[i * self.width..][..self.width].iter().zip(&block.numbers) {
            alike.iter_mut().zip(lanes).for_each(|(alike, y)| *alike += x * y);
        }
        alike.map(|alike| if alike < 1.0 { 1.0 - alike } else { 0.0 })
    }
}
