//! From takes of a phrase to a keyword's examples.
//!
//! A frame's embedding depends a little on the chunk boundaries: the last frames of a chunk lack right context. An example is therefore
//! streamed several times with different boundaries, and its rows are the mean, which is closest to whatever boundaries an utterance will
//! have. Its chunks exit as the stream's will, because embeddings of one depth match each other best.

use std::sync::Arc;

use super::barycenter::averaged;
use super::file::{Example, Origin};
use super::phones::Phones;
use super::speech::{TakeProblem, find_speech, trim};
use super::template::Template;
use super::track::Track;
use super::warp::{Warp, score};
use crate::engine::Encoder;
use crate::exit::ExitPolicy;
use crate::stream::SessionError;

/// Number of different chunk boundaries that an example is averaged over.
const CUTS: usize = 4;
/// Frames at both ends with a higher probability of silence are removed.
const QUIET_PROBABILITY: f32 = 0.5;
/// Least number of frames of speech.
const LEAST_FRAMES: usize = 8;
/// Silence before the speech, because an utterance is rarely the start of a stream.
const LEAD_SECONDS: f64 = 0.3;
/// An example that scores less than this against every other one counts as a different word.
const LEAST_LIKENESS: f32 = 0.3;

/// One take of a phrase.
#[derive(Debug, Clone, PartialEq)]
pub struct Take {
    /// Recording, or voice of the synthesiser.
    pub source: String,
    /// Whether it was recorded or synthesised.
    pub origin: Origin,
    /// Its audio at the pack's rate.
    pub audio: Vec<f32>,
}

/// A take that became an example.
#[derive(Debug, Clone, PartialEq)]
pub struct Enrolment {
    /// The example before averaging.
    pub example: Example,
    /// The rows of its speech.
    pub template: Template,
    /// All of its audio, to be compared with other examples.
    track: Track,
}

/// Makes an example of a take, whose chunks exit as `policy` decides: `Ok(Err(problem))` if the take is rejected.
pub fn enroll<E: From<SessionError>>(
    take: &Take,
    encoder: &Arc<Encoder>,
    policy: impl Fn() -> Result<Box<dyn ExitPolicy>, E>,
    chunk_frames: usize,
) -> Result<Result<Enrolment, TakeProblem>, E> {
    let (rate, hop) = (encoder.audio().sample_rate, encoder.audio().hop);
    let span = match take.origin {
        Origin::Recording => find_speech(&take.audio, rate),
        Origin::Synthesis => trim(&take.audio, rate),
    };
    let span = match span {
        Ok(span) => span,
        Err(problem) => return Ok(Err(problem)),
    };
    let lead = (LEAD_SECONDS * f64::from(rate) / hop as f64) as usize;
    let track = mean_over_cuts(&take.audio, encoder, policy, chunk_frames, lead)?;
    let last = span.end.div_ceil(hop).min(track.frames());
    let speech: Vec<usize> = (span.start / hop..last).filter(|&t| track.quiet(t) <= QUIET_PROBABILITY).collect();
    let (Some(&first), Some(&end)) = (speech.first(), speech.last()) else { return Ok(Err(TakeProblem::NoSpeech)) };
    if speech.len() < LEAST_FRAMES {
        return Ok(Err(TakeProblem::NoSpeech));
    }
    let seconds = |frames: usize| (frames * hop) as f64 / f64::from(rate);
    let mut example =
        Example::new(take.source.clone(), seconds(first), seconds(end + 1 - first), track.rows(first..end + 1), track.width());
    example.origin = take.origin;
    // Rounded as in the file.
    let Ok(template) = example.template(track.width()) else { return Ok(Err(TakeProblem::NoSpeech)) };
    Ok(Ok(Enrolment { example, template, track }))
}

impl Enrolment {
    /// The score of the take as a phrase of these phones, compared with near-phrases as in the verification pass; `None` if a phone is not in the
    /// vocabulary, or the pack has no CTC branches.
    pub fn score_as(&self, phones: &Phones, vocabulary: &[String]) -> Option<f32> {
        let logits = self.track.logits();
        Some(phones.highest_score(logits, vocabulary)? * phones.factor(logits, vocabulary))
    }

    /// The score of `example` in this take.
    pub fn score_of(&self, example: &Template) -> f32 {
        let mut warp = Warp::new(example);
        let mut nearest = f32::INFINITY;
        let Ok(()) = self.track.blocks(|block| {
            let found = &warp.step(block)[..block.frames()];
            nearest = found.iter().map(|found| found.distance).fold(nearest, f32::min);
            Ok::<(), std::convert::Infallible>(())
        });
        score(nearest)
    }

    /// The highest score of one of `others` in this take; `None` without others.
    pub fn best_score<'a>(&self, others: impl Iterator<Item = &'a Self>) -> Option<f32> {
        others.map(|other| self.score_of(&other.template)).reduce(f32::max)
    }

    /// The same, or a problem if it is too low for the same word.
    pub fn likeness<'a>(&self, others: impl Iterator<Item = &'a Self>) -> Option<Result<f32, TakeProblem>> {
        let best = self.best_score(others)?;
        Some(if best >= LEAST_LIKENESS { Ok(best) } else { Err(TakeProblem::TooUnlike { score: best, least: LEAST_LIKENESS }) })
    }
}

/// Checks that each take is like one of the others.
///
/// # Errors
///
/// The index of the first one that is not, and its score.
pub fn check_alike(takes: &[Enrolment]) -> Result<(), (usize, TakeProblem)> {
    for (index, take) in takes.iter().enumerate() {
        let others = takes[..index].iter().chain(&takes[index + 1..]);
        take.likeness(others).transpose().map_err(|problem| (index, problem))?;
    }
    Ok(())
}

/// The examples of a keyword: each take, averaged with the others.
///
/// Recordings and synthesised takes have equal total weight, so that one recording adapts the keyword to its speaker.
pub fn examples(takes: &[Enrolment]) -> Vec<Example> {
    let templates: Vec<Template> = takes.iter().map(|take| take.template.clone()).collect();
    let count = |origin: Origin| takes.iter().filter(|take| take.example.origin == origin).count();
    let both = count(Origin::Recording) > 0 && count(Origin::Synthesis) > 0;
    let example = |(take, rows): (&Enrolment, Vec<f32>)| {
        let Example { source, start, seconds, origin, .. } = &take.example;
        let weight = if both { 0.5 / count(*origin) as f32 } else { 1.0 };
        let averaged = Example::new(source.clone(), *start, *seconds, &rows, take.template.width());
        Example { origin: *origin, weight, ..averaged }
    };
    takes.iter().zip(averaged(&templates)).map(example).collect()
}

/// The embeddings of `audio`, averaged over several chunk boundaries.
fn mean_over_cuts<E: From<SessionError>>(
    audio: &[f32],
    encoder: &Arc<Encoder>,
    policy: impl Fn() -> Result<Box<dyn ExitPolicy>, E>,
    chunk_frames: usize,
    lead: usize,
) -> Result<Track, E> {
    let hop = encoder.audio().hop;
    let cut = |number: usize| {
        let skipped = lead + number * chunk_frames / CUTS;
        let padded = [&vec![0.0; skipped * hop], audio].concat();
        Ok((skipped, Track::of(&padded, encoder, policy()?, chunk_frames)?))
    };
    Ok(Track::mean(&(0..CUTS).map(cut).collect::<Result<Vec<_>, E>>()?))
}
