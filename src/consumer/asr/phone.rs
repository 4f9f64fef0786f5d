//! Decoded phones as spans of frames.

/// The blank of every CTC vocabulary.
pub(super) const BLANK: usize = 0;

/// One decoded phone; frames count from the first one pushed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PhoneSpan {
    /// Class in the vocabulary.
    pub class: usize,
    /// First frame.
    pub start: u64,
    /// The frame after the last one.
    pub end: u64,
    /// Mean probability of the class over these frames.
    pub confidence: f32,
}

/// A phone that may continue.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct OpenSpan {
    class: usize,
    pub start: u64,
    end: u64,
    sum: f64,
}

impl OpenSpan {
    /// A phone of one frame.
    pub fn new(class: usize, frame: u64, log_p: f32) -> Self {
        Self { class, start: frame, end: frame + 1, sum: f64::from(log_p).exp() }
    }

    /// Adds a frame.
    pub fn extend(&mut self, log_p: f32) {
        self.end += 1;
        self.sum += f64::from(log_p).exp();
    }

    pub fn class(&self) -> usize {
        self.class
    }

    pub fn close(self) -> PhoneSpan {
        let confidence = (self.sum / (self.end - self.start) as f64).min(1.0) as f32;
        PhoneSpan { class: self.class, start: self.start, end: self.end, confidence }
    }
}
