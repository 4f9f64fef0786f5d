//! An ONNX graph that scores a window of frames with one number: read, checked and run with the same care as a pack's stages.

use tract_onnx::prelude::*;

use super::error::EngineError;
use super::fused::MatmulType;
use super::stage::{Loader, Port, Runner, Signature, Size, Stage, input_shape};
use crate::pack::StageFile;

/// Longest window, frames.
const MOST_FRAMES: usize = 1000;

/// A graph with the input `frames` `[1, window, width]` and the output `logit` `[1]`, f32. A cheap handle.
#[derive(Debug, Clone)]
pub struct Scorer {
    stage: Stage,
    window: usize,
    width: usize,
}

impl Scorer {
    /// Reads `file`; its frames must have `width` dimensions.
    pub fn load(file: &StageFile, width: usize) -> Result<Self, EngineError> {
        let wrong = |problem| EngineError::Shape { path: file.path().to_owned(), stage: file.name().to_owned(), problem };
        let window = match input_shape(file, "frames").as_deref() {
            Some(&[1, window, found]) if found == width && (1..=MOST_FRAMES).contains(&window) => window,
            Some(found) => {
                return Err(wrong(format!("input `frames` is {found:?}, and must be [1, 1 to {MOST_FRAMES} frames, {width}]")));
            }
            None => return Err(wrong("has no input `frames` of a fixed shape".into())),
        };
        let signature = Signature {
            inputs: vec![Port::new("frames", [Size::Fixed(1), Size::Fixed(window), Size::Fixed(width)])],
            outputs: vec![Port::new("logit", [Size::Fixed(1)])],
        };
        let stage = Loader::default().stage(file, &signature, MatmulType::F32)?;
        Ok(Self { stage, window, width })
    }

    /// Frames of its window.
    pub fn window(&self) -> usize {
        self.window
    }

    /// Dimensions of a frame.
    pub fn width(&self) -> usize {
        self.width
    }

    /// A state to run it with: one per stream.
    pub fn state(&self) -> Result<ScorerState, EngineError> {
        Ok(ScorerState { runner: self.stage.plan_runner()?, shape: [1, self.window, self.width] })
    }
}

/// One stream's own state of a [`Scorer`].
pub struct ScorerState {
    runner: Runner,
    shape: [usize; 3],
}

impl std::fmt::Debug for ScorerState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ScorerState").field("shape", &self.shape).finish_non_exhaustive()
    }
}

impl ScorerState {
    /// The logit of a window of frames, `[window, width]`.
    pub fn logit(&mut self, frames: &[f32]) -> Result<f32, EngineError> {
        let failed = |problem: String| EngineError::Run { stage: "detector".into(), problem };
        let input = Tensor::from_shape(&self.shape, frames).map_err(|error| failed(error.to_string()))?;
        let outputs = self.runner.run(tvec![input.into()])?;
        let logit = outputs.first().and_then(|value| value.try_as_plain_ram().ok()?.as_slice::<f32>().ok()?.first().copied());
        logit.ok_or_else(|| failed("no logit came out".into()))
    }
}
