//! Every kernel against a naive reference.
#![allow(clippy::unwrap_used)]

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};

use proptest::prelude::*;
use rten_simd::ops::NumOps;
use rten_simd::{Isa, SimdOp};

use super::activation::{gelu as gelu_after_int8, power_of_two};
use super::attention::{Attention, ByHead, transposed_bias};
use super::dot::transpose::{SIDE, transpose};
use super::dot::{COLUMNS, DotKernel, GROUP, PackedSteps, Packing};
use super::fft::PowerSpectrum;
use super::helpers::{Helpers, Panels, available};
use super::int8::{Quantise, QuantisedWeights, Steps, Widen};
use super::log_mel::{LogMel, Scratch, ln};
use super::matmul::{PackedWeights, panel_width};
use super::norm::{ChannelNorm, LayerNorm};
use super::{Activation, Block, Rows};

/// Deterministic pseudo-random numbers.
fn numbers(count: usize, seed: u32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2_654_435_761) | 1;
    let next = move || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        (state as f32 / u32::MAX as f32 - 0.5) * 2.0
    };
    std::iter::repeat_with(next).take(count).collect()
}

/// erf by Abramowitz and Stegun 7.1.26 in f64, with an error of 1.5e-7: sufficient to test f32.
fn gelu(x: f64) -> f64 {
    let z = x.abs() / 2f64.sqrt();
    let t = 1.0 / (1.0 + 0.3275911 * z);
    let series = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))));
    let erf = (1.0 - series * (-z * z).exp()).copysign(x);
    x * (1.0 + erf) / 2.0
}

struct Case {
    rows: Vec<f32>,
    weights: Vec<f32>,
    bias: Vec<f32>,
    residual: Vec<f32>,
}

/// rows · weights + bias, activation, residual, in f64.
fn naive(case: &Case, [count, inputs, outputs, stride]: [usize; 4], activation: Activation) -> Vec<f64> {
    let mut out = Vec::new();
    for r in 0..count {
        for n in 0..outputs {
            let products = (0..inputs).map(|k| f64::from(case.rows[r * stride + k]) * f64::from(case.weights[k * outputs + n]));
            let y = products.sum::<f64>() + f64::from(case.bias[n]);
            let y = if activation == Activation::Gelu { gelu(y) } else { y };
            out.push(y + f64::from(case.residual[r * outputs + n]));
        }
    }
    out
}

fn bits(numbers: &[f32]) -> Vec<u32> {
    numbers.iter().map(|number| number.to_bits()).collect()
}

/// Panels that report their start, and wait for permission to finish.
struct Controlled {
    begun: Sender<usize>,
    may_end: Mutex<Receiver<()>>,
}

impl Panels for Controlled {
    fn compute(&self, panel: usize) -> Vec<f32> {
        self.begun.send(panel).unwrap();
        self.may_end.lock().unwrap().recv().unwrap();
        vec![panel as f32]
    }
}

/// A panel finished by a helper is used; the caller computes an unfinished one itself, without waiting.
#[test]
fn a_caller_uses_finished_panels_and_never_waits() {
    let helpers = Helpers::start(1, 0).unwrap();
    let ((begun, begins), (end, may_end)) = (channel(), channel());
    let mut put = Vec::new();
    helpers.share(
        4,
        || Controlled { begun, may_end: Mutex::new(may_end) },
        |panel, block| {
            if panel == 0 {
                assert_eq!(begins.recv().unwrap(), 3);
                end.send(()).unwrap();
                assert_eq!(begins.recv().unwrap(), 2);
            }
            put.push((panel, block.map(<[f32]>::to_vec)));
        },
    );
    assert_eq!(put, [(0, None), (1, None), (3, Some(vec![3.0])), (2, None)]);
    end.send(()).unwrap();
}

/// Helpers are used for large matmuls only, and not while the previous offer is still pending.
#[test]
fn helpers_are_available_for_large_matmuls_if_idle() {
    let helpers = Arc::new(Helpers::start(1, 1000).unwrap());
    assert!(available(Some(&helpers), 1000).is_some());
    assert!(available(Some(&helpers), 999).is_none() && available(None, 1000).is_none());
    let ((begun, begins), (end, may_end)) = (channel(), channel());
    let controlled = || Controlled { begun: begun.clone(), may_end: Mutex::new(may_end) };
    // The helper is blocked in the first matmul, so the offer of the second one stays pending.
    helpers.share(2, controlled, |panel, _| {
        if panel == 0 {
            assert_eq!(begins.recv().unwrap(), 1)
        }
    });
    helpers.share(
        1,
        || Controlled { begun: begun.clone(), may_end: Mutex::new(channel().1) },
        |_, block| assert!(block.is_none()),
    );
    assert!(available(Some(&helpers), 1000).is_none());
    end.send(()).unwrap();
}

fn worst(actual: &[f32], expected: &[f64]) -> f64 {
    assert_eq!(actual.len(), expected.len());
    assert!(actual.iter().all(|x| x.is_finite()));
    actual.iter().zip(expected).map(|(&a, b)| (f64::from(a) - b).abs()).fold(0.0, f64::max)
}

/// ln of a few numbers.
struct Logarithms<'a>(&'a mut [f32]);

impl SimdOp for Logarithms<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) {
        let ops = isa.f32();
        for part in self.0.chunks_exact_mut(ops.len()) {
            ops.store(ln(isa, ops.load(part)), part);
        }
    }
}

#[test]
fn logarithms_are_exact_to_two_units_of_the_last_place() {
    let bits = (f32::MIN_POSITIVE.to_bits()..f32::MAX.to_bits()).step_by(if cfg!(miri) { 4_000_037 } else { 40_009 });
    let mut x: Vec<f32> = bits.map(f32::from_bits).chain((1..2000).map(|i| 0.5 + i as f32 * 1e-3)).collect();
    x.resize(x.len().next_multiple_of(64), 1.0);
    let mut actual = x.clone();
    Logarithms(&mut actual).dispatch();
    for (&x, &actual) in x.iter().zip(&actual) {
        let expected = f64::from(x).ln();
        // Around 1, where the result is small, the error is that of x.
        let unit = f64::from(f32::EPSILON) * expected.abs().max(0.1);
        assert!((f64::from(actual) - expected).abs() <= 2.0 * unit, "ln {x} = {expected}, got {actual}");
    }
    let mut bad = vec![f32::NAN; 64];
    bad[..32].fill(f32::INFINITY);
    Logarithms(&mut bad).dispatch();
    assert!(bad.iter().all(|y| y.is_nan()));
}

/// Powers of 2.
struct Powers<'a>(&'a mut [f32]);

impl SimdOp for Powers<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) {
        let ops = isa.f32();
        for part in self.0.chunks_exact_mut(ops.len()) {
            ops.store(power_of_two(isa, ops.load(part)), part);
        }
    }
}

#[test]
fn powers_of_two_of_the_softmax_are_exact_to_three_ten_millionths() {
    let steps = if cfg!(miri) { 640 } else { 64_000 };
    let x: Vec<f32> = (0..steps).map(|i| -126.0 * i as f32 / steps as f32).collect();
    let mut y = x.clone();
    Powers(&mut y).dispatch();
    for (&x, &y) in x.iter().zip(&y) {
        let expected = f64::from(x).exp2();
        assert!((f64::from(y) / expected - 1.0).abs() < 3e-7, "2^{x} = {expected}, got {y}");
    }
    let mut small = vec![-127.0; 64];
    small[32..].fill(f32::NEG_INFINITY);
    Powers(&mut small).dispatch();
    assert!(small.iter().all(|&y| (0.0..1.2e-38).contains(&y)), "{small:?}");
    let mut bad = vec![f32::NAN; 64];
    Powers(&mut bad).dispatch();
    // Without vector instructions, the maximum of NaN and a number is the number.
    assert!(cfg!(miri) || bad.iter().all(|y| y.is_nan()), "{bad:?}");
}

struct Gelus<'a>(&'a mut [f32]);

impl SimdOp for Gelus<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) {
        let ops = isa.f32();
        for part in self.0.chunks_exact_mut(ops.len()) {
            let [y] = gelu_after_int8(isa, [ops.load(part)]);
            ops.store(y, part);
        }
    }
}

#[test]
fn gelu_after_int8_is_exact_to_2e_5_and_beyond_4_9_to_the_bit() {
    let steps = if cfg!(miri) { 720 } else { 72_000 };
    let mut x: Vec<f32> =
        (0..=steps).map(|i| 18.0 * i as f32 / steps as f32 - 9.0).chain([-1e30, 1e30, 1e-30, f32::NAN]).collect();
    x.resize(x.len().next_multiple_of(16), 0.0);
    let mut y = x.clone();
    Gelus(&mut y).dispatch();
    for (&x, &y) in x.iter().zip(&y) {
        if x.is_nan() {
            assert!(y.is_nan());
        } else if x.abs() > 4.9 {
            assert_eq!(y, x.max(0.0), "gelu {x}");
        } else {
            let (expected, tolerance) = (gelu(f64::from(x)), 2e-5 + 1.5e-7 * f64::from(x).abs() / 2.0);
            assert!((f64::from(y) - expected).abs() < tolerance, "gelu {x} = {expected}, got {y}");
        }
    }
}

#[test]
fn spectra_of_unsupported_lengths_are_refused() {
    for samples in [0, 1, 25, 14, 22 * 16] {
        assert!(PowerSpectrum::new(&vec![1.0; samples]).is_none(), "{samples}");
    }
    let spectrum = || PowerSpectrum::new(&[1.0; 8]).unwrap();
    assert!(LogMel::new(spectrum(), 4, &[1.0; 10], 1e-8, [0.0, 1.0]).is_some());
    assert!(LogMel::new(spectrum(), 0, &[1.0; 10], 1e-8, [0.0, 1.0]).is_none());
    assert!(LogMel::new(spectrum(), 4, &[1.0; 11], 1e-8, [0.0, 1.0]).is_none());
    assert!(LogMel::new(spectrum(), 4, &[1.0; 10], 0.0, [0.0, 1.0]).is_none());
}

/// The end of a range of sizes: `here`, or `miri` under Miri, which is thousands of times slower. The latter still covers whole and partial
/// vectors, tiles and panels of its four lanes.
const fn end(here: usize, miri: usize) -> usize {
    if cfg!(miri) { miri } else { here }
}

#[test]
fn only_steps_that_every_kernel_multiplies_exactly_are_packed() {
    for packing in [Packing::ByInput, Packing::ByColumn] {
        let packed = |step: i8, count: usize, inputs: usize| PackedSteps::new(packing, &vec![step; count], inputs, 2).is_some();
        let depth = packing.depth();
        assert!(packed(-127, 2 * depth, depth));
        assert!(!packed(-128, 2 * depth, depth), "two products exceed 16 bits");
        assert!(!packed(1, 2 * depth - 1, depth), "a step is missing");
        assert!(!packed(1, 2 * depth + 2, depth + 1), "a block is incomplete");
    }
}

/// With the instructions of this processor, to the bit.
#[test]
fn blocks_are_transposed() {
    let x = numbers(SIDE * SIDE, 7);
    let (rows, _) = x.as_chunks::<SIDE>();
    let mut columns = [[f32::NAN; SIDE]; SIDE];
    transpose(&std::array::from_fn(|r| &rows[r]), 0.3, &mut columns);
    for (r, row) in rows.iter().enumerate() {
        for (c, x) in row.iter().enumerate() {
            assert_eq!(columns[c][r].to_bits(), (x * 0.3).to_bits(), "row {r}, column {c}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: if cfg!(miri) { 4 } else { 64 }, ..ProptestConfig::default() })]

    #[test]
    fn products_equal_naive_ones(
        count in 0..end(40, 11), inputs in 1..end(200, 18), outputs in 1..end(200, 22), overlap in 0usize..3, gelu in any::<bool>(), seed in 1u32..1000,
    ) {
        let stride = (inputs / (overlap + 1)).max(1);
        let activation = if gelu { Activation::Gelu } else { Activation::None };
        let case = Case {
            rows: numbers(count.saturating_sub(1) * stride + inputs, seed),
            weights: numbers(inputs * outputs, seed + 1),
            bias: numbers(outputs, seed + 2),
            residual: numbers(count * outputs, seed + 3),
        };
        let expected = naive(&case, [count, inputs, outputs, stride], activation);
        let weight = |k: usize, n: usize| case.weights[k * outputs + n];
        let rows = Rows { data: &case.rows, count, width: inputs, stride };

        let mut actual = vec![f32::NAN; count * outputs];
        PackedWeights::new(inputs, outputs, weight, Some(&case.bias)).apply(rows, activation, Some(&case.residual), &mut actual);
        let error = worst(&actual, &expected);
        prop_assert!(error < 2e-5, "f32 error: {error}");

        // Everything computed by a helper is bit-identical.
        let packed = Arc::new(PackedWeights::new(inputs, outputs, weight, Some(&case.bias)));
        prop_assert_eq!(bits(&packed.unpacked()), bits(&case.weights));
        let (offered, mut helped) = (packed.offered(rows, activation), vec![f32::NAN; count * outputs]);
        for panel in 0..packed.panel_count() {
            let first = panel * panel_width();
            let block = Block { numbers: &mut helped, stride: outputs, first, residual: Some(&case.residual) };
            block.put(&offered.compute(panel), count);
        }
        prop_assert_eq!(bits(&helped), bits(&actual));

        let (steps, quantised) = QuantisedWeights::new(&case.weights, outputs, Some(&case.bias));
        // Without vector instructions, rten-simd's narrow_saturate reads beyond its input; there are no int8 kernels then.
        for written in if cfg!(miri) { &[][..] } else { &[Steps::I8, Steps::U8] } {
            let written = *written;
            let (mut row_steps, mut ranges) = (vec![0u8; count * inputs], vec![0.0; count * 2]);
            Quantise { rows, written, steps: &mut row_steps, ranges: &mut ranges }.dispatch();
            let number = |step: u8| if written == Steps::U8 { i32::from(step) } else { i32::from(step as i8) };
            let product = |r: usize, n: usize| -> i32 {
                (0..inputs).map(|k| number(row_steps[r * inputs + k]) * i32::from(steps[k * outputs + n])).sum()
            };
            let sums: Vec<i32> = (0..count).flat_map(|r| (0..outputs).map(move |n| (r, n))).map(|(r, n)| product(r, n)).collect();
            let residual = Some(&case.residual[..]);
            let mut actual = vec![f32::NAN; count * outputs];
            // In two parts, as for panels.
            for columns in [0..outputs / 3, outputs / 3..outputs] {
                let sums = &sums[columns.start.min(sums.len())..];
                let (stride, ranges, weights, out) = (outputs, &ranges[..], &quantised, &mut actual[..]);
                Widen { sums, stride, columns, ranges, weights, activation, residual, out }.dispatch();
            }
        let error = worst(&actual, &expected);
            // Rounding errors are at most half a step: 1/127 for a weight of at most 1, 2/255 for a row from -1 to 1.
            let bound = inputs as f64 * (1.0 / 254.0 + 1.0 / 255.0 + 1e-4) * 1.2 + 1e-3;
            prop_assert!(error < bound, "int8 error: {error} > {bound}");
        }
    }

    /// With every kernel of this processor. With `extreme`, all values are the largest ones of either sign.
    #[test]
    fn sums_of_steps_are_exact(
        count in 0usize..20, blocks in 1usize..60, outputs in 1usize..100, extreme in any::<bool>(), seed in 1u32..1000,
    ) {
        let numbers = |count, seed| {
            let all = numbers(count, seed).into_iter();
            all.map(|x| if extreme { x.signum() } else { x }).collect::<Vec<f32>>()
        };
        for kernel in DotKernel::available() {
            let inputs = blocks * kernel.packing().depth();
            let steps: Vec<i8> = numbers(inputs * outputs, seed).into_iter().map(|x| (x * 127.0).round() as i8).collect();
            let rows: Vec<u8> = numbers(count * inputs, seed + 1).into_iter().map(|x| (x * 127.5 + 127.5).round() as u8).collect();
            let (grouped, groups): (&[[u8; GROUP]], usize) = (rows.as_chunks().0, inputs / GROUP);
            let packed = PackedSteps::new(kernel.packing(), &steps, inputs, outputs).unwrap();
            let number = |step: u8| if kernel.steps() == Steps::U8 { i32::from(step) } else { i32::from(step as i8) };
            let mut panels = 0;
            for (panel, next) in packed.panels() {
                let mut sums = vec![[i32::MIN; COLUMNS]; count];
                kernel.sums(grouped, groups, panel, next, &mut sums);
                for (r, sums) in sums.iter().enumerate() {
                    for (column, &actual) in sums.iter().enumerate() {
                        let output = panels * COLUMNS + column;
                        let weight = |k: usize| if output < outputs { i32::from(steps[k * outputs + output]) } else { 0 };
                        let expected: i32 = (0..inputs).map(|k| number(rows[r * inputs + k]) * weight(k)).sum();
                        prop_assert_eq!(actual, expected, "{:?}, row {}, output {}", kernel, r, output);
                    }
                }
                panels += 1;
            }
            prop_assert_eq!(panels, outputs.div_ceil(COLUMNS));
        }
    }

    #[test]
    fn attention_equals_a_naive_one(
        queries in 1..end(40, 19), cached in 0..end(70, 8), heads in 1..end(5, 3), width in 1..end(70, 15), with_bias in any::<bool>(),
        seed in 1u32..1000,
    ) {
        let keys = cached + queries;
        let row = heads * width;
        let (q, new_k, new_v) = (numbers(queries * row, seed), numbers(queries * row, seed + 1), numbers(queries * row, seed + 2));
        let (old_k, old_v) = (numbers(cached * row, seed + 3), numbers(cached * row, seed + 4));
        let bias: Vec<f32> = numbers(heads * queries * keys, seed + 5).iter().map(|x| x * 3.0).collect();
        // New frames are stored by frame, cached ones by head.
        let by_frame = |data| ByHead { data, frames: queries, head_stride: width, frame_stride: row };
        let by_head = |data| ByHead { data, frames: cached, head_stride: cached * width, frame_stride: width };
        let mut transposed = Vec::new();
        transposed_bias(&bias, queries, keys, &mut transposed);
        let mut actual = vec![f32::NAN; queries * row];
        Attention {
            heads, width, queries: by_frame(&q), keys: &[by_head(&old_k), by_frame(&new_k)],
            values: &[by_head(&old_v), by_frame(&new_v)], scale: 0.5, bias: with_bias.then_some(&transposed[..]),
            scratch: &mut Vec::new(), out: &mut actual,
        }.dispatch();

        let mut expected = vec![0.0f64; queries * row];
        for h in 0..heads {
            let at = |old: &[f32], new: &[f32], key: usize, i: usize| f64::from(match key < cached {
                true => old[(h * cached + key) * width + i],
                false => new[(key - cached) * row + h * width + i],
            });
            for t in 0..queries {
                let scores: Vec<f64> = (0..keys).map(|key| {
                    let products = (0..width).map(|i| f64::from(q[t * row + h * width + i]) * at(&old_k, &new_k, key, i));
                    products.sum::<f64>() * 0.5 + if with_bias { f64::from(bias[(h * queries + t) * keys + key]) } else { 0.0 }
                }).collect();
                let most = scores.iter().copied().fold(f64::MIN, f64::max);
                let weights: Vec<f64> = scores.iter().map(|score| (score - most).exp()).collect();
                let sum: f64 = weights.iter().sum();
                for i in 0..width {
                    let mix: f64 = (0..keys).map(|key| weights[key] * at(&old_v, &new_v, key, i)).sum();
                    expected[t * row + h * width + i] = mix / sum;
                }
            }
        }
        let error = worst(&actual, &expected);
        prop_assert!(error < 1e-5, "error: {error}");
    }

    #[test]
    fn log_mel_features_equal_naive_ones(
        half in prop::sample::select([1usize, 2, 3, 4, 5, 9, 12, 20, 45, 80, 100, 200, 256][..end(13, 8)].to_vec()),
        rows in 0..end(40, 5), step in 1..end(200, 30), bands in 1usize..12, seed in 1u32..1000,
    ) {
        let samples = 2 * half;
        let (window, signal) = (numbers(samples, seed), numbers(rows.saturating_sub(1) * step + samples - usize::from(rows == 0), seed + 1));
        // Bands of a few bins, some of them empty.
        let share = numbers((half + 1) * bands, seed + 2);
        let filters: Vec<f32> = share.iter().map(|x| if *x > 0.5 { *x } else { 0.0 }).collect();
        let (floor, shift, scale) = (1e-3, 4.0, 0.25);
        let mel = LogMel::new(PowerSpectrum::new(&window).unwrap(), step, &filters, floor, [shift, scale]).unwrap();
        prop_assert_eq!(mel.rows(signal.len()), rows);
        let mut actual = vec![f32::NAN; rows * bands];
        mel.apply(&signal, &mut Scratch::default(), &mut actual);
        let mut expected = Vec::new();
        for row in 0..rows {
            let power: Vec<f64> = (0..=half).map(|bin| {
                let part = |turn: fn(f64) -> f64| -> f64 {
                    (0..samples).map(|n| {
                        let angle = std::f64::consts::TAU * (bin * n % samples) as f64 / samples as f64;
                        f64::from(window[n]) * f64::from(signal[row * step + n]) * turn(angle)
                    }).sum()
                };
                part(f64::cos).powi(2) + part(f64::sin).powi(2)
            }).collect();
            expected.extend((0..bands).map(|band| {
                let sum: f64 = power.iter().enumerate().map(|(bin, power)| power * f64::from(filters[bin * bands + band])).sum();
                ((sum + f64::from(floor)).ln() + f64::from(shift)) * f64::from(scale)
            }));
        }
        let error = worst(&actual, &expected);
        prop_assert!(error < 2e-5, "error: {error}");
    }

    #[test]
    fn layer_norm_equals_a_naive_one(rows in 0..end(20, 4), dim in 1..end(300, 40), seed in 1u32..1000) {
        let (x, scale, shift) = (numbers(rows * dim, seed), numbers(dim, seed + 1), numbers(dim, seed + 2));
        let mut actual = vec![f32::NAN; rows * dim];
        LayerNorm { x: &x, scale: &scale, shift: &shift, epsilon: 1e-5, out: &mut actual }.dispatch();
        let mut expected = Vec::new();
        for row in x.chunks_exact(dim) {
            let mean = row.iter().map(|&x| f64::from(x)).sum::<f64>() / dim as f64;
            let variance = row.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / dim as f64;
            let y = |(i, &x): (usize, &f32)| {
                (f64::from(x) - mean) / (variance + 1e-5).sqrt() * f64::from(scale[i]) + f64::from(shift[i])
            };
            expected.extend(row.iter().enumerate().map(y));
        }
        prop_assert!(worst(&actual, &expected) < 1e-4);
    }

    #[test]
    fn channel_norm_equals_a_naive_one(
        rows in 1..end(100, 40), dim in 1..end(100, 20), middle in -30.0f32..30.0, seed in 1u32..1000,
    ) {
        let (mut x, scale, shift) = (numbers(rows * dim, seed), numbers(dim, seed + 1), numbers(dim, seed + 2));
        x.iter_mut().for_each(|x| *x += middle);
        let mut expected = vec![0.0; rows * dim];
        for channel in 0..dim {
            let column = || x.iter().skip(channel).step_by(dim).map(|&x| f64::from(x));
            let mean = column().sum::<f64>() / rows as f64;
            let variance = column().map(|x| (x - mean).powi(2)).sum::<f64>() / rows as f64;
            for (x, y) in column().zip(expected.iter_mut().skip(channel).step_by(dim)) {
                *y = (x - mean) / (variance + 1e-5).sqrt() * f64::from(scale[channel]) + f64::from(shift[channel]);
            }
        }
        ChannelNorm { scale: &scale, shift: &shift, epsilon: 1e-5, x: &mut x }.dispatch();
        prop_assert!(worst(&x, &expected) < 1e-3);
    }
}
