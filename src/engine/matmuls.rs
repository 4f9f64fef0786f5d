//! The matmuls of an encoder: the kernels that compute them, and their speed on this processor.

use std::time::{Duration, Instant};

use super::fused::{Int8Linear, Linear};
use super::kernels::ceiling;
use super::{Branches, Encoder, Stage};

/// Measuring time per size, and minimum number of runs, of which the fastest counts.
const TIME: Duration = Duration::from_millis(20);
const LEAST_RUNS: usize = 5;

/// Matmuls of one size in one kind of stage.
#[derive(Debug, Clone, PartialEq)]
pub struct MatmulSpeed {
    /// Kind of stage: `layers`.
    pub stage: &'static str,
    /// Number of these matmuls in all stages of the kind.
    pub count: usize,
    /// Rows of weights.
    pub inputs: usize,
    /// Columns of weights.
    pub outputs: usize,
    /// The kernel: `f32`, or the name of an int8 kernel.
    pub kernel: &'static str,
    /// MACs per second, including bias, activation and quantisation.
    pub speed: f64,
    /// MACs per second of the kernel's instructions alone.
    pub ceiling: f64,
}

/// A matmul with constant weights.
pub(super) enum Matmul<'a> {
    F32(&'a Linear),
    Int8(&'a Int8Linear),
}

impl Matmul<'_> {
    fn kernel(&self) -> &'static str {
        match self {
            Self::F32(_) => "f32",
            Self::Int8(op) => op.kernel().name(),
        }
    }

    /// Inputs and outputs.
    fn size(&self) -> (usize, usize) {
        match self {
            Self::F32(op) => (op.weights.inputs, op.weights.outputs),
            Self::Int8(op) => op.size(),
        }
    }

    fn ceiling(&self) -> f64 {
        match self {
            Self::F32(_) => ceiling::f32(),
            Self::Int8(op) => ceiling::int8(op.kernel()),
        }
    }

    /// MACs per second on `frames` rows.
    fn speed(&self, frames: usize) -> f64 {
        let (inputs, outputs) = self.size();
        let x: Vec<f32> = (0..frames * inputs).map(|i| (i * 7919 % 1013) as f32 / 506.5 - 1.0).collect();
        let mut out = vec![0.0; frames * outputs];
        let (began, mut runs, mut fastest) = (Instant::now(), 0, f64::INFINITY);
        while runs < LEAST_RUNS || began.elapsed() < TIME {
            let start = Instant::now();
            match self {
                Self::F32(op) => op.compute(&x, None, &mut out),
                Self::Int8(op) => op.compute(&x, None, &mut out),
            }
            fastest = fastest.min(start.elapsed().as_secs_f64());
            runs += 1;
        }
        (frames * inputs * outputs) as f64 / fastest.max(f64::MIN_POSITIVE)
    }
}

impl Encoder {
    /// Measures the matmuls with constant weights, by kind of stage, on chunks of `frames` frames. Gain predictors, which read one mean
    /// frame, and matmuls that tract computes are left out. Takes some 25 ms per size.
    pub fn matmul_speeds(&self, frames: usize) -> Vec<MatmulSpeed> {
        fn of(branches: &Branches<Stage>) -> Vec<&Stage> {
            branches.iter().map(|(_, stage)| stage).collect()
        }
        let kinds: [(&'static str, Vec<&Stage>); 5] = [
            ("front end", self.frontend.iter().chain(&self.position).collect()),
            ("layers", self.layers.iter().map(|layer| &layer.full).collect()),
            ("heads", of(&self.heads)),
            ("CTC branches", of(&self.ctc)),
            ("keyword embeddings", of(&self.embedding)),
        ];
        let mut speeds: Vec<MatmulSpeed> = Vec::new();
        for (stage, stages) in kinds {
            let first = speeds.len();
            for matmul in stages.into_iter().flat_map(Stage::matmuls) {
                let ((inputs, outputs), kernel) = (matmul.size(), matmul.kernel());
                let alike = |one: &&mut MatmulSpeed| (one.inputs, one.outputs, one.kernel) == (inputs, outputs, kernel);
                if let Some(known) = speeds[first..].iter_mut().find(alike) {
                    known.count += 1;
                    continue;
                }
                let ceiling = speeds.iter().find(|one| one.kernel == kernel).map_or_else(|| matmul.ceiling(), |one| one.ceiling);
                speeds.push(MatmulSpeed { stage, count: 1, inputs, outputs, kernel, speed: matmul.speed(frames), ceiling });
            }
        }
        speeds
    }
}
