//! Events of the daemon's own microphone for the smart home: a consumer that searches for keywords and for speech.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde::Serialize;
use tokio::sync::mpsc::{Receiver, Sender, channel};

use super::Enrolled;
use crate::chain::Chain;
use crate::consumer::asr::SpeechDetector;
use crate::consumer::{Consumer, ConsumerError, Requirements, StreamInfo};
use crate::engine::{Encoder, EngineError};
use crate::keyword::{Event, Keyword, KeywordSearch, SearchOptions, Verifier, Watched};
use crate::stream::Representation;

/// Events that wait for one receiver, at most.
const WAITING: usize = 64;
/// How often the folder of keywords is read.
const ENROLLED_EVERY: Duration = Duration::from_secs(5);
/// Frames of speech in a chunk that make it speech: 60 ms.
const SPEECH_FRAMES: usize = 3;
/// Silence that ends speech, seconds.
const SPEECH_HANGOVER: f64 = 1.0;
/// Level of digital silence.
const LOWEST_DBFS: f64 = -100.0;

/// A detected keyword.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct KeywordEvent {
    /// Its name.
    pub keyword: String,
    /// Its score, 0 to 1.
    pub score: f64,
    /// The score that it had to reach.
    pub threshold: f64,
    /// Start and end in the stream, seconds.
    pub start: f64,
    /// See `start`.
    pub end: f64,
    /// When it was detected, to drop what is too old.
    #[serde(skip)]
    pub at: Instant,
}

/// Means over an interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Reading {
    /// Mean exit layer.
    pub exit_layer: f64,
    /// Level, dB relative to full scale.
    pub level_dbfs: f64,
}

/// What happens at the microphone.
#[derive(Debug, Clone, PartialEq)]
pub enum HomeEvent {
    /// A keyword was detected.
    Keyword(Arc<KeywordEvent>),
    /// Speech begins or has ended.
    Speech(bool),
    /// An interval has ended.
    Reading(Reading),
    /// The names of the enrolled keywords, at the start and after each change.
    Keywords(Arc<Vec<String>>),
}

/// The sending end of a bounded queue.
#[derive(Debug)]
pub struct Outbox {
    sender: Sender<HomeEvent>,
    dropped: Arc<AtomicU64>,
}

/// A queue to one receiver, and the number of events that it had no place for.
pub fn queue() -> (Outbox, Receiver<HomeEvent>, Arc<AtomicU64>) {
    let (sender, receiver) = channel(WAITING);
    let dropped = Arc::<AtomicU64>::default();
    (Outbox { sender, dropped: dropped.clone() }, receiver, dropped)
}

/// Searches the daemon's stream for keywords and speech, and sends events to every outbox. It never waits for a receiver.
pub struct HomeConsumer {
    encoder: Arc<Encoder>,
    enrolled: Arc<Enrolled>,
    options: SearchOptions,
    outboxes: Vec<Outbox>,
    /// Set while keywords are ignored.
    muted: Arc<AtomicBool>,
    interval: f64,
    search: Option<KeywordSearch>,
    /// What it searches for, and when that was read.
    keywords: Vec<(PathBuf, Arc<Keyword>)>,
    enrolled_at: Instant,
    detector: SpeechDetector,
    speech: bool,
    /// End of the last speech, seconds.
    spoken: f64,
    stream: StreamInfo,
    sums: Sums,
}

/// Sums over the present interval.
#[derive(Debug, Default)]
struct Sums {
    seconds: f64,
    layers: f64,
    power: f64,
    samples: f64,
}

impl HomeConsumer {
    /// A consumer for streams of `encoder`. Readings are means over `interval`.
    ///
    /// # Errors
    ///
    /// A pack without keyword embeddings.
    pub fn new(
        encoder: &Arc<Encoder>,
        enrolled: Arc<Enrolled>,
        options: SearchOptions,
        outboxes: Vec<Outbox>,
        muted: Arc<AtomicBool>,
        interval: Duration,
    ) -> Result<Self, EngineError> {
        encoder.check_embedding()?;
        // Where every layer has a CTC branch, the branches change no exit.
        let phones = (0..=encoder.layers()).all(|layer| encoder.has_ctc(layer));
        Ok(Self {
            detector: SpeechDetector::new(encoder.quiet_unit(), phones),
            encoder: encoder.clone(),
            enrolled,
            options,
            outboxes,
            muted,
            interval: interval.as_secs_f64(),
            search: None,
            keywords: Vec::new(),
            enrolled_at: Instant::now(),
            speech: false,
            spoken: 0.0,
            stream: StreamInfo::default(),
            sums: Sums::default(),
        })
    }

    fn tell(outboxes: &[Outbox], event: &HomeEvent) {
        for outbox in outboxes {
            if outbox.sender.try_send(event.clone()).is_err() {
                outbox.dropped.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Searches for what is enrolled now; goes on if that has not changed.
    fn read_keywords(&mut self) -> Result<(), ConsumerError> {
        self.enrolled_at = Instant::now();
        let keywords = self.enrolled.read();
        let same = self.keywords.iter().zip(&keywords).all(|((_, old), (_, new))| Arc::ptr_eq(old, new));
        if self.search.is_some() && same && keywords.len() == self.keywords.len() {
            return Ok(());
        }
        let hop_seconds = self.stream.hop_samples as f64 / f64::from(self.stream.sample_rate);
        let mut watched = Vec::new();
        for (file, keyword) in &keywords {
            match Watched::new(keyword, file, &self.options, hop_seconds) {
                Ok(one) => watched.push(one),
                Err(error) => log::warn!("{}", Chain(&error)),
            }
        }
        let verifier = Verifier::new(&self.encoder, self.stream.chunk_frames).map_err(ConsumerError::other)?;
        let names = Arc::new(watched.iter().map(|one| one.name.clone()).collect());
        let mut search = KeywordSearch::new(watched, Some(verifier));
        search.begin(self.stream.hop_samples, self.stream.chunk_frames);
        (self.search, self.keywords) = (Some(search), keywords);
        Self::tell(&self.outboxes, &HomeEvent::Keywords(names));
        Ok(())
    }

    fn find_keywords(&mut self, chunk: &Representation) -> Result<(), ConsumerError> {
        let Some(search) = &mut self.search else { return Ok(()) };
        let (outboxes, muted) = (&self.outboxes, self.muted.load(Ordering::Relaxed));
        let seconds = |samples: u64| (samples as f64 / f64::from(chunk.sample_rate) * 1e4).round() / 1e4;
        let score = |score: f32| (f64::from(score) * 1e4).round() / 1e4;
        search.search(chunk, &mut |found| {
            if found.event != Event::Detection {
                return Ok::<_, ConsumerError>(());
            }
            let text = format!("keyword `{}` detected, score {:.3}", found.keyword, found.score);
            if muted {
                log::info!("{text}; ignored: the voice assistant is muted or active");
                return Ok(());
            }
            log::info!("{text}");
            let event = KeywordEvent {
                keyword: found.keyword.to_owned(),
                score: score(found.score),
                threshold: score(found.threshold),
                start: seconds(found.start),
                end: seconds(found.end),
                at: Instant::now(),
            };
            Self::tell(outboxes, &HomeEvent::Keyword(Arc::new(event)));
            Ok(())
        })
    }

    fn find_speech(&mut self, chunk: &Representation) {
        let Some(frames) = self.detector.frames(chunk) else { return };
        let now = chunk.start_seconds() + chunk.seconds();
        let spoken = frames.iter().filter(|frame| frame.probability > 0.5).count();
        if spoken >= SPEECH_FRAMES && frames.iter().any(|frame| frame.phone) {
            self.spoken = now;
        }
        let speech = self.spoken > 0.0 && now - self.spoken < SPEECH_HANGOVER;
        if speech != self.speech {
            self.speech = speech;
            Self::tell(&self.outboxes, &HomeEvent::Speech(speech));
        }
    }

    fn read_means(&mut self, chunk: &Representation) {
        let sums = &mut self.sums;
        sums.seconds += chunk.seconds();
        sums.layers += chunk.seconds() * chunk.exit_layer as f64;
        if let Some(audio) = &chunk.audio {
            sums.power += audio.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>();
            sums.samples += audio.len() as f64;
        }
        if sums.seconds >= self.interval {
            let round = |value: f64| (value * 100.0).round() / 100.0;
            let level_dbfs = (10.0 * (sums.power / sums.samples.max(1.0)).log10()).max(LOWEST_DBFS);
            let reading = Reading { exit_layer: round(sums.layers / sums.seconds), level_dbfs: round(level_dbfs) };
            self.sums = Sums::default();
            Self::tell(&self.outboxes, &HomeEvent::Reading(reading));
        }
    }
}

impl Consumer for HomeConsumer {
    fn name(&self) -> &str {
        "home"
    }

    fn requires(&self) -> Requirements {
        let speech = self.detector.requires();
        Requirements { embedding: true, audio: true, ..speech }
    }

    fn begin(&mut self, stream: &StreamInfo) -> Result<(), ConsumerError> {
        self.stream = stream.clone();
        self.read_keywords()
    }

    fn consume(&mut self, chunk: &Representation) -> Result<(), ConsumerError> {
        if self.enrolled_at.elapsed() >= ENROLLED_EVERY {
            self.read_keywords()?;
        }
        self.find_keywords(chunk)?;
        self.find_speech(chunk);
        self.read_means(chunk);
        Ok(())
    }
}
