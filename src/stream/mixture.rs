//! DAISY's featurizer: a softmax over the weights of h⁰ … h^k, renormalised at the exit depth k.

use crate::engine::{EngineError, Frames};

/// Learned weights of the hidden states.
#[derive(Debug, Clone, PartialEq)]
pub struct Mixture {
    /// One number per state, h⁰ first, before the softmax.
    pub weights: Vec<f32>,
    /// Whether to normalise each state over its dimensions first (zero mean, unit variance, no affine part).
    pub layer_norm: bool,
}

/// As in PyTorch's `layer_norm`.
const LAYER_NORM_EPSILON: f64 = 1e-5;

impl Mixture {
    /// Equal weights: the mean of the states.
    pub fn uniform(layers: usize) -> Self {
        Self { weights: vec![0.0; layers + 1], layer_norm: false }
    }

    /// Rejects weights that do not fit an encoder with `layers` layers.
    pub(super) fn check(&self, layers: usize) -> Result<(), EngineError> {
        let (given, needed) = (self.weights.len(), layers + 1);
        let finite = self.weights.iter().filter(|weight| weight.is_finite()).count();
        if (finite, given) == (needed, needed) { Ok(()) } else { Err(EngineError::Mixture { finite, given, needed }) }
    }

    /// Mixes the states h⁰ … h^k, each `[T, D]`, to `[T, D]`.
    pub fn mix(&self, states: &[Frames]) -> Frames {
        let weights = &self.weights[..states.len().min(self.weights.len())];
        let top = highest(weights);
        let sum: f32 = weights.iter().map(|weight| (weight - top).exp()).sum();
        self.weighted(states, weights, |weight| (weight - top).exp() / sum)
    }

    /// Sum of the states `first`, `first` + 1, … by their weights before they are normalised for an exit depth.
    #[cfg(feature = "neighbours")]
    pub(crate) fn part(&self, first: usize, states: &[Frames]) -> Frames {
        let top = highest(&self.weights);
        self.weighted(states, self.weights.get(first..).unwrap_or_default(), |weight| (weight - top).exp())
    }

    /// The mixture at exit depth k of two [parts](Self::part) that together cover h⁰ … h^k.
    #[cfg(feature = "neighbours")]
    pub(crate) fn join(&self, shallow: &Frames, deep: &Frames, depth: usize) -> Frames {
        let top = highest(&self.weights);
        let sum: f32 = self.weights.iter().take(depth + 1).map(|weight| (weight - top).exp()).sum();
        Frames::build(shallow.frames(), shallow.dim(), |out| {
            for (out, (shallow, deep)) in out.iter_mut().zip(shallow.as_slice().iter().zip(deep.as_slice())) {
                *out = (shallow + deep) / sum;
            }
        })
    }

    fn weighted(&self, states: &[Frames], weights: &[f32], share: impl Fn(f32) -> f32) -> Frames {
        let (frames, dim) = states.first().map_or((0, 0), |state| (state.frames(), state.dim()));
        Frames::build(frames, dim, |out| {
            for (state, &weight) in states.iter().zip(weights) {
                let share = share(weight);
                for (out, row) in out.chunks_exact_mut(dim.max(1)).zip(state.as_slice().chunks_exact(dim.max(1))) {
                    let (mean, scale) = if self.layer_norm { mean_and_scale(row) } else { (0.0, 1.0) };
                    for (out, x) in out.iter_mut().zip(row) {
                        *out += share * (x - mean) * scale;
                    }
                }
            }
        })
    }
}

fn highest(weights: &[f32]) -> f32 {
    weights.iter().copied().fold(f32::NEG_INFINITY, f32::max)
}

fn mean_and_scale(row: &[f32]) -> (f32, f32) {
    let count = row.len() as f64;
    let mean = row.iter().map(|&x| f64::from(x)).sum::<f64>() / count;
    let variance = row.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / count;
    (mean as f32, (1.0 / (variance + LAYER_NORM_EPSILON).sqrt()) as f32)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frames(rows: &[f32]) -> Frames {
        Frames::build(rows.len() / 2, 2, |out| out.copy_from_slice(rows))
    }

    #[test]
    fn weights_are_renormalised_at_the_exit_depth() {
        let mixture = Mixture { weights: vec![0.0, 2f32.ln(), 50.0], layer_norm: false };
        let mixed = mixture.mix(&[frames(&[3.0, 0.0]), frames(&[0.0, 3.0])]);
        assert!((mixed.row(0)[0] - 1.0).abs() < 1e-6 && (mixed.row(0)[1] - 2.0).abs() < 1e-6, "{mixed:?}");
    }

    #[cfg(feature = "neighbours")]
    #[test]
    fn two_parts_make_the_same_mixture() {
        let mixture = Mixture { weights: vec![0.3, -0.2, 0.9, 2.0], layer_norm: true };
        let states = [frames(&[3.0, 0.0]), frames(&[0.5, 3.0]), frames(&[-1.0, 7.0])];
        for cut in 1..3 {
            let joined = mixture.join(&mixture.part(0, &states[..cut]), &mixture.part(cut, &states[cut..]), 2);
            let whole = mixture.mix(&states);
            assert!(joined.as_slice().iter().zip(whole.as_slice()).all(|(a, b)| (a - b).abs() < 1e-6), "{joined:?} {whole:?}");
        }
    }

    #[test]
    fn layer_norm_takes_out_scale_and_offset() {
        let mixture = Mixture { weights: vec![0.0], layer_norm: true };
        let (a, b) = (mixture.mix(&[frames(&[1.0, 3.0])]), mixture.mix(&[frames(&[105.0, 305.0])]));
        assert!(a.row(0).iter().zip(b.row(0)).all(|(a, b)| (a - b).abs() < 1e-4), "{a:?} {b:?}");
    }
}
