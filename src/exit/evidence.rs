//! Evidence from a head's logits: entropy, confidence, and the change from the previous layer.

use serde::Serialize;

use crate::names::named;

/// Evidence of one evaluated head or CTC branch: means over the chunk's own frames.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Evidence {
    /// Layer, from 1; 0 for h⁰.
    pub layer: usize,
    /// −Σ p ln p, nats: 0 ≤ entropy ≤ ln(classes).
    pub entropy: f32,
    /// Probability of the most probable class: a unit of a head, a phone or the blank of a CTC branch.
    pub max_prob: f32,
    /// Difference between the two highest class probabilities.
    pub margin: f32,
    /// KL(p_k ‖ p_{k−1}), nats; `None` if the policy does not need it or the previous layer's head was not evaluated.
    pub change: Option<f32>,
    /// Mean probability of the unit for silence, of the head on h⁰; `None` at other layers and in packs without such a unit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quiet: Option<f32>,
    /// Whether all logits were finite; if not, the other numbers are meaningless, and no policy may exit here.
    pub finite: bool,
}

/// A measure of a head's confidence, to compare with a threshold.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Measure {
    /// Exit when the entropy is at most the threshold (DAISY).
    #[default]
    Entropy,
    /// Exit when the highest unit probability is at least the threshold.
    MaxProb,
    /// Exit when the margin of the two most probable units is at least the threshold.
    Margin,
}

named!(Measure, "measure", { Entropy => "entropy", MaxProb => "max-prob", Margin => "margin" });

impl Measure {
    /// Whether `evidence` passes `threshold`.
    pub fn passes(self, evidence: &Evidence, threshold: f32) -> bool {
        evidence.finite
            && match self {
                Self::Entropy => evidence.entropy <= threshold,
                Self::MaxProb => evidence.max_prob >= threshold,
                Self::Margin => evidence.margin >= threshold,
            }
    }

    /// A threshold that more evidence passes: `factor`, at least 1, multiplies an entropy and divides the others. 1 changes no bit.
    pub fn relaxed(self, threshold: f32, factor: f32) -> f32 {
        match self {
            Self::Entropy => threshold * factor,
            Self::MaxProb | Self::Margin => threshold / factor,
        }
    }
}

/// Computes evidence from logits, layer by layer of one chunk; keeps the log-posteriors of the last two heads.
#[derive(Debug, Default)]
pub struct Measurer {
    current: Vec<f32>,
    previous: Vec<f32>,
    current_layer: Option<usize>,
    previous_layer: Option<usize>,
    quiet_unit: Option<usize>,
}

impl Measurer {
    /// A measurer for heads with an optional unit for silence.
    pub fn for_units(quiet_unit: Option<usize>) -> Self {
        Self { quiet_unit, ..Self::default() }
    }

    /// Resets the state for a new chunk.
    pub fn begin_chunk(&mut self) {
        self.current_layer = None;
        self.previous_layer = None;
    }

    /// Measures the logits `[T, units]` of `layer`, and with `change` the KL divergence from the previous layer.
    pub fn measure(&mut self, layer: usize, logits: &[f32], units: usize, change: bool) -> Evidence {
        std::mem::swap(&mut self.current, &mut self.previous);
        self.previous_layer = self.current_layer.replace(layer);
        self.current.resize(logits.len(), 0.0);
        // h⁰ has no previous layer.
        let follows = layer > 1 && self.previous_layer == Some(layer - 1);
        let comparable = change && follows && self.previous.len() == logits.len();
        let frames = (logits.len() / units.max(1)).max(1) as f64;
        let (mut entropy, mut max_prob, mut margin, mut divergence, mut finite) = (0.0, 0.0, 0.0, 0.0, true);
        for (index, (row, out)) in logits.chunks_exact(units).zip(self.current.chunks_exact_mut(units)).enumerate() {
            let frame = log_softmax(row, out);
            finite &= frame.finite;
            entropy += frame.entropy;
            max_prob += frame.max_prob;
            margin += frame.margin;
            if comparable {
                let before = &self.previous[index * units..(index + 1) * units];
                divergence += kl(out, before);
            }
        }
        Evidence {
            layer,
            entropy: ((entropy / frames) as f32).clamp(0.0, (units as f32).ln()),
            max_prob: (max_prob / frames) as f32,
            margin: (margin / frames) as f32,
            change: comparable.then_some((divergence / frames).max(0.0) as f32),
            quiet: self.quiet_unit.filter(|_| layer == 0).map(|unit| {
                let rows = self.current.chunks_exact(units.max(1));
                (rows.filter_map(|row| row.get(unit)).map(|&log_p| f64::from(log_p).exp()).sum::<f64>() / frames) as f32
            }),
            finite,
        }
    }

    /// Log-posteriors `[T, units]` of the last measured head, and its layer; `None` before the first.
    pub fn log_posteriors(&self) -> Option<(usize, &[f32])> {
        self.current_layer.map(|layer| (layer, &self.current[..]))
    }
}

struct FrameEvidence {
    entropy: f64,
    max_prob: f64,
    margin: f64,
    finite: bool,
}

/// Log-softmax of one frame, and its statistics.
///
/// With m the largest logit, e_i = exp(x_i − m) and S = Σ e_i, the entropy is ln S − Σ e_i (x_i − m) / S: no term can
/// overflow, and a unit of probability zero adds exactly zero.
fn log_softmax(row: &[f32], out: &mut [f32]) -> FrameEvidence {
    let Some((top, second)) = two_largest(row) else {
        let uniform = -(row.len() as f32).ln();
        out.fill(uniform);
        return FrameEvidence { entropy: f64::from(-uniform), max_prob: 0.0, margin: 0.0, finite: false };
    };
    for (&x, out) in row.iter().zip(&mut *out) {
        // Finite logits can differ by more than f32 can represent; e^-10000 is zero in any precision.
        *out = larger(x - top, -1e4);
    }
    let [sum, weighted] = sums(out, out, |shifted, _| {
        let e = exp(shifted);
        [e, e * shifted]
    });
    let log_sum = sum.ln();
    for value in &mut *out {
        *value -= log_sum as f32;
    }
    let second_prob = f64::from(second - top).exp() / sum;
    FrameEvidence { entropy: log_sum - weighted / sum, max_prob: 1.0 / sum, margin: 1.0 / sum - second_prob, finite: true }
}

/// Log-probabilities of one frame's logits. Returns false if one was not finite; `out` is then uniform and meaningless.
pub(crate) fn log_probabilities(logits: &[f32], out: &mut [f32]) -> bool {
    log_softmax(logits, out).finite
}

/// KL(p ‖ q) of two rows of log-probabilities, nats.
pub fn kl(log_p: &[f32], log_q: &[f32]) -> f64 {
    sums(log_p, log_q, |p, q| [exp(p) * (p - q)])[0]
}

/// Independent accumulators, for SIMD.
const LANES: usize = 8;

/// The two largest of a row; `None` when one is not finite.
fn two_largest(row: &[f32]) -> Option<(f32, f32)> {
    let (mut top, mut second, mut non_finite) = ([f32::NEG_INFINITY; LANES], [f32::NEG_INFINITY; LANES], [0.0f32; LANES]);
    let mut take = |lane: usize, x: f32| {
        non_finite[lane] += x * 0.0; // 0 for a finite x, NaN for any other
        second[lane] = larger(second[lane], smaller(x, top[lane]));
        top[lane] = larger(top[lane], x);
    };
    let (blocks, rest) = row.as_chunks::<LANES>();
    for block in blocks {
        for (lane, &x) in block.iter().enumerate() {
            take(lane, x);
        }
    }
    for (lane, &x) in rest.iter().enumerate() {
        take(lane, x);
    }
    let both = top.iter().zip(&second).fold((f32::NEG_INFINITY, f32::NEG_INFINITY), |(first, runner_up), (&top, &second)| {
        (first.max(top), runner_up.max(first.min(top)).max(second))
    });
    non_finite.iter().all(|x| *x == 0.0).then_some(both)
}

/// Sum of `term(a_i, b_i)`: f32 within 256 elements, f64 across them. As exact as f64 throughout at a fraction of its cost.
fn sums<const N: usize>(a: &[f32], b: &[f32], term: impl Fn(f32, f32) -> [f32; N]) -> [f64; N] {
    let mut total = [0.0f64; N];
    for (a, b) in a.chunks(32 * LANES).zip(b.chunks(32 * LANES)) {
        let mut partial = [[0.0f32; LANES]; N];
        let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
        for (a, b) in a.iter().zip(b) {
            for lane in 0..LANES {
                let terms = term(a[lane], b[lane]);
                for n in 0..N {
                    partial[n][lane] += terms[n];
                }
            }
        }
        for (lane, (&a, &b)) in a_rest.iter().zip(b_rest).enumerate() {
            let terms = term(a, b);
            for n in 0..N {
                partial[n][lane] += terms[n];
            }
        }
        for (total, partial) in total.iter_mut().zip(&partial) {
            *total += f64::from(partial.iter().sum::<f32>());
        }
    }
    total
}

/// eˣ for x ≤ 0 within two units of the last place, without a branch, so that the surrounding loop is vectorised.
///
/// x = n ln 2 + r with |r| ≤ ln 2 / 2; eʳ by the polynomial of Cephes' expf, 2ⁿ by the exponent bits. Clamped at −87:
/// e⁻⁸⁷ ≈ 2e-38, close to the smallest normal f32.
#[inline(always)]
fn exp(x: f32) -> f32 {
    const ROUND: f32 = 12_582_912.0; // 1.5 · 2²³: what is added to it is rounded to an integer in its low bits
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    let x = larger(x, -87.0);
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = (x - n * LN_2_HIGH) - n * LN_2_LOW;
    let tail = 0.166_666_65 + r * (0.041_665_796 + r * (0.008_333_452 + r * (0.001_398_2 + r * 0.000_198_756_92)));
    let polynomial = (r + 1.0) + (r * r) * (0.5 + r * tail);
    polynomial * f32::from_bits(shifted.to_bits().wrapping_add(127) << 23)
}

// `f32::max` and `f32::min` handle NaN; these compile to one instruction.
#[inline(always)]
fn larger(a: f32, b: f32) -> f32 {
    if a > b { a } else { b }
}

#[inline(always)]
fn smaller(a: f32, b: f32) -> f32 {
    if a < b { a } else { b }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn reference_entropy(row: &[f32]) -> f64 {
        let top = row.iter().map(|&x| f64::from(x)).fold(f64::NEG_INFINITY, f64::max);
        let e: Vec<f64> = row.iter().map(|&x| (f64::from(x) - top).exp()).collect();
        let sum: f64 = e.iter().sum();
        e.iter().map(|e| e / sum).filter(|p| *p > 0.0).map(|p| -p * p.ln()).sum()
    }

    proptest! {
        #[test]
        fn entropy_is_exact_and_stays_in_its_bounds(
            units in 2usize..600, seed in any::<u64>(), scale in prop_oneof![Just(0.0f32), 0.01f32..5.0, 5.0f32..1e4, Just(1e30f32), Just(f32::MAX)],
        ) {
            let mut state = seed | 1;
            let row: Vec<f32> = (0..units).map(|_| {
                state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                ((state >> 40) as f32 / (1u64 << 24) as f32 - 0.5) * scale
            }).collect();
            let evidence = Measurer::default().measure(1, &row, units, false);
            prop_assert!(evidence.finite);
            prop_assert!((0.0..=(units as f32).ln()).contains(&evidence.entropy));
            prop_assert!((f64::from(evidence.entropy) - reference_entropy(&row)).abs() < 1e-5);
            prop_assert!((0.0..=1.0).contains(&evidence.max_prob) && (0.0..=1.0).contains(&evidence.margin));
        }

        #[test]
        fn change_is_the_kl_divergence_from_the_layer_before(a in prop::collection::vec(-9.0f32..9.0, 8), b in prop::collection::vec(-9.0f32..9.0, 8)) {
            let mut measurer = Measurer::default();
            measurer.begin_chunk();
            prop_assert_eq!(measurer.measure(1, &a, 4, true).change, None);
            let change = f64::from(measurer.measure(2, &b, 4, true).change.unwrap());
            let softmax = |row: &[f32]| { let s: f64 = row.iter().map(|&x| f64::from(x).exp()).sum(); row.iter().map(|&x| f64::from(x).exp() / s).collect::<Vec<_>>() };
            let expected: f64 = a.chunks(4).zip(b.chunks(4)).map(|(a, b)| {
                let (q, p) = (softmax(a), softmax(b));
                p.iter().zip(&q).map(|(p, q)| p * (p / q).ln()).sum::<f64>()
            }).sum::<f64>() / 2.0;
            prop_assert!((change - expected).abs() < 1e-4, "{} {}", change, expected);
        }
    }

    #[test]
    fn exp_is_exact_to_two_units_of_the_last_place() {
        for step in 0..=870_000 {
            let x = -step as f32 * 1e-4;
            let expected = f64::from(x).exp();
            assert!((f64::from(exp(x)) - expected).abs() <= 2.0 * f64::from(f32::EPSILON) * expected, "{x}");
        }
        assert!([-88.0, -1e4, f32::NEG_INFINITY].into_iter().all(|x| exp(x) == exp(-87.0)));
    }

    #[test]
    fn a_logit_that_is_not_finite_never_passes() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let evidence = Measurer::default().measure(1, &[1.0, bad, 0.0], 3, true);
            assert!(!evidence.finite);
            assert!(!Measure::Entropy.passes(&evidence, 100.0));
        }
    }

    #[test]
    fn nothing_is_compared_that_nobody_asked_for() {
        let mut measurer = Measurer::default();
        measurer.begin_chunk();
        measurer.measure(1, &[0.0, 1.0], 2, true);
        assert_eq!(measurer.measure(2, &[0.0, 1.0], 2, false).change, None);
        assert!(measurer.measure(3, &[0.0, 1.0], 2, true).change.is_some());
    }

    #[test]
    fn posteriors_are_there_before_the_first_layer_too() {
        let mut measurer = Measurer::default();
        measurer.begin_chunk();
        assert!(measurer.log_posteriors().is_none());
        measurer.measure(0, &[0.0, 1.0], 2, true);
        assert_eq!(measurer.log_posteriors().map(|(layer, rows)| (layer, rows.len())), Some((0, 2)));
        assert_eq!(measurer.measure(1, &[0.0, 1.0], 2, true).change, None);
    }

    #[test]
    fn a_skipped_layer_leaves_no_change() {
        let mut measurer = Measurer::default();
        measurer.begin_chunk();
        measurer.measure(1, &[0.0, 1.0], 2, true);
        assert_eq!(measurer.measure(3, &[0.0, 1.0], 2, true).change, None);
    }
}
