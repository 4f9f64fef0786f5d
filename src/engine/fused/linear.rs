//! Fused matmul with constant weights, bias, activation and residual.

use std::collections::HashMap;

use tract_onnx::prelude::*;
use tract_onnx::tract_core::internal::*;
use tract_onnx::tract_core::ops::Cost;
use tract_onnx::tract_core::{as_op, op_as_typed_op, op_out_of_plan};

use super::super::kernels::helpers::{Helpers, available};
use super::super::kernels::matmul::PackedWeights;
use super::super::kernels::{Activation, Block, Rows};
use super::affine::Affine;
use super::{MatmulType, quantised};

/// activation(`x [.., K]` · weights `[K, N]` + bias) + residual (the optional second input): `[.., N]`.
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
        let rows = Rows::new(x, x.len() / self.weights.inputs, self.weights.inputs);
        self.compute_rows(rows, Block { numbers: out, stride: self.weights.outputs, first: 0, residual });
    }

    /// Computes `rows`, which may overlap, to columns of `out`.
    pub fn compute_rows(&self, rows: Rows<'_>, out: Block<'_>) {
        match available(self.helpers.as_ref(), rows.count * rows.width * self.weights.outputs) {
            Some(helpers) => self.weights.apply_with(helpers, rows, self.activation, out),
            None => self.weights.apply_to(rows, self.activation, out),
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

/// Data shared by the stages of an encoder.
#[derive(Default)]
pub struct Sharing {
    /// Packed weights by fingerprint: the graph of a layer and that of its keys and values contain the same matrices.
    packed: HashMap<u64, Vec<Arc<PackedWeights>>>,
    helpers: Option<Arc<Helpers>>,
}

impl Sharing {
    pub fn with(helpers: Option<Arc<Helpers>>) -> Self {
        Self { helpers, ..Self::default() }
    }

    /// A matmul with `weights [inputs, outputs]`, without an activation. The weights are packed, unless equal ones were packed earlier.
    pub fn linear(&mut self, inputs: usize, outputs: usize, weights: &[f32], bias: Option<&[f32]>) -> Linear {
        let weights = self.pack(inputs, outputs, weights, bias);
        Linear { weights, activation: Activation::None, helpers: self.helpers.clone() }
    }

    fn pack(&mut self, inputs: usize, outputs: usize, weights: &[f32], bias: Option<&[f32]>) -> Arc<PackedWeights> {
        let weight = |k: usize, n: usize| weights[k * outputs + n];
        let alike = self.packed.entry(fingerprint(weights)).or_default();
        if let Some(same) = alike.iter().find(|packed| packed.contains(inputs, outputs, weight, bias)) {
            return same.clone();
        }
        let packed = Arc::new(PackedWeights::new(inputs, outputs, weight, bias));
        alike.push(packed.clone());
        packed
    }
}

/// Hash of a few values of a matrix. Matrices with equal hashes are compared in full.
fn fingerprint(values: &[f32]) -> u64 {
    const SAMPLES: usize = 64;
    let step = (values.len() / SAMPLES).max(1);
    let start = values.len() as u64;
    values
        .iter()
        .step_by(step)
        .fold(start, |hash, value| (hash.rotate_left(5) ^ u64::from(value.to_bits())).wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

/// Fuses a matmul with constant weights `[K, N]` on the right with the operations that follow it.
pub fn linear(
    model: &TypedModel,
    node: &TypedNode,
    matmul: MatmulType,
    sharing: &mut Sharing,
) -> TractResult<Option<TypedModelPatch>> {
    let Some(affine) = Affine::find(model, node) else { return Ok(None) };
    let mut patch = TypedModelPatch::default();
    let x = patch.tap_model(model, affine.x)?;
    let residual = affine.residual.map(|residual| patch.tap_model(model, residual)).transpose()?;
    let out = match matmul {
        MatmulType::Int8(kernel) if quantised::is_worth_it(&affine) => {
            quantised::wire(&mut patch, &node.name, kernel, x, residual, &affine)?
        }
        _ => {
            let inputs: TVec<OutletId> = [x].into_iter().chain(residual).collect();
            let linear = sharing.linear(affine.inputs, affine.outputs, &affine.weights, affine.bias.as_deref());
            let op = Linear { activation: affine.activation, ..linear };
            patch.wire_node(format!("{}.linear", node.name), op, &inputs)?[0]
        }
    };
    patch.shunt_outside(model, affine.out, out)?;
    Ok(Some(patch))
}
