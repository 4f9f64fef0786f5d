//! Keyword detections, as one line of JSON each.

use std::io::Write;

use serde::Serialize;

use super::{Consumer, ConsumerError, Requirements, StreamInfo};
use crate::chain::Chain;
use crate::keyword::{Detection, Event, KeywordSearch, SearchError, Verifier, Watched};
use crate::stream::Representation;

/// Searches the keyword embeddings for keywords, and writes a line for each detection and, if enabled, near miss.
pub struct KeywordLines<W> {
    search: KeywordSearch,
    lines: Lines<W>,
}

/// Writes the lines.
struct Lines<W> {
    out: W,
    place: String,
    sample_rate: u32,
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
        Self { search: KeywordSearch::new(keywords, verifier), lines: Lines { out, place: place.into(), sample_rate: 1 } }
    }
}

impl<W: Write> Lines<W> {
    fn write(&mut self, found: Detection<'_>) -> Result<(), ConsumerError> {
        let round = |value: f64| (value * 1e4).round() / 1e4;
        let seconds = |samples: u64| round(samples as f64 / f64::from(self.sample_rate));
        let line = Line {
            event: match found.event {
                Event::Detection => "keyword",
                Event::NearMiss => "near-miss",
            },
            keyword: found.keyword,
            start: seconds(found.start),
            end: seconds(found.end),
            score: round(f64::from(found.score)),
            threshold: round(f64::from(found.threshold)),
            sample: found.start,
            samples: found.end - found.start,
            example: found.example.map(|example| example + 1),
            delay: seconds(found.reported - found.end),
        };
        let failed = |error| ConsumerError::write(self.place.clone(), error);
        let mut text = serde_json::to_string(&line).map_err(|error| failed(error.into()))?;
        text.push('\n');
        // In one call, so that lines of several consumers do not mix.
        self.out.write_all(text.as_bytes()).and_then(|()| self.out.flush()).map_err(failed)
    }
}

impl From<SearchError> for ConsumerError {
    fn from(error: SearchError) -> Self {
        Self::other(Chain(&error).to_string())
    }
}

impl<W: Write + Send> Consumer for KeywordLines<W> {
    fn name(&self) -> &str {
        "keyword"
    }

    fn requires(&self) -> Requirements {
        Requirements { embedding: true, audio: self.search.reads_audio(), ..Requirements::default() }
    }

    fn begin(&mut self, stream: &StreamInfo) -> Result<(), ConsumerError> {
        self.lines.sample_rate = stream.sample_rate;
        self.search.begin(stream.hop_samples, stream.chunk_frames);
        Ok(())
    }

    fn consume(&mut self, chunk: &Representation) -> Result<(), ConsumerError> {
        self.search.search(chunk, &mut |found| self.lines.write(found))
    }

    fn finish(&mut self) -> Result<(), ConsumerError> {
        self.search.end(&mut |found| self.lines.write(found))?;
        self.lines.out.flush().map_err(|error| ConsumerError::write(self.lines.place.clone(), error))
    }
}
