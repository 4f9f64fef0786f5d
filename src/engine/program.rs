//! A fused graph as a flat list of kernel calls over preallocated buffers.
//!
//! [`Program::compile`] compiles a graph in which the rules of [`super::fused`] have replaced every node. Such a graph needs neither
//! tract's plan nor its tensors: all programs of a stream write to the few buffers of one [`Workspace`], which therefore stay in the
//! processor's cache, and cached keys and values are read in place. tract runs any other graph, and is the reference that tests compare
//! programs with.

use std::collections::HashMap;

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
    Step(usize),
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

/// One kernel call.
#[derive(Debug)]
struct Step {
    kernel: Kernel,
    /// The buffer of the workspace to which the result is written.
    buffer: usize,
    x: Slot,
    residual: Option<Slot>,
    /// Values per row of the result.
    width: usize,
    /// Whether the result is one row, whatever the number of frames.
    single: bool,
}

/// An output of the graph: columns of a step's result from `first`. `[1, heads, T, width]` in the graph is `[T, heads · width]` here.
#[derive(Clone, Copy, Debug)]
struct Output {
    step: usize,
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
            values.insert(id.into(), Value::Rows(Slot::Step(program.steps.len())));
            program.steps.push(Step { kernel, buffer: 0, x, residual, width: width()?, single });
        }
        for outlet in &model.outputs {
            program.outputs.push(match *values.get(outlet)? {
                Value::Rows(Slot::Step(step)) => Output { step, first: 0 },
                Value::Heads { slot: Slot::Step(step), first } => Output { step, first },
                _ => return None,
            });
        }
        program.assign_buffers();
        (program.input_width > 0).then_some(program)
    }

    /// Gives every result a buffer that no other result needs meanwhile.
    fn assign_buffers(&mut self) {
        let mut last_reads: Vec<usize> = (0..self.steps.len()).collect();
        for (index, step) in self.steps.iter().enumerate() {
            step.reads(|read| last_reads[read] = index);
        }
        for output in &self.outputs {
            last_reads[output.step] = usize::MAX;
        }
        let (mut free, mut buffers) = (Vec::new(), 0);
        for index in 0..self.steps.len() {
            // The one that became free last is the most likely one to be in the processor's cache.
            self.steps[index].buffer = free.pop().unwrap_or_else(|| {
                buffers += 1;
                buffers - 1
            });
            free.extend((0..=index).filter(|&step| last_reads[step] == index).map(|step| self.steps[step].buffer));
        }
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
        matches!(slot, Slot::Step(index) if self.steps[index].single)
    }

    fn width(&self, slot: Slot) -> usize {
        match slot {
            Slot::Input => self.input_width,
            Slot::Step(index) => self.steps[index].width,
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

impl Step {
    /// Passes the steps whose results this one reads to `each`.
    fn reads(&self, mut each: impl FnMut(usize)) {
        let (keys, values): (&[Segment], &[Segment]) = match &self.kernel {
            Kernel::Attention { keys, values, .. } => (keys, values),
            _ => (&[], &[]),
        };
        let segments = keys.iter().chain(values).filter_map(|segment| match segment {
            Segment::Rows { slot, .. } => Some(*slot),
            Segment::Cache => None,
        });
        for slot in [Some(self.x), self.residual].into_iter().flatten().chain(segments) {
            if let Slot::Step(step) = slot {
                each(step);
            }
        }
    }
}

/// Memory of the programs of a stream, which run one after the other: it grows to what the largest one needs.
#[derive(Default)]
pub(super) struct Workspace {
    buffers: Vec<Vec<f32>>,
    scratch: Vec<f32>,
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

impl Program {
    /// Runs every step on `x`, `[T, width]`; [`Program::output`] finds the results in `workspace`.
    ///
    /// # Panics
    ///
    /// If `x` does not consist of whole rows, or if a cache is missing that the program reads.
    pub fn run(&self, x: &[f32], cached: Option<Cached<'_>>, workspace: &mut Workspace) {
        let frames = x.len() / self.input_width;
        assert_eq!(x.len(), frames * self.input_width, "rows of {} values", self.input_width);
        let Workspace { buffers, scratch } = workspace;
        for step in &self.steps {
            let values = step.rows(frames) * step.width;
            if buffers.len() <= step.buffer {
                buffers.resize_with(step.buffer + 1, Vec::new);
            }
            let mut buffer = std::mem::take(&mut buffers[step.buffer]);
            if buffer.len() < values {
                buffer.resize(values, 0.0);
            }
            let out = &mut buffer[..values];
            let rows = |slot: Slot| -> &[f32] {
                match slot {
                    Slot::Input => x,
                    Slot::Step(index) => self.steps[index].result(frames, buffers),
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
                        frames,
                        head_stride: op.width,
                        frame_stride: self.width(slot),
                    };
                    let kernel = attention::Attention {
                        heads: op.heads,
                        width: op.width,
                        queries: by_head(step.x, *queries),
                        keys: &segments(keys, cached.map(|cached| cached.keys), &by_head),
                        values: &segments(values, cached.map(|cached| cached.values), &by_head),
                        scale: 1.0,
                        bias: cached.map(|cached| cached.bias).filter(|_| op.with_bias),
                        scratch,
                        out,
                    };
                    kernel.dispatch();
                }
            }
            buffers[step.buffer] = buffer;
        }
    }

    /// Output `index` of a run on `frames` frames; `None` if the graph has fewer.
    pub fn output<'a>(&self, index: usize, frames: usize, workspace: &'a Workspace) -> Option<Columns<'a>> {
        let &Output { step, first } = self.outputs.get(index)?;
        let step = &self.steps[step];
        Some(Columns { rows: step.result(frames, &workspace.buffers), stride: step.width, first })
    }
}

impl Step {
    fn rows(&self, frames: usize) -> usize {
        if self.single { 1 } else { frames }
    }

    fn result<'a>(&self, frames: usize, buffers: &'a [Vec<f32>]) -> &'a [f32] {
        &buffers[self.buffer][..self.rows(frames) * self.width]
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

#[cfg(test)]
impl Program {
    /// Number of buffers. Asserts that every result is intact when it is read, and at the end if it is an output.
    pub fn check_buffers(&self) -> usize {
        let mut holds = vec![usize::MAX; self.steps.len()];
        for (index, step) in self.steps.iter().enumerate() {
            step.reads(|read| {
                let buffer = self.steps[read].buffer;
                assert!(
                    holds[buffer] == read && buffer != step.buffer,
                    "step {index} reads {read} in buffer {buffer}: {holds:?}"
                );
            });
            holds[step.buffer] = index;
        }
        assert!(self.outputs.iter().all(|output| holds[self.steps[output.step].buffer] == output.step), "{holds:?}");
        holds.iter().filter(|&&step| step != usize::MAX).count()
    }
}
