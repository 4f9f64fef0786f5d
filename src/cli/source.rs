//! Creates the source and the run options from the settings.

use std::time::Duration;

use anyhow::bail;
use bellis::audio::{FileSource, MicrophoneOptions, MicrophoneSource, PcmFormat, RawLayout, Source, open_pipe};
use bellis::pack::Pack;
use bellis::runtime::{InputGain, RunOptions};
use bellis::stream::{Mixture, SessionOptions, Vectors};

use super::settings::{Gain, Input, Settings, VectorsName};
use super::{devices, locate};

/// Default rate of raw PCM, Hz.
const PCM_RATE: u32 = 16_000;
/// The kernel's interrupt threads have priority 50.
const HIGHEST_PRIORITY: u8 = 49;

/// Options of the session and of the ring.
pub fn run_options(settings: &Settings, pack: &Pack) -> anyhow::Result<RunOptions> {
    let manifest = &pack.manifest;
    let hop_ms = manifest.audio.hop as f64 * 1e3 / f64::from(manifest.audio.sample_rate);
    let mut session = SessionOptions::default().chunk_frames(settings.chunk_frames(hop_ms, pack.default_chunk_frames())?);
    if settings.vectors == Some(VectorsName::Mixture) {
        session.vectors = Vectors::Mixture(match &manifest.mixture {
            Some(own) => Mixture { weights: own.weights.clone(), layer_norm: own.layer_norm },
            None => Mixture::uniform(manifest.encoder.layers),
        });
    }
    let mut options = RunOptions::default().session(session);
    if let Some(seconds) = settings.ring {
        if !(0.05..=600.0).contains(&seconds) {
            bail!("ring must be between 0.05 and 600 seconds, got {seconds} (--ring)");
        }
        options.ring = Duration::from_secs_f64(seconds);
    }
    options.gain = settings.gain_db.map_or(Ok(InputGain::default()), Gain::checked)?;
    if let Some(priority) = settings.priority {
        if !(1..=HIGHEST_PRIORITY).contains(&priority) {
            bail!("priority must be between 1 and {HIGHEST_PRIORITY} (the kernel's interrupt threads have 50), got {priority}");
        }
        // Capture has the priority itself: threads of equal priority do not preempt each other, and on a single core a chunk that takes
        // longer than the device's buffer would cause an overrun.
        options.priority = Some(priority.saturating_sub(1).max(1));
    }
    Ok(options)
}

/// Opens the input without starting it.
pub fn source(settings: &Settings) -> anyhow::Result<Box<dyn Source>> {
    let pick = settings.channel_pick()?;
    Ok(match settings.input() {
        Input::Sample => {
            let path = locate::sample()?;
            errln!("no INPUT: processing {}; `bellis run mic` uses the microphone", path.display());
            Box::new(FileSource::open(&path, pick, settings.realtime)?)
        }
        Input::None => bail!("input `none` is for `bellis serve`; pass a file, `-` for standard input, or `mic`"),
        Input::Microphone => {
            let mut options = MicrophoneOptions {
                device: settings.device.clone(),
                sample_rate: settings.rate,
                channels: settings.channels,
                pick,
                priority: settings.priority,
                ..Default::default()
            };
            if let Some(milliseconds) = settings.buffer {
                options.buffer = Duration::from_millis(milliseconds.max(1));
            }
            Box::new(MicrophoneSource::open(options).map_err(devices::with_hint)?)
        }
        Input::Stdin => {
            let raw = RawLayout {
                format: settings.format.unwrap_or(PcmFormat::S16le),
                sample_rate: settings.rate.unwrap_or(PCM_RATE),
                channels: settings.channels.unwrap_or(1),
                is_given: settings.format.is_some(),
            };
            open_pipe(Box::new(std::io::stdin()), raw, pick, settings.realtime)?
        }
        Input::File(path) => Box::new(FileSource::open(path, pick, settings.realtime)?),
    })
}
