//! From recordings of a word to a keyword's examples.
//!
//! Where a chunk is cut changes a little what the encoder makes of a frame: the last frames of a chunk have not heard what comes
//! next. An example is therefore streamed several times, each time cut elsewhere, and its rows are the mean: nearer to whatever
//! cut an utterance will meet. Its chunks stop where the stream's will: what a shallow head says is nearest to what shallow heads say.

use std::sync::Arc;

use super::barycenter::towards_each_other;
use super::file::Example;
use super::score;
use super::speech::{TakeProblem, find_speech};
use super::template::Template;
use super::track::Track;
use super::warp::Warp;
use crate::engine::Encoder;
use crate::exit::ExitPolicy;
use crate::stream::SessionError;

/// In how many ways an example's chunks are cut.
const CUTS: usize = 4;
/// Frames where the model hears nobody speak to this probability are cut off at both ends.
const QUIET_PROBABILITY: f32 = 0.5;
/// Fewer frames of speech than these are none.
const LEAST_FRAMES: usize = 8;
/// Frames before the speech that the encoder hears as silence: a stream starts somewhere, an utterance seldom with it.
const LEAD_SECONDS: f64 = 0.3;
/// An example that scores less than this with every other one is taken for another word.
const LEAST_ALIKE: f32 = 0.3;

/// One recording of a word.
#[derive(Debug, Clone, PartialEq)]
pub struct Take {
    /// Where it comes from.
    pub source: String,
    /// Its sound at the pack's rate.
    pub audio: Vec<f32>,
}

/// A take that became an example.
#[derive(Debug, Clone, PartialEq)]
pub struct Enrolment {
    /// As it is alone.
    pub example: Example,
    /// The rows of its speech.
    pub template: Template,
    /// All of its sound, to be matched with other examples.
    track: Track,
}

/// Makes an example of a take, whose chunks stop where `policy` says: `Ok(Err(problem))` where the take is unfit.
pub fn enroll<E: From<SessionError>>(
    take: &Take,
    encoder: &Arc<Encoder>,
    policy: impl Fn() -> Result<Box<dyn ExitPolicy>, E>,
    chunk_frames: usize,
) -> Result<Result<Enrolment, TakeProblem>, E> {
    let (rate, hop) = (encoder.audio().sample_rate, encoder.audio().hop);
    let span = match find_speech(&take.audio, rate) {
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
    let example =
        Example::new(take.source.clone(), seconds(first), seconds(end + 1 - first), track.rows(first..end + 1), track.width());
    // Rounded as in a file.
    let Ok(template) = example.template(track.width()) else { return Ok(Err(TakeProblem::NoSpeech)) };
    Ok(Ok(Enrolment { example, template, track }))
}

impl Enrolment {
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

    /// How much this take is like the most alike of `others`; refused when that is not enough. Nothing to say without others.
    pub fn likeness<'a>(&self, others: impl Iterator<Item = &'a Self>) -> Option<Result<f32, TakeProblem>> {
        let best = others.map(|other| self.score_of(&other.template)).reduce(f32::max)?;
        Some(if best >= LEAST_ALIKE { Ok(best) } else { Err(TakeProblem::TooUnlike { score: best, least: LEAST_ALIKE }) })
    }
}

/// What a keyword of these takes is matched by: each take, drawn half of the way to the others.
pub fn examples(takes: &[Enrolment]) -> Vec<Example> {
    let templates: Vec<Template> = takes.iter().map(|take| take.template.clone()).collect();
    let drawn = |(take, rows): (&Enrolment, Vec<f32>)| {
        let Example { source, start, seconds, .. } = &take.example;
        Example::new(source.clone(), *start, *seconds, &rows, take.template.width())
    };
    takes.iter().zip(towards_each_other(&templates)).map(drawn).collect()
}

/// The mean over several ways to cut the chunks.
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
