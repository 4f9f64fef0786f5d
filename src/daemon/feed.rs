//! The consumer that publishes chunks and phones as events. It runs only while a subscriber receives everything.

use std::sync::Arc;

use super::events::{ChunkEvent, Event, EventBus};
use crate::consumer::asr::{Decoder, PhoneReader};
use crate::consumer::{Consumer, ConsumerError, OnOverflow, Phone, Requirements, StreamInfo};
use crate::exit::Evidence;
use crate::stream::Representation;

/// Label of the consumer in counters and metrics.
pub(super) const LABEL: &str = "events";
/// Parts of a chunk whose minimum and maximum are published.
const WAVEFORM_PARTS: usize = 16;

/// Publishes every chunk.
pub(super) struct Feed {
    events: Arc<EventBus>,
    phones: Option<PhoneReader>,
    found: Vec<Phone>,
}

impl Feed {
    /// Publishes to `events`; with `phones`, the pack has CTC branches.
    pub fn new(events: Arc<EventBus>, phones: bool) -> Self {
        Self { events, phones: phones.then(|| PhoneReader::new(Decoder::new(None))), found: Vec::new() }
    }
}

impl Consumer for Feed {
    fn name(&self) -> &str {
        LABEL
    }

    fn requires(&self) -> Requirements {
        let requirements = Requirements::default().audio();
        if self.phones.is_some() { requirements.ctc() } else { requirements }
    }

    fn begin(&mut self, stream: &StreamInfo) -> Result<(), ConsumerError> {
        if let Some(phones) = &mut self.phones {
            phones.begin(stream);
        }
        Ok(())
    }

    fn consume(&mut self, chunk: &Representation) -> Result<(), ConsumerError> {
        if let Some(audio) = chunk.audio.as_ref().filter(|_| self.events.wants_audio()) {
            self.events.publish(Event::Audio(audio[..].into()));
        }
        self.events.publish(Event::Chunk(Box::new(describe(chunk))));
        if let Some(phones) = &mut self.phones {
            phones.push(chunk, &mut self.found)?;
            self.found.drain(..).for_each(|phone| self.events.publish(Event::Phone(phone)));
        }
        Ok(())
    }

    /// Never delays the stream, not even one from a file.
    fn on_overflow(&self, _live: bool) -> OnOverflow {
        OnOverflow::DropNewest
    }
}

fn describe(chunk: &Representation) -> ChunkEvent {
    let audio = chunk.audio.as_deref().unwrap_or_default();
    let part = audio.len().div_ceil(WAVEFORM_PARTS).max(1);
    let bounds = |samples: &[f32]| samples.iter().fold((0.0f32, 0.0f32), |(low, high), &s| (low.min(s), high.max(s)));
    let waveform: Vec<_> = audio.chunks(part).map(bounds).map(|(low, high)| (round(low), round(high))).collect();
    let squares: f64 = audio.iter().map(|&sample| f64::from(sample).powi(2)).sum();
    let entropy = |evidence: &Evidence| evidence.finite.then(|| (evidence.layer, round(evidence.entropy)));
    let milliseconds = |time: std::time::Duration| (time.as_secs_f64() * 1e6).round() / 1e3;
    ChunkEvent {
        chunk: chunk.sequence,
        sample: chunk.first_sample,
        samples: chunk.samples,
        lost_samples: chunk.lost_samples,
        layer: chunk.exit_layer,
        reason: chunk.reason,
        entropy: chunk.evidence.iter().filter_map(entropy).collect(),
        predicted_kl: chunk.forecast.iter().map(|(layer, kl)| (layer, round(kl))).collect(),
        peak: waveform.iter().fold(0.0, |peak, (low, high)| high.max(-low).max(peak)),
        rms: round((squares / audio.len().max(1) as f64).sqrt() as f32),
        waveform,
        compute_ms: milliseconds(chunk.compute),
        delay_ms: chunk.captured_at.map(|at| milliseconds(at.elapsed())),
    }
}

/// Four decimals: enough for the screen, and a third of the bytes.
fn round(value: f32) -> f32 {
    (value * 1e4).round() / 1e4
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::consumer::testing::chunks;
    use crate::engine::Frames;
    use crate::stream::Forecast;

    #[test]
    fn levels_and_waveform_are_those_of_the_audio() {
        let mut chunk = chunks(&[0.0; 32], 4, &[8]).remove(0);
        let audio: Vec<f32> = (0..2560).map(|sample| if sample < 160 { 0.5 } else { -0.25 }).collect();
        chunk.audio = Some(audio);
        chunk.forecast = Forecast::new(3, Frames::from_vec(vec![0.123_456f32.ln()], 1));
        let event = describe(&chunk);
        assert_eq!((event.peak, event.waveform.len()), (0.5, WAVEFORM_PARTS));
        assert_eq!((event.waveform[0], event.waveform[1]), ((0.0, 0.5), (-0.25, 0.0)));
        let rms = ((160.0 * 0.25 + 2400.0 * 0.0625) / 2560.0f64).sqrt() as f32;
        assert!((event.rms - rms).abs() < 1e-4);
        assert_eq!(event.predicted_kl, [(3, 0.1235)]);
        chunk.audio = None;
        let event = describe(&chunk);
        assert_eq!((event.peak, event.rms, event.waveform.len()), (0.0, 0.0, 0));
    }
}
