//! Ceilings of the kernels on this processor: the MACs per second of their instructions in registers, without loads.

use std::hint::black_box;
use std::time::Instant;

use rten_simd::ops::NumOps;
use rten_simd::{Isa, SimdOp};

use super::dot::DotKernel;
use super::in_registers;

/// Steps per measurement, tens of microseconds, and measurements, of which the fastest counts.
const STEPS: usize = 1 << 13;
const ROUNDS: usize = 40;

/// MACs per second of f32 multiply-adds.
pub fn f32() -> f64 {
    fastest(|| MultiplyAdds.dispatch())
}

/// MACs per second of the instructions of `kernel`.
pub fn int8(kernel: DotKernel) -> f64 {
    fastest(|| kernel.compute_in_registers(STEPS))
}

/// The highest MACs per second of `compute`, which returns its MACs.
fn fastest(compute: impl Fn() -> usize) -> f64 {
    let measure = || {
        let began = Instant::now();
        let macs = compute();
        macs as f64 / began.elapsed().as_secs_f64()
    };
    (0..ROUNDS).map(|_| measure()).fold(0.0, f64::max)
}

/// Sixteen independent sums in registers. Returns the MACs.
struct MultiplyAdds;

impl SimdOp for MultiplyAdds {
    type Output = usize;

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) -> usize {
        let ops = isa.f32();
        let (x, w) = (ops.splat(black_box(1e-9)), ops.splat(black_box(1e-9)));
        let mut sums = [ops.zero(); 16];
        for _ in 0..STEPS {
            for sum in &mut sums {
                *sum = ops.mul_add(x, w, *sum);
            }
        }
        black_box(in_registers(sums));
        STEPS * sums.len() * ops.len()
    }
}
