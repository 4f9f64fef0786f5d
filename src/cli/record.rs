//! Records takes from the microphone, with a level meter.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use anyhow::bail;
use bellis::audio::{MicrophoneOptions, MicrophoneSource, Resampler, Source, SourceEvent};
use bellis::internal::{Block, EventReceiver, LevelMeter, RingReader, events, ring};
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

/// A microphone that is being recorded.
pub struct Recording<'a> {
    source: MicrophoneSource,
    name: String,
    resampler: Resampler,
    reader: RingReader,
    events: EventReceiver,
    level: LevelMeter,
    meter: Meter,
    sample_rate: u32,
    /// Reads without audio since the last samples.
    silent: u32,
    stop: &'a StopFlag,
}

impl<'a> Recording<'a> {
    /// Starts to record, for audio at `sample_rate`.
    pub fn start(microphone: MicrophoneOptions, gain: InputGain, sample_rate: u32, stop: &'a StopFlag) -> anyhow::Result<Self> {
        let mut source = MicrophoneSource::open(microphone).map_err(devices::with_hint)?;
        let spec = source.spec().clone();
        errln!("recording from {} at {} Hz; Ctrl-C cancels", spec.name, spec.sample_rate);
        let resampler = Resampler::new(spec.sample_rate, sample_rate)?;
        let (writer, reader) = ring(RING_SECONDS * spec.sample_rate as usize, spec.sample_rate);
        let (sender, events) = events();
        source.start(writer, sender)?;
        let mut level = LevelMeter::new(gain);
        level.begin(&spec.name, sample_rate);
        let meter = Meter { shown: std::io::stderr().is_terminal() };
        Ok(Self { source, name: spec.name, resampler, reader, events, level, meter, sample_rate, silent: 0, stop })
    }

    /// Passes each take to `judge`, until it returns true.
    pub fn takes(&mut self, mut judge: impl FnMut(Vec<f32>) -> anyhow::Result<bool>) -> anyhow::Result<()> {
        let mut recorder = Recorder::new(self.sample_rate);
        loop {
            let event = recorder.push(&self.next()?);
            self.meter.show(recorder.level_dbfs(), if event == RecorderEvent::Speaking { "speech" } else { "waiting" });
            if let RecorderEvent::Take(take) = event {
                self.meter.clear();
                if judge(take)? {
                    return Ok(());
                }
                self.skip()?;
                recorder = Recorder::new(self.sample_rate);
            }
        }
    }

    /// Records for some seconds.
    pub fn talk(&mut self, seconds: f64) -> anyhow::Result<Vec<f32>> {
        self.skip()?;
        let (mut audio, mut recorder) = (Vec::new(), Recorder::new(self.sample_rate));
        let wanted = (seconds * f64::from(self.sample_rate)) as usize;
        while audio.len() < wanted {
            let samples = self.next()?;
            recorder.push(&samples);
            audio.extend(samples);
            let left = wanted.saturating_sub(audio.len()) / self.sample_rate as usize;
            self.meter.show(recorder.level_dbfs(), &format!("{left} s left"));
        }
        self.meter.clear();
        Ok(audio)
    }

    /// Discards what was recorded in the meantime.
    fn skip(&mut self) -> anyhow::Result<()> {
        while read(&mut self.reader, &mut self.resampler)?.is_some() {}
        Ok(())
    }

    /// Waits for the next samples.
    fn next(&mut self) -> anyhow::Result<Vec<f32>> {
        loop {
            if self.stop.is_set() {
                bail!("cancelled before all was recorded");
            }
            if let Ok(SourceEvent::Error(error)) = self.events.receiver().try_recv() {
                return Err(error.into());
            }
            if let Some(mut samples) = read(&mut self.reader, &mut self.resampler)? {
                self.silent = 0;
                self.level.push(&mut samples);
                return Ok(samples);
            }
            self.silent += 1;
            if self.silent > PATIENCE {
                bail!("{}: no audio for 5 s; check the device with `bellis devices`", self.name);
            }
            std::thread::sleep(NAP);
        }
    }
}

impl Drop for Recording<'_> {
    fn drop(&mut self) {
        self.source.stop();
    }
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
    fn show(&self, dbfs: f32, state: &str) {
        if self.shown {
            let share = (1.0 - dbfs / METER_FLOOR_DBFS).clamp(0.0, 1.0);
            let filled = (share * METER_WIDTH as f32).round() as usize;
            let bar = "█".repeat(filled) + &"░".repeat(METER_WIDTH - filled);
            err!("\r  {bar} {dbfs:>4.0} dBFS  {state:<10}");
            let _ = std::io::stderr().flush();
        }
    }

    fn clear(&self) {
        if self.shown {
            err!("\r{:60}\r", "");
        }
    }
}
