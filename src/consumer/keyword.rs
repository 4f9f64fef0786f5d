//! Keyword detections, as one line of JSON each.

use std::io::Write;
use std::sync::Arc;

use super::files::write_line;
use super::reports::{HitKind, KeywordHit, KeywordScores};
use super::{Consumer, ConsumerError, ConsumerWork, Requirements, StreamInfo};
use crate::chain::Chain;
use crate::keyword::{Detection, Event, KeywordSearch, SearchError, Verifier, Watched};
use crate::stream::Representation;

/// Receives what [`KeywordLines`] finds, on the consumer's thread.
pub type KeywordObserver = Arc<dyn Fn(KeywordReport) + Send + Sync>;

/// A report to a [`KeywordObserver`].
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum KeywordReport {
    /// A detection or near miss, as in the lines.
    Hit(KeywordHit),
    /// The scores in a chunk.
    Scores(KeywordScores),
    /// The names of what is searched for, before the first chunk.
    Names(Vec<String>),
}

/// Searches the keyword embeddings for keywords, and writes a line for each detection and, if enabled, near miss.
pub struct KeywordLines<W> {
    search: KeywordSearch,
    names: Vec<String>,
    lines: Lines<W>,
}

/// Writes the lines.
struct Lines<W> {
    out: W,
    place: String,
    sample_rate: u32,
    observer: Option<KeywordObserver>,
}

impl<W: Write + Send> KeywordLines<W> {
    /// Writes lines to `out`, called `place` in errors; with `verifier`, peaks are verified at full depth.
    pub fn new(out: W, place: impl Into<String>, keywords: Vec<Watched>, verifier: Option<Verifier>) -> Self {
        let lines = Lines { out, place: place.into(), sample_rate: 1, observer: None };
        let names = keywords.iter().map(|one| one.name.clone()).collect();
        Self { search: KeywordSearch::new(keywords, verifier), names, lines }
    }
}

impl<W: Write + Send> KeywordLines<W> {
    /// Also reports to `observer`.
    pub fn observer(mut self, observer: KeywordObserver) -> Self {
        self.lines.observer = Some(observer);
        self
    }
}

impl<W: Write> Lines<W> {
    fn write(&mut self, found: Detection<'_>) -> Result<(), ConsumerError> {
        let round = |value: f64| (value * 1e4).round() / 1e4;
        let seconds = |samples: u64| round(samples as f64 / f64::from(self.sample_rate));
        let line = KeywordHit {
            kind: match found.event {
                Event::Detection => HitKind::Detection,
                Event::NearMiss => HitKind::NearMiss,
            },
            keyword: found.keyword.to_owned(),
            start: seconds(found.start),
            end: seconds(found.end),
            score: round(f64::from(found.score)),
            threshold: round(f64::from(found.threshold)),
            sample: found.start,
            samples: found.end - found.start,
            example: found.example.map(|example| example + 1),
            delay: seconds(found.reported - found.end),
        };
        let written = write_line(&mut self.out, &self.place, &line);
        if let Some(observer) = &self.observer {
            observer(KeywordReport::Hit(line));
        }
        written
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
        // Without keywords, nothing is read until they are enrolled.
        let search = !self.names.is_empty();
        Requirements {
            embedding: search,
            audio: search && self.search.reads_audio(),
            ctc: search && self.search.reads_phones(),
            ..Requirements::default()
        }
    }

    fn count_work(&mut self, work: Arc<ConsumerWork>) {
        self.search.count_work(work);
    }

    fn begin(&mut self, stream: &StreamInfo) -> Result<(), ConsumerError> {
        self.lines.sample_rate = stream.sample_rate;
        self.search.begin(stream.hop_samples, stream.chunk_frames);
        if let Some(observer) = &self.lines.observer {
            observer(KeywordReport::Names(self.names.clone()));
        }
        Ok(())
    }

    fn consume(&mut self, chunk: &Representation) -> Result<(), ConsumerError> {
        if self.names.is_empty() {
            return Ok(());
        }
        self.search.search(chunk, &mut |found| self.lines.write(found))?;
        if let Some(observer) = &self.lines.observer {
            observer(KeywordReport::Scores(KeywordScores { sample: chunk.first_sample, scores: self.search.take_scores() }));
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<(), ConsumerError> {
        self.search.end(&mut |found| self.lines.write(found))?;
        self.lines.out.flush().map_err(|error| ConsumerError::write(self.lines.place.clone(), error))
    }
}
