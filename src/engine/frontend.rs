//! A log-mel front end on Bellis's kernels.
//!
//! Frames overlap: the last windows of a call are the first ones of the next. Their features are kept, and used if the samples are the
//! same.

use std::sync::Arc;

use super::fused::Frontend;
use super::kernels::Rows;
use super::kernels::log_mel::Scratch;

/// One stream's state of a [`Frontend`].
pub(super) struct FrontendState {
    frontend: Arc<Frontend>,
    /// The last samples of the previous call, which belong to the next one as well, and the features of their windows.
    known: Vec<f32>,
    known_rows: usize,
    /// `[rows, bands]`; the first rows of the next call follow the frames of this one.
    features: Vec<f32>,
    scratch: Scratch,
    hidden: Vec<f32>,
    projected: Vec<f32>,
    frames: Vec<f32>,
}

impl FrontendState {
    pub fn new(frontend: &Arc<Frontend>) -> Self {
        Self {
            frontend: frontend.clone(),
            known: Vec::new(),
            known_rows: 0,
            features: Vec::new(),
            scratch: Scratch::default(),
            hidden: Vec::new(),
            projected: Vec::new(),
            frames: Vec::new(),
        }
    }

    /// Values per frame, D.
    pub fn width(&self) -> usize {
        self.frontend.norm.scale.len()
    }

    /// Frames `[T, D]` of `samples`.
    pub fn run(&mut self, samples: &[f32]) -> &[f32] {
        let Frontend { mel, width, stride, gather, project, norm } = &*self.frontend;
        let (bands, rows) = (mel.bands(), mel.rows(samples.len()));
        let count = rows.checked_sub(*width).map_or(0, |rest| rest / stride + 1);

        // Rows that the previous call computed from the same samples.
        let same = !self.known.is_empty() && samples.get(..self.known.len()) == Some(&self.known[..]);
        let known = if same { self.known_rows.min(rows) } else { 0 };
        let kept = self.features.len() - self.known_rows * bands;
        self.features.copy_within(kept.., 0);
        self.features.resize(rows * bands, 0.0);
        mel.apply(samples.get(known * mel.step()..).unwrap_or(&[]), &mut self.scratch, &mut self.features[known * bands..]);

        let (wide, dim) = (gather.weights.outputs, norm.scale.len());
        self.hidden.resize(count * wide, 0.0);
        self.projected.resize(count * dim, 0.0);
        self.frames.resize(count * dim, 0.0);
        let frames = Rows { data: &self.features, count, width: width * bands, stride: stride * bands };
        gather.weights.apply(frames, gather.activation, None, &mut self.hidden);
        project.compute(&self.hidden, None, &mut self.projected);
        norm.compute(&self.projected, &mut self.frames);

        let next = (count * stride).min(rows);
        self.known_rows = rows - next;
        self.known.clear();
        self.known.extend_from_slice(samples.get(next * mel.step()..).unwrap_or(&[]));
        &self.frames
    }
}
