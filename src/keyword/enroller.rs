//! Enrolment from start to end, for one pack: text becomes phones, recordings become examples, and background speech sets the threshold.

use std::path::PathBuf;
use std::sync::Arc;

use super::calibrate::{Background, Condition, LEAST_PEAKS, LEAST_WITH_PHONES, Tail, babble};
use super::enroll::{Enrolment, Take, enroll, examples};
use super::file::{Keyword, MatchError, Say};
use super::reading::{self, Reading, ReadingError};
use super::say::{SayError, Synthesiser};
use super::speech::TakeProblem;
use super::verification::Verifier;
use crate::audio::{AudioError, AudioErrorKind, ChannelPick, read_file_at};
use crate::engine::{Encoder, EngineError};
use crate::exit::{PolicyError, PolicySpec};
use crate::pack::{Pack, PackError};
use crate::stream::{Session, SessionError};

/// Why a keyword was not enrolled.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EnrollError {
    /// The phrase cannot be synthesised.
    #[error(transparent)]
    Say(#[from] SayError),
    /// A synthesised take is unsuitable.
    #[error("\"{phrase}\", spoken by {voice}: {problem}")]
    #[non_exhaustive]
    Voice {
        /// Phrase.
        phrase: String,
        /// Voice of the synthesiser.
        voice: String,
        /// What is wrong.
        problem: TakeProblem,
    },
    /// The background speech cannot be read.
    #[error(transparent)]
    Audio(#[from] AudioError),
    /// The pack's reading of speech cannot be read.
    #[error(transparent)]
    Pack(#[from] PackError),
    /// The pack's reading of speech is unusable.
    #[error(transparent)]
    Reading(#[from] ReadingError),
    /// The pack's policy cannot be built.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// The pack lacks what keywords need.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// A layer cannot be run.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// The keyword cannot be matched.
    #[error(transparent)]
    Match(#[from] MatchError),
    /// The caller stopped it.
    #[error("cancelled; nothing was written")]
    Cancelled,
    /// The threshold cannot be set.
    #[error(
        "{minutes:.1} minutes of background speech are too few to set a threshold; pass more speech without the keyword (--background), or a threshold (--threshold)"
    )]
    #[non_exhaustive]
    TooLittleBackground {
        /// Duration of the background.
        minutes: f64,
    },
    /// The speaker's own speech cannot set a threshold.
    #[error("the recording of own speech has too little of it ({seconds:.0} s); talk for a minute about anything but the phrase")]
    #[non_exhaustive]
    TooLittleOwnSpeech {
        /// Duration of the recording.
        seconds: f64,
    },
}

/// Speech without the keyword, on which its threshold is set.
#[derive(Debug, Clone, Copy)]
pub enum OtherSpeech<'a> {
    /// The pack's own reading of speech, for a keyword of phones alone and a pack that has one; otherwise these recordings.
    Default(&'a [PathBuf]),
    /// These recordings.
    Files(&'a [PathBuf]),
}

/// Least duration of a speaker's own speech.
const LEAST_OWN_SECONDS: f64 = 20.0;

/// Enrolls keywords for one pack.
#[derive(Clone)]
pub struct Enroller {
    pack: Arc<Pack>,
    encoder: Arc<Encoder>,
}

impl Enroller {
    /// For `encoder`, which was loaded from `pack`.
    pub fn new(pack: Arc<Pack>, encoder: Arc<Encoder>) -> Self {
        Self { pack, encoder }
    }

    /// The pack.
    pub fn pack(&self) -> &Pack {
        &self.pack
    }

    /// The encoder.
    pub fn encoder(&self) -> &Arc<Encoder> {
        &self.encoder
    }

    /// Makes an example of a take: `Ok(Err(problem))` if the take is rejected.
    ///
    /// # Errors
    ///
    /// A layer that cannot be run.
    pub fn take(&self, take: &Take) -> Result<Result<Enrolment, TakeProblem>, EnrollError> {
        let policy = || Ok::<_, EnrollError>(PolicySpec::default().build(&self.pack)?);
        enroll(take, &self.encoder, policy, self.pack.default_chunk_frames())
    }

    /// Sets the phrase of `keyword` and its phones. If the pack does not know them, makes examples from the speech synthesiser instead.
    ///
    /// # Errors
    ///
    /// Those of the synthesiser, and a phrase without speech.
    pub fn say(&self, keyword: &mut Keyword, phrase: &str, language: &str) -> Result<Vec<Enrolment>, EnrollError> {
        let synthesiser = Synthesiser::new(language)?;
        keyword.say = Some(Say { phrase: phrase.to_owned(), language: synthesiser.language().to_owned() });
        if self.encoder.has_ctc(self.encoder.layers()) {
            keyword.phones = synthesiser.phones(phrase, self.encoder.vocabulary())?;
        }
        if keyword.phones.is_some() {
            return Ok(Vec::new());
        }
        let takes = synthesiser.takes(phrase, self.encoder.audio().sample_rate)?;
        let enrolled = |take: &Take| {
            let voice = || take.source.clone();
            self.take(take)?.map_err(|problem| EnrollError::Voice { phrase: phrase.to_owned(), voice: voice(), problem })
        };
        takes.iter().map(enrolled).collect()
    }

    /// Sets the examples of `keyword`. If none of the recordings would be detected as the phrase, they decide: the phones are discarded, and their highest
    /// score is returned.
    pub fn adopt(&self, keyword: &mut Keyword, takes: &[Enrolment]) -> Option<f32> {
        keyword.example = examples(takes);
        let phones = keyword.phones.as_ref()?;
        let scores = takes.iter().filter_map(|take| take.score_as(phones, self.encoder.vocabulary()));
        let highest = scores.reduce(f32::max).filter(|score| *score < LEAST_WITH_PHONES)?;
        keyword.phones = None;
        Some(highest)
    }

    /// Whether [`OtherSpeech::Default`] is the pack's own reading for `keyword`.
    pub fn has_reading(&self, keyword: &Keyword) -> bool {
        self.pack.speech.is_some() && keyword.phones.is_some() && keyword.example.is_empty()
    }

    /// Sets the threshold of `keyword` for `false_accepts` per hour on `speech`, in every condition. `progress` receives the seconds of audio
    /// processed since its last call, and stops the work by returning false.
    ///
    /// # Errors
    ///
    /// Files that cannot be read, and too little speech. A damaged file counts up to its damage.
    pub fn set_threshold(
        &self,
        keyword: &mut Keyword,
        false_accepts: f64,
        speech: OtherSpeech<'_>,
        progress: impl Fn(f64) -> bool + Sync,
    ) -> Result<(), EnrollError> {
        keyword.background = match (speech, &self.pack.speech) {
            (OtherSpeech::Default(_), Some(file)) if self.has_reading(keyword) => {
                let bytes = file.read()?;
                let (vocabulary, matcher) = (self.encoder.vocabulary(), keyword.matcher(self.encoder.vocabulary())?);
                let go_on = |seconds| if progress(seconds) { Ok(()) } else { Err(EnrollError::Cancelled) };
                let phrase = keyword.say.as_ref().map_or(keyword.name.as_str(), |say| &say.phrase);
                let reading = Reading::open(&*bytes, vocabulary.len())?;
                reading::tails(reading, (phrase, &matcher), vocabulary, self.hop_seconds(), go_on)?
            }
            (OtherSpeech::Default(files) | OtherSpeech::Files(files), _) => std::thread::scope(|scope| {
                let (this, progress, from) = (self, &progress, &*keyword);
                let threads = Condition::ALL.map(|condition| scope.spawn(move || this.tail(from, files, condition, progress)));
                let joined = threads.map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
                joined.into_iter().collect::<Result<_, _>>()
            })?,
        };
        let minutes = keyword.background_minutes();
        if !keyword.set_false_accepts(false_accepts) {
            return Err(EnrollError::TooLittleBackground { minutes });
        }
        Ok(())
    }

    /// Raises the threshold of `keyword`, if necessary, for other speech of its speaker, which resembles the recordings more than background speech does:
    /// `audio` without the phrase, at the pack's rate. To be called after [`set_threshold`](Self::set_threshold).
    ///
    /// # Errors
    ///
    /// Audio with too little speech.
    pub fn add_own_speech(&self, keyword: &mut Keyword, audio: &[f32]) -> Result<(), EnrollError> {
        let rate = self.encoder.audio().sample_rate;
        let mut own = self.background(keyword)?.with_noise_gain(keyword.noise_gain(None));
        self.search(&mut own, |push| audio.chunks(rate as usize).try_for_each(push))?;
        let (tail, seconds) = (own.tail(Condition::Own), audio.len() as f64 / f64::from(rate));
        if seconds < LEAST_OWN_SECONDS || (keyword.phones.is_none() && tail.peaks.len() < LEAST_PEAKS) {
            return Err(EnrollError::TooLittleOwnSpeech { seconds });
        }
        keyword.background.retain(|tail| tail.condition != Condition::Own);
        keyword.background.push(tail);
        if let Some(false_accepts) = keyword.false_accepts_per_hour
            && !keyword.set_false_accepts(false_accepts)
        {
            return Err(EnrollError::TooLittleOwnSpeech { seconds });
        }
        Ok(())
    }

    /// The search for the keyword's highest scores.
    fn background(&self, keyword: &Keyword) -> Result<Background, EnrollError> {
        let verifier = Verifier::new(&self.encoder, self.pack.default_chunk_frames())?;
        Ok(Background::new(keyword.matcher(self.encoder.vocabulary())?, verifier, self.hop_seconds()))
    }

    /// Searches a recording, whose samples `read` passes to the function that it is given.
    fn search(
        &self,
        background: &mut Background,
        read: impl FnOnce(&mut dyn FnMut(&[f32]) -> Result<(), EnrollError>) -> Result<(), EnrollError>,
    ) -> Result<(), EnrollError> {
        let options = background.session_options(self.pack.default_chunk_frames());
        let mut session = Session::new(&self.encoder, PolicySpec::default().build(&self.pack)?, options)?;
        read(&mut |audio| {
            session.push(audio)?;
            Ok(session.each(|chunk| background.push(chunk))?)
        })?;
        session.finish();
        session.each(|chunk| background.push(chunk))?;
        Ok(background.end_recording()?)
    }

    fn hop_seconds(&self) -> f64 {
        self.encoder.audio().hop as f64 / f64::from(self.encoder.audio().sample_rate)
    }

    /// The keyword's highest scores in the speech in `files`.
    fn tail(
        &self,
        keyword: &Keyword,
        files: &[PathBuf],
        condition: Condition,
        progress: &(impl Fn(f64) -> bool + Sync),
    ) -> Result<Tail, EnrollError> {
        let mut background = self.background(keyword)?;
        let rate = condition.read_at(self.encoder.audio().sample_rate);
        for file in files {
            self.search(&mut background, |push| {
                let mut push = |audio: &[f32]| {
                    if progress(audio.len() as f64 / f64::from(rate)) { push(audio) } else { Err(EnrollError::Cancelled) }
                };
                if condition == Condition::Babble {
                    let mut recording = Vec::new();
                    let read = read_file_at(file, ChannelPick::MixDown, rate, |block| {
                        recording.extend_from_slice(block);
                        Ok::<_, EnrollError>(())
                    });
                    damage_of(read)?;
                    let mut voices = babble(&recording);
                    for second in recording.chunks(rate as usize) {
                        push(&second.iter().zip(&mut voices).map(|(x, voice)| x + voice).collect::<Vec<_>>())?;
                    }
                } else {
                    let damage = damage_of(read_file_at(file, ChannelPick::MixDown, rate, push))?;
                    if let (Some(error), Condition::Plain) = (damage, condition) {
                        log::warn!("{error}");
                    }
                }
                Ok(())
            })?;
        }
        Ok(background.tail(condition))
    }
}

/// The damage to a file of which the readable part was processed.
fn damage_of(read: Result<(), EnrollError>) -> Result<Option<AudioError>, EnrollError> {
    match read {
        Ok(()) => Ok(None),
        Err(EnrollError::Audio(error)) if error.kind() == AudioErrorKind::Damaged => Ok(Some(error)),
        Err(error) => Err(error),
    }
}
