//! int8 matmul with constant weights: one operation if the kernel supports the shape, else three: quantise the rows, tract's
//! i8 matmul, and dequantise the sums with bias, activation and residual.

use rten_simd::SimdOp;
use tract_onnx::prelude::*;
use tract_onnx::tract_core::internal::*;
use tract_onnx::tract_core::ops::einsum::EinSum;
use tract_onnx::tract_core::{as_op, op_as_typed_op, op_out_of_plan};

use super::super::kernels::dot::DotKernel;
use super::super::kernels::int8::{Quantise, QuantisedWeights, Steps, Widen};
use super::super::kernels::{Activation, Rows};
use super::affine::Affine;

/// Minimum number of weights: for smaller matmuls, quantising the rows costs more than int8 saves.
const MIN_WEIGHTS: usize = 4096;

/// Whether a matmul is computed in int8.
pub fn is_worth_it(affine: &Affine) -> bool {
    affine.weights.len() >= MIN_WEIGHTS
}

/// Adds the int8 matmul `affine` of `x` to `patch`.
pub fn wire(
    patch: &mut TypedModelPatch,
    name: &str,
    kernel: DotKernel,
    x: OutletId,
    residual: Option<OutletId>,
    affine: &Affine,
) -> TractResult<OutletId> {
    let (steps, weights) = QuantisedWeights::new(&affine.weights, affine.outputs, affine.bias.as_deref());
    let weights = Arc::new(weights);
    if let Some(op) = super::int8::Int8Linear::new(kernel, &steps, &weights, affine) {
        let inputs: TVec<OutletId> = [x].into_iter().chain(residual).collect();
        return Ok(patch.wire_node(format!("{name}.int8"), op, &inputs)?[0]);
    }
    let steps = Tensor::from_shape(&[affine.inputs, affine.outputs], &steps)?;
    let steps = patch.add_const(format!("{name}.steps"), steps)?;
    let rows = patch.wire_node(format!("{name}.quantise"), QuantiseRows, &[x])?;
    let product = EinSum::new("amk,kn->amn".parse()?, i32::datum_type());
    let sums = patch.wire_node(format!("{name}.int8"), product, &[rows[0], steps])?[0];
    let inputs: TVec<OutletId> = [sums, rows[1]].into_iter().chain(residual).collect();
    let op = WidenSums { weights, activation: affine.activation };
    Ok(patch.wire_node(format!("{name}.widen"), op, &inputs)?[0])
}

/// `[1, T, K]` f32 → steps `[1, T, K]` i8, and `[1, T, 2]` f32: scale and zero point of each row.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct QuantiseRows;

impl Op for QuantiseRows {
    fn name(&self) -> StaticName {
        "QuantiseRows".into()
    }

    op_as_typed_op!();
}

impl EvalOp for QuantiseRows {
    op_out_of_plan!();

    fn eval(&self, _ctx: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let (count, width) = (inputs[0].shape()[1], inputs[0].shape()[2]);
        let view = inputs[0].try_as_plain_ram()?;
        let (mut steps, mut ranges) = (Tensor::zero::<i8>(&[1, count, width])?, Tensor::zero::<f32>(&[1, count, 2])?);
        let (mut to_steps, mut to_ranges) = (steps.try_as_plain_ram_mut()?, ranges.try_as_plain_ram_mut()?);
        let rows = Rows::new(view.as_slice()?, count, width);
        Quantise { rows, written: Steps::I8, steps: to_steps.as_bytes_mut(), ranges: to_ranges.as_slice_mut()? }.dispatch();
        Ok(tvec!(steps.into(), ranges.into()))
    }
}

impl TypedOp for QuantiseRows {
    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        let shape = &inputs[0].shape;
        Ok(tvec!(i8::fact(shape.clone()), f32::fact([shape[0].clone(), shape[1].clone(), 2.to_dim()])))
    }

    as_op!();
}

/// Sums `[1, T, N]` i32, the rows' scales and zero points, and an optional residual → `[1, T, N]` f32.
#[derive(Clone, Debug)]
struct WidenSums {
    weights: Arc<QuantisedWeights>,
    activation: Activation,
}

impl PartialEq for WidenSums {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.weights, &other.weights) && self.activation == other.activation
    }
}

impl Eq for WidenSums {}

impl Op for WidenSums {
    fn name(&self) -> StaticName {
        "WidenSums".into()
    }

    op_as_typed_op!();
}

impl EvalOp for WidenSums {
    op_out_of_plan!();

    fn eval(&self, _ctx: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let views = inputs.iter().map(|input| input.try_as_plain_ram()).collect::<TractResult<TVec<_>>>()?;
        let residual = views.get(2).map(|view| view.as_slice::<f32>()).transpose()?;
        let mut out = Tensor::zero::<f32>(inputs[0].shape())?;
        let mut numbers = out.try_as_plain_ram_mut()?;
        let (sums, ranges, out_numbers) = (views[0].as_slice()?, views[1].as_slice()?, numbers.as_slice_mut()?);
        let (weights, activation) = (&*self.weights, self.activation);
        let (stride, columns) = (weights.scale.len(), 0..weights.scale.len());
        Widen { sums, stride, columns, ranges, weights, activation, residual, out: out_numbers }.dispatch();
        Ok(tvec!(out.into()))
    }
}

impl TypedOp for WidenSums {
    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        Ok(tvec!(f32::fact(inputs[0].shape.clone())))
    }

    as_op!();
}
