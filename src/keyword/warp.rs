//! Subsequence dynamic time warping of a stream with one template, a block of frames at a time, in memory that does not grow.
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
//! No step stays at a row, so C(i, ·) needs rows above it only: the recursion goes row by row, and all frames of a block at once. It does
//! the same work for every frame, whatever is said.

use rten_simd::{Isa, SimdOp};

use super::template::{FrameBlock, LANES, Template, distance};
use crate::engine::Dots;

/// What a step off the diagonal costs.
const WARP_COST: f32 = 0.05;
/// Frames before a block that a step may come from.
const BEFORE: usize = 2;

/// The best match that ends at a frame.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Match {
    /// Mean distance per row of the template; infinite where none can end.
    pub distance: f32,
    /// Its length, frames.
    pub frames: u32,
}

/// What a block needs to know of a row in the frames before it.
#[derive(Debug, Clone, Copy)]
struct Behind {
    cost: [f32; BEFORE],
    frames: [u32; BEFORE],
    /// d(i, j) of the last frame.
    distance: f32,
}

impl Behind {
    const NOTHING: Self = Self { cost: [f32::INFINITY; BEFORE], frames: [0; BEFORE], distance: f32::INFINITY };
}

/// One row of the recursion over a block, and the frames before it.
#[derive(Clone, Copy)]
struct Row {
    cost: [f32; BEFORE + LANES],
    /// How many frames the path has.
    frames: [u32; BEFORE + LANES],
    distance: [f32; LANES],
}

impl Row {
    const NONE: Self = Self { cost: [f32::INFINITY; BEFORE + LANES], frames: [0; BEFORE + LANES], distance: [0.0; LANES] };
}

/// One stream against one template.
#[derive(Debug, Clone)]
pub struct Warp {
    dots: Dots,
    behind: Vec<Behind>,
    /// Of the present block's frames with the template's rows.
    products: Vec<f32>,
}

impl Warp {
    /// Looks for `template` from the start of a stream.
    pub fn new(template: &Template) -> Self {
        let behind = vec![Behind::NOTHING; template.frames()];
        Self { dots: template.dots(), behind, products: Vec::new() }
    }

    /// Forgets the stream so far.
    pub fn reset(&mut self) {
        self.behind.fill(Behind::NOTHING);
    }

    /// Takes the next frames of the stream: the best matches that end with each of them.
    pub fn step(&mut self, block: &FrameBlock) -> [Match; LANES] {
        self.dots.with(block.vectors(), &mut self.products);
        Step { behind: &mut self.behind, products: &self.products, ended: block.frames() }.dispatch()
    }
}

struct Step<'a> {
    behind: &'a mut [Behind],
    products: &'a [f32],
    /// Frames of the block.
    ended: usize,
}

impl SimdOp for Step<'_> {
    type Output = [Match; LANES];

    // Plain loops over the lanes: here they become the widest instructions that the processor has.
    #[inline(always)]
    fn eval<I: Isa>(self, _: I) -> [Match; LANES] {
        let Self { behind, products, ended } = self;
        let rows = behind.len();
        let (mut above, mut over) = (Row::NONE, Row::NONE);
        for (i, behind) in behind.iter_mut().enumerate() {
            let mut row = Row::NONE;
            for (distance, products) in row.distance.iter_mut().zip(products.chunks_exact(rows)) {
                *distance = self::distance(products[i]);
            }
            row.cost[..BEFORE].copy_from_slice(&behind.cost);
            row.frames[..BEFORE].copy_from_slice(&behind.frames);
            if i == 0 {
                row.cost[BEFORE..].copy_from_slice(&row.distance);
                row.frames[BEFORE..].fill(1);
            } else {
                let mut earlier = [behind.distance; LANES];
                earlier[1..].copy_from_slice(&row.distance[..LANES - 1]);
                for (j, (&d, &before)) in row.distance.iter().zip(&earlier).enumerate() {
                    let even = above.cost[j + 1] + d;
                    let slow = above.cost[j] + (0.5 * (before + d) + WARP_COST);
                    let fast = over.cost[j + 1] + (above.distance[j] + d + WARP_COST);
                    let (cost, frames) = if slow < even { (slow, above.frames[j] + 2) } else { (even, above.frames[j + 1] + 1) };
                    let (cost, frames) = if fast < cost { (fast, over.frames[j + 1] + 1) } else { (cost, frames) };
                    row.cost[BEFORE + j] = cost;
                    row.frames[BEFORE + j] = frames;
                }
            }
            behind.cost.copy_from_slice(&row.cost[ended..ended + BEFORE]);
            behind.frames.copy_from_slice(&row.frames[ended..ended + BEFORE]);
            if let Some(last) = ended.checked_sub(1) {
                behind.distance = row.distance[last];
            }
            (over, above) = (above, row);
        }
        std::array::from_fn(|j| Match { distance: above.cost[BEFORE + j] / rows as f32, frames: above.frames[BEFORE + j] })
    }
}
