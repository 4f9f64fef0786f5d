//! Errors of loading and running an encoder.

use std::path::PathBuf;

use super::Int8Kernel;
use crate::pack::{MAX_STREAM_BYTES, PackError};

/// The kernels' names, as text.
fn names(kernels: &[Int8Kernel]) -> String {
    match kernels {
        [] => "none, only f32".to_owned(),
        _ => kernels.iter().map(|kernel| kernel.name()).collect::<Vec<_>>().join(", "),
    }
}

/// Errors of loading an encoder or computing a chunk.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// A file of the pack changed or disappeared since the pack was opened.
    #[error(transparent)]
    Pack(#[from] PackError),
    /// The file is not an ONNX graph that tract can run.
    #[error("{}: cannot load {stage}: {problem}; docs/pack.md describes the graphs of a pack", .path.display())]
    #[non_exhaustive]
    Load {
        /// The file.
        path: PathBuf,
        /// The stage.
        stage: String,
        /// tract's message.
        problem: String,
    },
    /// The graph's inputs, outputs or shapes are not those of the stage.
    #[error("{}: {stage}: {problem}; check that the file belongs to this stage and [encoder] to this model", .path.display())]
    #[non_exhaustive]
    Shape {
        /// The file.
        path: PathBuf,
        /// The stage.
        stage: String,
        /// The difference from the expected shape.
        problem: String,
    },
    /// The pack lacks a stage that an option needs.
    #[error("pack `{pack}` has no {stage}: {hint}")]
    #[non_exhaustive]
    NoStage {
        /// The pack's name.
        pack: String,
        /// The stage.
        stage: String,
        /// What to do.
        hint: String,
    },
    /// Weights of a mixture that are not one finite number for h⁰ and for each layer.
    #[error("the mixture has {finite} finite weights of {given}, and the pack needs {needed}: one for h⁰ and one for each layer")]
    #[non_exhaustive]
    Mixture {
        /// Number of weights that are finite.
        finite: usize,
        /// Number of weights.
        given: usize,
        /// Number of states.
        needed: usize,
    },
    /// A stage failed while running.
    #[error("{stage} failed: {problem}")]
    #[non_exhaustive]
    Run {
        /// The stage.
        stage: String,
        /// tract's message.
        problem: String,
    },
    /// The number of threads is out of range.
    #[error("threads must be between 1 and {max}, got {threads}")]
    #[non_exhaustive]
    Threads {
        /// The given number.
        threads: usize,
        /// The maximum.
        max: usize,
    },
    /// This processor lacks the instructions of a kernel.
    #[error("this processor cannot run the kernel `{kernel}`; available: {}", names(.available))]
    #[non_exhaustive]
    Kernel {
        /// The given kernel.
        kernel: Int8Kernel,
        /// The kernels that this processor can run.
        available: Vec<Int8Kernel>,
    },
    /// The first layer to load is not a layer of the pack.
    #[error("pack `{pack}` has layers 1 to {layers}, so it cannot be loaded from layer {layer} on")]
    #[non_exhaustive]
    FirstLayer {
        /// The pack's name.
        pack: String,
        /// The given layer.
        layer: usize,
        /// Number of layers.
        layers: usize,
    },
    /// The system could not start a thread for matmuls.
    #[error("cannot start a thread for matmuls; use fewer threads")]
    Thread(#[source] std::io::Error),
    /// A chunk from a neighbour does not have the shape of this pack's chunks.
    #[error("pack `{pack}` cannot continue a neighbour's chunk: {problem}")]
    #[non_exhaustive]
    Handover {
        /// The pack's name.
        pack: String,
        /// The difference.
        problem: String,
    },
    /// The pack was not trained for chunks of this size.
    #[error("pack `{pack}` supports chunks of {allowed} frames of {frame_ms} ms, got {frames}")]
    #[non_exhaustive]
    ChunkFrames {
        /// The pack's name.
        pack: String,
        /// The supported sizes, as text.
        allowed: String,
        /// The given size.
        frames: usize,
        /// Milliseconds from frame to frame.
        frame_ms: f64,
    },
    /// A stream with chunks of this size would need too much memory.
    #[error("pack `{pack}`: chunks of {frames} frames need {mebibytes} MiB per stream, more than {} MiB; use shorter chunks", MAX_STREAM_BYTES >> 20)]
    #[non_exhaustive]
    ChunkMemory {
        /// The pack's name.
        pack: String,
        /// The given size.
        frames: usize,
        /// Memory for keys and values or for attention scores.
        mebibytes: u64,
    },
}
