//! Fusion rules: the patterns of ONNX's layer norm, GELU, attention and split into heads after translation, and their replacements.

use tract_onnx::prelude::*;
use tract_onnx::tract_core::internal::*;
use tract_onnx::tract_core::ops::array::{Slice, TypedConcat};
use tract_onnx::tract_core::ops::change_axes::AxisOp;
use tract_onnx::tract_core::ops::einsum::EinSum;
use tract_onnx::tract_core::ops::math::{Add, Div, Erf, Mul, Rsqrt, Square, Sub};
use tract_onnx::tract_core::ops::nn::{Reduce, Reducer, Softmax, SoftmaxKind};

use super::super::kernels::Activation;
use super::find::{
    constant, is_binary, is_unary, length, numbers, only_reader, other, past_casts, rank, scalar, source, with_constant,
};
use super::ops::{Activate, Attention, ByHeads, LayerNorm, MeanFrame, TensorLayout};

/// Replaces `out` with `op` on `inputs`.
fn replace(
    model: &TypedModel,
    name: String,
    op: impl Into<Box<dyn TypedOp>>,
    inputs: &[OutletId],
    out: OutletId,
) -> TractResult<Option<TypedModelPatch>> {
    let mut patch = TypedModelPatch::default();
    let taps = patch.taps(model, inputs)?;
    let wired = patch.wire_node(name, op, &taps)?;
    patch.shunt_outside(model, out, wired[0])?;
    Ok(Some(patch))
}

/// Matches a mean over the last axis: a sum divided by that axis' length. Returns the summed outlet and the length.
fn mean(model: &TypedModel, outlet: OutletId) -> Option<(OutletId, usize)> {
    let divide = source(model, outlet);
    let sum = source(model, *divide.inputs.first()?);
    let reduce = sum.op_as::<Reduce>().filter(|_| is_binary::<Div>(divide))?;
    let summed = *sum.inputs.first()?;
    let last = rank(model, summed).checked_sub(1)?;
    let count = length(model, summed, last)?;
    let by_count = scalar(model, *divide.inputs.get(1)?)? == count as f32;
    (reduce.reducer == Reducer::Sum && reduce.axes[..] == [last] && by_count).then_some((summed, count))
}

/// Anchored at the division by the number of frames.
pub fn mean_frame(model: &TypedModel, node: &TypedNode) -> TractResult<Option<TypedModelPatch>> {
    let Some(x) = find_mean_frame(model, node) else { return Ok(None) };
    replace(model, format!("{}.mean_frame", node.name), MeanFrame, &[x], node.id.into())
}

fn find_mean_frame(model: &TypedModel, node: &TypedNode) -> Option<OutletId> {
    if !is_binary::<Div>(node) {
        return None;
    }
    let sum = source(model, node.inputs[0]);
    let reduce = sum.op_as::<Reduce>()?;
    let x = *sum.inputs.first()?;
    if reduce.reducer != Reducer::Sum || reduce.axes[..] != [1] || rank(model, x) != 3 || length(model, x, 0)? != 1 {
        return None;
    }
    // The number of frames is symbolic, and cast to f32.
    let fact = model.outlet_fact(source(model, *node.inputs.get(1)?).inputs.first().copied()?).ok()?;
    let konst = fact.konst.clone()?;
    let count = konst.try_as_plain_ram().ok()?.as_slice::<TDim>().ok()?.first()?.clone();
    (konst.len() == 1 && count == model.outlet_fact(x).ok()?.shape[1]).then_some(x)
}

/// Anchored at 1 / √(variance + ε).
pub fn layer_norm(model: &TypedModel, node: &TypedNode) -> TractResult<Option<TypedModelPatch>> {
    let Some((op, x, out)) = find_layer_norm(model, node) else { return Ok(None) };
    replace(model, format!("{}.layer_norm", node.name), op, &[x], out)
}

fn find_layer_norm(model: &TypedModel, node: &TypedNode) -> Option<(LayerNorm, OutletId, OutletId)> {
    if !is_unary::<Rsqrt>(node) {
        return None;
    }
    let add = source(model, node.inputs[0]);
    let (epsilon, variance) = with_constant(model, add).filter(|_| is_binary::<Add>(add))?;
    let (squares, dim) = mean(model, variance)?;
    let square = source(model, squares);
    let away = *square.inputs.first().filter(|_| is_unary::<Square>(square))?;
    let subtract = source(model, away);
    let [x, middle] = subtract.inputs[..] else { return None };
    if !is_binary::<Sub>(subtract) || mean(model, middle)?.0 != x {
        return None;
    }
    let normalised = only_reader(model, node.id.into())?;
    if !is_binary::<Mul>(normalised) || other(normalised, node.id.into())? != away {
        return None;
    }
    let along = |tensor: &Tensor| (tensor.len() == dim && tensor.shape().last() == Some(&dim)).then(|| numbers(tensor)).flatten();
    let (mut scale, mut shift, mut out) = (vec![1.0; dim], vec![0.0; dim], OutletId::from(normalised.id));
    if let Some(reader) = only_reader(model, out).filter(|reader| is_binary::<Mul>(reader))
        && let Some(values) = with_constant(model, reader).and_then(|(value, _)| along(&value))
    {
        (scale, out) = (values, reader.id.into());
    }
    if let Some(reader) = only_reader(model, out).filter(|reader| is_binary::<Add>(reader))
        && let Some(values) = with_constant(model, reader).and_then(|(value, _)| along(&value))
    {
        (shift, out) = (values, reader.id.into());
    }
    let epsilon = *numbers(&epsilon)?.first()?;
    Some((LayerNorm { scale: scale.into(), shift: shift.into(), epsilon }, past_casts(model, x), out))
}

/// Anchored at the erf of x · (1 + erf(x / √2)) / 2, in any order of the factors.
pub fn gelu(model: &TypedModel, node: &TypedNode) -> TractResult<Option<TypedModelPatch>> {
    let Some((x, out)) = find_gelu(model, node) else { return Ok(None) };
    replace(model, format!("{}.gelu", node.name), Activate(Activation::Gelu), &[x], out)
}

fn find_gelu(model: &TypedModel, node: &TypedNode) -> Option<(OutletId, OutletId)> {
    let near =
        |value: &Tensor, expected: f32| matches!(numbers(value).as_deref(), Some(&[value]) if (value - expected).abs() < 1e-6);
    if !is_unary::<Erf>(node) {
        return None;
    }
    let scaled = source(model, node.inputs[0]);
    let (factor, x) = with_constant(model, scaled)?;
    let root_half = std::f32::consts::FRAC_1_SQRT_2;
    let fits = is_binary::<Mul>(scaled) && near(&factor, root_half)
        || is_binary::<Div>(scaled) && scaled.inputs[0] == x && near(&factor, std::f32::consts::SQRT_2);
    let plus_one = only_reader(model, node.id.into()).filter(|_| fits)?;
    if !is_binary::<Add>(plus_one) || !near(&with_constant(model, plus_one)?.0, 1.0) {
        return None;
    }
    let product = only_reader(model, plus_one.id.into()).filter(|reader| is_binary::<Mul>(reader))?;
    let factor = other(product, plus_one.id.into())?;
    if factor != x {
        let half = source(model, factor);
        let (value, of) = with_constant(model, half).filter(|_| is_binary::<Mul>(half))?;
        return (of == x && near(&value, 0.5)).then_some((x, product.id.into()));
    }
    let half = only_reader(model, product.id.into()).filter(|reader| is_binary::<Mul>(reader))?;
    near(&with_constant(model, half)?.0, 0.5).then_some((x, half.id.into()))
}

/// Resolves `outlet` `[1, T, D]` to columns of `[1, T, N]`: the sliced outlet and the first column.
fn columns(model: &TypedModel, outlet: OutletId) -> (OutletId, usize) {
    let node = source(model, outlet);
    match node.op_as::<Slice>() {
        Some(slice) if slice.axis == 2 && slice.start.to_usize().is_ok() => {
            let (of, first) = columns(model, node.inputs[0]);
            (of, first + slice.start.to_usize().unwrap_or(0))
        }
        _ => (outlet, 0),
    }
}

/// Matches a split of columns into `[1, T, heads, width]`: (source, first column, heads, width).
fn split(model: &TypedModel, outlet: OutletId) -> Option<(OutletId, usize, usize, usize)> {
    let node = source(model, outlet);
    let AxisOp::Reshape(2, from, to) = node.op_as::<AxisOp>()? else { return None };
    let [from] = &from[..] else { return None };
    let [heads, width] = &to[..] else { return None };
    let (heads, width) = (heads.to_usize().ok()?, width.to_usize().ok()?);
    if from.to_usize().ok()? != heads * width || length(model, outlet, 0)? != 1 {
        return None;
    }
    let (of, first) = columns(model, node.inputs[0]);
    Some((of, first, heads, width))
}

/// Anchored at the transposition that moves the heads in front of the frames.
pub fn by_heads(model: &TypedModel, node: &TypedNode) -> TractResult<Option<TypedModelPatch>> {
    let moved = matches!(node.op_as::<AxisOp>(), Some(AxisOp::Move(1, 2) | AxisOp::Move(2, 1)));
    let Some((of, first, heads, width)) = moved.then(|| split(model, node.inputs[0])).flatten() else { return Ok(None) };
    replace(model, format!("{}.by_heads", node.name), ByHeads { first, heads, width }, &[of], node.id.into())
}

/// Positions of the axes (batch, head, frame, width) in a tensor of rank 4.
type Roles = [usize; 4];

/// The roles before a move of axes.
fn before_move(roles: Roles, from: usize, to: usize) -> Roles {
    let mut order = vec![0, 1, 2, 3];
    let axis = order.remove(from);
    order.insert(to, axis);
    roles.map(|position| order[position])
}

/// One input of attention: heads and width if known, its outlet and its layout.
type Input = (Option<(usize, usize)>, OutletId, TensorLayout);

/// Follows `outlet` of rank 4 back to inputs stored by frame or by head; a concatenation has several.
fn stored_inputs(model: &TypedModel, outlet: OutletId, roles: Roles) -> Option<Vec<Input>> {
    let node = source(model, outlet);
    if let Some(AxisOp::Move(from, to)) = node.op_as::<AxisOp>() {
        return stored_inputs(model, node.inputs[0], before_move(roles, *from, *to));
    }
    if let Some(concat) = node.op_as::<TypedConcat>() {
        let parts = node.inputs.iter().map(|&part| stored_inputs(model, part, roles)).collect::<Option<Vec<_>>>()?;
        return (concat.axis == roles[2]).then(|| parts.into_iter().flatten().collect());
    }
    if let Some((of, first, heads, width)) = split(model, outlet).filter(|_| roles == [0, 2, 1, 3]) {
        return Some(vec![(Some((heads, width)), of, TensorLayout::ByFrame { first })]);
    }
    let of_f32 = model.outlet_fact(outlet).ok()?.datum_type == f32::datum_type();
    (roles == [0, 1, 2, 3] && of_f32 && length(model, outlet, 0)? == 1).then(|| vec![(None, outlet, TensorLayout::ByHead)])
}

/// Positions of the axes of a matmul of rank 4, where `labels` names (batch, head, frame, width).
fn roles(labels: &str, [batch, head, frame, width]: [char; 4]) -> Option<Roles> {
    let at = |label| labels.chars().position(|one| one == label);
    Some([at(batch)?, at(head)?, at(frame)?, at(width)?])
}

/// Anchored at the softmax.
pub fn attention(model: &TypedModel, node: &TypedNode) -> TractResult<Option<TypedModelPatch>> {
    let Some((op, inputs, out)) = find_attention(model, node) else { return Ok(None) };
    replace(model, format!("{}.attention", node.name), op, &inputs, out)
}

fn product(node: &TypedNode) -> Option<()> {
    let einsum = node.op_as::<EinSum>()?;
    let fits = einsum.q_params.is_none() && einsum.operating_dt == f32::datum_type();
    (fits && einsum.axes.to_string() == "abmk,abkn->abmn").then_some(())
}

fn find_attention(model: &TypedModel, node: &TypedNode) -> Option<(Attention, Vec<OutletId>, OutletId)> {
    let softmax = node.op_as::<Softmax>()?;
    if softmax.axes[..] != [3] || softmax.quant_output_dt.is_some() || !matches!(softmax.kind, SoftmaxKind::Softmax) {
        return None;
    }
    let mut scores = source(model, node.inputs[0]);
    let mut bias = None;
    if is_binary::<Add>(scores) {
        let [a, b] = scores.inputs[..] else { return None };
        let shape = |outlet| model.outlet_fact(outlet).map(|fact| fact.shape.clone()).ok();
        if shape(a)? != shape(b)? {
            return None;
        }
        let (of, added) = if product(source(model, a)).is_some() { (a, b) } else { (b, a) };
        (scores, bias) = (source(model, of), Some(added));
    }
    product(scores)?;
    let mixed = only_reader(model, node.id.into())?;
    product(mixed)?;
    if mixed.inputs[0] != node.id.into() {
        return None;
    }
    let queries = stored_inputs(model, scores.inputs[0], roles("abmk", ['a', 'b', 'm', 'k'])?)?;
    let keys = stored_inputs(model, scores.inputs[1], roles("abkn", ['a', 'b', 'n', 'k'])?)?;
    let values = stored_inputs(model, mixed.inputs[1], roles("abkn", ['a', 'b', 'k', 'n'])?)?;
    let moved = only_reader(model, mixed.id.into())?;
    let joined = only_reader(model, moved.id.into())?;
    let [(Some((heads, width)), query, layout)] = queries[..] else { return None };
    let AxisOp::Reshape(2, from, _) = joined.op_as::<AxisOp>()? else { return None };
    let transposed = matches!(moved.op_as::<AxisOp>()?, AxisOp::Move(1, 2) | AxisOp::Move(2, 1));
    let sizes = |inputs: &[Input]| {
        inputs.iter().all(|&(size, outlet, _)| match size {
            Some(size) => size == (heads, width),
            None => length(model, outlet, 1) == Some(heads) && length(model, outlet, 3) == Some(width),
        })
    };
    let whole = from.len() == 2 && length(model, joined.id.into(), 2)? == heads * width;
    if !transposed || !whole || !sizes(&keys) || !sizes(&values) || constant(model, query).is_some() {
        return None;
    }
    let layouts = |inputs: &[Input]| inputs.iter().map(|&(_, _, layout)| layout).collect::<TVec<_>>();
    let op =
        Attention { heads, width, queries: layout, keys: layouts(&keys), values: layouts(&values), with_bias: bias.is_some() };
    let outlets = keys.iter().chain(&values).map(|&(_, outlet, _)| outlet);
    Some((op, [query].into_iter().chain(outlets).chain(bias).collect(), joined.id.into()))
}
