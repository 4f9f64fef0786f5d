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
    fn publish(&mut self, speech: bool) {
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
            self.publish(false);
        }
        let Some(frames) = self.detector.frames(chunk) else { return Ok(()) };
        let now = chunk.start_seconds() + chunk.seconds();
        let spoken = frames.iter().filter(|frame| frame.probability > 0.5).count();
        if spoken >= SPEECH_FRAMES && frames.iter().any(|frame| frame.phone) {
            self.spoken = now;
        }
        let speech = self.spoken > 0.0 && now - self.spoken < SPEECH_HANGOVER;
        self.publish(speech);
        Ok(())
    }

    fn finish(&mut self) -> Result<(), ConsumerError> {
        self.publish(false);
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::audio::{ChannelPick, decode_file_at};
    use crate::daemon::events::Interest;
    use crate::engine::LoadOptions;
    use crate::exit::Fixed;
    use crate::pack::Pack;
    use crate::stream::{Session, SessionOptions};

    /// Speech on both sides of lost audio: the daemon has published that it is over when the device was lost, so it begins again.
    #[test]
    fn speech_begins_again_after_lost_audio() {
        let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("models");
        let encoder = Encoder::load(&Pack::open(&models.join("daisy-nano")).unwrap(), &LoadOptions::default()).unwrap();
        let audio = decode_file_at(&models.join("sample.wav"), ChannelPick::MixDown, 16_000).unwrap();
        let events = Arc::new(EventBus::default());
        let mut heard = events.subscribe(Interest::Detections);
        let mut sensor = SpeechSensor::new(&encoder, events);
        let options = SessionOptions::default().posteriors(true).ctc(true);
        let mut session = Session::new(&encoder, Box::new(Fixed::new(encoder.layers())), options).unwrap();
        session.push(&audio).unwrap();
        session.finish();
        let mut published = Vec::new();
        let mut take = |published: &mut Vec<bool>| {
            while let Some(event) = heard.try_recv() {
                let Event::Speech { speech } = &*event else { panic!("{event:?}") };
                published.push(*speech);
            }
        };
        let mut lost = false;
        while let Some(mut chunk) = session.next_chunk().unwrap() {
            // Once, in the chunk after the one in which speech was noticed.
            if !lost && published.last() == Some(&true) {
                lost = true;
                chunk.lost_samples = 1_600_000;
            }
            sensor.consume(&chunk).unwrap();
            take(&mut published);
        }
        sensor.finish().unwrap();
        take(&mut published);
        assert_eq!(published[..3], [true, false, true], "{published:?}");
        assert!(published.windows(2).all(|pair| pair[0] != pair[1]) && published.last() == Some(&false), "{published:?}");
    }
}
