//! A matrix product with constant weights, its bias, its activation and its residual as one operation.

use std::collections::HashMap;

use tract_onnx::prelude::*;
use tract_onnx::tract_core::internal::*;
use tract_onnx::tract_core::ops::Cost;
use tract_onnx::tract_core::{as_op, op_as_typed_op, op_out_of_plan};

use super::super::kernels::helpers::{Helpers, worth};
use super::super::kernels::matmul::PackedWeights;
use super::super::kernels::{Activation, Rows};
use super::affine::Affine;
use super::{MatmulType, quantised};

/// `x [.., K]` · weights `[K, N]` + bias, the activation, and the second input added, if there is one: `[.., N]`.
#[derive(Clone, Debug)]
pub struct Linear {
    pub weights: Arc<PackedWeights>,
    pub activation: Activation,
    pub helpers: Option<Arc<Helpers>>,
}

impl PartialEq for Linear {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.weights, &other.weights) && self.activation == other.activation
    }
}

impl Eq for Linear {}

impl Op for Linear {
    fn name(&self) -> StaticName {
        "Linear".into()
    }

    op_as_typed_op!();
}

impl EvalOp for Linear {
    op_out_of_plan!();

    fn eval(&self, _ctx: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let view = inputs[0].try_as_plain_ram()?;
        let mut shape: TVec<usize> = inputs[0].shape().into();
        if let Some(last) = shape.last_mut() {
            *last = self.weights.outputs;
        }
        let residual = inputs.get(1).map(|value| value.try_as_plain_ram()).transpose()?;
        let residual = residual.as_ref().map(|view| view.as_slice::<f32>()).transpose()?;
        let mut out = Tensor::zero::<f32>(&shape)?;
        self.compute(view.as_slice()?, residual, out.try_as_plain_ram_mut()?.as_slice_mut()?);
        Ok(tvec!(out.into()))
    }
}

impl Linear {
    /// `x [T, K]` → `out [T, N]`.
    pub fn compute(&self, x: &[f32], residual: Option<&[f32]>, out: &mut [f32]) {
        let (weights, activation) = (&self.weights, self.activation);
        let rows = Rows::new(x, x.len() / weights.inputs, weights.inputs);
        match worth(self.helpers.as_ref(), x.len() * weights.outputs) {
            Some(helpers) => weights.apply_with(helpers, rows, activation, residual, out),
            None => weights.apply(rows, activation, residual, out),
        }
    }
}

impl TypedOp for Linear {
    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        let mut shape = inputs[0].shape.to_tvec();
        if let Some(last) = shape.last_mut() {
            *last = self.weights.outputs.to_dim();
        }
        Ok(tvec!(f32::fact(shape)))
    }

    fn cost(&self, inputs: &[&TypedFact]) -> TractResult<TVec<(Cost, TDim)>> {
        let macs = inputs[0].shape.iter().cloned().product::<TDim>() * self.weights.outputs;
        Ok(tvec!((Cost::FMA(f32::datum_type()), macs)))
    }

    as_op!();
}

/// What the stages of an encoder share.
#[derive(Default)]
pub struct Sharing {
    /// Packed weights by fingerprint: a layer and its cut at the keys and values contain the same matrices.
    packed: HashMap<u64, Vec<Arc<PackedWeights>>>,
    helpers: Option<Arc<Helpers>>,
}

impl Sharing {
    pub fn with(helpers: Option<Arc<Helpers>>) -> Self {
        Self { helpers, ..Self::default() }
    }

    /// Packs the weights, or returns equal ones that were packed before.
    fn pack(&mut self, found: &Affine) -> Arc<PackedWeights> {
        let (inputs, outputs, bias) = (found.inputs, found.outputs, found.bias.as_deref());
        let weight = |k: usize, n: usize| found.weights[k * outputs + n];
        let alike = self.packed.entry(fingerprint(&found.weights)).or_default();
        if let Some(same) = alike.iter().find(|packed| packed.contains(inputs, outputs, weight, bias)) {
            return same.clone();
        }
        let packed = Arc::new(PackedWeights::new(inputs, outputs, weight, bias));
        alike.push(packed.clone());
        packed
    }
}

/// A number that tells most matrices apart, from a few of their values; which are equal is decided by comparing all.
fn fingerprint(values: &[f32]) -> u64 {
    const SAMPLES: usize = 64;
    let step = (values.len() / SAMPLES).max(1);
    let start = values.len() as u64;
    values
        .iter()
        .step_by(step)
        .fold(start, |hash, value| (hash.rotate_left(5) ^ u64::from(value.to_bits())).wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

/// Fuses a matrix product with constant weights `[K, N]` on the right, and what follows it.
pub fn linear(
    model: &TypedModel,
    node: &TypedNode,
    matmul: MatmulType,
    sharing: &mut Sharing,
) -> TractResult<Option<TypedModelPatch>> {
    let Some(found) = Affine::find(model, node) else { return Ok(None) };
    let mut patch = TypedModelPatch::default();
    let x = patch.tap_model(model, found.x)?;
    let residual = found.residual.map(|residual| patch.tap_model(model, residual)).transpose()?;
    let out = match matmul {
        MatmulType::Int8 if quantised::is_worth_it(&found) => quantised::wire(&mut patch, &node.name, x, residual, &found)?,
        _ => {
            let weights = sharing.pack(&found);
            let inputs: TVec<OutletId> = [x].into_iter().chain(residual).collect();
            let op = Linear { weights, activation: found.activation, helpers: sharing.helpers.clone() };
            patch.wire_node(format!("{}.linear", node.name), op, &inputs)?[0]
        }
    };
    patch.shunt_outside(model, found.out, out)?;
    Ok(Some(patch))
}
