//! Fused operations: matmuls and convolutions with constant weights, norms, attention, GELU. [`fuse`] finds their ONNX patterns in a stage and
//! replaces them with the operations in this folder, which call the kernels. tract runs the rest.

mod affine;
mod convolution;
mod find;
mod int8;
mod linear;
mod log_mel;
pub(super) mod ops;
mod quantised;
mod rules;

use tract_onnx::prelude::*;

use super::kernels::dot::DotKernel;

pub(super) use int8::Int8Linear;
pub(super) use linear::{Linear, Sharing};
pub(super) use log_mel::{Frontend, frontend};

/// Precision of matmuls with constant weights.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum MatmulType {
    #[default]
    F32,
    /// Weights and rows in 8 bits, sums in 32 bits.
    Int8(DotKernel),
}

/// Applies the fusion rules to `model`, a graph translated from ONNX. Equal weights are stored once, in `sharing`.
pub(super) fn fuse(model: &mut TypedModel, matmul: MatmulType, sharing: &mut Sharing) -> TractResult<()> {
    model.prop_consts()?;
    rewrite(model, |model, node| convolution::convolution(model, node, sharing))?;
    for rule in [rules::layer_norm, rules::channel_norm, rules::gelu, rules::mean_frame, rules::attention, rules::by_heads] {
        rewrite(model, rule)?;
    }
    for rule in [convolution::activate_before_transposing, convolution::transposed_twice, convolution::convolve_and_activate] {
        rewrite(model, rule)?;
    }
    rewrite(model, |model, node| linear::linear(model, node, matmul, sharing))
}

/// Applies `rule` to every node until nothing changes.
fn rewrite(
    model: &mut TypedModel,
    mut rule: impl FnMut(&TypedModel, &TypedNode) -> TractResult<Option<TypedModelPatch>>,
) -> TractResult<()> {
    loop {
        let mut changed = false;
        for id in model.eval_order()? {
            if let Some(patch) = rule(model, model.node(id))? {
                patch.apply(model)?;
                changed = true;
            }
        }
        if !changed {
            return Ok(());
        }
        model.compact()?;
    }
}
