//! Averaging of examples: what all of them share counts more than what one voice or one take has alone.
//!
//! Every example is aligned with every other one by dynamic time warping, and each of its rows becomes the mean of itself and of the others'
//! mean at that place. This is one round of DTW barycenter averaging (Petitjean, Ketterlin and Gançarski 2011) in which each example keeps
//! its own length and pace, so that slow and fast takes still match slow and fast utterances.

use std::ops::Range;

use super::template::{Template, push_unit};

/// The averaged rows of each example, `[frames, width]`; a single example keeps its own.
pub(super) fn averaged(examples: &[Template]) -> Vec<Vec<f32>> {
    (0..examples.len()).map(|own| averaged_with_others(own, examples)).collect()
}

fn averaged_with_others(own: usize, examples: &[Template]) -> Vec<f32> {
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
            let mut mean = Vec::with_capacity(width);
            push_unit(&mut mean, &sum);
            row.iter_mut().zip(mean).for_each(|(x, mean)| *x += mean);
        }
    }
    rows
}

/// The frames of `b` that each row of `a` is aligned with on the shortest path from first to last, with steps (1, 1), (1, 0) and (0, 1).
fn aligned(a: &Template, b: &Template) -> Vec<Range<usize>> {
    let (rows, columns) = (a.frames(), b.frames());
    let mut cost = vec![f32::INFINITY; rows * columns];
    // The best predecessor; the diagonal in case of a tie.
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

    /// A row per letter: `a` along the first axis, `b` along the second, and so on; a capital letter has a component along a fifth axis.
    fn spelt(letters: &str) -> Template {
        let row = |letter: char| {
            let mut row = [0.0; 5];
            row[letter.to_ascii_lowercase() as usize - 'a' as usize] = 4.0;
            row[4] = if letter.is_uppercase() { 3.0 } else { 0.0 };
            row
        };
        Template::new(&letters.chars().flat_map(row).collect::<Vec<_>>(), 5)
    }

    #[test]
    fn similar_rows_are_aligned() {
        assert_eq!(aligned(&spelt("abcd"), &spelt("abcd")), [0..1, 1..2, 2..3, 3..4]);
        assert_eq!(aligned(&spelt("abc"), &spelt("aaabccc")), [0..3, 3..4, 4..7]);
        // In case of a tie, the diagonal.
        assert_eq!(aligned(&spelt("aaabc"), &spelt("abb")), [0..1, 0..1, 0..1, 1..2, 2..3]);
    }

    #[test]
    fn each_example_becomes_the_mean_of_itself_and_the_mean_of_the_others() {
        let examples = [spelt("abbc"), spelt("ABC"), spelt("aabbcc")];
        let averaged_rows = averaged(&examples);
        // Twice itself, plus one with the fifth axis (0.8, 0.6), plus one without.
        let close = |row: &[f32], expected: [f32; 5]| row.iter().zip(expected).all(|(x, expected)| (x - expected).abs() < 1e-6);
        let rows: Vec<&[f32]> = averaged_rows[0].chunks_exact(5).collect();
        assert_eq!(rows.len(), 4);
        assert!(close(rows[0], [3.8, 0.0, 0.0, 0.0, 0.6]) && close(rows[2], [0.0, 3.8, 0.0, 0.0, 0.6]), "{rows:?}");
        assert!(close(&averaged_rows[1][..5], [3.6, 0.0, 0.0, 0.0, 1.2]), "{:?}", averaged_rows[1]);
        assert_eq!(averaged(&examples[..1]), [examples[0].rows(0..4).to_vec()]);
        assert!(averaged(&[]).is_empty());
    }
}
