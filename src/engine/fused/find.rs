//! Queries about a graph's nodes.

use tract_onnx::prelude::*;
use tract_onnx::tract_core::internal::*;
use tract_onnx::tract_core::ops::binary::{BinMiniOp, TypedBinOp};
use tract_onnx::tract_core::ops::cast::Cast;
use tract_onnx::tract_core::ops::element_wise::{ElementWiseMiniOp, ElementWiseOp};

/// Values of a constant f32 outlet.
pub fn constant(model: &TypedModel, outlet: OutletId) -> Option<Arc<Tensor>> {
    let konst = model.outlet_fact(outlet).ok()?.konst.clone()?;
    (konst.datum_type() == f32::datum_type()).then_some(konst)
}

pub fn numbers(tensor: &Tensor) -> Option<Vec<f32>> {
    Some(tensor.try_as_plain_ram().ok()?.as_slice::<f32>().ok()?.to_vec())
}

/// Value of a scalar constant.
pub fn scalar(model: &TypedModel, outlet: OutletId) -> Option<f32> {
    match numbers(&*constant(model, outlet)?)?[..] {
        [value] => Some(value),
        _ => None,
    }
}

pub fn is_binary<B: BinMiniOp>(node: &TypedNode) -> bool {
    node.op_as::<TypedBinOp>().is_some_and(|op| op.0.is::<B>())
}

pub fn is_unary<E: ElementWiseMiniOp>(node: &TypedNode) -> bool {
    node.op_as::<ElementWiseOp>().is_some_and(|op| op.0.is::<E>())
}

/// The node that produces `outlet`.
pub fn source(model: &TypedModel, outlet: OutletId) -> &TypedNode {
    model.node(outlet.node)
}

/// A binary node's other input.
pub fn other(node: &TypedNode, one: OutletId) -> Option<OutletId> {
    match node.inputs[..] {
        [a, b] if a == one => Some(b),
        [a, b] if b == one => Some(a),
        _ => None,
    }
}

/// A binary node's constant, and its other input.
pub fn with_constant(model: &TypedModel, node: &TypedNode) -> Option<(Arc<Tensor>, OutletId)> {
    let [a, b] = node.inputs[..] else { return None };
    match (constant(model, a), constant(model, b)) {
        (None, Some(value)) => Some((value, a)),
        (Some(value), None) => Some((value, b)),
        _ => None,
    }
}

/// The only reader of `outlet`, if it is not also an output of the model.
pub fn only_reader(model: &TypedModel, outlet: OutletId) -> Option<&TypedNode> {
    match model.node(outlet.node).outputs[outlet.slot].successors[..] {
        [one] if !model.outputs.contains(&outlet) => Some(model.node(one.node)),
        _ => None,
    }
}

/// The source of `outlet` behind casts from f32 to f32.
pub fn past_casts(model: &TypedModel, mut outlet: OutletId) -> OutletId {
    loop {
        let node = source(model, outlet);
        let same = node.op_as::<Cast>().is_some_and(|cast| cast.to == f32::datum_type())
            && model.outlet_fact(node.inputs[0]).is_ok_and(|fact| fact.datum_type == f32::datum_type());
        if !same {
            return outlet;
        }
        outlet = node.inputs[0];
    }
}

/// Length of an axis, if it is a number.
pub fn length(model: &TypedModel, outlet: OutletId, axis: usize) -> Option<usize> {
    model.outlet_fact(outlet).ok()?.shape.get(axis)?.to_usize().ok()
}

pub fn rank(model: &TypedModel, outlet: OutletId) -> usize {
    model.outlet_fact(outlet).map_or(0, |fact| fact.rank())
}
