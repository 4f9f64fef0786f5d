//! The pattern x · W + b, activation, residual.

use tract_onnx::prelude::*;
use tract_onnx::tract_core::ops::einsum::EinSum;
use tract_onnx::tract_core::ops::math::Add;

use super::super::kernels::Activation;
use super::find::{constant, is_binary, numbers, only_reader, other, with_constant};
use super::ops::Activate;

/// A matmul with constant weights, and the operations fused into it.
pub struct Affine {
    pub x: OutletId,
    pub inputs: usize,
    pub outputs: usize,
    pub weights: Vec<f32>,
    pub bias: Option<Vec<f32>>,
    pub activation: Activation,
    pub residual: Option<OutletId>,
    /// The outlet of the whole pattern.
    pub out: OutletId,
}

impl Affine {
    /// Matches the pattern around `node`; `None` if it is not such a matmul.
    pub fn find(model: &TypedModel, node: &TypedNode) -> Option<Self> {
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
        let mut affine = Self {
            x,
            inputs,
            outputs,
            weights: numbers(&weights)?,
            bias: None,
            activation: Activation::None,
            residual: None,
            out: node.id.into(),
        };
        if let Some(add) = only_reader(model, affine.out).filter(|reader| is_binary::<Add>(reader))
            && let Some((bias, _)) = with_constant(model, add)
            && (bias.len() == outputs && bias.shape().last() == Some(&outputs))
            && model.outlet_fact(add.id.into()).ok()?.shape == model.outlet_fact(affine.out).ok()?.shape
        {
            affine.bias = numbers(&bias);
            affine.out = add.id.into();
        }
        if let Some(reader) = only_reader(model, affine.out)
            && let Some(activate) = reader.op_as::<Activate>()
        {
            affine.activation = activate.0;
            affine.out = reader.id.into();
        }
        if let Some(add) = only_reader(model, affine.out).filter(|reader| is_binary::<Add>(reader))
            && let Some(residual) = other(add, affine.out)
            && residual != affine.out
            && constant(model, residual).is_none()
            && model.outlet_fact(residual).ok()?.shape == model.outlet_fact(affine.out).ok()?.shape
        {
            affine.residual = Some(residual);
            affine.out = add.id.into();
        }
        Some(affine)
    }
}
