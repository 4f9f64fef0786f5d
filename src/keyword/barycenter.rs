//! Examples that take after each other: what all of them have counts more than what one voice or one take has alone.
//!
//! Every example is aligned with every other one by dynamic time warping, and each of its rows becomes half itself and half the mean of what the
//! others have there. It is one round of DTW barycenter averaging (Petitjean, Ketterlin and Gançarski 2011) that leaves each example its own
//! length and pace, so that slow and fast takes still find slow and fast utterances.

use std::ops::Range;

use super::template::{Template, push_unit};

/// The rows of each example, `[frames, width]`, drawn half of the way to the others; of one example its own.
pub(super) fn towards_each_other(examples: &[Template]) -> Vec<Vec<f32>> {
    (0..examples.len()).map(|own| towards(own, examples)).collect()
}

fn towards(own: usize, examples: &[Template]) -> Vec<f32> {
    let example = &examples[own];
    let others = || examples.iter().enumerate().filter(|(other, _)| *other != own).map(|(_, other)| other);
    let mut rows = example.rows(0..example.frames()).to_vec();
    rows.iter_mut().for_each(|x| *x *= others().count().max(1) as f32);
    for other in others() {
        let width = other.width();
        for (row, frames) in rows.chunks_exact_mut(width).zip(aligned(example, other)) {
            let mut sum = vec![0.0; width];
            for frame in other.rows(frames).chunks_exact(width) {
                sum.iter_mut().zip(frame).for_each(|(sum, x)| *sum += x);
            }
            let mut there = Vec::with_capacity(width);
            push_unit(&mut there, &sum);
            row.iter_mut().zip(there).for_each(|(x, there)| *x += there);
        }
    }
    rows
}

/// Which frames of `b` each row of `a` is aligned with on the path of least distance from first to last, with steps (1, 1), (1, 0) and (0, 1).
fn aligned(a: &Template, b: &Template) -> Vec<Range<usize>> {
    let (rows, columns) = (a.frames(), b.frames());
    let mut cost = vec![f32::INFINITY; rows * columns];
    // Where a path comes from, rows and columns back; the diagonal where nothing is nearer.
    let before = |cost: &[f32], i: usize, j: usize| {
        let steps = [(1, 1), (1, 0), (0, 1)].into_iter().filter(|(di, dj)| *di <= i && *dj <= j);
        steps.map(|(di, dj)| (cost[(i - di) * columns + j - dj], i - di, j - dj)).min_by(|a, b| a.0.total_cmp(&b.0))
    };
    for i in 0..rows {
        for j in 0..columns {
            cost[i * columns + j] = a.distance_to(i, b, j) + before(&cost, i, j).map_or(0.0, |(cost, ..)| cost);
        }
    }
    let mut spans = vec![columns..0; rows];
    let mut at = Some((rows - 1, columns - 1));
    while let Some((i, j)) = at {
        spans[i] = spans[i].start.min(j)..spans[i].end.max(j + 1);
        at = before(&cost, i, j).map(|(_, i, j)| (i, j));
    }
    spans
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A row per letter: `a` along the first axis, `b` along the second, …; capitals lean a little towards an axis of their own.
    fn spoken(letters: &str) -> Template {
        let row = |letter: char| {
            let mut row = [0.0; 5];
            row[letter.to_ascii_lowercase() as usize - 'a' as usize] = 4.0;
            row[4] = if letter.is_uppercase() { 3.0 } else { 0.0 };
            row
        };
        Template::new(&letters.chars().flat_map(row).collect::<Vec<_>>(), 5)
    }

    #[test]
    fn rows_align_with_what_is_alike() {
        assert_eq!(aligned(&spoken("abcd"), &spoken("abcd")), [0..1, 1..2, 2..3, 3..4]);
        assert_eq!(aligned(&spoken("abc"), &spoken("aaabccc")), [0..3, 3..4, 4..7]);
        // Of equals the diagonal.
        assert_eq!(aligned(&spoken("aaabc"), &spoken("abb")), [0..1, 0..1, 0..1, 1..2, 2..3]);
    }

    #[test]
    fn an_example_goes_half_of_the_way_to_the_mean_of_the_others() {
        let examples = [spoken("abbc"), spoken("ABC"), spoken("aabbcc")];
        let drawn = towards_each_other(&examples);
        // Two of itself, a sharp one (0.8, 0.6 along the common axis), a plain one.
        let close = |row: &[f32], wanted: [f32; 5]| row.iter().zip(wanted).all(|(x, wanted)| (x - wanted).abs() < 1e-6);
        let rows: Vec<&[f32]> = drawn[0].chunks_exact(5).collect();
        assert_eq!(rows.len(), 4);
        assert!(close(rows[0], [3.8, 0.0, 0.0, 0.0, 0.6]) && close(rows[2], [0.0, 3.8, 0.0, 0.0, 0.6]), "{rows:?}");
        assert!(close(&drawn[1][..5], [3.6, 0.0, 0.0, 0.0, 1.2]), "{:?}", drawn[1]);
        assert_eq!(towards_each_other(&examples[..1]), [examples[0].rows(0..4).to_vec()]);
        assert!(towards_each_other(&[]).is_empty());
    }
}
