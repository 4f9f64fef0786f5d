//! Utterances, cut by [`Segmenter`], with their times, audio and vectors.

use std::collections::VecDeque;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::segmenter::{Cut, SegmentRules, Segmenter, Utterance};
use super::speech::SpeechDetector;
use super::timeline::Timeline;
use crate::consumer::files::{LineFile, write_line};
use crate::consumer::stream::{Array, Endpoint, FloatType, MessageWriter};
use crate::consumer::{Consumer, ConsumerError, Requirements, StreamInfo, WavFormat, npy};
use crate::stream::Representation;

/// Name of the list of utterances in an output folder.
pub const SEGMENTS: &str = "segments.jsonl";

/// Destination of utterances.
pub enum SegmentTarget {
    /// One line of JSON each; the string names the destination in errors.
    Lines(Box<dyn Write + Send>, String),
    /// A folder: `segments.jsonl`, and for each utterance its audio as 16-bit WAV and its vectors as NPY.
    Folder(PathBuf),
    /// The binary stream: one message each, with the arrays `vectors` and `audio`.
    Stream(Endpoint, FloatType),
}

enum Sink {
    Lines(Box<dyn Write + Send>, String),
    Folder(OpenFolder, LineFile),
    Stream(MessageWriter),
}

/// Cuts utterances out of the stream.
pub struct Segments {
    target: Option<SegmentTarget>,
    sink: Option<Sink>,
    detector: SpeechDetector,
    segmenter: Segmenter,
    found: Vec<Utterance>,
    timeline: Timeline,
    sample_rate: u32,
    dim: usize,
    /// Audio without gaps (dropped audio is silence) and vectors of the frames that may still be needed.
    audio: VecDeque<f32>,
    audio_start: u64,
    vectors: VecDeque<f32>,
    first_frame: u64,
    keeps_content: bool,
    count: u64,
}

/// One utterance.
#[derive(Debug, Serialize)]
struct Line {
    segment: u64,
    /// Start and end, seconds.
    start: f64,
    end: f64,
    sample: u64,
    samples: u64,
    frames: u64,
    /// Mean probability of speech.
    speech: f64,
    /// Mean exit layer.
    layer: f64,
    cut: Cut,
    /// Samples dropped within it: silence in its audio, and no frames.
    #[serde(skip_serializing_if = "is_zero")]
    lost_samples: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    wav: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    npy: Option<String>,
}

fn is_zero(value: &u64) -> bool {
    *value == 0
}

#[derive(Serialize)]
struct End {
    segments: u64,
}

impl Segments {
    /// Writes utterances by `rules` to `target`, which is opened when the stream begins.
    pub fn new(target: SegmentTarget, detector: SpeechDetector, rules: SegmentRules) -> Self {
        Self {
            keeps_content: !matches!(target, SegmentTarget::Lines(..)),
            target: Some(target),
            sink: None,
            detector,
            segmenter: Segmenter::new(rules),
            found: Vec::new(),
            timeline: Timeline::default(),
            sample_rate: 1,
            dim: 0,
            audio: VecDeque::new(),
            audio_start: 0,
            vectors: VecDeque::new(),
            first_frame: 0,
            count: 0,
        }
    }

    /// Writes the utterances that were found.
    fn write_found(&mut self) -> Result<(), ConsumerError> {
        let mut found = std::mem::take(&mut self.found);
        let written = found.drain(..).try_for_each(|span| self.write(span));
        self.found = found;
        written
    }

    fn write(&mut self, span: Utterance) -> Result<(), ConsumerError> {
        let places: Vec<_> = (span.start..span.end).filter_map(|frame| self.timeline.place(frame)).collect();
        let (Some(first), Some(last)) = (places.first(), places.last()) else { return Ok(()) };
        let (sample, samples, frames) = (first.start, last.end - first.start, places.len() as u64);
        let round = |value: f64| (value * 1e4).round() / 1e4;
        let seconds = |position: u64| round(position as f64 / f64::from(self.sample_rate));
        self.count += 1;
        let mut line = Line {
            segment: self.count,
            start: seconds(sample),
            end: seconds(sample + samples),
            sample,
            samples,
            frames,
            speech: round(f64::from(span.speech)),
            layer: round(places.iter().map(|place| place.layer as f64).sum::<f64>() / frames as f64),
            cut: span.cut,
            lost_samples: places.iter().map(|place| place.hole_before + place.hole_inside).sum::<u64>() - first.hole_before,
            wav: None,
            npy: None,
        };
        let content = |buffer: &VecDeque<f32>, skipped: u64, count: u64, dim: usize| -> Vec<f32> {
            let from = skipped as usize * dim;
            buffer.range(from..from + count as usize * dim).copied().collect()
        };
        let (audio, vectors) = match self.keeps_content {
            false => (Vec::new(), Vec::new()),
            true => (
                content(&self.audio, sample - self.audio_start, samples, 1),
                content(&self.vectors, span.start - self.first_frame, frames, self.dim),
            ),
        };
        match &mut self.sink {
            None => Ok(()),
            Some(Sink::Lines(out, place)) => write_line(out, place, &line),
            Some(Sink::Folder(folder, out)) => {
                let name = format!("{:05}", self.count);
                write_wav(&folder.file(&format!("{name}.wav")), &audio, self.sample_rate)?;
                write_npy(&folder.file(&format!("{name}.npy")), &vectors, self.dim)?;
                (line.wav, line.npy) = (Some(format!("{name}.wav")), Some(format!("{name}.npy")));
                // Write the line last, so that its files exist when a reader sees it.
                write_line(out, &folder.path.display().to_string(), &line)
            }
            Some(Sink::Stream(writer)) => {
                let vectors = Array { name: "vectors", shape: vec![frames as usize, self.dim], values: &vectors };
                let audio = Array { name: "audio", shape: vec![audio.len()], values: &audio };
                writer.write("segment", &line, &[vectors, audio])
            }
        }
    }

    /// Discards frames that no utterance needs.
    fn forget(&mut self) {
        let keep = self.segmenter.keep_from();
        let gone = (keep.saturating_sub(self.first_frame) as usize * self.dim).min(self.vectors.len());
        self.vectors.drain(..gone);
        self.first_frame = self.first_frame.max(keep);
        let start = self.timeline.place(keep).map_or(self.audio_start + self.audio.len() as u64, |place| place.start);
        let gone = (start.saturating_sub(self.audio_start) as usize).min(self.audio.len());
        self.audio.drain(..gone);
        self.audio_start = start.max(self.audio_start);
        self.timeline.forget_before(keep);
    }
}

/// A folder that stays the same when it is renamed while utterances are written, as by log rotation.
struct OpenFolder {
    path: PathBuf,
    /// Open, so that its entry in /proc leads to it.
    held: Option<File>,
}

impl OpenFolder {
    fn new(path: PathBuf) -> Self {
        Self { held: File::open(&path).ok(), path }
    }

    /// The path of a file in it.
    fn file(&self, name: &str) -> PathBuf {
        #[cfg(target_os = "linux")]
        if let Some(held) = &self.held {
            use std::os::fd::AsRawFd;
            let through = Path::new("/proc/self/fd").join(held.as_raw_fd().to_string());
            if through.is_dir() {
                return through.join(name);
            }
        }
        self.path.join(name)
    }
}

/// 16 bits, which every recogniser supports.
fn write_wav(path: &Path, audio: &[f32], sample_rate: u32) -> Result<(), ConsumerError> {
    let mut bytes = WavFormat::S16.header(sample_rate, Some(audio.len() as u64));
    WavFormat::S16.encode(audio, &mut bytes);
    write_new(path, &bytes)
}

/// Creates a file of an utterance. Existing files are never overwritten.
fn write_new(path: &Path, bytes: &[u8]) -> Result<(), ConsumerError> {
    let failed = |error| ConsumerError::write(path.display().to_string(), error);
    let mut file = File::create_new(path).map_err(|error| match error.kind() {
        std::io::ErrorKind::AlreadyExists => ConsumerError::other(format!("{} exists; choose another folder", path.display())),
        _ => failed(error),
    })?;
    let written = file.write_all(bytes);
    if written.is_err() {
        // Remove a partial file.
        let _ = std::fs::remove_file(path);
    }
    written.map_err(failed)
}

fn write_npy(path: &Path, vectors: &[f32], dim: usize) -> Result<(), ConsumerError> {
    let mut bytes = npy::header((vectors.len() / dim.max(1)) as u64, dim).to_vec();
    vectors.iter().for_each(|value| bytes.extend_from_slice(&value.to_le_bytes()));
    write_new(path, &bytes)
}

impl Consumer for Segments {
    fn name(&self) -> &str {
        "segments"
    }

    fn requires(&self) -> Requirements {
        let required = self.detector.requires();
        Requirements { audio: required.audio || self.keeps_content, ..required }
    }

    fn begin(&mut self, stream: &StreamInfo) -> Result<(), ConsumerError> {
        (self.sample_rate, self.dim) = (stream.sample_rate.max(1), stream.dim);
        self.sink = match self.target.take() {
            None => None,
            Some(SegmentTarget::Lines(out, place)) => Some(Sink::Lines(out, place)),
            Some(SegmentTarget::Stream(endpoint, float)) => Some(Sink::Stream(MessageWriter::open(endpoint, float, stream)?)),
            Some(SegmentTarget::Folder(folder)) => {
                let place = folder.display().to_string();
                let failed = |error| ConsumerError::write(place.clone(), error);
                if folder.is_file() {
                    return Err(ConsumerError::other(format!("{place}: is a file; name a folder")));
                }
                std::fs::create_dir_all(&folder).map_err(failed)?;
                let lines = folder.join(SEGMENTS);
                if lines.exists() {
                    return Err(ConsumerError::other(format!(
                        "{place}: contains the segments of another run; choose another folder"
                    )));
                }
                let mut lines = LineFile::new(lines);
                lines.create().map_err(failed)?;
                Some(Sink::Folder(OpenFolder::new(folder), lines))
            }
        };
        Ok(())
    }

    fn consume(&mut self, chunk: &Representation) -> Result<(), ConsumerError> {
        let audio = chunk.audio.as_ref().filter(|_| self.keeps_content);
        let found = self.detector.frames(chunk).filter(|_| audio.is_some() || !self.keeps_content);
        let Some(evidence) = found else {
            let text =
                format!("chunk {} has no audio, posteriors or CTC logits; enable them in the session options", chunk.sequence);
            return Err(ConsumerError::other(text));
        };
        let hop = chunk.hop_samples as u64;
        for (frame, (place, evidence)) in self.timeline.push(chunk).iter().zip(evidence).enumerate() {
            if place.hole_before > 0 || place.hole_inside > 0 {
                let apart = self.segmenter.lost((place.hole_before + place.hole_inside).div_ceil(hop), &mut self.found);
                self.write_found()?;
                if apart {
                    self.forget();
                    // A frame with a long gap inside counts as half before and half after it.
                    if place.hole_inside > 0 {
                        self.segmenter.skip();
                        self.forget();
                        self.first_frame = self.segmenter.keep_from();
                        self.audio_start = place.end;
                        continue;
                    }
                }
            }
            if self.audio.is_empty() {
                self.audio_start = place.start;
            } else {
                self.audio.extend(std::iter::repeat_n(0.0, place.hole_before as usize));
            }
            if let Some(audio) = audio {
                let mut next = place.start;
                for offset in frame as u64 * hop..((frame as u64 + 1) * hop).min(chunk.samples) {
                    let position = chunk.position(offset);
                    self.audio.extend(std::iter::repeat_n(0.0, (position - next) as usize));
                    self.audio.push_back(audio[offset as usize]);
                    next = position + 1;
                }
                self.vectors.extend(chunk.vectors.row(frame));
            }
            self.segmenter.push(evidence, &mut self.found);
            self.write_found()?;
            self.forget();
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<(), ConsumerError> {
        self.segmenter.finish(&mut self.found);
        self.write_found()?;
        let segments = self.count;
        match &mut self.sink {
            Some(Sink::Stream(writer)) => writer.write("end", &End { segments }, &[]),
            _ => Ok(()),
        }
    }
}
