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

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(probabilities: &[f32]) -> Scratch {
        let mut scratch = Scratch::default();
        scratch.set(&probabilities.iter().map(|p| p.ln()).collect::<Vec<_>>());
        scratch
    }

    #[test]
    fn the_distance_is_that_of_bhattacharyya_made_softer() {
        let (p, q) = ([0.5f32, 0.25, 0.15, 0.1], [0.1f32, 0.2, 0.1, 0.6]);
        let soft = |row: &[f32]| {
            let sum: f32 = row.iter().map(|p| p.sqrt()).sum();
            row.iter().map(|p| p.sqrt() / sum).collect::<Vec<_>>()
        };
        let wanted = -soft(&p).iter().zip(soft(&q)).map(|(p, q)| (p * q).sqrt()).sum::<f32>().ln();
        let mut template = Template::default();
        // Units 0 and 2 are alike: left out, they have what is left.
        template.push(&[(1, 0.2), (3, 0.6)], 4);
        assert!((template.distance(0, &frame(&p)) - wanted).abs() < 1e-5);
        assert!(template.distance(0, &frame(&q)) < 1e-5);
    }

    #[test]
    fn what_is_no_number_is_as_far_as_it_gets() {
        let template = Template::from_probabilities(&[1.0, 0.0], 2);
        let mut scratch = Scratch::default();
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            scratch.set(&[bad, bad]);
            assert_eq!(template.distance(0, &scratch), LARGEST_DISTANCE);
        }
        scratch.set(&[f32::NAN, 0.0]);
        assert!(template.distance(0, &scratch).is_finite());
    }

    #[test]
    fn the_likeliest_units_are_kept() {
        let mut row = vec![0.01f32; 40];
        row[7] = 0.5;
        row[39] = 0.09;
        row[0] = 0.0;
        let kept = likeliest(&row);
        assert_eq!(kept.len(), MOST_UNITS);
        assert!(kept.iter().any(|(unit, _)| *unit == 39) && !kept.iter().any(|(unit, _)| *unit == 0));
        assert!(kept.is_sorted_by_key(|(unit, _)| *unit));
    }
}
