//! A source that plays the benchmark's audio in callbacks like a sound card, as fast as possible or in real time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::audio::{AudioError, EventSender, RingWriter, Source, SourceEvent, SourceSpec};

/// Audio per callback, as with usual sound cards.
const CALLBACK_SECONDS: f64 = 0.01;

/// Audio in memory, shared by all runs.
pub(super) struct Playback {
    spec: SourceSpec,
    audio: Arc<[f32]>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Playback {
    /// Plays `audio` at `rate`; in real time if `paced`.
    pub fn new(audio: Arc<[f32]>, rate: u32, paced: bool) -> Self {
        let total_samples = Some(audio.len() as u64);
        let spec = SourceSpec { name: "benchmark".into(), sample_rate: rate, channels: 1, live: paced, total_samples };
        Self { spec, audio, stop: Arc::default(), thread: None }
    }
}

impl Source for Playback {
    fn spec(&self) -> &SourceSpec {
        &self.spec
    }

    fn start(&mut self, mut ring: RingWriter, events: EventSender) -> Result<(), AudioError> {
        let (audio, stop, paced) = (self.audio.clone(), self.stop.clone(), self.spec.live);
        let callback = ((CALLBACK_SECONDS * f64::from(self.spec.sample_rate)) as usize).max(1);
        let period = Duration::from_secs_f64(callback as f64 / f64::from(self.spec.sample_rate));
        self.thread = Some(std::thread::spawn(move || {
            let mut due = Instant::now();
            for samples in audio.chunks(callback) {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                if paced {
                    due += period;
                    std::thread::sleep(due.saturating_duration_since(Instant::now()));
                    ring.push_live(samples);
                } else if !ring.push_blocking(samples, &stop) {
                    return;
                }
            }
            drop(ring);
            events.send(SourceEvent::End);
        }));
        Ok(())
    }

    fn stop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // The thread does not panic; if it did, there would be nothing left to stop.
            let _ = thread.join();
        }
    }
}
