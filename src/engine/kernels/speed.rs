//! Speed of the kernels at a stream's sizes, relative to the processor's peak. Prints the tables of docs/notes/kernels.md:
//!
//!     cargo test --release --lib kernels::speed -- --ignored --nocapture
//!     cargo test --release --lib kernels::speed::of_streams -- --ignored --nocapture      (only the second table)

use std::time::Instant;

use rten_simd::SimdOp;

use super::attention::{Attention, ByHead};
use super::dot::{COLUMNS, DotKernel, GROUP, PackedSteps};
use super::int8::{Quantise, QuantisedWeights, Steps, Widen};
use super::matmul::PackedWeights;
use super::norm::LayerNorm;
use super::{Activation, Rows, ceiling};

// daisy-tiny: frames of a chunk, hidden size, heads, left context, and layers whose weights pass through the caches in turn.
const FRAMES: usize = 16;
const DIM: usize = 192;
const HEADS: usize = 4;
const CONTEXT: usize = 64;
const LAYERS: usize = 10;
const ROUNDS: usize = 300;

/// Seconds of the fastest round.
fn best(mut work: impl FnMut()) -> f64 {
    let mut time = || {
        let began = Instant::now();
        work();
        began.elapsed().as_secs_f64()
    };
    (0..ROUNDS).map(|_| time()).fold(f64::INFINITY, f64::min)
}

fn numbers(count: usize) -> Vec<f32> {
    (0..count).map(|i| ((i * 7919 % 1013) as f32 / 506.5 - 1.0) * 0.1).collect()
}

#[test]
#[ignore = "prints a table"]
fn of_every_class_of_operation() {
    let in_f32 = ceiling::f32();
    println!("f32 peak: {:.0} G MACs per second", in_f32 / 1e9);
    println!("| operation | µs | G MACs per second | of the peak |\n|---|---|---|---|");
    let row = |name: &str, seconds: f64, adds: usize, ceiling: f64| {
        let rate = adds as f64 / seconds;
        match adds {
            0 => println!("| {name} | {:.2} | | |", seconds * 1e6),
            _ => println!("| {name} | {:.1} | {:.0} | {:.0} % |", seconds * 1e6, rate / 1e9, 100.0 * rate / ceiling),
        }
    };
    for (inputs, outputs) in [(DIM, DIM), (DIM, 3 * DIM), (DIM, 4 * DIM), (4 * DIM, DIM), (4 * DIM, 4 * DIM), (4 * DIM, 16 * DIM)]
    {
        let (x, weights) = (numbers(FRAMES * inputs), numbers(inputs * outputs));
        let rows = Rows::new(&x, FRAMES, inputs);
        let mut out = vec![0.0; FRAMES * outputs];
        let (name, adds) = (format!("{FRAMES} × {inputs} × {outputs}"), FRAMES * inputs * outputs);
        let pack = |_| PackedWeights::new(inputs, outputs, |k, n| weights[k * outputs + n], None);
        let many: Vec<_> = (0..LAYERS).map(pack).collect();
        let hot = best(|| many[0].apply(rows, Activation::None, None, &mut out));
        row(&format!("matmul f32 {name}, weights in cache"), hot, adds, in_f32);
        let cold = best(|| many.iter().for_each(|one| one.apply(rows, Activation::None, None, &mut out))) / LAYERS as f64;
        row(&format!("matmul f32 {name}, {LAYERS} layers in turn"), cold, adds, in_f32);
        for kernel in DotKernel::available() {
            let steps = QuantisedWeights::new(&weights, outputs, None).0;
            let Some(packed) = PackedSteps::new(kernel.packing(), &steps, inputs, outputs) else { continue };
            let bytes = vec![[7u8; GROUP]; FRAMES * inputs / GROUP];
            let mut sums = vec![[0; COLUMNS]; FRAMES];
            let seconds =
                best(|| packed.panels().for_each(|(panel, next)| kernel.sums(&bytes, inputs / GROUP, panel, next, &mut sums)));
            row(&format!("matmul int8 {name}, weights in cache, {}", kernel.name()), seconds, adds, ceiling::int8(kernel));
        }
    }

    let x = numbers(FRAMES * 4 * DIM);
    let (mut steps, mut ranges) = (vec![0; x.len()], vec![0.0; 2 * FRAMES]);
    let rows = Rows::new(&x, FRAMES, 4 * DIM);
    row(
        "quantise rows, 16 × 768",
        best(|| Quantise { rows, written: Steps::U8, steps: &mut steps, ranges: &mut ranges }.dispatch()),
        0,
        in_f32,
    );
    let (weights, sums) = (QuantisedWeights::new(&numbers(DIM * 4 * DIM), 4 * DIM, None).1, vec![1000; x.len()]);
    let mut out = vec![0.0; x.len()];
    let mut widen = |activation| {
        best(|| {
            let (sums, ranges, weights, out) = (&sums[..], &ranges[..], &weights, &mut out[..]);
            Widen { sums, stride: 4 * DIM, columns: 0..4 * DIM, ranges, weights, activation, residual: None, out }.dispatch();
        })
    };
    row("dequantise, 16 × 768", widen(Activation::None), 0, in_f32);
    row("dequantise and GELU, 16 × 768", widen(Activation::Gelu), 0, in_f32);
    let (scale, shift) = (vec![1.0; DIM], vec![0.0; DIM]);
    let (x, mut out) = (numbers(FRAMES * DIM), vec![0.0; FRAMES * DIM]);
    let norm = best(|| LayerNorm { x: &x, scale: &scale, shift: &shift, epsilon: 1e-5, out: &mut out }.dispatch());
    row("layer norm, 16 × 192", norm, 0, in_f32);
    let (width, qkv, cache) = (DIM / HEADS, numbers(FRAMES * DIM), numbers(CONTEXT * DIM));
    let new = ByHead { data: &qkv, frames: FRAMES, head_stride: width, frame_stride: DIM };
    let old = ByHead { data: &cache, frames: CONTEXT, head_stride: CONTEXT * width, frame_stride: width };
    let (mut scratch, bias) = (Vec::new(), vec![0.0; HEADS * (CONTEXT + FRAMES) * FRAMES]);
    let attention = best(|| {
        let (keys, values, bias, scratch, out) = (&[old, new], &[old, new], Some(&bias[..]), &mut scratch, &mut out[..]);
        Attention { heads: HEADS, width, queries: new, keys, values, scale: 1.0, bias, scratch, out }.dispatch();
    });
    row("attention, 16 queries, 80 keys, 4 heads of 48", attention, 2 * FRAMES * (CONTEXT + FRAMES) * DIM, in_f32);
}

/// Gain of batching several streams: the rows of two or four streams through the matmuls of a layer at once.
#[test]
#[ignore = "prints a table"]
fn of_streams_together() {
    const MOST: usize = 4 * FRAMES;
    println!("| matmuls of a layer | one stream, µs | two, relative | four, relative |\n|---|---|---|---|");
    let sizes = [(DIM, 3 * DIM), (DIM, DIM), (DIM, 4 * DIM), (4 * DIM, DIM)];
    let x = numbers(MOST * 4 * DIM);
    let mut out = vec![0.0; MOST * 4 * DIM];
    let row = |name: &str, layers: usize, run: &mut dyn FnMut(usize)| {
        let mut times = [const { Vec::new() }; 3];
        for _ in 0..ROUNDS {
            for (streams, times) in [1, 2, 4].into_iter().zip(&mut times) {
                let began = Instant::now();
                run(streams * FRAMES);
                times.push(began.elapsed().as_secs_f64() / streams as f64);
            }
        }
        let [one, two, four] = times.map(|mut times| {
            times.sort_by(f64::total_cmp);
            times[times.len() / 2]
        });
        println!("| {name} | {:.1} | {:.3} | {:.3} |", one * 1e6 / layers as f64, two / one, four / one);
    };
    let pack = |(inputs, outputs)| {
        let weights = numbers(inputs * outputs);
        PackedWeights::new(inputs, outputs, |k, n| weights[k * outputs + n], None)
    };
    let layers: Vec<PackedWeights> = (0..LAYERS).flat_map(|_| sizes.map(pack)).collect();
    for (name, count) in [("f32, weights in cache", 1), ("f32, ten layers in turn", LAYERS)] {
        row(name, count, &mut |rows| {
            for weights in &layers[..count * sizes.len()] {
                let (of, out) = (Rows::new(&x, rows, weights.inputs), &mut out[..rows * weights.outputs]);
                weights.apply(of, Activation::None, None, out);
            }
        });
    }
    if let Some(kernel) = DotKernel::available().next() {
        let pack = |(inputs, outputs)| {
            let (steps, weights) = QuantisedWeights::new(&numbers(inputs * outputs), outputs, None);
            PackedSteps::new(kernel.packing(), &steps, inputs, outputs).map(|packed| (inputs, outputs, packed, weights))
        };
        let layers: Vec<_> = (0..LAYERS).flat_map(|_| sizes.map(pack)).flatten().collect();
        let mut steps = vec![[0u8; GROUP]; MOST * 4 * DIM / GROUP];
        let (mut ranges, mut sums) = (vec![0.0; 2 * MOST], vec![[0; COLUMNS]; MOST]);
        for (name, count) in [("int8, weights in cache", 1), ("int8, ten layers in turn", LAYERS)] {
            row(name, count, &mut |rows| {
                for (inputs, outputs, packed, weights) in &layers[..count * sizes.len()] {
                    let (steps, ranges) = (&mut steps[..rows * inputs / GROUP], &mut ranges[..2 * rows]);
                    let of = Rows::new(&x, rows, *inputs);
                    Quantise { rows: of, written: kernel.steps(), steps: steps.as_flattened_mut(), ranges }.dispatch();
                    for (index, (panel, next)) in packed.panels().enumerate() {
                        kernel.sums(steps, packed.groups, panel, next, &mut sums);
                        let columns = index * COLUMNS..((index + 1) * COLUMNS).min(*outputs);
                        let (sums, out, activation) = (sums.as_flattened(), &mut out[..rows * outputs], Activation::None);
                        Widen { sums, stride: COLUMNS, columns, ranges, weights, activation, residual: None, out }.dispatch();
                    }
                }
            });
        }
    }
}
