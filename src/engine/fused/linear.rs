//! A product with constant weights, its bias, its activation and its residual as one operation.

use sha2::{Digest, Sha256};
use std::collections::HashMap;

use tract_onnx::prelude::*;
use tract_onnx::tract_core::internal::*;
use tract_onnx::tract_core::ops::Cost;
use tract_onnx::tract_core::ops::einsum::EinSum;
use tract_onnx::tract_core::ops::math::Add;
use tract_onnx::tract_core::{as_op, op_as_typed_op, op_out_of_plan};

use super::super::kernels::helpers::{Helpers, worth};
use super::super::kernels::matmul::PackedWeights;
use super::super::kernels::{Activation, Rows};
use super::find::{constant, is_binary, numbers, only_reader, other, with_constant};
use super::ops::Activate;
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
        let x = view.as_slice::<f32>()?;
        let count = x.len() / self.weights.inputs;
        let mut shape: TVec<usize> = inputs[0].shape().into();
        if let Some(last) = shape.last_mut() {
            *last = self.weights.outputs;
        }
        let residual = inputs.get(1).map(|value| value.try_as_plain_ram()).transpose()?;
        let residual = residual.as_ref().map(|view| view.as_slice::<f32>()).transpose()?;
        let mut out = Tensor::zero::<f32>(&shape)?;
        let mut numbers = out.try_as_plain_ram_mut()?;
        let rows = Rows::new(x, count, self.weights.inputs);
        let (weights, activation, out_numbers) = (&self.weights, self.activation, numbers.as_slice_mut::<f32>()?);
        match worth(self.helpers.as_ref(), x.len() * weights.outputs) {
            Some(helpers) => weights.apply_with(helpers, rows, activation, residual, out_numbers),
            None => weights.apply(rows, activation, residual, out_numbers),
        }
        Ok(tvec!(out.into()))
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
    /// Packed weights by what is in them: a layer and its cut at the keys and values hold the same ones.
    packed: HashMap<[u8; 32], Arc<PackedWeights>>,
    helpers: Option<Arc<Helpers>>,
}

impl Sharing {
    pub fn with(helpers: Option<Arc<Helpers>>) -> Self {
        Self { helpers, ..Self::default() }
    }

    fn pack(&mut self, found: &Found) -> Arc<PackedWeights> {
        let (inputs, outputs, bias) = (found.inputs, found.outputs, found.bias.as_deref());
        let mut hash = Sha256::new();
        hash.update(inputs.to_le_bytes());
        for values in [&found.weights[..], bias.unwrap_or(&[])] {
            for part in values.chunks(1024) {
                let bytes: Vec<u8> = part.iter().flat_map(|value| value.to_le_bytes()).collect();
                hash.update(&bytes);
            }
        }
        let pack = || Arc::new(PackedWeights::new(inputs, outputs, |k, n| found.weights[k * outputs + n], bias));
        self.packed.entry(hash.finalize().into()).or_insert_with(pack).clone()
    }
}

/// What the rule found around a product.
pub struct Found {
    pub x: OutletId,
    pub inputs: usize,
    pub outputs: usize,
    pub weights: Vec<f32>,
    pub bias: Option<Vec<f32>>,
    pub activation: Activation,
    pub residual: Option<OutletId>,
    /// The outlet that all of it makes.
    pub out: OutletId,
}

/// A product with constant weights `[K, N]` on the right, and what follows it.
pub fn linear(
    model: &TypedModel,
    node: &TypedNode,
    matmul: MatmulType,
    sharing: &mut Sharing,
) -> TractResult<Option<TypedModelPatch>> {
    let Some(found) = find(model, node) else { return Ok(None) };
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

fn find(model: &TypedModel, node: &TypedNode) -> Option<Found> {
    let einsum = node.op_as::<EinSum>()?;
    let [x, weights] = node.inputs[..] else { return None };
    if einsum.q_params.is_some() || einsum.operating_dt != f32::datum_type() || einsum.axes.to_string() != "amk,kn->amn" {
        return None;
    }
    let weights = constant(model, weights)?;
    if constant(model, x).is_some() || model.outlet_fact(x).ok()?.datum_type != f32::datum_type() {
        return None;
    }
    let [inputs, outputs] = weights.shape()[..] else { return None };
    let mut found = Found {
        x,
        inputs,
        outputs,
        weights: numbers(&weights)?,
        bias: None,
        activation: Activation::None,
        residual: None,
        out: node.id.into(),
    };
    if let Some(add) = only_reader(model, found.out).filter(|reader| is_binary::<Add>(reader))
        && let Some((bias, _)) = with_constant(model, add)
        && (bias.len() == outputs && bias.shape().last() == Some(&outputs))
        && model.outlet_fact(add.id.into()).ok()?.shape == model.outlet_fact(found.out).ok()?.shape
    {
        found.bias = numbers(&bias);
        found.out = add.id.into();
    }
    if let Some(reader) = only_reader(model, found.out)
        && let Some(activate) = reader.op_as::<Activate>()
    {
        found.activation = activate.0;
        found.out = reader.id.into();
    }
    if let Some(add) = only_reader(model, found.out).filter(|reader| is_binary::<Add>(reader))
        && let Some(residual) = other(add, found.out)
        && residual != found.out
        && constant(model, residual).is_none()
        && model.outlet_fact(residual).ok()?.shape == model.outlet_fact(found.out).ok()?.shape
    {
        found.residual = Some(residual);
        found.out = add.id.into();
    }
    Some(found)
}
