//! Multiplication of vectors by each of four numbers.
//!
//! Arm multiplies by a lane of a vector, so that one load serves four multiplications. Other processors load each number to all lanes.

use std::sync::atomic::{Ordering, compiler_fence};

use rten_simd::Isa;
use rten_simd::ops::NumOps;

/// Numbers that are loaded together: the lanes of Arm's vectors.
pub const FOUR: usize = 4;

/// Four numbers to multiply by.
#[derive(Clone, Copy)]
pub struct ByLane<'a, I: Isa> {
    numbers: &'a [f32; FOUR],
    vector: I::F32,
}

impl<'a, I: Isa> ByLane<'a, I> {
    #[inline(always)]
    pub fn load(isa: I, numbers: &'a [f32; FOUR]) -> Self {
        let ops = isa.f32();
        Self { numbers, vector: if ops.len() == FOUR { ops.load(numbers) } else { ops.zero() } }
    }

    /// Number `LANE` in all lanes.
    #[inline(always)]
    pub fn broadcast<const LANE: i32>(&self, isa: I) -> I::F32 {
        let ops = isa.f32();
        if ops.len() == FOUR { ops.broadcast_lane::<LANE>(self.vector) } else { ops.splat(self.numbers[LANE as usize]) }
    }
}

/// Keeps the code of the lanes in their order. On x86, LLVM otherwise moves the additions to one sum next to each other, where each waits for the
/// previous one. On Arm, where it moves loads ahead instead, its order is the better one.
#[inline(always)]
pub fn in_order() {
    if cfg!(target_arch = "x86_64") {
        compiler_fence(Ordering::SeqCst);
    }
}

/// `$body` with the constant `$lane` from 0 to 3.
macro_rules! by_lane {
    ($lane:ident => $body:block) => {{
        by_lane!(@ $lane 0 $body);
        by_lane!(@ $lane 1 $body);
        by_lane!(@ $lane 2 $body);
        by_lane!(@ $lane 3 $body);
    }};
    (@ $lane:ident $value:literal $body:block) => {{
        const $lane: i32 = $value;
        $body
    }};
}

pub(super) use by_lane;
