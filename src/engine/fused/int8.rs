//! int8 matmul with constant weights as one operation, on processors with a kernel of ours.

use std::cell::RefCell;

use rten_simd::SimdOp;
use tract_onnx::prelude::*;
use tract_onnx::tract_core::internal::*;
use tract_onnx::tract_core::{as_op, op_as_typed_op, op_out_of_plan};

use super::super::kernels::dot::{DotKernel, GROUP, PackedSteps};
use super::super::kernels::int8::{Int8Matmul, QuantisedWeights, Scratch};
use super::super::kernels::{Activation, Rows};
use super::affine::Affine;

/// activation(`x [1, T, K]` · weights `[K, N]` + bias) + residual (the optional second input): `[1, T, N]`.
#[derive(Clone, Debug)]
pub struct Int8Linear {
    kernel: DotKernel,
    steps: Arc<PackedSteps>,
    weights: Arc<QuantisedWeights>,
    activation: Activation,
}

impl PartialEq for Int8Linear {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.steps, &other.steps) && self.activation == other.activation
    }
}

impl Eq for Int8Linear {}

impl Op for Int8Linear {
    fn name(&self) -> StaticName {
        "Int8Linear".into()
    }

    op_as_typed_op!();
}

impl Int8Linear {
    /// Creates the operation for `affine`; `None` if the kernel does not support the shape.
    pub fn new(kernel: DotKernel, steps: &[i8], weights: &Arc<QuantisedWeights>, affine: &Affine) -> Option<Self> {
        let steps = PackedSteps::new(kernel.packing(), steps, affine.inputs, affine.outputs)?;
        Some(Self { kernel, steps: Arc::new(steps), weights: weights.clone(), activation: affine.activation })
    }
}

impl Int8Linear {
    pub fn kernel(&self) -> DotKernel {
        self.kernel
    }

    /// Inputs and outputs.
    pub fn size(&self) -> (usize, usize) {
        (self.steps.groups * GROUP, self.weights.scale.len())
    }
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

impl EvalOp for Int8Linear {
    op_out_of_plan!();

    fn eval(&self, _ctx: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let views = inputs.iter().map(|input| input.try_as_plain_ram()).collect::<TractResult<TVec<_>>>()?;
        let residual = views.get(1).map(|view| view.as_slice::<f32>()).transpose()?;
        let mut out = Tensor::zero::<f32>(&[1, inputs[0].shape()[1], self.weights.scale.len()])?;
        self.compute(views[0].as_slice()?, residual, out.try_as_plain_ram_mut()?.as_slice_mut()?);
        Ok(tvec!(out.into()))
    }
}

impl Int8Linear {
    /// `x [T, K]` → `out [T, N]`.
    pub fn compute(&self, x: &[f32], residual: Option<&[f32]>, out: &mut [f32]) {
        let width = self.steps.groups * GROUP;
        let (kernel, rows) = (self.kernel, Rows::new(x, x.len() / width.max(1), width));
        let (steps, weights, activation) = (&*self.steps, &*self.weights, self.activation);
        SCRATCH.with_borrow_mut(|scratch| {
            Int8Matmul { kernel, rows, steps, weights, activation, residual, scratch, out }.dispatch();
        });
    }
}

impl TypedOp for Int8Linear {
    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        let shape = &inputs[0].shape;
        Ok(tvec!(f32::fact([shape[0].clone(), shape[1].clone(), self.weights.scale.len().to_dim()])))
    }

    as_op!();
}
