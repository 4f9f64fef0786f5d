//! The rows of an example, and how far a frame of a stream is from each.
//!
//! The local distance of two distributions p and q over the units is the Bhattacharyya distance of both, made softer:
//! −ln Σ √(P Q) with P = p^γ / Σ p^γ and γ = 1/2. It is 0 where they are the same. Softer, because a head that is sure of one of several
//! near-synonymous units still says by the small ones what it heard: across speakers that finds more (docs/keywords.md).
//!
//! A row keeps its likeliest units, and what they leave of its probability is spread evenly over all others: with the sum of a frame's roots
//! taken once, a distance costs a multiply-add for each kept unit, however many the pack has.

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
    /// √Q of each kept unit, less what every unit has.
    roots: Vec<f32>,
    /// √Q of the units that row i does not keep.
    floors: Vec<f32>,
}

/// One frame of a stream as templates read it.
#[derive(Debug, Clone, Default)]
pub struct Scratch {
    /// √P of every unit.
    roots: Vec<f32>,
    sum: f32,
}

impl Scratch {
    /// Takes a row of log-posteriors; what is not finite counts as probability 0.
    pub fn set(&mut self, log_posteriors: &[f32]) {
        self.roots.clear();
        let root = |&log_p: &f32| if log_p.is_finite() { (0.25 * log_p).exp().min(1.0) } else { 0.0 };
        self.roots.extend(log_posteriors.iter().map(root));
        let norm = self.roots.iter().map(|root| root * root).sum::<f32>().sqrt();
        if norm > 0.0 {
            self.roots.iter_mut().for_each(|root| *root /= norm);
        }
        self.sum = self.roots.iter().sum();
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
        let norm = (row.iter().map(|(_, probability)| probability.sqrt()).sum::<f32>() + others * other * other).sqrt();
        for (unit, probability) in row {
            self.units.push(*unit);
            self.roots.push((root(*probability) - other) / norm);
        }
        self.floors.push(other / norm);
        self.ends.push(self.units.len() as u32);
    }

    /// Number of frames.
    pub fn frames(&self) -> usize {
        self.ends.len()
    }

    /// The distance of row `i` from a frame, 0 to 5.
    #[inline]
    pub fn distance(&self, i: usize, frame: &Scratch) -> f32 {
        let start = if i == 0 { 0 } else { self.ends[i - 1] as usize };
        let range = start..self.ends[i] as usize;
        let (units, roots) = (&self.units[range.clone()], &self.roots[range]);
        let at = |unit: u32| frame.roots.get(unit as usize).copied().unwrap_or(0.0);
        let overlap: f32 = units.iter().zip(roots).map(|(&unit, root)| root * at(unit)).sum();
        // Nothing above can make a NaN; rounding can make a hair less than nothing.
        (-(self.floors[i] * frame.sum + overlap).max(0.0).ln()).clamp(0.0, LARGEST_DISTANCE)
    }
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
