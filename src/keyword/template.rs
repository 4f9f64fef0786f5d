//! How far two frames are from each other: the rows of examples, sparse, and the frames of a stream.
//!
//! With P = p^γ / Σ p^γ and γ = 1/2, p and q being the distributions over the units of a frame of the stream and of a row of an example,
//!
//! ```text
//! d(P, Q) = −ln Σ √(P Q) + ¼ ln(N(P) / N(Q))        N(P) = (Σ √P)²
//! ```
//!
//! The first term is the Bhattacharyya distance, made softer by γ, because a head that is sure of one of several near-synonymous units
//! still says by the small ones what it heard. N is the number of units that a distribution is spread over (the exponential of its Rényi
//! entropy of order ½). Without the second term, a frame that is unsure of everything is near to everything, and most of all to other
//! unsure frames: what is said unclearly would match what is said unclearly (docs/keywords.md has the figures). With it, a frame that
//! says less than the row is farther. d is cut to 0 … 5, and 0 where P and Q are the same.
//!
//! A row keeps its likeliest units, and what they leave of its probability is spread evenly over all others: with the sum of a frame's roots
//! taken once, a distance costs a multiply-add for each kept unit, however many the pack has. Since N factors, it costs nothing: the
//! roots are scaled by it beforehand.

/// Units that a row keeps at most; less likely ones go first.
const MOST_UNITS: usize = 24;
/// A unit less likely than this is not kept: the file's digits end there.
const LEAST_PROBABILITY: f32 = 0.0005;
/// What the units that are not kept have together, at least.
const LEAST_REST: f32 = 0.001;
/// What a distance is at most: one frame that is wholly wrong does not undo a word.
const LARGEST_DISTANCE: f32 = 5.0;

/// A probability p as it is compared: p^(γ/2).
fn root(probability: f32) -> f32 {
    probability.sqrt().sqrt()
}

/// The sparse rows of one example, `[frames, units]`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Template {
    /// Where row i ends in `units` and `roots`.
    ends: Vec<u32>,
    units: Vec<u32>,
    /// N(Q)^¼ √Q of each kept unit, less what every unit has.
    roots: Vec<f32>,
    /// N(Q)^¼ √Q of the units that row i does not keep.
    floors: Vec<f32>,
}

/// Frames that are looked at together.
pub const LANES: usize = 16;

/// Up to [`LANES`] frames of a stream that follow each other, as templates read them.
#[derive(Debug, Clone, Default)]
pub struct FrameBlock {
    /// √P / N(P)^¼ of every unit, of every frame.
    roots: Vec<[f32; LANES]>,
    /// Their sums.
    sums: [f32; LANES],
    frames: usize,
}

impl FrameBlock {
    /// Forgets its frames.
    pub fn clear(&mut self) {
        self.roots.iter_mut().for_each(|lanes| *lanes = [0.0; LANES]);
        self.sums = [0.0; LANES];
        self.frames = 0;
    }

    /// Appends a row of log-posteriors; what is not finite counts as probability 0.
    ///
    /// # Panics
    ///
    /// With [`LANES`] frames it is full.
    pub fn push(&mut self, log_posteriors: &[f32]) {
        assert!(self.frames < LANES, "a block has room for {LANES} frames");
        let lane = self.frames;
        self.roots.resize(log_posteriors.len().max(self.roots.len()), [0.0; LANES]);
        let (mut squares, mut sum) = (0.0f32, 0.0f32);
        for (lanes, log_p) in self.roots.iter_mut().zip(log_posteriors) {
            let root = if log_p.is_finite() { (0.25 * log_p).exp().min(1.0) } else { 0.0 };
            lanes[lane] = root;
            squares += root * root;
            sum += root;
        }
        // Σ √P = Σ r / √Σ r², and N^¼ is its root.
        let scale = if squares > 0.0 { (squares.sqrt() * sum).sqrt().recip() } else { 0.0 };
        self.roots.iter_mut().for_each(|lanes| lanes[lane] *= scale);
        self.sums[lane] = sum * scale;
        self.frames += 1;
    }

    /// Number of frames.
    pub fn frames(&self) -> usize {
        self.frames
    }

    /// √P / N(P)^¼ of every unit in frame `lane`.
    pub fn frame(&self, lane: usize) -> impl Iterator<Item = f32> {
        self.roots.iter().map(move |lanes| lanes[lane])
    }

    /// Whether no other frame fits in.
    pub fn is_full(&self) -> bool {
        self.frames == LANES
    }
}

impl Template {
    /// Keeps the likeliest units of each row of probabilities `[frames, units]`.
    pub fn from_probabilities(rows: &[f32], units: usize) -> Self {
        let mut template = Self::default();
        for row in rows.chunks_exact(units.max(1)) {
            template.push(&likeliest(row), units);
        }
        template
    }

    /// Appends a row of (unit, probability), units rising, of a pack with so many `units`.
    pub fn push(&mut self, row: &[(u32, f32)], units: usize) {
        let kept: f32 = row.iter().map(|(_, probability)| probability).sum();
        let others = units.saturating_sub(row.len()).max(1) as f32;
        let other = root((1.0 - kept).max(LEAST_REST) / others);
        let squares = row.iter().map(|(_, probability)| probability.sqrt()).sum::<f32>() + others * other * other;
        let sum = row.iter().map(|(_, probability)| root(*probability)).sum::<f32>() + others * other;
        // √Q = r / √Σ r², and N(Q)^¼ = √(Σ r / √Σ r²).
        let scale = (sum / squares.sqrt()).sqrt() / squares.sqrt();
        for (unit, probability) in row {
            self.units.push(*unit);
            self.roots.push((root(*probability) - other) * scale);
        }
        self.floors.push(other * scale);
        self.ends.push(self.units.len() as u32);
    }

    /// Number of frames.
    pub fn frames(&self) -> usize {
        self.ends.len()
    }

    /// The distances of row `i` from a block's frames, 0 to 5; meaningless where the block has none.
    #[inline(always)]
    pub fn distances(&self, i: usize, block: &FrameBlock) -> [f32; LANES] {
        let start = if i == 0 { 0 } else { self.ends[i - 1] as usize };
        let range = start..self.ends[i] as usize;
        let mut overlap = block.sums.map(|sum| self.floors[i] * sum);
        for (unit, root) in self.units[range.clone()].iter().zip(&self.roots[range]) {
            let Some(lanes) = block.roots.get(*unit as usize) else { continue };
            overlap.iter_mut().zip(lanes).for_each(|(overlap, x)| *overlap += root * x);
        }
        overlap.map(|overlap| within(-ln(overlap), LARGEST_DISTANCE))
    }
}

/// `x` cut to 0 … `most`.
#[inline(always)]
fn within(x: f32, most: f32) -> f32 {
    let x = if x > 0.0 { x } else { 0.0 };
    if x < most { x } else { most }
}

/// ln x of a positive normal number, without a branch, so that the loop around it becomes vector code; of what is smaller, about −88.
///
/// x = 2ᵉ m with m around 1, and ln m = 2 artanh s = 2 (s + s³/3 + s⁵/5 + …) with s = (m − 1) / (m + 1), |s| ≤ 0.172.
#[inline(always)]
fn ln(x: f32) -> f32 {
    const ROOT_HALF: u32 = 0x3f35_04f3;
    let x = if x > f32::MIN_POSITIVE { x } else { f32::MIN_POSITIVE };
    let exponent = (x.to_bits().wrapping_sub(ROOT_HALF) as i32) >> 23;
    let m = f32::from_bits(x.to_bits().wrapping_sub((exponent << 23) as u32));
    let s = (m - 1.0) / (m + 1.0);
    let square = s * s;
    let series = 1.0 + square * (1.0 / 3.0 + square * (0.2 + square * (1.0 / 7.0 + square / 9.0)));
    exponent as f32 * std::f32::consts::LN_2 + 2.0 * s * series
}

/// The units of a row that are kept, with their probabilities, by number.
pub(super) fn likeliest(row: &[f32]) -> Vec<(u32, f32)> {
    let mut kept: Vec<(u32, f32)> =
        row.iter().enumerate().filter(|(_, p)| **p >= LEAST_PROBABILITY).map(|(unit, &p)| (unit as u32, p)).collect();
    kept.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    kept.truncate(MOST_UNITS);
    kept.sort_unstable_by_key(|(unit, _)| *unit);
    kept
}
