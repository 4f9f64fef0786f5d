//! Subsequence dynamic time warping of a stream with one template, block by block, in constant memory.
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
//! (Sakoe and Chiba 1978, slope constraint P = 1, asymmetric: every row adds exactly one distance.) The slopes bound the pace to half to
//! twice the example's everywhere, and C(M−1, j) / M is a mean that is comparable across examples. `w` is a small cost of an uneven pace.
//!
//! No step stays at a row, so C(i, ·) needs only the rows above it: the recursion proceeds row by row, for all frames of a block at once, and
//! its cost does not depend on the audio.

use rten_simd::{Isa, SimdOp};

use super::template::{FrameBlock, LANES, Template, distance};
use crate::engine::Dots;

/// The score of a mean distance.
pub fn score(distance: f32) -> f32 {
    (1.0 - distance).max(0.0)
}

/// Cost of a step off the diagonal.
const WARP_COST: f32 = 0.05;
/// Number of frames before a block that a step may start from.
const BEFORE: usize = 2;

/// The best match that ends at a frame.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Match {
    /// Mean distance per row of the template; infinite if no match can end here.
    pub distance: f32,
    /// Its length, frames.
    pub frames: u32,
}

/// A row's values in the frames before a block.
#[derive(Debug, Clone, Copy)]
struct Behind {
    cost: [f32; BEFORE],
    frames: [u32; BEFORE],
    /// d(i, j) in the last frame.
    distance: f32,
}

impl Behind {
    const NOTHING: Self = Self { cost: [f32::INFINITY; BEFORE], frames: [0; BEFORE], distance: f32::INFINITY };
}

/// One row of the recursion over a block, and the frames before it.
#[derive(Clone, Copy)]
struct Row {
    cost: [f32; BEFORE + LANES],
    /// Length of the path, frames.
    frames: [u32; BEFORE + LANES],
    distance: [f32; LANES],
}

impl Row {
    const NONE: Self = Self { cost: [f32::INFINITY; BEFORE + LANES], frames: [0; BEFORE + LANES], distance: [0.0; LANES] };
}

/// The alignment of one stream with one template.
#[derive(Debug, Clone)]
pub struct Warp {
    dots: Dots,
    behind: Vec<Behind>,
    /// Dot products of the block's frames with the template's rows.
    products: Vec<f32>,
}

impl Warp {
    /// Searches for `template` from the start of a stream.
    pub fn new(template: &Template) -> Self {
        let behind = vec![Behind::NOTHING; template.frames()];
        Self { dots: template.dots(), behind, products: Vec::new() }
    }

    /// Discards the stream so far.
    pub fn reset(&mut self) {
        self.behind.fill(Behind::NOTHING);
    }

    /// Processes the next frames of the stream: the best matches that end with each of them.
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

    // Plain loops over the lanes, compiled to the widest instructions of the processor.
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
