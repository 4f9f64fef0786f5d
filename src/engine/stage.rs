//! One ONNX stage: loaded, checked against the manifest, optimised, and run.

use std::cell::{Cell, RefCell};
use std::io::Cursor;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;

use tract_onnx::prelude::*;
use tract_onnx::tract_core::ops::Cost;

use super::error::EngineError;
use super::frames::FramePool;
use super::frontend::FrontendState;
use super::fused::{self, Frontend, Int8Linear, Linear, MatmulType, Sharing, fuse};
use super::kernels::helpers::Helpers;
use super::matmuls::Matmul;
use super::program::{Cached, Columns, Program, Workspace};
use crate::pack::StageFile;

/// One size in the shape of an input or output.
#[derive(Clone, Copy)]
pub(super) enum Size {
    Fixed(usize),
    /// T frames.
    T,
    /// T plus this number of frames.
    TPlus(usize),
    /// The samples in the receptive field of T frames.
    Samples {
        receptive_field: usize,
        hop: usize,
    },
}

impl Size {
    fn dim(self, t: &Symbol) -> TDim {
        match self {
            Self::Fixed(size) => size.to_dim(),
            Self::T => t.to_dim(),
            Self::TPlus(more) => t.to_dim() + more,
            Self::Samples { receptive_field, hop } => (t.to_dim() - 1) * hop + receptive_field,
        }
    }

    fn at(self, frames: usize) -> usize {
        match self {
            Self::Fixed(size) => size,
            Self::T => frames,
            Self::TPlus(more) => frames + more,
            Self::Samples { receptive_field, hop } => (frames - 1) * hop + receptive_field,
        }
    }

    /// T, if this size determines it.
    fn frames(self, size: usize) -> Option<usize> {
        match self {
            Self::Fixed(_) => None,
            Self::T => Some(size),
            Self::TPlus(more) => size.checked_sub(more),
            Self::Samples { receptive_field, hop } => size.checked_sub(receptive_field).map(|rest| rest / hop + 1),
        }
    }
}

/// An input or output of a stage: its name and shape.
pub(super) struct Port {
    pub name: String,
    pub shape: Vec<Size>,
}

impl Port {
    pub fn new(name: impl Into<String>, shape: impl Into<Vec<Size>>) -> Self {
        Self { name: name.into(), shape: shape.into() }
    }

    pub fn at(&self, frames: usize) -> Vec<usize> {
        self.shape.iter().map(|size| size.at(frames)).collect()
    }
}

/// The required inputs and outputs of a stage.
pub(super) struct Signature {
    pub inputs: Vec<Port>,
    /// The outputs, in the order in which `run` returns them. Further outputs of the graph are not computed.
    pub outputs: Vec<Port>,
}

impl Signature {
    /// Receptive field and hop of a stage that reads audio.
    fn samples(&self) -> Option<(usize, usize)> {
        match self.inputs.first()?.shape.last()? {
            Size::Samples { receptive_field, hop } => Some((*receptive_field, *hop)),
            _ => None,
        }
    }
}

/// A stage ready to run, shared by all streams. Cheap to clone.
#[derive(Clone)]
pub(super) struct Stage {
    pub name: String,
    plan: Arc<TypedRunnableModel>,
    /// The same graph as kernel calls, if Bellis's kernels cover all of it.
    program: Option<Arc<Program>>,
    /// The same graph as a front end on Bellis's kernels, if it is one.
    frontend: Option<Arc<Frontend>>,
    macs: Arc<MacCount>,
}

/// MACs of a call with T frames: an expression in T, and the input whose shape determines T.
struct MacCount {
    count: TDim,
    t: Symbol,
    first_input: Vec<Size>,
}

impl MacCount {
    /// Counts the MACs of `model`.
    fn of(model: &TypedModel, t: Symbol, first_input: Vec<Size>) -> TractResult<Self> {
        let mut count = TDim::Val(0);
        for node in model.nodes() {
            let inputs: Vec<_> = model.node_input_facts(node.id)?.into_iter().collect();
            for (cost, times) in node.op.cost(&inputs)? {
                if matches!(cost, Cost::FMA(_)) {
                    count += times;
                }
            }
        }
        Ok(Self { count: count.simplify(), t, first_input })
    }

    fn at(&self, first_input: &[usize]) -> u64 {
        let frames = self.first_input.iter().zip(first_input).find_map(|(size, &count)| size.frames(count)).unwrap_or(0);
        let values = SymbolValues::default().with(&self.t, frames as i64);
        self.count.eval_to_i64(&values).map_or(0, |count| count.max(0) as u64)
    }
}

impl std::fmt::Debug for Stage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stage").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Largest difference between the frames of two implementations of one front end. A frame is the result of a layer norm, with values around 1.
pub(super) const SAME_FRONTEND: f32 = 1e-3;

/// Frames of the trial run of every loaded stage: odd, so that it differs from every pack's own sizes.
const PROBE_FRAMES: usize = 3;

thread_local! {
    static LOADING: Cell<bool> = const { Cell::new(false) };
}

/// Whether this thread is loading a graph. Panics of the parser are caught and returned as errors, so a panic hook need not print them.
#[cfg(any(feature = "cli", feature = "test-util"))]
pub fn is_loading() -> bool {
    LOADING.get()
}

/// Runs `work` on the contents of a file, and converts a panic into an error message.
fn guarded<T>(work: impl FnOnce() -> TractResult<T>) -> Result<T, String> {
    LOADING.set(true);
    let outcome = catch_unwind(AssertUnwindSafe(work));
    LOADING.set(false);
    match outcome {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(one_line(&error)),
        Err(panic) => Err(panic
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| panic.downcast_ref::<&str>().copied())
            .unwrap_or("the parser panicked")
            .replace('\n', " ")),
    }
}

/// Formats tract's error with its causes on one line.
fn one_line(error: &TractError) -> String {
    format!("{error:#}").split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Loads the stages of one encoder.
#[derive(Default)]
pub(super) struct Loader {
    sharing: RefCell<Sharing>,
    /// The last file: a layer is loaded twice, once up to its keys and values only.
    last: RefCell<Option<(PathBuf, Arc<[u8]>)>>,
}

impl Loader {
    /// Creates a loader with `helpers` for wide matmuls.
    pub fn new(helpers: Option<Helpers>) -> Self {
        Self { sharing: RefCell::new(Sharing::with(helpers.map(Arc::new))), last: RefCell::default() }
    }

    /// The verified bytes of `file`.
    fn bytes(&self, file: &StageFile) -> Result<Arc<[u8]>, EngineError> {
        let mut last = self.last.borrow_mut();
        match &*last {
            Some((path, bytes)) if path == file.path() => Ok(bytes.clone()),
            _ => {
                let bytes: Arc<[u8]> = file.read()?.into();
                *last = Some((file.path().to_owned(), bytes.clone()));
                Ok(bytes)
            }
        }
    }

    /// Loads `file`: cuts the graph at the signature's outputs, checks all shapes, optimises, and runs it once on zeros.
    pub fn stage(&self, file: &StageFile, signature: &Signature, matmul: MatmulType) -> Result<Stage, EngineError> {
        let shape_error = |problem| EngineError::Shape { path: file.path().to_owned(), stage: file.name().to_owned(), problem };
        let load_error = |problem| EngineError::Load { path: file.path().to_owned(), stage: file.name().to_owned(), problem };
        // Shapes of outputs in the file are ignored: they follow from those of the inputs and are checked below.
        let onnx = tract_onnx::onnx().with_ignore_output_shapes(true).with_ignore_value_info(true);
        let bytes = self.bytes(file)?;
        let mut model = guarded(|| onnx.model_for_read(&mut Cursor::new(&bytes[..]))).map_err(load_error)?;
        drop(bytes);
        let t = model.symbols.sym("T");

        // Only the inputs of the selected outputs: a layer's keys and values do not depend on the cache.
        let names = |model: &InferenceModel, outlets: &[OutletId]| -> Vec<String> {
            outlets.iter().map(|outlet| model.node(outlet.node).name.clone()).collect()
        };
        let inputs = names(&model, &model.inputs);
        for port in &signature.inputs {
            if !inputs.contains(&port.name) {
                return Err(shape_error(format!("has no input `{}`; its inputs are {}", port.name, inputs.join(", "))));
            }
        }
        let outputs: Vec<_> = signature.outputs.iter().map(|port| port.name.as_str()).collect();
        guarded(|| model.select_outputs_by_name(&outputs))
            .map_err(|problem| shape_error(format!("lacks one of the outputs {} ({problem})", outputs.join(", "))))?;
        let kept: Vec<_> = signature
            .inputs
            .iter()
            .filter_map(|port| model.inputs.iter().copied().find(|outlet| model.node(outlet.node).name == port.name))
            .collect();
        guarded(|| model.set_input_outlets(&kept)).map_err(load_error)?;
        for (index, port) in signature.inputs.iter().enumerate() {
            let shape: TVec<TDim> = port.shape.iter().map(|size| size.dim(&t)).collect();
            let fact = InferenceFact::dt_shape(f32::datum_type(), &shape);
            guarded(|| model.set_input_fact(index, fact)).map_err(load_error)?;
        }

        let mut typed = guarded(|| model.into_typed()).map_err(load_error)?;
        for (index, port) in signature.outputs.iter().enumerate() {
            let fact = guarded(|| Ok(typed.output_fact(index)?.clone())).map_err(load_error)?;
            let expected: Vec<TDim> = port.shape.iter().map(|size| size.dim(&t)).collect();
            // Symbolic sizes can have several equivalent forms, so the trial run checks those.
            let fits = fact.shape.rank() == expected.len()
                && fact
                    .shape
                    .iter()
                    .zip(&expected)
                    .all(|(actual, expected)| actual == expected || actual.to_i64().is_err() || expected.to_i64().is_err());
            if !fits || fact.datum_type != f32::datum_type() {
                let list = |dims: &[TDim]| dims.iter().map(TDim::to_string).collect::<Vec<_>>().join(", ");
                let (actual, expected, kind) = (list(&fact.shape), list(&expected), fact.datum_type);
                return Err(shape_error(format!("output `{}` must be [{expected}] F32, got [{actual}] {kind:?}", port.name)));
            }
        }
        let first_input = signature.inputs.first().map_or_else(Vec::new, |port| port.shape.clone());
        let macs = guarded(|| MacCount::of(&typed, t.clone(), first_input)).map_err(load_error)?;
        guarded(|| fuse(&mut typed, matmul, &mut self.sharing.borrow_mut())).map_err(load_error)?;
        let frontend = signature.samples().and_then(|(receptive_field, hop)| fused::frontend(&typed, receptive_field, hop));
        let plan = guarded(|| typed.into_optimized()?.into_runnable()).map_err(load_error)?;
        let program = Program::compile(plan.model()).map(Arc::new);
        let mut stage = Stage { name: file.name().to_owned(), plan, program, frontend: None, macs: Arc::new(macs) };
        stage.probe(signature, PROBE_FRAMES).map_err(shape_error)?;
        if let (Some(frontend), Some(port)) = (frontend.map(Arc::new), signature.inputs.first()) {
            match stage.deviation(&frontend, &port.at(PROBE_FRAMES)) {
                Ok(deviation) if deviation <= SAME_FRONTEND => stage.frontend = Some(frontend),
                deviation => {
                    log::warn!("{}: not a log-mel front end of the known kind ({deviation:?}); tract runs it", stage.name)
                }
            }
        }
        Ok(stage)
    }
}

impl Stage {
    /// Runs once on `frames` frames of zeros, and checks every output's shape.
    fn probe(&self, signature: &Signature, frames: usize) -> Result<(), String> {
        let outputs = guarded(|| {
            let inputs = signature.inputs.iter().map(|port| Ok(Tensor::zero::<f32>(&port.at(frames))?.into()));
            self.plan.run(inputs.collect::<TractResult<_>>()?)
        })?;
        for (value, port) in outputs.iter().zip(&signature.outputs) {
            let expected = port.at(frames);
            if value.shape() != expected {
                return Err(format!("output `{}` must be {expected:?}, got {:?}", port.name, value.shape()));
            }
        }
        Ok(())
    }

    /// Largest difference between the frames of `frontend` and of the plan, on noise of the plan's input shape, loud and quiet.
    pub(super) fn deviation(&self, frontend: &Arc<Frontend>, shape: &[usize]) -> Result<f32, String> {
        let mut state = 1u32;
        let noise = std::iter::repeat_with(|| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state as f32 / u32::MAX as f32 - 0.5
        });
        let noise: Vec<f32> = noise.take(shape.iter().product()).collect();
        let mut worst = 0.0f32;
        for level in [1.0, 1e-3] {
            let samples: Vec<f32> = noise.iter().map(|sample| sample * level).collect();
            let outputs = guarded(|| self.plan.run(tvec![Tensor::from_shape(shape, &samples)?.into()]))?;
            let expected =
                outputs.first().and_then(super::Frames::from_output).ok_or("its output is not [1, frames, dim] f32")?;
            let mut found = FrontendState::new(frontend);
            let found = found.run(&samples);
            if found.len() != expected.as_slice().len() {
                return Err(format!("{} values, expected {}", found.len(), expected.as_slice().len()));
            }
            let differences = found.iter().zip(expected.as_slice()).map(|(a, b)| (a - b).abs());
            worst = differences
                .fold(worst, |worst: f32, difference| if worst.is_nan() || difference <= worst { worst } else { difference });
        }
        Ok(worst)
    }

    /// The front end on Bellis's kernels.
    #[cfg(test)]
    pub fn frontend(&self) -> Option<&Arc<Frontend>> {
        self.frontend.as_ref()
    }

    /// Names of the operations that run.
    #[cfg(test)]
    pub fn operations(&self) -> Vec<String> {
        self.plan.model().nodes().iter().map(|node| node.op.name().into_owned()).collect()
    }

    /// MACs of the operations that run, on `frames` frames.
    #[cfg(test)]
    pub fn macs_for(&self, frames: usize) -> u64 {
        let model = self.plan.model();
        MacCount::of(model, model.symbols.sym("T"), vec![Size::T]).unwrap_or_else(|error| panic!("{error}")).at(&[frames])
    }

    /// The matmuls with constant weights that Bellis's kernels compute.
    pub fn matmuls(&self) -> Vec<Matmul<'_>> {
        if let Some(frontend) = &self.frontend {
            return vec![Matmul::F32(&frontend.gather), Matmul::F32(&frontend.project)];
        }
        fn of(node: &TypedNode) -> Option<Matmul<'_>> {
            let in_f32 = node.op_as::<Linear>().map(Matmul::F32);
            in_f32.or_else(|| node.op_as::<Int8Linear>().map(Matmul::Int8))
        }
        self.plan.model().nodes().iter().filter_map(of).collect()
    }

    /// The program, if Bellis's kernels cover the whole graph.
    pub fn program(&self) -> Option<&Program> {
        self.program.as_deref()
    }

    /// Creates a stream's state: on Bellis's kernels if they cover the graph, else of tract's plan.
    pub fn runner(&self) -> Result<Runner, EngineError> {
        match (&self.program, &self.frontend) {
            (Some(program), _) => Ok(self.run_by(Machine::Program(program.clone()))),
            (None, Some(frontend)) => Ok(self.run_by(Machine::Frontend(FrontendState::new(frontend)))),
            (None, None) => self.plan_runner(),
        }
    }

    /// Creates a stream's state of tract's plan.
    pub fn plan_runner(&self) -> Result<Runner, EngineError> {
        let state = self.plan.spawn().map_err(|error| self.failed(&error))?;
        Ok(self.run_by(Machine::Plan(state)))
    }

    fn run_by(&self, machine: Machine) -> Runner {
        let pool = FramePool::default();
        Runner { machine, name: self.name.clone(), cost: self.macs.clone(), last: (0, 0), macs: 0, pool }
    }

    fn failed(&self, error: &TractError) -> EngineError {
        EngineError::Run { stage: self.name.clone(), problem: one_line(error) }
    }
}

/// The engine that runs a stage.
enum Machine {
    Plan(TypedSimpleState),
    Program(Arc<Program>),
    Frontend(FrontendState),
}

/// One stream's state of a stage.
pub(super) struct Runner {
    machine: Machine,
    name: String,
    cost: Arc<MacCount>,
    /// Elements of the last call's first input, and the MACs of such a call.
    last: (usize, u64),
    macs: u64,
    pool: FramePool,
}

impl Runner {
    /// MACs since the start.
    pub fn macs(&self) -> u64 {
        self.macs
    }

    /// Whether a program runs it, not tract's plan.
    pub fn is_program(&self) -> bool {
        matches!(self.machine, Machine::Program(_))
    }

    fn count(&mut self, elements: usize, shape: &[usize]) {
        if elements != self.last.0 {
            self.last = (elements, self.cost.at(shape));
        }
        self.macs += self.last.1;
    }

    fn error(&self, problem: impl Into<String>) -> EngineError {
        EngineError::Run { stage: self.name.clone(), problem: problem.into() }
    }

    /// Runs tract's plan.
    pub fn run(&mut self, inputs: TVec<TValue>) -> Result<TVec<TValue>, EngineError> {
        if let Some(first) = inputs.first() {
            self.count(first.len(), first.shape());
        }
        match &mut self.machine {
            Machine::Plan(state) => state.run(inputs).map_err(|error| self.error(one_line(&error))),
            _ => Err(self.error("only a plan accepts tensors")),
        }
    }

    /// Runs the program on `x`, `[T, width]`.
    pub fn run_program<'a>(
        &'a mut self,
        x: &super::Frames,
        cached: Option<Cached<'_>>,
        workspace: &'a mut Workspace,
    ) -> Result<Done<'a>, EngineError> {
        self.count(x.as_slice().len(), &[1, x.frames(), x.dim()]);
        match &self.machine {
            Machine::Program(program) => {
                program.run(x.as_slice(), cached, workspace);
                Ok(Done { program, frames: x.frames(), workspace, name: &self.name, pool: &mut self.pool })
            }
            _ => Err(EngineError::Run { stage: self.name.clone(), problem: "only a program accepts frames".into() }),
        }
    }

    /// Runs a stage with one input and one output of frames.
    pub fn frames(&mut self, input: &super::Frames, workspace: &mut Workspace) -> Result<super::Frames, EngineError> {
        match self.machine {
            Machine::Program(_) => self.run_program(input, None, workspace)?.frames(0),
            _ => {
                let tensor = input.to_tensor().map_err(|error| self.error(one_line(&error)))?;
                self.tensor(tensor)
            }
        }
    }

    /// Runs a front end on `samples`.
    pub fn audio(&mut self, samples: &[f32]) -> Result<super::Frames, EngineError> {
        if matches!(self.machine, Machine::Frontend(_)) {
            self.count(samples.len(), &[1, samples.len()]);
        }
        match &mut self.machine {
            Machine::Frontend(state) => {
                let width = state.width();
                Ok(self.pool.copy(state.run(samples), width))
            }
            _ => {
                let tensor = Tensor::from_shape(&[1, samples.len()], samples).map_err(|error| self.error(one_line(&error)))?;
                self.tensor(tensor.into())
            }
        }
    }

    /// Runs the plan of a stage with one input and one output of frames.
    pub fn tensor(&mut self, input: TValue) -> Result<super::Frames, EngineError> {
        let outputs = self.run(tvec![input])?;
        self.to_frames(outputs.into_iter().next())
    }

    pub fn to_frames(&self, value: Option<TValue>) -> Result<super::Frames, EngineError> {
        value.as_ref().and_then(super::Frames::from_output).ok_or_else(|| self.error("an output must be [1, frames, dim] f32"))
    }
}

/// A program's outputs after a run.
pub(super) struct Done<'a> {
    program: &'a Program,
    frames: usize,
    workspace: &'a Workspace,
    name: &'a str,
    pool: &'a mut FramePool,
}

impl<'a> Done<'a> {
    /// Output `index` in place.
    pub fn columns(&self, index: usize) -> Result<Columns<'a>, EngineError> {
        let missing = || EngineError::Run { stage: self.name.to_owned(), problem: format!("has no output {index}") };
        self.program.output(index, self.frames, self.workspace).ok_or_else(missing)
    }

    /// Copies output `index`, all its rows and columns.
    pub fn frames(&mut self, index: usize) -> Result<super::Frames, EngineError> {
        let columns = self.columns(index)?;
        Ok(self.pool.copy(columns.rows, columns.stride))
    }
}

/// Number of trainable parameters in a stage's file, counted from its initialisers; `None` if it is not ONNX.
#[cfg(any(feature = "cli", feature = "test-util"))]
pub fn parameters(file: &StageFile) -> Option<u64> {
    let bytes = file.read().ok()?;
    let proto = guarded(|| tract_onnx::onnx().proto_model_for_read(&mut Cursor::new(&bytes[..]))).ok()?;
    let graph = proto.graph?;
    Some(graph.initializer.iter().map(|tensor| tensor.dims.iter().map(|&dim| dim.max(0) as u64).product::<u64>()).sum())
}
