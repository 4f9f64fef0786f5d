//! `bellis devices`.

use clap::Args;

/// List the microphones
#[derive(Debug, Args)]
#[command(after_help = "Use one with `bellis run mic --device ID`, or with part of its name.")]
pub struct Devices {}

impl Devices {
    pub fn run(self) -> anyhow::Result<()> {
        let devices = bellis::audio::devices()?;
        if devices.is_empty() {
            println!("no microphone found; is one plugged in, and may you use it (group `audio`)?");
        }
        for device in devices {
            let rows = [
                ("id", device.id),
                ("channels", list(&device.channels)),
                ("rates", device.sample_rates.iter().map(|(low, high)| if low == high { low.to_string() } else { format!("{low}–{high}") }).collect::<Vec<_>>().join(", ") + " Hz"),
                ("formats", device.formats.join(", ")),
            ];
            super::table::print(&format!("{}{}", device.name, if device.default { "  (default)" } else { "" }), &rows);
        }
        Ok(())
    }
}

fn list(values: &[u16]) -> String {
    values.iter().map(u16::to_string).collect::<Vec<_>>().join(", ")
}
