//! What can go wrong between a checked pack and its numbers.

use std::path::PathBuf;

/// Why the engine could not load or run a stage.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The file is no ONNX graph that tract can run.
    #[error("{path}: {stage} does not load: {problem}; docs/pack.md says what a stage's graph looks like")]
    Load {
        /// The file.
        path: PathBuf,
        /// The stage.
        stage: String,
        /// What was found.
        problem: String,
    },
    /// The graph's inputs, outputs or shapes are not those of the stage.
    #[error("{path}: {stage}: {problem}; is this file another stage's, or [encoder] another model's?")]
    Shape {
        /// The file.
        path: PathBuf,
        /// The stage.
        stage: String,
        /// What was expected and found.
        problem: String,
    },
    /// The pack has no such stage.
    #[error("pack `{pack}` has no {stage}: {hint}")]
    NoStage {
        /// The pack's name.
        pack: String,
        /// The stage asked for.
        stage: String,
        /// The way out.
        hint: String,
    },
    /// A stage failed while running.
    #[error("{stage} failed: {problem}")]
    Run {
        /// The stage.
        stage: String,
        /// What tract said.
        problem: String,
    },
    /// No encoder is computed by so many threads.
    #[error("threads = {asked}: one thread computes, or up to {most} do")]
    Threads {
        /// What was asked for.
        asked: usize,
        /// What is allowed at the most.
        most: usize,
    },
    /// The system gives no more threads.
    #[error("a thread that helps with products does not start: {0}; ask for fewer threads")]
    NoThread(#[source] std::io::Error),
    /// The chunk size is not one that the pack was trained for.
    #[error("pack `{pack}` takes chunks of {allowed} frames, not {asked}")]
    ChunkFrames {
        /// The pack's name.
        pack: String,
        /// What it allows.
        allowed: String,
        /// What was asked for.
        asked: usize,
    },
}
