//! Convolutions over time on rows of channels, `[1, T, C]`: the windows of `kernel` frames are overlapping rows of a matmul.

use std::cell::RefCell;

use tract_onnx::prelude::*;
use tract_onnx::tract_core::internal::*;
use tract_onnx::tract_core::ops::Cost;
use tract_onnx::tract_core::ops::change_axes::AxisOp;
use tract_onnx::tract_core::ops::cnn::{Conv, KernelFormat, PaddingSpec};
use tract_onnx::tract_core::ops::nn::DataFormat;
use tract_onnx::tract_core::{as_op, op_as_typed_op, op_out_of_plan};

use super::super::kernels::{Activation, Block, Rows};
use super::find::{constant, numbers, only_reader, rank, source};
use super::linear::{Linear, Sharing};
use super::ops::Activate;
use super::rules::{replace, replace_on_rows};

/// Rows of one matmul. Each panel of weights reads all of them, so they should stay in the second-level cache of a small board.
const BLOCK: usize = 64;

/// activation(`x [1, T, C]` ∗ weights + bias): `[1, (T + padding − kernel) / stride + 1, N]`. With G groups, group g convolves columns
/// `g · C/G ..` to columns `g · N/G ..`.
#[derive(Clone, Debug)]
pub struct Convolution {
    /// A matmul `[kernel · C/G, N/G]` for each group.
    groups: Vec<Linear>,
    kernel: usize,
    stride: usize,
    /// Frames of zeros before the first and after the last one.
    padding: [usize; 2],
}

impl PartialEq for Convolution {
    fn eq(&self, other: &Self) -> bool {
        self.groups == other.groups && (self.kernel, self.stride, self.padding) == (other.kernel, other.stride, other.padding)
    }
}

impl Eq for Convolution {}

thread_local! {
    /// The padded columns of a group.
    static SCRATCH: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

impl Convolution {
    /// Channels of the input and of the output.
    fn channels(&self) -> (usize, usize) {
        let weights = &self.groups[0].weights;
        (self.groups.len() * weights.inputs / self.kernel, self.groups.len() * weights.outputs)
    }

    /// `x [T, C]` → `out [T', N]`.
    fn compute(&self, x: &[f32], out: &mut [f32]) {
        let (inputs, outputs) = self.channels();
        let [before, after] = self.padding;
        if let ([whole], [0, 0]) = (&self.groups[..], self.padding) {
            return self.convolve(whole, x, out, 0);
        }
        let (frames, width, columns) = (x.len() / inputs, inputs / self.groups.len(), outputs / self.groups.len());
        SCRATCH.with_borrow_mut(|padded| {
            padded.clear();
            padded.resize((before + frames + after) * width, 0.0);
            for (g, group) in self.groups.iter().enumerate() {
                let rows = padded[before * width..].chunks_exact_mut(width).zip(x.chunks_exact(inputs));
                rows.for_each(|(padded, x)| padded.copy_from_slice(&x[g * width..][..width]));
                self.convolve(group, padded, out, g * columns);
            }
        });
    }

    /// Convolves `x [T, C/G]` to columns `first ..` of `out`.
    fn convolve(&self, group: &Linear, x: &[f32], out: &mut [f32], first: usize) {
        let (width, outputs) = (group.weights.inputs, self.channels().1);
        let stride = self.stride * width / self.kernel;
        for (block, out) in out.chunks_mut(BLOCK * outputs).enumerate() {
            let count = out.len() / outputs;
            let data = &x[block * BLOCK * stride..][..(count - 1) * stride + width];
            let rows = Rows { data, count, width, stride };
            group.compute_rows(rows, Block { numbers: out, stride: outputs, first, residual: None });
        }
    }
}

impl Op for Convolution {
    fn name(&self) -> StaticName {
        "Convolution".into()
    }

    op_as_typed_op!();
}

impl EvalOp for Convolution {
    op_out_of_plan!();

    fn eval(&self, _ctx: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let frames = inputs[0].shape()[1] + self.padding[0] + self.padding[1];
        ensure!(frames >= self.kernel, "{frames} frames are fewer than the {} of the kernel", self.kernel);
        let view = inputs[0].try_as_plain_ram()?;
        let mut out = Tensor::zero::<f32>(&[1, (frames - self.kernel) / self.stride + 1, self.channels().1])?;
        self.compute(view.as_slice()?, out.try_as_plain_ram_mut()?.as_slice_mut()?);
        Ok(tvec!(out.into()))
    }
}

impl TypedOp for Convolution {
    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        let frames = inputs[0].shape[1].clone() + self.padding[0] + self.padding[1];
        let frames = (frames - self.kernel) / self.stride + 1;
        Ok(tvec!(f32::fact([1.to_dim(), frames, self.channels().1.to_dim()])))
    }

    fn cost(&self, inputs: &[&TypedFact]) -> TractResult<TVec<(Cost, TDim)>> {
        let frames = self.output_facts(inputs)?[0].shape[1].clone();
        let weights: usize = self.groups.iter().map(|group| group.weights.inputs * group.weights.outputs).sum();
        Ok(tvec!((Cost::FMA(f32::datum_type()), frames * weights)))
    }

    as_op!();
}

/// Whether `node` exchanges the last two of three axes.
fn is_transposition(model: &TypedModel, node: &TypedNode) -> bool {
    matches!(node.op_as::<AxisOp>(), Some(AxisOp::Move(1, 2) | AxisOp::Move(2, 1))) && rank(model, node.id.into()) == 3
}

/// Replaces a convolution over the last axis of `[1, C, T]` with one over rows, between two transpositions.
pub fn convolution(model: &TypedModel, node: &TypedNode, sharing: &mut Sharing) -> TractResult<Option<TypedModelPatch>> {
    let Some(op) = find(model, node, sharing) else { return Ok(None) };
    replace_on_rows(model, &node.name, op, node.inputs[0], node.id.into())
}

fn find(model: &TypedModel, node: &TypedNode, sharing: &mut Sharing) -> Option<Convolution> {
    let conv = node.op_as::<Conv>()?;
    let pool = &conv.pool_spec;
    let ([kernel], KernelFormat::OIHW, DataFormat::NCHW, None) =
        (&pool.kernel_shape[..], conv.kernel_fmt, pool.data_format, &conv.q_params)
    else {
        return None;
    };
    let (kernel, stride, count) = (*kernel, pool.stride(0), conv.group);
    let padding = match &pool.padding {
        PaddingSpec::Valid => [0, 0],
        PaddingSpec::Explicit(before, after) => [*before.first()?, *after.first()?],
        _ => return None,
    };
    let [x, weights, bias] = node.inputs[..] else { return None };
    let fact = model.outlet_fact(x).ok()?;
    let alone = fact.datum_type == f32::datum_type() && fact.shape[0] == 1.to_dim();
    // No model skips frames or pads whole windows; a broken one must not overflow.
    let usual = (1..=kernel).contains(&stride) && padding.iter().all(|&frames| frames < kernel);
    if !alone || !usual || pool.dilation(0) != 1 {
        return None;
    }
    let (inputs, outputs) = (conv.input_channels().checked_div(count)?, conv.output_channels() / count);
    let (weights, bias) = (numbers(&*constant(model, weights)?)?, numbers(&*constant(model, bias)?)?);
    if weights.is_empty() || weights.len() != count * outputs * inputs * kernel {
        return None;
    }
    let bias = match bias[..] {
        [same] => vec![same; count * outputs],
        _ if bias.len() == count * outputs => bias,
        _ => return None,
    };
    let groups = weights.chunks_exact(outputs * inputs * kernel).zip(bias.chunks_exact(outputs)).map(|(weights, bias)| {
        // From [outputs, inputs, kernel] to [kernel, inputs, outputs].
        let mut rows = Vec::with_capacity(weights.len());
        for (tap, input) in (0..kernel).flat_map(|tap| (0..inputs).map(move |input| (tap, input))) {
            rows.extend((0..outputs).map(|output| weights[(output * inputs + input) * kernel + tap]));
        }
        sharing.linear(kernel * inputs, outputs, &rows, Some(bias))
    });
    Some(Convolution { groups: groups.collect(), kernel, stride, padding })
}

/// Moves an activation in front of a transposition.
pub fn activate_before_transposing(model: &TypedModel, node: &TypedNode) -> TractResult<Option<TypedModelPatch>> {
    let Some(activate) = node.op_as::<Activate>() else { return Ok(None) };
    let moved = source(model, node.inputs[0]);
    if !is_transposition(model, moved) || only_reader(model, moved.id.into()).is_none() {
        return Ok(None);
    }
    let mut patch = TypedModelPatch::default();
    let x = patch.tap_model(model, moved.inputs[0])?;
    let out = patch.wire_node(&node.name, activate.clone(), &[x])?;
    let out = patch.wire_node(&moved.name, AxisOp::Move(1, 2), &out)?[0];
    patch.shunt_outside(model, node.id.into(), out)?;
    Ok(Some(patch))
}

/// Removes two transpositions in succession.
pub fn transposed_twice(model: &TypedModel, node: &TypedNode) -> TractResult<Option<TypedModelPatch>> {
    let first = is_transposition(model, node).then(|| source(model, node.inputs[0]));
    let Some(first) = first.filter(|first| is_transposition(model, first)) else { return Ok(None) };
    let mut patch = TypedModelPatch::default();
    let x = patch.tap_model(model, first.inputs[0])?;
    patch.shunt_outside(model, node.id.into(), x)?;
    Ok(Some(patch))
}

/// Fuses an activation into the convolution before it.
pub fn convolve_and_activate(model: &TypedModel, node: &TypedNode) -> TractResult<Option<TypedModelPatch>> {
    let Some(convolution) = node.op_as::<Convolution>() else { return Ok(None) };
    let Some(reader) = only_reader(model, node.id.into()) else { return Ok(None) };
    let Some(activate) = reader.op_as::<Activate>() else { return Ok(None) };
    // A second one would replace the first.
    if convolution.groups.iter().any(|group| group.activation != Activation::None) {
        return Ok(None);
    }
    let mut op = convolution.clone();
    op.groups.iter_mut().for_each(|group| group.activation = activate.0);
    replace(model, reader.name.clone(), op, &node.inputs, reader.id.into())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;
    use tract_onnx::tract_core::ops::cnn::PoolSpec;

    use super::super::{MatmulType, fuse};
    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

        /// A convolution replaced by the rule equals tract's.
        #[test]
        fn convolutions_equal_those_of_tract(
            group in 1usize..4, inputs in 1usize..9, outputs in 1usize..20, kernel in 1usize..9, stride in 1usize..4,
            padding in (0usize..4, 0usize..4), more in 0usize..200, with_bias in any::<bool>(), seed in 0u32..1000,
        ) {
            let (stride, padding) = (stride.min(kernel), [padding.0.min(kernel - 1), padding.1.min(kernel - 1)]);
            let frames = kernel + more;
            let number = |i: usize| ((i as u32).wrapping_mul(2_654_435_761).wrapping_add(seed * 97) % 2003) as f32 / 1001.5 - 1.0;
            let tensor = |shape: &[usize]| {
                let values: Vec<f32> = (0..shape.iter().product()).map(number).collect();
                Tensor::from_shape(shape, &values).unwrap()
            };
            let mut model = TypedModel::default();
            let t = model.symbols.sym("T").to_dim();
            let x = model.add_source("x", f32::fact([1.to_dim(), (group * inputs).to_dim(), t])).unwrap();
            let weights = model.add_const("weights", tensor(&[group * outputs, inputs, kernel])).unwrap();
            let bias = if with_bias { tensor(&[group * outputs]) } else { tensor(&[]) };
            let bias = model.add_const("bias", bias).unwrap();
            let pool_spec = PoolSpec {
                data_format: DataFormat::NCHW,
                kernel_shape: tvec![kernel],
                padding: PaddingSpec::Explicit(tvec![padding[0]], tvec![padding[1]]),
                dilations: None,
                strides: Some(tvec![stride]),
                input_channels: group * inputs,
                output_channels: group * outputs,
            };
            let conv = Conv { pool_spec, kernel_fmt: KernelFormat::OIHW, group, q_params: None };
            let out = model.wire_node("conv", conv, &[x, weights, bias]).unwrap();
            model.select_output_outlets(&out).unwrap();
            let mut fused = model.clone();
            fuse(&mut fused, MatmulType::F32, &mut Sharing::default()).unwrap();
            prop_assert!(fused.nodes().iter().any(|node| node.op_is::<Convolution>()), "{fused}");
            let input: TValue = tensor(&[1, group * inputs, frames]).into();
            let run = |model: TypedModel| model.into_optimized().unwrap().into_runnable().unwrap().run(tvec![input.clone()]).unwrap();
            let (expected, found) = (run(model), run(fused));
            prop_assert_eq!(expected[0].shape(), found[0].shape());
            let values = |value: &TValue| value.try_as_plain_ram().unwrap().as_slice::<f32>().unwrap().to_vec();
            prop_assert!(values(&found[0]).iter().all(|x| x.is_finite()));
            let apart = values(&expected[0]).iter().zip(values(&found[0])).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            prop_assert!(apart < 1e-4, "{apart}");
        }
    }
}
