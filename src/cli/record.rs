//! Records takes from the microphone, with a level meter.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use anyhow::bail;
use bellis::audio::{MicrophoneOptions, MicrophoneSource, Resampler, Source, SourceEvent};
use bellis::internal::{Block, LevelMeter, RingReader, events, ring};
use bellis::keyword::{Recorder, RecorderEvent};
use bellis::runtime::{InputGain, StopFlag};

use super::devices;

/// Ring size in seconds, for audio that arrives while a take is checked.
const RING_SECONDS: usize = 30;
const NAP: Duration = Duration::from_millis(20);
/// Number of naps without audio after which recording fails.
const PATIENCE: u32 = 250;
const METER_WIDTH: usize = 30;
const METER_FLOOR_DBFS: f32 = -60.0;

/// Records from the microphone, and passes each take to `judge`, until it returns true.
pub fn record(
    microphone: MicrophoneOptions,
    gain: InputGain,
    sample_rate: u32,
    stop: &StopFlag,
    mut judge: impl FnMut(Vec<f32>) -> anyhow::Result<bool>,
) -> anyhow::Result<()> {
    let mut source = MicrophoneSource::open(microphone).map_err(devices::with_hint)?;
    let spec = source.spec().clone();
    errln!("recording from {} at {} Hz; Ctrl-C cancels", spec.name, spec.sample_rate);
    let mut resampler = Resampler::new(spec.sample_rate, sample_rate)?;
    let (writer, mut reader) = ring(RING_SECONDS * spec.sample_rate as usize, spec.sample_rate);
    let (sender, receiver) = events();
    source.start(writer, sender)?;
    let mut level = LevelMeter::new(gain);
    level.begin(&spec.name, sample_rate);
    let meter = Meter { shown: std::io::stderr().is_terminal() };
    let outcome = (|| -> anyhow::Result<()> {
        let mut recorder = Recorder::new(sample_rate);
        let mut silent = 0;
        while !stop.is_set() {
            if let Ok(SourceEvent::Error(error)) = receiver.receiver().try_recv() {
                return Err(error.into());
            }
            let Some(mut samples) = read(&mut reader, &mut resampler)? else {
                silent += 1;
                if silent > PATIENCE {
                    bail!("{}: no audio for 5 s; check the device with `bellis devices`", spec.name);
                }
                std::thread::sleep(NAP);
                continue;
            };
            silent = 0;
            level.push(&mut samples);
            let event = recorder.push(&samples);
            meter.show(recorder.level_dbfs(), event == RecorderEvent::Speaking);
            if let RecorderEvent::Take(take) = event {
                meter.clear();
                if judge(take)? {
                    return Ok(());
                }
                // Discard what was recorded while the take was checked.
                while read(&mut reader, &mut resampler)?.is_some() {}
                recorder = Recorder::new(sample_rate);
            }
        }
        bail!("cancelled before all takes were recorded")
    })();
    source.stop();
    outcome
}

/// The contents of the ring at the pack's rate; `None` if it is empty, and an error if the device has ended.
fn read(reader: &mut RingReader, resampler: &mut Resampler) -> anyhow::Result<Option<Vec<f32>>> {
    let mut block = vec![0.0; 4096];
    Ok(match reader.read(&mut block) {
        Block::Samples(samples) => {
            let mut out = Vec::new();
            resampler.push(samples, &mut out);
            Some(out)
        }
        Block::Gap(_) => Some(Vec::new()),
        Block::Empty => None,
        Block::Closed => bail!("the microphone has stopped; check it with `bellis devices`"),
    })
}

/// A level meter on one line of the terminal.
struct Meter {
    shown: bool,
}

impl Meter {
    fn show(&self, dbfs: f32, speaking: bool) {
        if self.shown {
            let share = (1.0 - dbfs / METER_FLOOR_DBFS).clamp(0.0, 1.0);
            let filled = (share * METER_WIDTH as f32).round() as usize;
            let bar = "█".repeat(filled) + &"░".repeat(METER_WIDTH - filled);
            let word = if speaking { "speech " } else { "waiting" };
            err!("\r  {bar} {dbfs:>4.0} dBFS  {word}");
            let _ = std::io::stderr().flush();
        }
    }

    fn clear(&self) {
        if self.shown {
            err!("\r{:60}\r", "");
        }
    }
}
