//! A source that plays a script of callbacks, pauses and faults, for tests and for trying a consumer without a microphone.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::{AudioError, EventSender, RingWriter, Source, SourceEvent, SourceSpec};

/// One step of a script.
#[derive(Debug, Clone)]
pub enum Step {
    /// One callback with these samples.
    Callback(Vec<f32>),
    /// A pause.
    Wait(Duration),
    /// The next callback is due this long after the previous one was due, however long that one took.
    Pace(Duration),
    /// The device reports an overrun.
    Xrun,
    /// The source fails: the rest of the script is skipped and the writer is closed.
    Fail(AudioError),
    /// The source hangs: no samples and no events until it is stopped.
    Hang,
}

/// A source that plays a script on its own thread.
pub struct ScriptedSource {
    spec: SourceSpec,
    steps: Vec<Step>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl ScriptedSource {
    /// Creates a source at `sample_rate`. If `live`, callbacks never wait, and samples that do not fit into the ring are dropped.
    pub fn new(sample_rate: u32, live: bool, steps: Vec<Step>) -> Self {
        let total = steps.iter().map(|step| if let Step::Callback(samples) = step { samples.len() as u64 } else { 0 }).sum();
        let spec = SourceSpec { name: "script".into(), sample_rate, channels: 1, live, total_samples: Some(total) };
        Self { spec, steps, stop: Arc::default(), thread: None }
    }

    /// Delivers `audio` as a device does: one callback of `size` samples per `size` sample periods.
    pub fn paced(sample_rate: u32, audio: &[f32], size: usize) -> Self {
        let period = Duration::from_secs_f64(size as f64 / f64::from(sample_rate));
        let steps =
            audio.chunks(size.max(1)).flat_map(|samples| [Step::Pace(period), Step::Callback(samples.to_vec())]).collect();
        Self::new(sample_rate, true, steps)
    }

    /// Delivers `audio` in callbacks of the given sizes, repeated cyclically. `sizes` must not be empty.
    pub fn in_callbacks(sample_rate: u32, live: bool, audio: &[f32], sizes: &[usize]) -> Self {
        let mut steps = Vec::new();
        let mut left = audio;
        for size in sizes.iter().cycle() {
            if left.is_empty() {
                break;
            }
            let (now, later) = left.split_at((*size).clamp(1, left.len()));
            steps.push(Step::Callback(now.to_vec()));
            left = later;
        }
        Self::new(sample_rate, live, steps)
    }
}

impl Source for ScriptedSource {
    fn spec(&self) -> &SourceSpec {
        &self.spec
    }

    fn start(&mut self, mut ring: RingWriter, events: EventSender) -> Result<(), AudioError> {
        let (steps, stop, live) = (std::mem::take(&mut self.steps), self.stop.clone(), self.spec.live);
        self.thread = Some(std::thread::spawn(move || {
            let mut due = Instant::now();
            for step in steps {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                match step {
                    Step::Callback(samples) if live => ring.push_live(&samples),
                    Step::Callback(samples) => {
                        ring.push_blocking(&samples, &stop);
                    }
                    Step::Wait(time) => std::thread::sleep(time),
                    Step::Pace(time) => {
                        due += time;
                        std::thread::sleep(due.saturating_duration_since(Instant::now()));
                    }
                    Step::Xrun => events.send(SourceEvent::Xrun),
                    Step::Fail(error) => {
                        drop(ring);
                        return events.send(SourceEvent::Error(error));
                    }
                    Step::Hang => {
                        while !stop.load(Ordering::Relaxed) {
                            std::thread::sleep(Duration::from_millis(1));
                        }
                    }
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
            // The script's thread does not panic; if it did, there would be nothing left to stop.
            let _ = thread.join();
        }
    }
}
