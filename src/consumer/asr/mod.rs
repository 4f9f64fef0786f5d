//! A front end for speech recognition: phones decoded from the CTC branches, and utterances cut from the stream.
//!
//! `timeline` maps frames to positions in the stream; `greedy` and `beam` decode; `speech` gives the probability of speech in
//! a frame; `segmenter` cuts; [`Phones`] and [`Segments`] are the consumers. See docs/phones.md.

mod beam;
mod decoder;
mod greedy;
mod phone;
mod phones;
mod segmenter;
mod segments;
mod speech;
#[cfg(test)]
mod tests;
mod timeline;

pub use beam::Beam;
pub use decoder::Decoder;
pub use greedy::Greedy;
pub use phone::PhoneSpan;
pub use phones::{Form, PhoneReader, Phones};
pub use segmenter::{Cut, PhoneRules, SegmentRules, Segmenter, SpeechFrame, Utterance};
pub use segments::{SEGMENTS, SegmentTarget, Segments};
pub use speech::SpeechDetector;
