//! Keyword detections, as one line of JSON each.

use std::io::Write;

use serde::Serialize;

use super::{Consumer, ConsumerError, Requirements, StreamInfo};
use crate::chain::Chain;
use crate::keyword::{Event, FrameBlock, Hit, LANES, Spotter, Verifier};
use crate::stream::{Representation, SessionError};

/// A keyword to search for.
#[derive(Debug)]
pub struct Watched {
    /// Name.
    pub name: String,
    /// Threshold, for the output.
    pub threshold: f32,
    /// Spotter for it.
    pub spotter: Spotter,
}

/// Searches the keyword embeddings for keywords, and writes a line for each detection and, if enabled, near miss.
pub struct KeywordLines<W> {
    out: W,
    place: String,
    keywords: Vec<Watched>,
    verifier: Option<Verifier>,
    block: FrameBlock,
    /// Hits in the current block: time, keyword, hit.
    hits: Vec<(u64, usize, Hit)>,
    /// Number of frames so far, and the position of frame 0 in a stream without gaps.
    frames: u64,
    origin: u64,
    /// End of the audio processed so far.
    processed: u64,
    sample_rate: u32,
    hop_samples: u64,
}

/// One line.
#[derive(Debug, Serialize)]
struct Line<'a> {
    event: &'static str,
    keyword: &'a str,
    /// Start and end, seconds.
    start: f64,
    end: f64,
    score: f64,
    threshold: f64,
    sample: u64,
    samples: u64,
    /// Number of the example with the highest score, from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    example: Option<usize>,
    /// Seconds of audio between the end of the word and the report.
    delay: f64,
}

impl<W: Write + Send> KeywordLines<W> {
    /// Writes lines to `out`, called `place` in errors; with `verifier`, peaks are verified at full depth.
    pub fn new(out: W, place: impl Into<String>, keywords: Vec<Watched>, verifier: Option<Verifier>) -> Self {
        Self {
            out,
            place: place.into(),
            keywords,
            verifier,
            block: FrameBlock::default(),
            hits: Vec::new(),
            frames: 0,
            origin: 0,
            processed: 0,
            sample_rate: 1,
            hop_samples: 1,
        }
    }

    fn write(&mut self, index: usize, hit: Hit) -> Result<(), ConsumerError> {
        let round = |value: f64| (value * 1e4).round() / 1e4;
        let seconds = |samples: u64| round(samples as f64 / f64::from(self.sample_rate));
        let at = |frame: u64| self.origin + frame * self.hop_samples;
        // The last frame of a stream may have fewer samples than a hop.
        let (start, end) = (at(hit.start), at(hit.end).min(self.processed));
        let keyword = &self.keywords[index];
        let line = Line {
            event: match hit.event {
                Event::Detection => "keyword",
                Event::NearMiss => "near-miss",
            },
            keyword: &keyword.name,
            start: seconds(start),
            end: seconds(end),
            score: round(f64::from(hit.score)),
            threshold: round(f64::from(keyword.threshold)),
            sample: start,
            samples: end - start,
            example: hit.example.map(|example| example + 1),
            delay: seconds(self.processed - end),
        };
        let failed = |error| ConsumerError::write(self.place.clone(), error);
        let mut text = serde_json::to_string(&line).map_err(|error| failed(error.into()))?;
        text.push('\n');
        // In one call, so that lines of several consumers do not mix.
        self.out.write_all(text.as_bytes()).and_then(|()| self.out.flush()).map_err(failed)
    }

    /// Searches the block for each keyword.
    fn search(&mut self) -> Result<(), ConsumerError> {
        for (index, keyword) in self.keywords.iter_mut().enumerate() {
            let verifier = self.verifier.as_mut();
            let searched = keyword.spotter.step(&self.block, verifier, |frame, hit| self.hits.push((frame, index, hit)));
            searched.map_err(|error| failed(&keyword.name, &error))?;
        }
        self.frames += self.block.frames() as u64;
        // In order of time, independent of chunk boundaries.
        self.hits.sort_by_key(|(frame, index, _)| (*frame, *index));
        let mut hits = std::mem::take(&mut self.hits);
        let written = hits.drain(..).try_for_each(|(_, index, hit)| self.write(index, hit));
        self.hits = hits;
        written
    }

    /// Starts a new segment: later audio does not match across the gap.
    fn reset(&mut self) -> Result<(), ConsumerError> {
        for index in 0..self.keywords.len() {
            let keyword = &mut self.keywords[index];
            let pending = keyword.spotter.reset(self.verifier.as_mut()).map_err(|error| failed(&keyword.name, &error))?;
            if let Some(hit) = pending {
                self.write(index, hit)?;
            }
        }
        if let Some(verifier) = &mut self.verifier {
            verifier.reset();
        }
        Ok(())
    }
}

fn failed(keyword: &str, error: &SessionError) -> ConsumerError {
    ConsumerError::other(format!("keyword `{keyword}`: {}", Chain(error)))
}

impl<W: Write + Send> Consumer for KeywordLines<W> {
    fn name(&self) -> &str {
        "keyword"
    }

    fn requires(&self) -> Requirements {
        Requirements { embedding: true, audio: self.verifier.is_some(), ..Requirements::default() }
    }

    fn begin(&mut self, stream: &StreamInfo) -> Result<(), ConsumerError> {
        (self.sample_rate, self.hop_samples) = (stream.sample_rate, stream.hop_samples as u64);
        if let Some(verifier) = &mut self.verifier {
            verifier.begin(stream.chunk_frames);
        }
        Ok(())
    }

    fn consume(&mut self, chunk: &Representation) -> Result<(), ConsumerError> {
        // Audio or a chunk was dropped: no detection spans the gap.
        if chunk.lost_samples > 0 || chunk.first_sample != self.processed {
            self.reset()?;
            self.origin = chunk.first_sample.saturating_sub(self.frames * self.hop_samples);
        }
        self.processed = chunk.first_sample + chunk.samples;
        let Some(vectors) = &chunk.embedding else { return Ok(()) };
        if let Some(verifier) = &mut self.verifier {
            verifier.push(chunk);
        }
        for rows in vectors.as_slice().chunks(LANES * vectors.dim()) {
            self.block.fill(rows, vectors.dim());
            self.search()?;
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<(), ConsumerError> {
        self.reset()?;
        self.out.flush().map_err(|error| ConsumerError::write(self.place.clone(), error))
    }
}
