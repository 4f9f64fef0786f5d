//! `bellis devices`.

use bellis::audio::{AudioError, AudioErrorKind};
use clap::Args;

/// List microphones
#[derive(Debug, Args)]
#[command(
    after_help = "Select one with `bellis run mic --device ID`, or with part of its name. `--device` takes the names of `arecord -D`, too:
plughw:1,0, hw:CARD=seeed,DEV=0, default, a PCM of ~/.asoundrc."
)]
pub struct Devices {}

impl Devices {
    pub fn run(self) -> anyhow::Result<()> {
        let devices = bellis::audio::devices()?;
        if devices.is_empty() {
            outln!("no microphone found; check that one is connected and that you are in the group `audio`");
        }
        let (open, closed): (Vec<_>, Vec<_>) = devices.into_iter().partition(|device| !device.formats.is_empty());
        for device in open {
            let rates: Vec<String> = device.sample_rates.iter().map(|&(low, high)| span(low, high)).collect();
            let rows = [
                ("id", device.id),
                ("channels", spans(&device.channels)),
                ("rates", rates.join(", ") + " Hz"),
                ("formats", device.formats.join(", ")),
            ];
            let mark = match (device.default, device.plugin) {
                (true, _) => "  (default)",
                (false, true) => "  (plugin)",
                (false, false) => "",
            };
            super::table::print(&format!("{}{mark}", device.name), &rows);
        }
        if !closed.is_empty() {
            let names: Vec<String> = closed.into_iter().map(|device| format!("{} ({})", device.id, device.name)).collect();
            super::table::print("listed by the system, but not available now", &[("", names.join(", "))]);
        }
        Ok(())
    }
}

fn span<T: PartialEq + std::fmt::Display>(low: T, high: T) -> String {
    if low == high { low.to_string() } else { format!("{low}–{high}") }
}

/// Adds the command that helps to an error of opening a microphone.
pub fn with_hint(error: AudioError) -> AudioError {
    let hint = match error.kind() {
        AudioErrorKind::DeviceNotFound => "`bellis devices` lists the microphones, and `bellis run FILE` processes a file",
        AudioErrorKind::AmbiguousDevice | AudioErrorKind::DeviceLost => "`bellis devices` lists the microphones",
        AudioErrorKind::Unsupported => "`bellis devices` shows the supported rates, channels and formats",
        AudioErrorKind::Backend => "`bellis devices` shows which microphones can be opened",
        _ => return error,
    };
    AudioError::new(error.kind(), error.place(), format!("{}; {hint}", error.message()))
}

/// Sorted counts with consecutive ones merged: 1, 2, 3, 8 → 1–3, 8.
fn spans(counts: &[u16]) -> String {
    let runs = counts.chunk_by(|a, b| a + 1 == *b);
    runs.filter_map(|run| Some(span(*run.first()?, *run.last()?))).collect::<Vec<_>>().join(", ")
}
