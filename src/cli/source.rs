//! The source and the run's options that settings name.

use std::path::Path;
use std::time::Duration;

use anyhow::bail;
use bellis::audio::{FileSource, MicrophoneOptions, MicrophoneSource, PcmFormat, PcmSource, Source};
use bellis::pack::Pack;
use bellis::runtime::RunOptions;
use bellis::stream::{Mixture, SessionOptions, Vectors};

use super::locate;
use super::settings::{Settings, VectorsName};

/// Rate of raw PCM when none is said, Hz.
const PCM_RATE: u32 = 16_000;
/// The kernel's threads for interrupts have 50.
const HIGHEST_PRIORITY: u8 = 49;

/// What the session computes, and how much sound may wait.
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
            bail!("--ring {seconds}: the ring holds 0.05 to 600 seconds");
        }
        options.ring = Duration::from_secs_f64(seconds);
    }
    if let Some(priority) = settings.priority {
        if !(1..=HIGHEST_PRIORITY).contains(&priority) {
            bail!("priority {priority}: 1 to {HIGHEST_PRIORITY}, below the kernel's interrupt threads at 50");
        }
        options.priority = Some(priority);
    }
    Ok(options)
}

/// Opens the input; nothing is captured yet.
pub fn source(settings: &Settings) -> anyhow::Result<Box<dyn Source>> {
    let pick = settings.channel_pick()?;
    Ok(match settings.input.as_deref() {
        None => {
            let path = locate::sample()?;
            eprintln!("no INPUT: playing {} (`bellis run mic` listens to the microphone)", path.display());
            Box::new(FileSource::open(&path, pick, settings.realtime)?)
        }
        Some("mic") => {
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
            Box::new(MicrophoneSource::open(options)?)
        }
        Some("-") => {
            let format = settings.format.unwrap_or(PcmFormat::S16le);
            let (rate, channels) = (settings.rate.unwrap_or(PCM_RATE), settings.channels.unwrap_or(1));
            Box::new(PcmSource::new(Box::new(std::io::stdin()), "standard input", format, rate, channels, pick)?)
        }
        Some(path) => Box::new(FileSource::open(Path::new(path), pick, settings.realtime)?),
    })
}
