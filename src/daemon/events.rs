//! Events of a running daemon: the only source of the live page and of the integrations. `docs/live-page.md` describes their JSON.
//!
//! [`EventBus::subscribe`] returns a bounded queue. A subscriber that is too slow loses events, which are counted; publishing never
//! waits, and does nothing on the capture and inference threads.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Instant;

use serde::Serialize;
use tokio::sync::mpsc;

use super::status::State;
use crate::consumer::{HitKind, KeywordHit, KeywordScores, Phone};
use crate::exit::Reason;

/// Events queued for a subscriber: about 15 s of a stream.
const QUEUE_EVENTS: usize = 256;

/// One event.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Event {
    /// The state changed, or a second has passed.
    Status(Box<StatusEvent>),
    /// The stream, after a reload.
    Stream(Box<StreamEvent>),
    /// A chunk was processed.
    Chunk(Box<ChunkEvent>),
    /// A phone has become final.
    Phone(Phone),
    /// Scores of all keywords in a chunk, before verification.
    Scores(KeywordScores),
    /// The keywords that are searched for: at the start, and after each change.
    Keywords {
        /// Their names.
        keywords: Vec<String>,
    },
    /// Speech begins or has ended; only with a speech sensor.
    Speech {
        /// Whether it begins.
        speech: bool,
    },
    /// Progress of an enrolment.
    Enrolment(EnrolmentEvent),
    /// The audio of a chunk, for [`Interest::Audio`]; it never leaves the process.
    #[serde(skip)]
    Audio(Arc<[f32]>),
    /// A keyword was detected, or nearly (`keyword` and `near-miss`).
    #[serde(untagged)]
    Keyword(KeywordEvent),
}

impl Event {
    /// A detection or a near miss that was found now.
    pub fn keyword(hit: KeywordHit, muted: bool) -> Self {
        Self::Keyword(KeywordEvent { hit, muted, at: Instant::now() })
    }

    /// The detection that starts something: neither a near miss nor muted.
    pub fn detection(&self) -> Option<&KeywordEvent> {
        match self {
            Self::Keyword(found) if found.hit.kind == HitKind::Detection && !found.muted => Some(found),
            _ => None,
        }
    }
}

/// A detection of a keyword, or a near miss.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct KeywordEvent {
    /// What was found.
    #[serde(flatten)]
    pub hit: KeywordHit,
    /// Whether it starts nothing, because the voice assistant is muted or active.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub muted: bool,
    /// When it was found, to drop what is too old.
    #[serde(skip)]
    pub at: Instant,
}

/// Events that a subscriber receives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interest {
    /// Keywords alone: a slow subscriber loses none to other events.
    Keywords,
    /// Keywords, speech and status. They cost nothing.
    Detections,
    /// Everything except audio. Chunk events include audio levels and phones, which are computed while such a subscriber exists.
    Everything,
    /// Audio alone.
    Audio,
}

/// Progress of an enrolment.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct EnrolmentEvent {
    /// Name of the keyword.
    pub keyword: String,
    /// What is done now.
    pub stage: Stage,
    /// Takes so far, or seconds of background speech so far.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub progress: Option<f64>,
    /// What to do, what went wrong, or the keyword's weaknesses.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
}

/// Stage of an enrolment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    /// Takes are recorded.
    Recording,
    /// The phrase is synthesised.
    Synthesis,
    /// The threshold is set on background speech.
    Threshold,
    /// The keyword is enrolled.
    Done,
    /// It is not.
    Failed,
}

/// Description of the process and its stream.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StreamEvent {
    /// Bellis's version.
    pub version: &'static str,
    /// Start of the process, seconds since the Unix epoch. Positions restart at 0 when it changes.
    pub started: f64,
    /// The source's name.
    pub source: String,
    /// The pack's name.
    pub pack: String,
    /// The policy, for people.
    pub policy: String,
    /// Number of layers.
    pub layers: usize,
    /// Classes of the heads; ln(units) is the maximum entropy.
    pub units: usize,
    /// Rate of all positions, Hz.
    pub sample_rate: u32,
    /// Samples of a whole chunk.
    pub chunk_samples: usize,
    /// Whether phones are recognised.
    pub phones: bool,
    /// Whether keywords can be enrolled from the page.
    pub enrolment: bool,
}

/// A processed chunk.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ChunkEvent {
    /// Number of the chunk.
    pub chunk: u64,
    /// Position of its first sample, at the pack's rate.
    pub sample: u64,
    /// Length in samples.
    pub samples: u64,
    /// Samples lost before or within it.
    pub lost_samples: u64,
    /// Exit layer.
    pub layer: usize,
    /// Reason for the exit.
    pub reason: Reason,
    /// `[layer, nats]` of every evaluated head.
    pub entropy: Vec<(usize, f32)>,
    /// `[layer, nats]`: the distance from full depth that the policy `gain` predicted when it decided.
    pub predicted_kl: Vec<(usize, f32)>,
    /// Largest absolute sample; 1 is full scale.
    pub peak: f32,
    /// Root mean square of the samples.
    pub rms: f32,
    /// Minimum and maximum of equal parts of the chunk.
    pub waveform: Vec<(f32, f32)>,
    /// Time to compute the chunk, milliseconds.
    pub compute_ms: f64,
    /// Time from the capture of the chunk's last sample to this event, milliseconds; absent for files.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delay_ms: Option<f64>,
}

/// State and counters of the process.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct StatusEvent {
    /// The state.
    pub state: State,
    /// Whether audio arrives, is processed, and reaches every consumer.
    pub healthy: bool,
    /// Time since the start, seconds.
    pub uptime: f64,
    /// Samples captured, at the source's rate.
    pub captured: u64,
    /// Samples dropped because the ring was full.
    pub dropped: u64,
    /// Overruns reported by the device.
    pub xruns: u64,
    /// Number of times that the device was lost.
    pub device_lost: u64,
    /// Chunks that consumers were too slow for.
    pub consumer_dropped: u64,
    /// Chunks processed.
    pub chunks: u64,
    /// Mean exit layer since the start.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mean_exit_layer: Option<f64>,
    /// RMS level of the last ten seconds as captured, dB relative to full scale.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub level_dbfs: Option<f64>,
    /// CPU time of the process in the last second, percent of one core.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_percent: Option<f64>,
    /// Time spent computing chunks, percent of the audio's duration in the last second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compute_percent: Option<f64>,
    /// Resident memory, bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<u64>,
    /// Highest temperature, °C.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f64>,
    /// Reasons for throttling.
    pub throttled: Vec<&'static str>,
    /// Events that subscribers were too slow for.
    pub events_lost: u64,
}

/// Distributes events to subscribers.
#[derive(Debug, Default)]
pub struct EventBus {
    subscribers: Mutex<Vec<Subscriber>>,
    lost: AtomicU64,
}

#[derive(Debug)]
struct Subscriber {
    queue: mpsc::Sender<Arc<Event>>,
    interest: Interest,
    lost: Arc<AtomicU64>,
}

/// A subscriber's end of its queue. Dropping it ends the subscription.
#[derive(Debug)]
pub struct Subscription {
    queue: mpsc::Receiver<Arc<Event>>,
    lost: Arc<AtomicU64>,
}

impl EventBus {
    /// Adds a subscriber, which receives the events published from now on.
    pub fn subscribe(&self, interest: Interest) -> Subscription {
        let (sender, queue) = mpsc::channel(QUEUE_EVENTS);
        let lost = Arc::<AtomicU64>::default();
        self.subscribers().push(Subscriber { queue: sender, interest, lost: lost.clone() });
        Subscription { queue, lost }
    }

    /// Publishes an event without waiting.
    pub fn publish(&self, event: Event) {
        let event = Arc::new(event);
        self.subscribers().retain(|subscriber| {
            let wanted = match (&*event, subscriber.interest) {
                (Event::Audio(_), interest) => interest == Interest::Audio,
                (_, Interest::Audio) => false,
                (_, Interest::Everything) => true,
                (Event::Keyword(_), Interest::Keywords) => true,
                (_, Interest::Keywords) => false,
                (Event::Keyword(_) | Event::Keywords { .. } | Event::Speech { .. } | Event::Status(_), Interest::Detections) => {
                    true
                }
                (_, Interest::Detections) => false,
            };
            if !wanted {
                return true;
            }
            match subscriber.queue.try_send(event.clone()) {
                Ok(()) => true,
                Err(mpsc::error::TrySendError::Closed(_)) => false,
                Err(mpsc::error::TrySendError::Full(_)) => {
                    subscriber.lost.fetch_add(1, Ordering::Relaxed);
                    self.lost.fetch_add(1, Ordering::Relaxed);
                    true
                }
            }
        });
    }

    /// Number of subscribers.
    pub fn count(&self) -> usize {
        self.open().len()
    }

    /// Whether a subscriber receives chunks or audio.
    pub fn wants_chunks(&self) -> bool {
        self.open().iter().any(|subscriber| matches!(subscriber.interest, Interest::Everything | Interest::Audio))
    }

    /// Whether a subscriber receives audio.
    pub fn wants_audio(&self) -> bool {
        self.open().iter().any(|subscriber| subscriber.interest == Interest::Audio)
    }

    /// Events that subscribers were too slow for.
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    fn open(&self) -> MutexGuard<'_, Vec<Subscriber>> {
        let mut subscribers = self.subscribers();
        subscribers.retain(|subscriber| !subscriber.queue.is_closed());
        subscribers
    }

    fn subscribers(&self) -> MutexGuard<'_, Vec<Subscriber>> {
        self.subscribers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Subscription {
    /// The next event; `None` when the daemon has ended.
    pub async fn recv(&mut self) -> Option<Arc<Event>> {
        self.queue.recv().await
    }

    /// The next event, on a thread without a runtime; `None` when the daemon has ended.
    pub fn blocking_recv(&mut self) -> Option<Arc<Event>> {
        self.queue.blocking_recv()
    }

    /// The next event, if there is one already.
    pub fn try_recv(&mut self) -> Option<Arc<Event>> {
        self.queue.try_recv().ok()
    }

    /// The next event, for implementations of streams.
    pub fn poll_recv(&mut self, context: &mut Context<'_>) -> Poll<Option<Arc<Event>>> {
        self.queue.poll_recv(context)
    }

    /// Events that this subscriber was too slow for.
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// The counter of these events.
    pub fn loss_counter(&self) -> Arc<AtomicU64> {
        self.lost.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hit(number: u64) -> Event {
        Event::keyword(KeywordHit { sample: number, ..KeywordHit::default() }, false)
    }

    #[test]
    fn a_slow_subscriber_loses_events_and_a_fast_one_does_not() {
        let bus = EventBus::default();
        let (mut slow, mut fast) = (bus.subscribe(Interest::Detections), bus.subscribe(Interest::Everything));
        let count = QUEUE_EVENTS as u64 + 10;
        for number in 0..count {
            bus.publish(hit(number));
            assert!(matches!(fast.blocking_recv().as_deref(), Some(Event::Keyword(found)) if found.hit.sample == number));
        }
        assert_eq!((slow.lost(), fast.lost(), bus.lost()), (10, 0, 10));
        // The oldest events are kept, and later ones follow.
        for number in 0..QUEUE_EVENTS as u64 {
            assert!(matches!(slow.blocking_recv().as_deref(), Some(Event::Keyword(found)) if found.hit.sample == number));
        }
        bus.publish(hit(count));
        assert!(matches!(slow.blocking_recv().as_deref(), Some(Event::Keyword(found)) if found.hit.sample == count));
    }

    #[test]
    fn subscribers_receive_what_they_subscribed_to_until_they_leave() {
        let bus = EventBus::default();
        let mut detections = bus.subscribe(Interest::Detections);
        let everything = bus.subscribe(Interest::Everything);
        assert!(bus.wants_chunks() && !bus.wants_audio());
        let mut audio = bus.subscribe(Interest::Audio);
        bus.publish(Event::Scores(KeywordScores::default()));
        bus.publish(Event::Audio(Arc::new([0.5])));
        bus.publish(hit(1));
        assert!(matches!(audio.try_recv().as_deref(), Some(Event::Audio(samples)) if samples[..] == [0.5]));
        assert!(audio.try_recv().is_none());
        drop(audio);
        assert!(matches!(detections.blocking_recv().as_deref(), Some(Event::Keyword(_))));
        drop(everything);
        assert!(!bus.wants_chunks() && bus.count() == 1);
        drop(bus);
        assert!(detections.blocking_recv().is_none());
    }

    #[test]
    fn muted_detections_and_near_misses_start_nothing() {
        let near = KeywordHit { kind: HitKind::NearMiss, ..KeywordHit::default() };
        assert!(hit(1).detection().is_some());
        assert!(Event::keyword(near, false).detection().is_none());
        let muted = Event::keyword(KeywordHit::default(), true);
        assert!(muted.detection().is_none());
        let text = serde_json::to_value(&muted).unwrap();
        assert_eq!((&text["event"], &text["muted"]), (&"keyword".into(), &true.into()));
        assert!(serde_json::to_value(hit(1)).unwrap().get("muted").is_none());
    }
}
