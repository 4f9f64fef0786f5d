//! `bellis devices`.

use clap::Args;

/// List microphones
#[derive(Debug, Args)]
#[command(after_help = "Select one with `bellis run mic --device ID`, or with part of its name.")]
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
            super::table::print(&format!("{}{}", device.name, if device.default { "  (default)" } else { "" }), &rows);
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

/// Sorted counts with consecutive ones merged: 1, 2, 3, 8 → 1–3, 8.
fn spans(counts: &[u16]) -> String {
    let runs = counts.chunk_by(|a, b| a + 1 == *b);
    runs.filter_map(|run| Some(span(*run.first()?, *run.last()?))).collect::<Vec<_>>().join(", ")
}
