//! Recognises a log-mel front end in a graph: windows, DFT as matmuls, power, mel filters, logarithm, two linear layers over
//! neighbouring frames, layer norm.

use std::f64::consts::TAU;

use tract_onnx::prelude::*;
use tract_onnx::tract_core::ops::math::{Add, Ln, Mul, Square};

use super::super::kernels::fft::PowerSpectrum;
use super::super::kernels::log_mel::LogMel;
use super::find::{constant, is_binary, is_unary, numbers, only_reader, past_casts, scalar, source, with_constant};
use super::linear::Linear;
use super::ops::LayerNorm;

/// A log-mel front end. A frame reads `width` rows of features, and the next one starts `stride` rows later.
#[derive(Debug, Clone)]
pub struct Frontend {
    pub mel: LogMel,
    pub width: usize,
    pub stride: usize,
    /// The features of a frame, row by row, to hidden values; then to the frame.
    pub gather: Linear,
    pub project: Linear,
    pub norm: LayerNorm,
}

/// Reads the front end of frames of `receptive_field` samples every `hop` samples from `model`, after fusion; `None` if it is another one.
///
/// Only the constants and the operations on them are matched. How the graph cuts windows and neighbouring frames out of the samples is
/// assumed, so the caller compares results with those of the graph.
pub fn frontend(model: &TypedModel, receptive_field: usize, hop: usize) -> Option<Frontend> {
    let [output] = model.outputs[..] else { return None };
    let norm = source(model, past_casts(model, output));
    let project = source(model, past_casts(model, *norm.inputs.first()?));
    let gather = source(model, *project.inputs.first()?);
    let (norm, project, gather) = (norm.op_as::<LayerNorm>()?, project.op_as::<Linear>()?, gather.op_as::<Linear>()?);

    let log = model.nodes().iter().find(|node| is_unary::<Ln>(node))?;
    let shifted = only_reader(model, log.id.into()).filter(|reader| is_binary::<Add>(reader))?;
    let scaled = only_reader(model, shifted.id.into()).filter(|reader| is_binary::<Mul>(reader))?;
    let number = |node: &TypedNode| node.inputs.iter().find_map(|&input| scalar(model, input));
    let (shift, scale) = (number(shifted)?, number(scaled)?);
    let floored = source(model, *log.inputs.first()?);
    let (floor, power) = with_constant(model, floored).filter(|_| is_binary::<Add>(floored))?;
    let [floor] = numbers(&floor)?[..] else { return None };

    let power = source(model, power);
    let filters = power.op_as::<Linear>()?;
    let sum = source(model, *power.inputs.first()?);
    let [a, b] = sum.inputs[..] else { return None };
    if !is_binary::<Add>(sum) || constant(model, a).is_some() {
        return None;
    }
    let spectrum = Spectrum::new(&squared(model, a)?.weights.unpacked(), &squared(model, b)?.weights.unpacked(), filters)?;
    let bands = filters.weights.outputs;
    let width = gather.weights.inputs / bands.max(1);
    let samples = spectrum.window.len();
    let step = match width {
        1 => hop,
        _ => receptive_field.checked_sub(samples)?.checked_div(width - 1)?,
    };
    let stride = hop.checked_div(step)?;
    let fits = gather.weights.inputs == width * bands && hop == stride * step && receptive_field == samples + (width - 1) * step;
    let mel =
        fits.then(|| LogMel::new(PowerSpectrum::new(&spectrum.window)?, step, &spectrum.filters, floor, [shift, scale]))??;
    let (gather, project, norm) = (gather.clone(), project.clone(), norm.clone());
    Some(Frontend { mel, width, stride, gather, project, norm })
}

/// The matmul whose square `outlet` is.
fn squared(model: &TypedModel, outlet: OutletId) -> Option<&Linear> {
    let square = source(model, outlet);
    let root = *square.inputs.first()?;
    let is_square = is_unary::<Square>(square) || is_binary::<Mul>(square) && square.inputs[..] == [root, root];
    source(model, root)
        .op_as::<Linear>()
        .filter(|linear| is_square && linear.activation == super::super::kernels::Activation::None)
}

/// A windowed DFT and filters of its bins, read from matrices.
struct Spectrum {
    window: Vec<f32>,
    /// `[bins, bands]` of all bins.
    filters: Vec<f32>,
}

/// Largest difference between an element of the matrices and that of a windowed DFT, relative to the window's maximum.
const TOLERANCE: f64 = 1e-5;

impl Spectrum {
    /// Reads `cosines` and `sines`, `[N/2, n]`, of a DFT of N samples relative to the middle of a symmetric window that begins with 0:
    /// row i belongs to the sum and the difference of samples i + 1 and N − i − 1, and the last row is halved, because the middle is
    /// added to itself. Columns are frequencies in any order, and the rows of `filters`.
    fn new(cosines: &[f32], sines: &[f32], filters: &Linear) -> Option<Self> {
        let (used, bands) = (filters.weights.inputs, filters.weights.outputs);
        let half = cosines.len().checked_div(used)?;
        if half < 2 || used > half + 1 || cosines.len() != half * used || sines.len() != cosines.len() {
            return None;
        }
        let samples = 2 * half;
        let pair = |row: usize, column: usize| (f64::from(cosines[row * used + column]), f64::from(sines[row * used + column]));
        // Magnitude of each row: the window. Angle of the first row: the frequency.
        let mut window = vec![0.0; samples];
        for row in 0..half {
            let sum: f64 = (0..used).map(|column| pair(row, column)).map(|(re, im)| re.hypot(im)).sum();
            let value = sum / used as f64 * if row + 1 == half { 2.0 } else { 1.0 };
            (window[row + 1], window[samples - row - 1]) = (value, value);
        }
        let most = window.iter().copied().fold(0.0, f64::max);
        let mut all = vec![0.0; (half + 1) * bands];
        let weights = filters.weights.unpacked();
        for column in 0..used {
            let (re, im) = pair(0, column);
            let bin = (im.abs().atan2(re) / TAU * samples as f64).round() as usize;
            if bin > half {
                return None;
            }
            for row in 0..half {
                let angle = TAU * (bin * (row + 1) % samples) as f64 / samples as f64;
                let value = window[row + 1] * if row + 1 == half { 0.5 } else { 1.0 };
                let (re, im) = pair(row, column);
                let differs = |a: f64, b: f64| (a - b).abs() > TOLERANCE * most;
                // The sign of the sines makes no difference to the power, as long as it is the same for all of a frequency.
                let sign = if pair(0, column).1 < 0.0 { -1.0 } else { 1.0 };
                if differs(re, value * angle.cos()) || differs(im, sign * value * angle.sin()) {
                    return None;
                }
            }
            for band in 0..bands {
                all[bin * bands + band] += weights[column * bands + band];
            }
        }
        Some(Self { window: window.into_iter().map(|value| value as f32).collect(), filters: all })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::super::kernels::Activation;
    use super::super::super::kernels::matmul::PackedWeights;
    use super::*;

    /// The matrices of a DFT of 12 samples with a Hann window, of bins 5, 1 and 6 in this order, with sines of either sign.
    fn matrices() -> (Vec<f32>, Vec<f32>, Linear) {
        let value = |row: usize| (0.5 - 0.5 * (TAU * (row + 1) as f64 / 12.0).cos()) * if row == 5 { 0.5 } else { 1.0 };
        let element = |turn: fn(f64) -> f64, sign: f64| {
            let at = move |row: usize, bin: usize| sign * value(row) * turn(TAU * (bin * (row + 1)) as f64 / 12.0);
            (0..6).flat_map(move |row| [5, 1, 6].map(|bin| at(row, bin) as f32)).collect()
        };
        let filters = PackedWeights::new(3, 2, |bin, band| (1 + bin * 2 + band) as f32, None);
        let filters = Linear { weights: Arc::new(filters), activation: Activation::None, helpers: None };
        (element(f64::cos, 1.0), element(f64::sin, -1.0), filters)
    }

    #[test]
    fn a_windowed_dft_is_recognised_from_its_matrices() {
        let (cosines, sines, filters) = matrices();
        let found = Spectrum::new(&cosines, &sines, &filters).unwrap();
        let hann = |n: usize| 0.5 - 0.5 * (TAU * n as f64 / 12.0).cos();
        assert_eq!(found.window.len(), 12);
        assert!(found.window.iter().enumerate().all(|(n, &value)| (f64::from(value) - hann(n)).abs() < 1e-6));
        let mut expected = vec![0.0; 14];
        for (bin, weights) in [(5, [1.0, 2.0]), (1, [3.0, 4.0]), (6, [5.0, 6.0])] {
            expected[2 * bin..2 * bin + 2].copy_from_slice(&weights);
        }
        assert_eq!(found.filters, expected);
    }

    #[test]
    fn any_other_matrix_is_refused() {
        let (cosines, sines, filters) = matrices();
        for at in 0..cosines.len() {
            let changed = |values: &[f32]| {
                let mut values = values.to_vec();
                values[at] += 1e-3;
                values
            };
            assert!(Spectrum::new(&changed(&cosines), &sines, &filters).is_none(), "cosine {at}");
            assert!(Spectrum::new(&cosines, &changed(&sines), &filters).is_none(), "sine {at}");
        }
        assert!(Spectrum::new(&cosines[..15], &sines[..15], &filters).is_none());
        assert!(Spectrum::new(&[], &[], &filters).is_none());
    }
}
