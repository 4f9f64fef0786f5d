//! A fused graph as a flat list of kernel calls over preallocated buffers.
//!
//! [`Program::compile`] compiles a graph in which the rules of [`super::fused`] have replaced every node. Such a graph needs neither
//! tract's plan nor its tensors: buffers are allocated at the first chunk of a length and reused, and cached keys and values are read in
//! place. tract runs any other graph, and is the reference that tests compare programs with.

use std::collections::HashMap;
use std::sync::Arc;

use rten_simd::SimdOp;
use tract_onnx::prelude::*;
use tract_onnx::tract_core::internal::*;
use tract_onnx::tract_core::ops::source::TypedSource;

use super::fused::ops::{Activate, Attention, ByHeads, LayerNorm, MeanFrame, TensorLayout};
use super::fused::{Int8Linear, Linear};
use super::kernels::attention::{self, ByHead};

/// Rows read by a step or returned as an output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Slot {
    /// The graph's input of frames, `[T, width]`.
    Input,
    /// The result of an earlier step.
    Buffer(usize),
}

/// Keys or values for attention, in temporal order.
#[derive(Clone, Copy, Debug)]
enum Segment {
    /// The cached ones.
    Cache,
    /// Columns `first ..` of rows.
    Rows { slot: Slot, first: usize },
}

// A program is one list of a few dozen steps, read in order. Boxing the large variants would add an indirection to each.
#[allow(clippy::large_enum_variant)]
#[derive(Debug)]
enum Kernel {
    LayerNorm(LayerNorm),
    Activate(Activate),
    MeanFrame(MeanFrame),
    Linear(Linear),
    Int8Linear(Int8Linear),
    Attention { op: Attention, queries: usize, keys: Vec<Segment>, values: Vec<Segment> },
}

/// One kernel call, whose result is written to the buffer with the step's index.
#[derive(Debug)]
struct Step {
    kernel: Kernel,
    x: Slot,
    residual: Option<Slot>,
    /// Values per row of the result.
    width: usize,
    /// Whether the result is one row, whatever the number of frames.
    single: bool,
}

/// An output of the graph: columns of a buffer from `first`. `[1, heads, T, width]` in the graph is `[T, heads · width]` here.
#[derive(Clone, Copy, Debug)]
struct Output {
    buffer: usize,
    first: usize,
}

/// A compiled graph, shared by all streams.
#[derive(Debug)]
pub(super) struct Program {
    steps: Vec<Step>,
    input_width: usize,
    outputs: Vec<Output>,
}

/// The value of an outlet of the graph.
#[derive(Clone, Copy)]
enum Value {
    Rows(Slot),
    Heads { slot: Slot, first: usize },
    CachedKeys,
    CachedValues,
    Bias,
}

impl Program {
    /// Compiles `model`, whose inputs are frames (`x` or `f`) and, for a cached layer, `k`, `v` and `bias`; `None` if a program
    /// does not support a node or an input.
    pub fn compile(model: &TypedModel) -> Option<Self> {
        let mut values: HashMap<OutletId, Value> = HashMap::new();
        let mut program = Self { steps: Vec::new(), input_width: 0, outputs: Vec::new() };
        for id in model.eval_order().ok()? {
            let node = model.node(id);
            let width = || model.outlet_fact(id.into()).ok()?.shape.last()?.to_usize().ok();
            if node.op_is::<TypedSource>() {
                let value = match node.name.as_str() {
                    "x" | "f" => {
                        program.input_width = width()?;
                        Value::Rows(Slot::Input)
                    }
                    "k" => Value::CachedKeys,
                    "v" => Value::CachedValues,
                    "bias" => Value::Bias,
                    _ => return None,
                };
                values.insert(id.into(), value);
                continue;
            }
            let rows = |index: usize| match values.get(node.inputs.get(index)?)? {
                Value::Rows(slot) => Some(*slot),
                _ => None,
            };
            let x = rows(0)?;
            if let Some(by_heads) = node.op_as::<ByHeads>() {
                values.insert(id.into(), Value::Heads { slot: x, first: by_heads.first });
                continue;
            }
            let (kernel, residual) = if let Some(op) = node.op_as::<LayerNorm>() {
                (Kernel::LayerNorm(op.clone()), None)
            } else if let Some(op) = node.op_as::<Activate>() {
                (Kernel::Activate(op.clone()), None)
            } else if let Some(op) = node.op_as::<MeanFrame>() {
                (Kernel::MeanFrame(op.clone()), None)
            } else if let Some(op) = node.op_as::<Linear>() {
                (Kernel::Linear(op.clone()), node.inputs.get(1).map(|_| rows(1)))
            } else if let Some(op) = node.op_as::<Attention>() {
                (Self::attention(op, &node.inputs, &values)?, None)
            } else {
                let op = node.op_as::<Int8Linear>()?;
                (Kernel::Int8Linear(op.clone()), node.inputs.get(1).map(|_| rows(1)))
            };
            let residual = match residual {
                Some(slot) => Some(slot?),
                None => None,
            };
            let single = program.single(x) || matches!(kernel, Kernel::MeanFrame(_));
            let uneven = residual.is_some_and(|residual| program.single(residual) != single);
            if uneven || single && matches!(kernel, Kernel::Attention { .. }) {
                return None;
            }
            values.insert(id.into(), Value::Rows(Slot::Buffer(program.steps.len())));
            program.steps.push(Step { kernel, x, residual, width: width()?, single });
        }
        for outlet in &model.outputs {
            program.outputs.push(match *values.get(outlet)? {
                Value::Rows(Slot::Buffer(buffer)) => Output { buffer, first: 0 },
                Value::Heads { slot: Slot::Buffer(buffer), first } => Output { buffer, first },
                _ => return None,
            });
        }
        (program.input_width > 0).then_some(program)
    }

    fn attention(op: &Attention, inputs: &[OutletId], values: &HashMap<OutletId, Value>) -> Option<Kernel> {
        let TensorLayout::ByFrame { first: queries } = op.queries else { return None };
        let mut segments = inputs.get(1..)?.iter();
        let mut read = |layouts: &[TensorLayout], cached: fn(&Value) -> bool| {
            layouts
                .iter()
                .zip(segments.by_ref())
                .map(|(layout, outlet)| match (layout, values.get(outlet)?) {
                    (TensorLayout::ByHead, value) if cached(value) => Some(Segment::Cache),
                    (TensorLayout::ByFrame { first }, Value::Rows(slot)) => Some(Segment::Rows { slot: *slot, first: *first }),
                    _ => None,
                })
                .collect::<Option<Vec<_>>>()
        };
        let keys = read(&op.keys, |value| matches!(value, Value::CachedKeys))?;
        let of_values = read(&op.values, |value| matches!(value, Value::CachedValues))?;
        let bias = segments.next().map(|outlet| values.get(outlet));
        let known = matches!((op.with_bias, bias), (true, Some(Some(Value::Bias))) | (false, None));
        known.then(|| Kernel::Attention { op: op.clone(), queries, keys, values: of_values })
    }

    fn single(&self, slot: Slot) -> bool {
        matches!(slot, Slot::Buffer(index) if self.steps[index].single)
    }

    fn width(&self, slot: Slot) -> usize {
        match slot {
            Slot::Input => self.input_width,
            Slot::Buffer(index) => self.steps[index].width,
        }
    }
}

/// Cached keys and values for attention: up to two segments each, in temporal order.
#[derive(Clone, Copy)]
pub(super) struct Cached<'a> {
    pub keys: [ByHead<'a>; 2],
    pub values: [ByHead<'a>; 2],
    /// `[heads, keys, queries]`, the queries padded to whole groups ([`attention::padded`]).
    pub bias: &'a [f32],
}

/// One stream's buffers of a [`Program`].
pub(super) struct ProgramState {
    program: Arc<Program>,
    buffers: Vec<Vec<f32>>,
    scratch: Vec<f32>,
    frames: usize,
}

/// Columns of rows computed by a program.
#[derive(Clone, Copy)]
pub(super) struct Columns<'a> {
    pub rows: &'a [f32],
    /// Values per row.
    pub stride: usize,
    /// First column.
    pub first: usize,
}

impl ProgramState {
    pub fn new(program: &Arc<Program>) -> Self {
        let buffers = program.steps.iter().map(|_| Vec::new()).collect();
        Self { program: program.clone(), buffers, scratch: Vec::new(), frames: 0 }
    }

    /// Runs every step on `x`, `[T, width]`.
    ///
    /// # Panics
    ///
    /// If `x` does not consist of whole rows, or if a cache is missing that the program reads.
    pub fn run(&mut self, x: &[f32], cached: Option<Cached<'_>>) {
        let program = &*self.program;
        self.frames = x.len() / program.input_width;
        assert_eq!(x.len(), self.frames * program.input_width, "rows of {} values", program.input_width);
        for (index, step) in program.steps.iter().enumerate() {
            let (before, rest) = self.buffers.split_at_mut(index);
            let out = &mut rest[0];
            out.resize(if step.single { 1 } else { self.frames } * step.width, 0.0);
            let rows = |slot: Slot| -> &[f32] {
                match slot {
                    Slot::Input => x,
                    Slot::Buffer(index) => &before[index],
                }
            };
            let input = rows(step.x);
            let residual = step.residual.map(rows);
            match &step.kernel {
                Kernel::LayerNorm(op) => op.compute(input, out),
                Kernel::Activate(op) => {
                    out.copy_from_slice(input);
                    op.0.map(out);
                }
                Kernel::MeanFrame(op) => op.compute(input, out),
                Kernel::Linear(op) => op.compute(input, residual, out),
                Kernel::Int8Linear(op) => op.compute(input, residual, out),
                Kernel::Attention { op, queries, keys, values } => {
                    let by_head = |slot: Slot, first: usize| ByHead {
                        data: &rows(slot)[first..],
                        frames: self.frames,
                        head_stride: op.width,
                        frame_stride: program.width(slot),
                    };
                    let kernel = attention::Attention {
                        heads: op.heads,
                        width: op.width,
                        queries: by_head(step.x, *queries),
                        keys: &segments(keys, cached.map(|cached| cached.keys), &by_head),
                        values: &segments(values, cached.map(|cached| cached.values), &by_head),
                        scale: 1.0,
                        bias: cached.map(|cached| cached.bias).filter(|_| op.with_bias),
                        scratch: &mut self.scratch,
                        out,
                    };
                    kernel.dispatch();
                }
            }
        }
    }

    /// Output `index` of the last run; `None` if the graph has fewer.
    pub fn output(&self, index: usize) -> Option<Columns<'_>> {
        let &Output { buffer, first } = self.program.outputs.get(index)?;
        Some(Columns { rows: &self.buffers[buffer], stride: self.program.steps[buffer].width, first })
    }
}

/// The keys or values in `list`, in order.
fn segments<'a>(list: &[Segment], cache: Option<[ByHead<'a>; 2]>, rows: &dyn Fn(Slot, usize) -> ByHead<'a>) -> TVec<ByHead<'a>> {
    let both = |segment: &Segment| match *segment {
        Segment::Rows { slot, first } => [Some(rows(slot, first)), None],
        Segment::Cache => cache.map_or([None, None], |segments| segments.map(Some)),
    };
    list.iter().flat_map(both).flatten().collect()
}

impl<'a> Columns<'a> {
    /// `count` columns of row `row`.
    pub fn row(&self, row: usize, count: usize) -> &'a [f32] {
        &self.rows[row * self.stride + self.first..][..count]
    }
}
