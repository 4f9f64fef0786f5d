//! The rows of an example, and how far a frame of a stream is from each.
//!
//! The local distance of two distributions p and q over the units is the Bhattacharyya distance −ln Σ √(p q): 0 where they are
//! the same, and as symmetric as the question. A row keeps its likeliest units only, so a distance costs a few
//! multiply-adds however many units the pack has, and a file stays small.

/// Units that a row keeps at most; less likely ones go first.
const MOST_UNITS: usize = 16;
/// A unit less likely than this is not kept.
const LEAST_PROBABILITY: f32 = 0.004;
/// What a distance is at most: e^-5 of overlap is none. One frame that is wholly wrong does not undo a word.
const LARGEST_DISTANCE: f32 = 5.0;

/// The sparse rows of one example, `[frames, units]`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Template {
    /// Where row i ends in `units` and `roots`.
    ends: Vec<u32>,
    units: Vec<u32>,
    /// √q of each kept unit.
    roots: Vec<f32>,
}

/// One frame of a stream as templates read it: √p of every unit.
#[derive(Debug, Clone, Default)]
pub struct Scratch {
    roots: Vec<f32>,
}

impl Scratch {
    /// Takes a row of log-posteriors; what is not finite counts as probability 0.
    pub fn set(&mut self, log_posteriors: &[f32]) {
        self.roots.clear();
        self.roots.extend(log_posteriors.iter().map(|&log_p| if log_p.is_finite() { (0.5 * log_p).exp().min(1.0) } else { 0.0 }));
    }
}

impl Template {
    /// Keeps the likeliest units of each row of probabilities `[frames, units]`.
    pub fn from_probabilities(rows: &[f32], units: usize) -> Self {
        let mut template = Self::default();
        let mut order: Vec<usize> = Vec::new();
        for row in rows.chunks_exact(units.max(1)) {
            order.clear();
            order.extend((0..row.len()).filter(|&unit| row[unit] >= LEAST_PROBABILITY));
            order.sort_by(|&a, &b| row[b].total_cmp(&row[a]).then(a.cmp(&b)));
            order.truncate(MOST_UNITS);
            order.sort_unstable();
            template.push(&order.iter().map(|&unit| (unit as u32, row[unit])).collect::<Vec<_>>());
        }
        template
    }

    /// Appends a row of (unit, probability); the probabilities are scaled to 1 together. A row without any matches nothing.
    pub fn push(&mut self, row: &[(u32, f32)]) {
        let sum: f32 = row.iter().map(|(_, probability)| probability).sum();
        for (unit, probability) in row.iter().filter(|(_, probability)| *probability > 0.0) {
            self.units.push(*unit);
            self.roots.push((probability / sum).sqrt());
        }
        self.ends.push(self.units.len() as u32);
    }

    /// Number of frames.
    pub fn frames(&self) -> usize {
        self.ends.len()
    }

    /// Row `i` as (unit, probability).
    pub fn row(&self, i: usize) -> impl Iterator<Item = (u32, f32)> + '_ {
        self.range(i).map(|at| (self.units[at], self.roots[at] * self.roots[at]))
    }

    /// The largest unit that a row names.
    pub fn largest_unit(&self) -> Option<u32> {
        self.units.iter().copied().max()
    }

    fn range(&self, i: usize) -> std::ops::Range<usize> {
        let start = if i == 0 { 0 } else { self.ends[i - 1] as usize };
        start..self.ends[i] as usize
    }

    /// The distance of row `i` from a frame, 0 to [`LARGEST_DISTANCE`].
    #[inline]
    pub fn distance(&self, i: usize, frame: &Scratch) -> f32 {
        let range = self.range(i);
        let (units, roots) = (&self.units[range.clone()], &self.roots[range]);
        let overlap: f32 =
            units.iter().zip(roots).map(|(&unit, root)| root * frame.roots.get(unit as usize).copied().unwrap_or(0.0)).sum();
        // `min` and `max` pass by a NaN, and nothing above can make one.
        (-overlap.ln()).clamp(0.0, LARGEST_DISTANCE)
    }
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
    fn the_distance_is_that_of_bhattacharyya() {
        let (p, q) = ([0.5f32, 0.25, 0.25], [0.1f32, 0.2, 0.7]);
        let wanted = -p.iter().zip(&q).map(|(p, q)| (p * q).sqrt()).sum::<f32>().ln();
        let template = Template::from_probabilities(&q, 3);
        assert!((template.distance(0, &frame(&p)) - wanted).abs() < 1e-5);
        assert!(template.distance(0, &frame(&q)) < 1e-5);
    }

    #[test]
    fn no_overlap_and_no_number_are_as_far_as_it_gets() {
        let template = Template::from_probabilities(&[1.0, 0.0], 2);
        assert_eq!(template.distance(0, &frame(&[0.0, 1.0])), LARGEST_DISTANCE);
        let mut scratch = Scratch::default();
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            scratch.set(&[bad, bad]);
            assert_eq!(template.distance(0, &scratch), LARGEST_DISTANCE);
        }
        let mut empty = Template::default();
        empty.push(&[]);
        assert_eq!(empty.distance(0, &frame(&[0.5, 0.5])), LARGEST_DISTANCE);
    }
}
