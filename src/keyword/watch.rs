//! Several keywords in one stream: frames in, detections with their positions out.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::contrast::Contrast;
use super::file::{Keyword, KeywordError};
use super::search::searched;
use super::spotter::{Event, Hit, Spotter, SpotterOptions};
use super::template::{FrameBlock, blocks};
use super::verification::Verifier;
use crate::chain::Chain;
use crate::consumer::{ConsumerWork, KeywordScore};
use crate::engine::{Encoder, Frames};
use crate::stream::{Representation, SessionError, SessionOptions};

/// Frames for which a detection is remembered: more than the longest phrase.
const REMEMBERED: u64 = 1000;

/// A keyword to search for.
#[derive(Debug)]
pub struct Watched {
    /// Name.
    pub name: String,
    /// Threshold, for the output.
    pub threshold: f32,
    /// Factor of the scores in audio as noisy as babble at equal level; in less noise it is closer to 1.
    pub noise_gain: f32,
    /// Rank among keywords that are detected in the same audio.
    pub priority: i32,
    /// Spotter for it.
    pub spotter: Spotter,
}

/// Changes to how enrolled keywords are searched for. By default, everything is as enrolled.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct SearchOptions {
    /// False accepts per hour that the threshold allows, instead of those at enrolment.
    pub false_accepts: Option<f64>,
    /// Time after a detection without another one of the same keyword, instead of the keyword's own or [`SpotterOptions::REFRACTORY`].
    pub refractory: Option<Duration>,
    /// Least score of a near miss; without one, near misses are not reported.
    pub near_miss: Option<f32>,
}

impl Watched {
    /// The keyword of `file`, for streams of `encoder`.
    ///
    /// # Errors
    ///
    /// [`KeywordError::FixedThreshold`] if the options change the threshold of a keyword without background scores,
    /// [`KeywordError::Invalid`] for examples that are not valid, and for phones that the encoder does not know.
    pub fn new(keyword: &Keyword, file: &Path, options: &SearchOptions, encoder: &Encoder) -> Result<Self, KeywordError> {
        let hop_seconds = encoder.audio().hop as f64 / f64::from(encoder.audio().sample_rate);
        let threshold = match options.false_accepts {
            None => keyword.threshold,
            Some(rate) => keyword.threshold_for(rate).ok_or_else(|| KeywordError::FixedThreshold { path: file.to_owned() })?,
        };
        let mut spotter = SpotterOptions::new(threshold, hop_seconds);
        if let Some(time) = options.refractory.or(keyword.refractory_seconds.map(Duration::from_secs_f64)) {
            spotter = spotter.with_refractory(time, hop_seconds);
        }
        if let Some(score) = options.near_miss {
            spotter.near_miss = score;
        }
        let matcher = keyword
            .matcher(encoder.vocabulary())
            .map_err(|error| KeywordError::Invalid { path: file.to_owned(), problem: error.to_string() })?;
        let (name, priority) = (keyword.name.clone(), keyword.priority);
        Ok(Self {
            name,
            threshold,
            noise_gain: keyword.noise_gain(options.false_accepts),
            priority,
            spotter: Spotter::new(matcher, spotter),
        })
    }

    /// As [`new`](Self::new); a keyword without background scores keeps its threshold, with a line in the log.
    ///
    /// # Errors
    ///
    /// The others of [`new`](Self::new).
    pub fn new_or_fixed(
        keyword: &Keyword,
        file: &Path,
        options: &SearchOptions,
        encoder: &Encoder,
    ) -> Result<Self, KeywordError> {
        match Self::new(keyword, file, options, encoder) {
            Err(error @ KeywordError::FixedThreshold { .. }) => {
                log::warn!("{error}; it stays at {:.3}", keyword.threshold);
                Self::new(keyword, file, &SearchOptions { false_accepts: None, ..*options }, encoder)
            }
            one => one,
        }
    }
}

/// The keywords that can be searched for. The others are skipped, each with a line in the log.
///
/// # Errors
///
/// The last error, if there are keywords and none can be used.
pub(crate) fn usable<T>(keywords: impl Iterator<Item = Result<T, KeywordError>>) -> Result<Vec<T>, KeywordError> {
    let (mut usable, mut failed) = (Vec::new(), None);
    for keyword in keywords {
        match keyword {
            Ok(keyword) => usable.push(keyword),
            Err(error) => {
                log::warn!("{}; the keyword is skipped", Chain(&error));
                failed = Some(error);
            }
        }
    }
    failed.filter(|_| usable.is_empty()).map_or(Ok(usable), Err)
}

/// A detection or a near miss, with its position in the stream.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Detection<'a> {
    /// Detection or near miss.
    pub event: Event,
    /// Name of the keyword.
    pub keyword: &'a str,
    /// Number of the keyword in the search.
    pub index: usize,
    /// Position of the first sample, at the pack's rate.
    pub start: u64,
    /// Position after the last sample.
    pub end: u64,
    /// Position up to which the stream had been processed when the detection was reported.
    pub reported: u64,
    /// Its score, 0 to 1.
    pub score: f32,
    /// Score that a detection has to reach.
    pub threshold: f32,
    /// Number of the example with the highest score, from 0.
    pub example: Option<usize>,
}

/// A keyword could not be computed.
#[derive(Debug, thiserror::Error)]
#[error("keyword `{keyword}`")]
pub struct SearchError {
    /// Name of the keyword.
    pub keyword: String,
    /// The reason.
    pub source: SessionError,
}

/// Values of the frames `range`, `[frames, dim]`.
fn rows<'a>(values: &'a Frames, range: &Range<usize>) -> &'a [f32] {
    &values.as_slice()[range.start * values.dim()..range.end * values.dim()]
}

/// Searches one stream for keywords.
///
/// One utterance gives one detection: of detections whose audio overlaps by more than half of the shorter one, a later one is reported
/// only if its keyword has a higher priority. Of several in the same frame, the one with the highest priority counts as the first, and
/// the one with the highest score if priorities are equal.
pub struct KeywordSearch {
    keywords: Vec<Watched>,
    verifier: Option<Verifier>,
    contrast: Contrast,
    block: FrameBlock,
    /// Hits in the current block: time, keyword, hit.
    hits: Vec<(u64, usize, Hit)>,
    /// Detections that later ones may overlap: keyword, hit.
    detections: Vec<(usize, Hit)>,
    /// Number of frames so far, and the position that frame 0 would have without the gaps before the present frame.
    frames: u64,
    origin: i64,
    /// End of the audio processed so far.
    processed: u64,
    hop_samples: u64,
}

impl KeywordSearch {
    /// A search for `keywords`; with `verifier`, detections are verified at full depth.
    pub fn new(keywords: Vec<Watched>, verifier: Option<Verifier>) -> Self {
        Self {
            keywords,
            verifier,
            contrast: Contrast::default(),
            block: FrameBlock::default(),
            hits: Vec::new(),
            detections: Vec::new(),
            frames: 0,
            origin: 0,
            processed: 0,
            hop_samples: 1,
        }
    }

    /// Whether it reads the audio of representations, besides the keyword embeddings.
    pub fn reads_audio(&self) -> bool {
        self.verifier.is_some()
    }

    /// Whether it reads the logits of the CTC branch.
    pub fn reads_phones(&self) -> bool {
        self.keywords.iter().any(|keyword| keyword.spotter.reads_phones())
    }

    /// Of the sessions whose chunks are searched.
    pub fn session_options(&self, chunk_frames: usize) -> SessionOptions {
        searched(chunk_frames, self.reads_phones())
    }

    /// Called before the first chunk: the stream's chunks have `chunk_frames` frames of `hop_samples` samples.
    pub fn begin(&mut self, hop_samples: usize, chunk_frames: usize) {
        self.hop_samples = hop_samples as u64;
        if let Some(verifier) = &mut self.verifier {
            verifier.begin(chunk_frames);
        }
    }

    /// Searches the next chunk, and calls `each` with every detection and near miss.
    ///
    /// # Errors
    ///
    /// A stage that cannot be run, or an error of `each`.
    pub fn search<E: From<SearchError>>(
        &mut self,
        chunk: &Representation,
        each: &mut impl FnMut(Detection<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        // Audio or a chunk was dropped before this one, or the stream was restarted: no detection spans this place.
        let moved = chunk.first_sample as i64 - self.origin - (self.frames * self.hop_samples) as i64;
        if moved != 0 || (chunk.lost_samples > 0 && chunk.discontinuities.is_empty()) {
            self.end(each)?;
            self.origin += moved;
        }
        self.processed = chunk.position(chunk.samples);
        let frames = chunk.embedding.as_ref().map_or(0, Frames::frames);
        let mut first = 0;
        for gap in &chunk.discontinuities {
            let last = ((gap.offset / self.hop_samples) as usize).min(frames);
            self.search_frames(chunk, first..last, each)?;
            self.end(each)?;
            self.origin += gap.lost_samples as i64;
            first = last;
        }
        self.search_frames(chunk, first..frames, each)
    }

    /// Searches a part of a chunk without gaps.
    fn search_frames<E: From<SearchError>>(
        &mut self,
        chunk: &Representation,
        frames: Range<usize>,
        each: &mut impl FnMut(Detection<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        let Some(vectors) = chunk.embedding.as_ref().filter(|_| !frames.is_empty()) else { return Ok(()) };
        if let Some(verifier) = &mut self.verifier {
            verifier.push(chunk, frames.clone());
        }
        self.follow_noise(chunk, &frames);
        let logits = chunk.ctc_logits.as_ref().map_or(&[][..], |logits| rows(logits, &frames));
        let mut block = std::mem::take(&mut self.block);
        let searched =
            blocks(&mut block, (rows(vectors, &frames), vectors.dim()), logits, |block| self.search_block(block, each));
        self.block = block;
        searched
    }

    /// Adapts the scores to the noise up to the end of these frames.
    fn follow_noise(&mut self, chunk: &Representation, frames: &Range<usize>) {
        let Some(audio) = chunk.audio.as_deref().filter(|_| self.keywords.iter().any(|keyword| keyword.noise_gain != 1.0)) else {
            return;
        };
        let (hop, at) = (self.hop_samples as usize, |frame: usize| (frame * self.hop_samples as usize).min(audio.len()));
        self.contrast.push(&audio[at(frames.start)..at(frames.end)], hop, chunk.sample_rate);
        let noise = self.contrast.noise();
        for keyword in &mut self.keywords {
            keyword.spotter.set_gain(keyword.noise_gain.powf(noise));
        }
    }

    /// The highest score of each keyword since the last call, before verification.
    pub fn take_scores(&mut self) -> Vec<KeywordScore> {
        let scores = self.keywords.iter_mut().map(|keyword| KeywordScore {
            keyword: keyword.name.clone(),
            score: keyword.spotter.take_highest_score(),
            threshold: keyword.threshold,
        });
        scores.collect()
    }

    /// Counts the verification passes in `work`.
    pub fn count_work(&mut self, work: Arc<ConsumerWork>) {
        if let Some(verifier) = &mut self.verifier {
            verifier.count(work);
        }
    }

    /// Ends the stream, or a segment of it: reports what is pending. Later audio does not match across this position.
    ///
    /// # Errors
    ///
    /// Those of [`search`](Self::search).
    pub fn end<E: From<SearchError>>(&mut self, each: &mut impl FnMut(Detection<'_>) -> Result<(), E>) -> Result<(), E> {
        for (index, keyword) in self.keywords.iter_mut().enumerate() {
            let pending = keyword.spotter.reset(self.verifier.as_mut());
            let pending = pending.map_err(|source| SearchError { keyword: keyword.name.clone(), source })?;
            self.hits.extend(pending.map(|hit| (self.frames, index, hit)));
        }
        if let Some(verifier) = &mut self.verifier {
            verifier.reset();
        }
        self.contrast.reset();
        self.report(each)
    }

    /// Searches the block for each keyword.
    fn search_block<E: From<SearchError>>(
        &mut self,
        block: &FrameBlock,
        each: &mut impl FnMut(Detection<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        for (index, keyword) in self.keywords.iter_mut().enumerate() {
            let found = keyword.spotter.step(block, self.verifier.as_mut(), |frame, hit| self.hits.push((frame, index, hit)));
            found.map_err(|source| SearchError { keyword: keyword.name.clone(), source })?;
        }
        self.frames += block.frames() as u64;
        self.report(each)
    }

    /// Calls `each` with the hits, except those in the audio of other keywords.
    fn report<E>(&mut self, each: &mut impl FnMut(Detection<'_>) -> Result<(), E>) -> Result<(), E> {
        let mut hits = std::mem::take(&mut self.hits);
        // In order of time, independent of chunk boundaries.
        hits.sort_by(|(frame, index, hit), (other_frame, other_index, other)| {
            let order = frame.cmp(other_frame).then_with(|| self.priority(*other_index).cmp(&self.priority(*index)));
            order.then_with(|| other.score.total_cmp(&hit.score)).then(index.cmp(other_index))
        });
        let reported = hits
            .drain(..)
            .try_for_each(|(_, index, hit)| if self.admits(index, &hit) { each(self.detection(index, hit)) } else { Ok(()) });
        self.hits = hits;
        reported
    }

    /// Whether a hit is to be reported. Remembers detections.
    fn admits(&mut self, index: usize, hit: &Hit) -> bool {
        if hit.event == Event::NearMiss {
            return true;
        }
        let priority = self.priority(index);
        let hidden =
            |(other, earlier): &(usize, Hit)| *other != index && self.priority(*other) >= priority && earlier.covers_half_of(hit);
        let admitted = !self.detections.iter().any(hidden);
        if admitted {
            self.detections.retain(|(_, earlier)| earlier.end + REMEMBERED > hit.end);
            self.detections.push((index, *hit));
        }
        admitted
    }

    fn priority(&self, index: usize) -> i32 {
        self.keywords[index].priority
    }

    fn detection(&self, index: usize, hit: Hit) -> Detection<'_> {
        let at = |frame: u64| (self.origin + (frame * self.hop_samples) as i64).max(0) as u64;
        let keyword = &self.keywords[index];
        Detection {
            event: hit.event,
            keyword: &keyword.name,
            index,
            start: at(hit.start),
            // The last frame of a stream may have fewer samples than a hop.
            end: at(hit.end).min(self.processed),
            reported: self.processed,
            score: hit.score,
            threshold: keyword.threshold,
            example: hit.example,
        }
    }
}
