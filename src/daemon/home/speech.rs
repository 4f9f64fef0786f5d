//! The speech sensor: a consumer that publishes when speech begins and ends. It runs only if a service asks for it, because chunks then
//! also need a head's posteriors and the logits of a CTC branch.

use std::sync::Arc;

use crate::consumer::asr::SpeechDetector;
use crate::consumer::{Consumer, ConsumerError, Requirements};
use crate::daemon::events::{Event, EventBus};
use crate::engine::Encoder;
use crate::stream::Representation;

/// Frames of speech in a chunk that make it speech: 60 ms.
const SPEECH_FRAMES: usize = 3;
/// Silence that ends speech, seconds.
const SPEECH_HANGOVER: f64 = 1.0;

/// Publishes the beginning and the end of speech in the daemon's stream.
pub struct SpeechSensor {
    events: Arc<EventBus>,
    detector: SpeechDetector,
    speech: bool,
    /// End of the last speech, seconds.
    spoken: f64,
}

impl SpeechSensor {
    /// A sensor for streams of `encoder`.
    pub fn new(encoder: &Encoder, events: Arc<EventBus>) -> Self {
        Self { events, detector: SpeechDetector::new(encoder.quiet_unit(), encoder.has_all_ctc()), speech: false, spoken: 0.0 }
    }

    /// Publishes a change.
    fn tell(&mut self, speech: bool) {
        if std::mem::replace(&mut self.speech, speech) != speech {
            self.events.publish(Event::Speech { speech });
        }
    }
}

impl Consumer for SpeechSensor {
    fn name(&self) -> &str {
        "speech"
    }

    fn requires(&self) -> Requirements {
        self.detector.requires()
    }

    fn consume(&mut self, chunk: &Representation) -> Result<(), ConsumerError> {
        // Lost audio counts as silence.
        if chunk.lost_samples > 0 {
            self.spoken = 0.0;
            self.tell(false);
        }
        let Some(frames) = self.detector.frames(chunk) else { return Ok(()) };
        let now = chunk.start_seconds() + chunk.seconds();
        let spoken = frames.iter().filter(|frame| frame.probability > 0.5).count();
        if spoken >= SPEECH_FRAMES && frames.iter().any(|frame| frame.phone) {
            self.spoken = now;
        }
        let speech = self.spoken > 0.0 && now - self.spoken < SPEECH_HANGOVER;
        self.tell(speech);
        Ok(())
    }

    fn finish(&mut self) -> Result<(), ConsumerError> {
        self.tell(false);
        Ok(())
    }
}
