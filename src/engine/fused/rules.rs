//! Fusion rules: the patterns of ONNX's layer norm, GELU, attention and split into heads after translation, and their replacements.

use tract_onnx::prelude::*;
use tract_onnx::tract_core::internal::*;
use tract_onnx::tract_core::ops::array::{Slice, TypedConcat};
use tract_onnx::tract_core::ops::binary::BinMiniOp;
use tract_onnx::tract_core::ops::change_axes::AxisOp;
use tract_onnx::tract_core::ops::einsum::EinSum;
use tract_onnx::tract_core::ops::math::{Add, Div, Erf, Mul, Rsqrt, Sqrt, Square, Sub};
use tract_onnx::tract_core::ops::nn::{Reduce, Reducer, Softmax, SoftmaxKind};

use super::super::kernels::Activation;
use super::find::{
    constant, is_binary, is_unary, length, numbers, only_reader, other, past_casts, rank, scalar, source, with_constant,
};
use super::ops::{Activate, Attention, ByHeads, ChannelNorm, LayerNorm, MeanFrame, TensorLayout};

/// Replaces `out` with `op` on `inputs`.
pub fn replace(
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

/// Replaces `out`, channels `[1, N, T']`, with `op` on rows: between a transposition of `x`, channels `[1, C, T]`, and one back.
pub fn replace_on_rows(
    model: &TypedModel,
    name: &str,
    op: impl Into<Box<dyn TypedOp>>,
    x: OutletId,
    out: OutletId,
) -> TractResult<Option<TypedModelPatch>> {
    let mut patch = TypedModelPatch::default();
    let x = patch.tap_model(model, x)?;
    let rows = patch.wire_node(format!("{name}.transposed"), AxisOp::Move(1, 2), &[x])?;
    let rows = patch.wire_node(format!("{name}.on_rows"), op, &rows)?;
    let wired = patch.wire_node(format!("{name}.back"), AxisOp::Move(1, 2), &rows)?[0];
    patch.shunt_outside(model, out, wired)?;
    Ok(Some(patch))
}

/// Matches a mean over one axis: a sum divided by that axis' length, a number or a symbol. Returns the averaged outlet and the axis.
fn mean(model: &TypedModel, divide: &TypedNode) -> Option<(OutletId, usize)> {
    let sum = source(model, *divide.inputs.first()?);
    let reduce = sum.op_as::<Reduce>().filter(|_| is_binary::<Div>(divide))?;
    let ([axis], Reducer::Sum) = (&reduce.axes[..], reduce.reducer) else { return None };
    let averaged = *sum.inputs.first()?;
    let length = &model.outlet_fact(averaged).ok()?.shape[*axis];
    let divisor = *divide.inputs.get(1)?;
    let by_length = match scalar(model, divisor) {
        Some(number) => length.to_usize().is_ok_and(|length| length as f32 == number),
        None => symbol(model, divisor)? == *length,
    };
    by_length.then_some((averaged, *axis))
}

/// Value of a constant symbolic size that is cast to f32.
fn symbol(model: &TypedModel, outlet: OutletId) -> Option<TDim> {
    let konst = model.outlet_fact(*source(model, outlet).inputs.first()?).ok()?.konst.clone()?;
    match konst.try_as_plain_ram().ok()?.as_slice::<TDim>().ok()? {
        [size] => Some(size.clone()),
        _ => None,
    }
}

/// Anchored at the division by the number of frames.
pub fn mean_frame(model: &TypedModel, node: &TypedNode) -> TractResult<Option<TypedModelPatch>> {
    let of_frames = |&(x, axis): &(OutletId, usize)| axis == 1 && rank(model, x) == 3 && length(model, x, 0) == Some(1);
    let Some((x, _)) = mean(model, node).filter(of_frames) else { return Ok(None) };
    replace(model, format!("{}.mean_frame", node.name), MeanFrame, &[x], node.id.into())
}

/// The pattern (x − mean) / √(variance + ε) · scale + shift, with means over one axis.
struct Norm {
    x: OutletId,
    /// The axis of the means.
    axis: usize,
    epsilon: f32,
    scale: Option<Arc<Tensor>>,
    shift: Option<Arc<Tensor>>,
    out: OutletId,
}

impl Norm {
    /// Matches the pattern around `node`, the root or its reciprocal.
    fn find(model: &TypedModel, node: &TypedNode) -> Option<Self> {
        if !is_unary::<Rsqrt>(node) && !is_unary::<Sqrt>(node) {
            return None;
        }
        let add = source(model, node.inputs[0]);
        let (epsilon, variance) = with_constant(model, add).filter(|_| is_binary::<Add>(add))?;
        let (squares, axis) = mean(model, source(model, variance))?;
        let square = source(model, squares);
        let away = *square.inputs.first()?;
        let squared = is_unary::<Square>(square) || is_binary::<Mul>(square) && square.inputs[..] == [away, away];
        let subtract = source(model, away);
        let [x, middle] = subtract.inputs[..] else { return None };
        if !squared || !is_binary::<Sub>(subtract) || mean(model, source(model, middle))? != (x, axis) {
            return None;
        }
        let mut norm = Self {
            x: past_casts(model, x),
            axis,
            epsilon: *numbers(&epsilon)?.first()?,
            scale: None,
            shift: None,
            out: node.id.into(),
        };
        // The scale is a factor of the result, or of the reciprocal, or divided by the root.
        norm.scale = match is_unary::<Sqrt>(node) {
            true => Some(norm.then::<Div>(model)?),
            false => norm.then::<Mul>(model),
        };
        let normalised = only_reader(model, norm.out).filter(|reader| is_binary::<Mul>(reader))?;
        if other(normalised, norm.out)? != away {
            return None;
        }
        norm.out = normalised.id.into();
        if norm.scale.is_none() {
            norm.scale = norm.then::<Mul>(model);
        }
        norm.shift = norm.then::<Add>(model);
        Some(norm)
    }

    /// The constant of the operation `B` that reads the result, which becomes part of the pattern.
    fn then<B: BinMiniOp>(&mut self, model: &TypedModel) -> Option<Arc<Tensor>> {
        let reader = only_reader(model, self.out).filter(|reader| is_binary::<B>(reader))?;
        let (value, of) = with_constant(model, reader)?;
        // A quotient is one of the constant.
        if is_binary::<Div>(reader) && reader.inputs[1] != of {
            return None;
        }
        self.out = reader.id.into();
        Some(value)
    }

    /// `values`, one for each of the `count` elements of an axis followed by `after` others; all of them `default` if there are none.
    fn along(values: Option<&Tensor>, count: usize, after: usize, default: f32) -> Option<Arc<[f32]>> {
        let Some(values) = values else { return Some(vec![default; count].into()) };
        let fits = values.len() == count && values.shape().iter().rev().nth(after) == Some(&count);
        fits.then(|| numbers(values)).flatten().map(Into::into)
    }
}

/// Anchored at √(variance + ε).
pub fn layer_norm(model: &TypedModel, node: &TypedNode) -> TractResult<Option<TypedModelPatch>> {
    let Some((op, x, out)) = find_layer_norm(model, node) else { return Ok(None) };
    replace(model, format!("{}.layer_norm", node.name), op, &[x], out)
}

fn find_layer_norm(model: &TypedModel, node: &TypedNode) -> Option<(LayerNorm, OutletId, OutletId)> {
    let norm = Norm::find(model, node)?;
    let dim = length(model, norm.x, norm.axis).filter(|_| norm.axis + 1 == rank(model, norm.x))?;
    let (scale, shift) = (Norm::along(norm.scale.as_deref(), dim, 0, 1.0)?, Norm::along(norm.shift.as_deref(), dim, 0, 0.0)?);
    Some((LayerNorm { scale, shift, epsilon: norm.epsilon }, norm.x, norm.out))
}

/// Anchored at √(variance + ε) of channels `[1, C, T]` over the frames.
pub fn channel_norm(model: &TypedModel, node: &TypedNode) -> TractResult<Option<TypedModelPatch>> {
    let Some((op, x, out)) = find_channel_norm(model, node) else { return Ok(None) };
    replace_on_rows(model, &node.name, op, x, out)
}

fn find_channel_norm(model: &TypedModel, node: &TypedNode) -> Option<(ChannelNorm, OutletId, OutletId)> {
    let norm = Norm::find(model, node)?;
    let channels = length(model, norm.x, 1).filter(|_| norm.axis == 2 && rank(model, norm.x) == 3)?;
    if length(model, norm.x, 0) != Some(1) {
        return None;
    }
    let scale = Norm::along(norm.scale.as_deref(), channels, 1, 1.0)?;
    let shift = Norm::along(norm.shift.as_deref(), channels, 1, 0.0)?;
    Some((ChannelNorm { scale, shift, epsilon: norm.epsilon }, norm.x, norm.out))
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
