//! Layer norm, GELU, attention and the split into heads as tract operations.

use std::cell::RefCell;

use rten_simd::SimdOp;
use tract_onnx::prelude::*;
use tract_onnx::tract_core::internal::*;
use tract_onnx::tract_core::ops::{Cost, OpState};
use tract_onnx::tract_core::{args_1, as_op, not_out_of_plan, op_as_typed_op, op_out_of_plan};

use super::super::kernels::{Activation, attention, norm};

/// Layer norm over the last axis.
#[derive(Clone, Debug)]
pub struct LayerNorm {
    pub scale: Arc<[f32]>,
    pub shift: Arc<[f32]>,
    pub epsilon: f32,
}

impl PartialEq for LayerNorm {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.scale, &other.scale) && Arc::ptr_eq(&self.shift, &other.shift)
    }
}

impl Eq for LayerNorm {}

impl Op for LayerNorm {
    fn name(&self) -> StaticName {
        "LayerNorm".into()
    }

    op_as_typed_op!();
}

impl EvalOp for LayerNorm {
    op_out_of_plan!();

    fn eval(&self, _ctx: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let view = inputs[0].try_as_plain_ram()?;
        let mut out = Tensor::zero::<f32>(inputs[0].shape())?;
        self.compute(view.as_slice()?, out.try_as_plain_ram_mut()?.as_slice_mut()?);
        Ok(tvec!(out.into()))
    }
}

impl LayerNorm {
    /// `x [T, D]` → `out [T, D]`.
    pub fn compute(&self, x: &[f32], out: &mut [f32]) {
        norm::LayerNorm { x, scale: &self.scale, shift: &self.shift, epsilon: self.epsilon, out }.dispatch();
    }
}

impl TypedOp for LayerNorm {
    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        Ok(tvec!(f32::fact(inputs[0].shape.clone())))
    }

    as_op!();
}

/// Norm of every channel of `[1, T, C]` over the frames.
#[derive(Clone, Debug)]
pub struct ChannelNorm {
    pub scale: Arc<[f32]>,
    pub shift: Arc<[f32]>,
    pub epsilon: f32,
}

impl PartialEq for ChannelNorm {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.scale, &other.scale) && Arc::ptr_eq(&self.shift, &other.shift)
    }
}

impl Eq for ChannelNorm {}

impl Op for ChannelNorm {
    fn name(&self) -> StaticName {
        "ChannelNorm".into()
    }

    op_as_typed_op!();
}

impl EvalOp for ChannelNorm {
    op_out_of_plan!();

    fn eval(&self, _ctx: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let mut x = args_1!(inputs).into_tensor();
        let (scale, shift, epsilon) = (&self.scale, &self.shift, self.epsilon);
        norm::ChannelNorm { scale, shift, epsilon, x: x.try_as_plain_ram_mut()?.as_slice_mut()? }.dispatch();
        Ok(tvec!(x.into()))
    }
}

impl TypedOp for ChannelNorm {
    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        Ok(tvec!(f32::fact(inputs[0].shape.clone())))
    }

    as_op!();
}

/// An element-wise function.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Activate(pub Activation);

impl Op for Activate {
    fn name(&self) -> StaticName {
        "Activate".into()
    }

    op_as_typed_op!();
}

impl EvalOp for Activate {
    op_out_of_plan!();

    fn eval(&self, _ctx: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let mut out = args_1!(inputs).into_tensor();
        self.0.map(out.try_as_plain_ram_mut()?.as_slice_mut()?);
        Ok(tvec!(out.into()))
    }
}

impl TypedOp for Activate {
    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        Ok(tvec!(f32::fact(inputs[0].shape.clone())))
    }

    as_op!();
}

/// Mean over the frames: `[1, T, D]` → `[1, 1, D]`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct MeanFrame;

impl Op for MeanFrame {
    fn name(&self) -> StaticName {
        "MeanFrame".into()
    }

    op_as_typed_op!();
}

impl EvalOp for MeanFrame {
    op_out_of_plan!();

    fn eval(&self, _ctx: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let view = inputs[0].try_as_plain_ram()?;
        let mut out = Tensor::zero::<f32>(&[1, 1, inputs[0].shape()[2]])?;
        self.compute(view.as_slice()?, out.try_as_plain_ram_mut()?.as_slice_mut()?);
        Ok(tvec!(out.into()))
    }
}

impl MeanFrame {
    /// `x [T, D]` → `out [D]`.
    pub fn compute(&self, x: &[f32], out: &mut [f32]) {
        let rows = x.chunks_exact(out.len().max(1));
        let count = rows.len() as f32;
        out.fill(0.0);
        for row in rows {
            out.iter_mut().zip(row).for_each(|(sum, x)| *sum += x);
        }
        out.iter_mut().for_each(|sum| *sum /= count);
    }
}

impl TypedOp for MeanFrame {
    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        let shape = &inputs[0].shape;
        Ok(tvec!(f32::fact([shape[0].clone(), 1.to_dim(), shape[2].clone()])))
    }

    as_op!();
}

/// Columns `first .. first + heads * width` of `[1, T, N]` as `[1, heads, T, width]`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ByHeads {
    pub first: usize,
    pub heads: usize,
    pub width: usize,
}

impl Op for ByHeads {
    fn name(&self) -> StaticName {
        "ByHeads".into()
    }

    op_as_typed_op!();
}

impl EvalOp for ByHeads {
    op_out_of_plan!();

    fn eval(&self, _ctx: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let (frames, row) = (inputs[0].shape()[1], inputs[0].shape()[2]);
        let view = inputs[0].try_as_plain_ram()?;
        let x = view.as_slice::<f32>()?;
        let mut out = Tensor::zero::<f32>(&[1, self.heads, frames, self.width])?;
        let mut numbers = out.try_as_plain_ram_mut()?;
        for (index, out) in numbers.as_slice_mut::<f32>()?.chunks_exact_mut(self.width).enumerate() {
            let (head, frame) = (index / frames, index % frames);
            out.copy_from_slice(&x[frame * row + self.first + head * self.width..][..self.width]);
        }
        Ok(tvec!(out.into()))
    }
}

impl TypedOp for ByHeads {
    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        let frames = inputs[0].shape[1].clone();
        Ok(tvec!(f32::fact([1.to_dim(), self.heads.to_dim(), frames, self.width.to_dim()])))
    }

    as_op!();
}

/// Memory layout of an input of [`Attention`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TensorLayout {
    /// `[1, T, N]`, with the heads side by side from column `first`.
    ByFrame { first: usize },
    /// `[1, heads, T, width]`
    ByHead,
}

impl TensorLayout {
    /// Number of frames of an input with this layout.
    fn frames<T: Clone>(self, shape: &[T]) -> T {
        match self {
            Self::ByFrame { .. } => shape[1].clone(),
            Self::ByHead => shape[2].clone(),
        }
    }

    fn view<'a>(self, numbers: &'a [f32], shape: &[usize], width: usize) -> attention::ByHead<'a> {
        let frames = self.frames(shape);
        match self {
            Self::ByFrame { first } => {
                attention::ByHead { data: &numbers[first..], frames, head_stride: width, frame_stride: shape[2] }
            }
            Self::ByHead => attention::ByHead { data: numbers, frames, head_stride: frames * width, frame_stride: width },
        }
    }
}

/// softmax(q · kᵀ + bias) · v per head. Inputs: the queries, the segments of keys, the segments of values, and optionally the bias
/// `[1, H, T, keys]`. Output: `[1, T, heads * width]`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Attention {
    pub heads: usize,
    pub width: usize,
    pub queries: TensorLayout,
    pub keys: TVec<TensorLayout>,
    pub values: TVec<TensorLayout>,
    pub with_bias: bool,
}

impl Op for Attention {
    fn name(&self) -> StaticName {
        "Attention".into()
    }

    op_as_typed_op!();
}

thread_local! {
    static SCRATCH: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// The last call's bias and its transposed form for the kernel, reused because consecutive calls usually have the same bias.
#[derive(Clone, Debug, Default)]
struct TurnedBias {
    from: Option<TValue>,
    transposed: Vec<f32>,
}

impl OpState for TurnedBias {
    fn eval(&mut self, _ctx: &EvalContext, op: &dyn Op, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let op = op.downcast_ref::<Attention>().ok_or_else(|| format_err!("the state of another operation"))?;
        if let Some(bias) = inputs.last().filter(|_| op.with_bias)
            && self.from.as_ref().is_none_or(|from| !std::ptr::eq::<Tensor>(&**from, &**bias))
        {
            let (queries, keys) = (bias.shape()[2], bias.shape()[3]);
            attention::transposed_bias(bias.try_as_plain_ram()?.as_slice()?, queries, keys, &mut self.transposed);
            self.from = Some(bias.clone());
        }
        op.run(&inputs, op.with_bias.then_some(&self.transposed))
    }

    fn reset_lanes(&mut self, _lanes: &[LaneId]) -> TractResult<()> {
        Ok(())
    }
}

impl EvalOp for Attention {
    not_out_of_plan!();

    fn state(&self, _ctx: &EvalContext) -> TractResult<Option<Box<dyn OpState>>> {
        Ok(Some(Box::<TurnedBias>::default()))
    }
}

impl Attention {
    fn run(&self, inputs: &[TValue], bias: Option<&Vec<f32>>) -> TractResult<TVec<TValue>> {
        let views = inputs.iter().map(|input| input.try_as_plain_ram()).collect::<TractResult<TVec<_>>>()?;
        let view = |index: usize, layout: TensorLayout| -> TractResult<attention::ByHead<'_>> {
            Ok(layout.view(views[index].as_slice()?, inputs[index].shape(), self.width))
        };
        let queries = view(0, self.queries)?;
        let segments = |from: usize, layouts: &[TensorLayout]| {
            layouts.iter().enumerate().map(|(i, &layout)| view(from + i, layout)).collect::<TractResult<TVec<_>>>()
        };
        let keys = segments(1, &self.keys)?;
        let values = segments(1 + self.keys.len(), &self.values)?;
        let mut out = Tensor::zero::<f32>(&[1, queries.frames, self.heads * self.width])?;
        let mut numbers = out.try_as_plain_ram_mut()?;
        SCRATCH.with_borrow_mut(|scratch| {
            let (heads, width, keys, values) = (self.heads, self.width, &keys, &values);
            let (bias, out) = (bias.map(Vec::as_slice), numbers.as_slice_mut::<f32>()?);
            attention::Attention { heads, width, queries, keys, values, scale: 1.0, bias, scratch, out }.dispatch();
            TractResult::Ok(())
        })?;
        Ok(tvec!(out.into()))
    }
}

impl TypedOp for Attention {
    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        let frames = self.queries.frames(&inputs[0].shape[..]);
        Ok(tvec!(f32::fact([1.to_dim(), frames, (self.heads * self.width).to_dim()])))
    }

    fn cost(&self, inputs: &[&TypedFact]) -> TractResult<TVec<(Cost, TDim)>> {
        let queries = self.queries.frames(&inputs[0].shape[..]);
        let keys: TDim = self.keys.iter().zip(&inputs[1..]).map(|(layout, fact)| layout.frames(&fact.shape[..])).sum();
        Ok(tvec!((Cost::FMA(f32::datum_type()), queries * keys * (2 * self.heads * self.width))))
    }

    as_op!();
}
