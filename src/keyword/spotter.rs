//! From scores to detections: one utterance, one detection.
//!
//! The score of a keyword ([`Matcher`]) rises towards the end of an utterance and falls after it. A peak is final if nothing higher ended
//! within [`SpotterOptions::hold`] frames. Then it is verified at full depth: the lower score counts, times a factor for
//! how surely the phones of the phrase were said ([`Verifier`](super::Verifier)). A peak at or above
//! the threshold is a detection; after it the keyword is inactive for the refractory time, and never fires again on the same audio. A
//! lower peak is a near miss, reported on request.

use std::time::Duration;

use super::matcher::Matcher;
use super::template::FrameBlock;
use super::verification::FullDepth;
use crate::stream::SessionError;

/// Conditions of a detection.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SpotterOptions {
    /// Least score of a detection.
    pub threshold: f32,
    /// Least score of a near miss; at or above the threshold none are reported.
    pub near_miss: f32,
    /// Frames without a higher score after which a peak is final.
    pub hold: u32,
    /// Frames after a detection in which no other detection may end.
    pub refractory: u32,
}

impl SpotterOptions {
    /// Default refractory time.
    pub const REFRACTORY: Duration = Duration::from_millis(1000);
    /// Default hold.
    pub const HOLD: Duration = Duration::from_millis(120);

    /// The default times in frames of `hop_seconds`, and no near misses.
    pub fn new(threshold: f32, hop_seconds: f64) -> Self {
        Self { threshold, near_miss: f32::INFINITY, hold: 0, refractory: 0 }
            .with_hold(Self::HOLD, hop_seconds)
            .with_refractory(Self::REFRACTORY, hop_seconds)
    }

    /// Sets the refractory time.
    pub fn with_refractory(self, time: Duration, hop_seconds: f64) -> Self {
        Self { refractory: (time.as_secs_f64() / hop_seconds).round() as u32, ..self }
    }

    fn with_hold(self, time: Duration, hop_seconds: f64) -> Self {
        Self { hold: (time.as_secs_f64() / hop_seconds).round() as u32, ..self }
    }
}

/// Kind of a peak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// At or above the threshold.
    Detection,
    /// Below it.
    NearMiss,
}

/// One peak.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Hit {
    /// Detection or near miss.
    pub event: Event,
    /// Score, 0 to 1.
    pub score: f32,
    /// First frame.
    pub start: u64,
    /// The frame after the last one.
    pub end: u64,
    /// The example with the highest score, from 0.
    pub example: Option<usize>,
}

impl Hit {
    /// Whether the two overlap by more than half of the shorter one.
    pub(super) fn covers_half_of(&self, other: &Self) -> bool {
        let common = self.end.min(other.end).saturating_sub(self.start.max(other.start));
        2 * common > (self.end - self.start).min(other.end - other.start)
    }
}

/// The last near miss.
#[derive(Debug, Clone, Copy, Default)]
struct Missed {
    /// The frame after its last one.
    end: u64,
    /// Its score before verification.
    score: f32,
    /// The highest score after verification in this audio.
    verified: f32,
}

/// The search for one keyword in one stream.
#[derive(Debug)]
pub struct Spotter {
    matcher: Matcher,
    options: SpotterOptions,
    /// Number of frames so far.
    frames: u64,
    peak: Option<Hit>,
    /// Frames since the peak ended.
    age: u32,
    /// End of the last detection.
    fired: Option<u64>,
    missed: Missed,
    highest_score: f32,
    /// Factor of all scores.
    gain: f32,
}

impl Spotter {
    /// Searches for the examples of `matcher` from the start of a stream.
    pub fn new(matcher: impl Into<Matcher>, options: SpotterOptions) -> Self {
        Self {
            matcher: matcher.into(),
            options,
            frames: 0,
            peak: None,
            age: 0,
            fired: None,
            missed: Missed::default(),
            highest_score: 0.0,
            gain: 1.0,
        }
    }

    /// Processes the next frames. `on_hit` receives each peak with the number of the frame that made it final. With a `verifier`, which must
    /// have these frames, peaks are verified at full depth.
    ///
    /// # Errors
    ///
    /// A layer that cannot be run.
    pub fn step<V: FullDepth>(
        &mut self,
        block: &FrameBlock,
        mut verifier: Option<&mut V>,
        mut on_hit: impl FnMut(u64, Hit),
    ) -> Result<(), SessionError> {
        let first = self.frames;
        self.frames += block.frames() as u64;
        let candidates = self.matcher.step(block);
        for (frame, candidate) in (first..).zip(candidates).take(block.frames()) {
            self.age = self.age.saturating_add(1);
            let score = (candidate.score * self.gain).min(1.0);
            self.highest_score = self.highest_score.max(score);
            if score > 0.0 {
                let (start, end) = ((frame + 1).saturating_sub(candidate.frames), frame + 1);
                let hit = Hit { event: self.event(score), score, start, end, example: candidate.example };
                if self.may_peak(&hit) && self.peak.is_none_or(|peak| score > peak.score) {
                    self.peak = Some(hit);
                    self.age = 0;
                }
            }
            if self.age >= self.options.hold
                && let Some(hit) = self.settle(verifier.as_deref_mut())?
            {
                on_hit(frame, hit);
            }
        }
        Ok(())
    }

    /// Ends the stream, or a stretch of it before a gap: returns the pending peak, and no later match spans this place. Frame numbers
    /// continue.
    ///
    /// # Errors
    ///
    /// A layer that cannot be run.
    pub fn reset<V: FullDepth>(&mut self, verifier: Option<&mut V>) -> Result<Option<Hit>, SessionError> {
        let pending = self.settle(verifier);
        self.matcher.reset();
        pending
    }

    /// Whether it reads the logits of the CTC branch.
    pub(super) fn reads_phones(&self) -> bool {
        self.matcher.phones().is_some()
    }

    /// Sets the factor of the scores from here on.
    pub(super) fn set_gain(&mut self, gain: f32) {
        self.gain = gain;
    }

    /// Changes the least score of a near miss.
    pub(super) fn set_near_miss(&mut self, score: f32) {
        self.options.near_miss = score;
    }

    /// The highest score since the last call, before verification.
    pub fn take_highest_score(&mut self) -> f32 {
        std::mem::take(&mut self.highest_score)
    }

    fn event(&self, score: f32) -> Event {
        if score >= self.options.threshold { Event::Detection } else { Event::NearMiss }
    }

    fn may_peak(&self, hit: &Hit) -> bool {
        // One near miss per stretch of audio, and another only if its score is higher.
        let Missed { end, score, .. } = self.missed;
        let reportable =
            hit.score >= self.options.threshold.min(self.options.near_miss) && (hit.start >= end || hit.score > score);
        let active =
            self.fired.is_none_or(|end| hit.start >= end && hit.end > end.saturating_add(u64::from(self.options.refractory)));
        reportable && active
    }

    fn settle<V: FullDepth>(&mut self, verifier: Option<&mut V>) -> Result<Option<Hit>, SessionError> {
        let Some(peak) = self.peak.take() else { return Ok(None) };
        let score = match verifier {
            Some(verifier) => self.verified(&peak, verifier)?,
            None => peak.score,
        };
        let hit = Hit { event: self.event(score), score, ..peak };
        if hit.event == Event::Detection {
            self.fired = Some(hit.end);
            return Ok(Some(hit));
        }
        // A later peak in the same audio counts only if its score is higher at both depths.
        let highest = if hit.start < self.missed.end { self.missed.verified } else { f32::NEG_INFINITY };
        self.missed = Missed { end: hit.end, score: peak.score, verified: score.max(highest) };
        Ok(Some(hit).filter(|_| score > highest && score >= self.options.near_miss))
    }

    /// The score of `peak` or, if it is lower, the highest one at full depth of a match that overlaps it and ends at most `hold` frames after it; times the factor
    /// of its phones.
    fn verified<V: FullDepth>(&self, peak: &Hit, verifier: &mut V) -> Result<f32, SessionError> {
        let mut matcher = self.matcher.clone();
        matcher.reset();
        let mut highest = 0.0f32;
        let end = peak.end + u64::from(self.options.hold);
        let factor = verifier.blocks((peak.start, end), self.matcher.phones(), |first, block| {
            let candidates = (first + 1..).zip(matcher.step(block)).take(block.frames());
            highest = candidates.filter(|(end, _)| *end > peak.start).fold(highest, |highest, (_, own)| highest.max(own.score));
        })?;
        Ok(peak.score.min(highest * self.gain) * factor)
    }
}
