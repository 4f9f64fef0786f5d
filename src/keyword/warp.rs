//! Subsequence dynamic time warping of a stream with one template, a frame at a time, in memory that does not grow.
//!
//! With d(i, j) the distance of the template's row i from the stream's frame j, the cost of the best path that ends there is
//!
//! ```text
//! C(0, j) = d(0, j)                                                a match may start at any frame
//! C(i, j) = min  C(i−1, j−1) + d(i, j)                             one row, one frame
//!                C(i−1, j−2) + (d(i, j−1) + d(i, j)) / 2 + w       one row, two frames: spoken more slowly
//!                C(i−2, j−1) + d(i−1, j) + d(i, j) + w             two rows, one frame: spoken faster
//! ```
//!
//! (Sakoe and Chiba 1978, slope constraint P = 1 made asymmetric: every row adds exactly one distance.) The slopes are a band of
//! their own, half to twice the example's pace everywhere, and C(M−1, j) / M is a mean that compares across examples. `w` makes
//! an uneven pace cost a little.
//!
//! A path whose cost exceeds `limit` · M can only cost more: it is dead, and rows that only dead paths could reach are not looked
//! at. Most of the work falls away, and no match within the limit changes by a bit.

use super::template::{Scratch, Template};

/// What a step off the diagonal costs.
const WARP_COST: f32 = 0.1;

/// The best match that ends at a frame.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Match {
    /// Mean distance per row of the template.
    pub distance: f32,
    /// First frame of the match.
    pub start: u64,
}

/// One column of the recursion.
#[derive(Debug, Clone, Default)]
struct Column {
    cost: Vec<f32>,
    start: Vec<u64>,
}

/// One stream against one template.
#[derive(Debug, Clone)]
pub struct Warp {
    template: Template,
    limit: f32,
    now: Column,
    /// The columns one and two frames before.
    one: Column,
    two: Column,
    /// d(i, j) of this frame and of the one before, of the rows that were looked at.
    distances: Vec<f32>,
    before: Vec<f32>,
    /// Rows below this one may be reached by a living path.
    reach: usize,
}

impl Warp {
    /// Matches whose mean distance is above `limit` are not told.
    pub fn new(template: Template, limit: f32) -> Self {
        let rows = template.frames();
        let column = || Column { cost: vec![f32::INFINITY; rows], start: vec![0; rows] };
        let distances = vec![f32::INFINITY; rows];
        Self { template, limit, now: column(), one: column(), two: column(), before: distances.clone(), distances, reach: 0 }
    }

    /// The template.
    pub fn template(&self) -> &Template {
        &self.template
    }

    /// Forgets the stream so far.
    pub fn reset(&mut self) {
        self.one.cost.fill(f32::INFINITY);
        self.two.cost.fill(f32::INFINITY);
        self.now.cost.fill(f32::INFINITY);
        self.reach = 0;
    }

    /// Takes frame number `frame` and gives the best match that ends with it, if one is within the limit.
    pub fn step(&mut self, x: &Scratch, frame: u64) -> Option<Match> {
        let rows = self.template.frames();
        let most = self.limit * rows as f32;
        // Paths of the last two columns are below `reach`; a step climbs two rows at most.
        let top = (self.reach + 2).min(rows);
        let mut reach = 0;
        for i in 0..top {
            let (mut cost, mut start) = (f32::INFINITY, frame);
            let mut distance = f32::INFINITY;
            let alive = match i {
                0 => true,
                1 => self.one.cost[0].min(self.two.cost[0]) <= most,
                _ => self.one.cost[i - 1].min(self.two.cost[i - 1]).min(self.one.cost[i - 2]) <= most,
            };
            if alive {
                distance = self.template.distance(i, x);
                if i == 0 {
                    cost = distance;
                } else {
                    let mut take = |from: f32, with: f32, began: u64| {
                        if from + with < cost {
                            (cost, start) = (from + with, began);
                        }
                    };
                    take(self.one.cost[i - 1], distance, self.one.start[i - 1]);
                    take(self.two.cost[i - 1], 0.5 * (self.before[i] + distance) + WARP_COST, self.two.start[i - 1]);
                    if i >= 2 {
                        take(self.one.cost[i - 2], self.distances[i - 1] + distance + WARP_COST, self.one.start[i - 2]);
                    }
                }
            }
            if cost <= most {
                reach = i + 1;
            } else {
                cost = f32::INFINITY;
            }
            self.distances[i] = distance;
            self.now.cost[i] = cost;
            self.now.start[i] = start;
        }
        // What the columns before left above is dead now.
        self.now.cost[top..].fill(f32::INFINITY);
        let last = rows.checked_sub(1)?;
        let found = (self.now.cost[last] <= most)
            .then(|| Match { distance: self.now.cost[last] / rows as f32, start: self.now.start[last] });
        std::mem::swap(&mut self.two, &mut self.one);
        std::mem::swap(&mut self.one, &mut self.now);
        std::mem::swap(&mut self.before, &mut self.distances);
        // The column before stays reachable for the step that takes two frames.
        self.reach = reach.max(self.two.cost.iter().take(top).rposition(|cost| *cost <= most).map_or(0, |i| i + 1));
        found
    }
}
