//! Sound in: sources push mono f32 at their own rate into the ring; the inference thread reads and resamples it.

mod channels;
mod error;
mod events;
mod file;
mod microphone;
mod pcm;
mod resample;
mod ring;
mod scripted;

pub use error::{AudioError, AudioErrorKind};
pub use events::{EventReceiver, EventSender, SourceEvent, events};
pub use file::{FileSource, decode_file, decode_file_at, read_file_at};
pub use microphone::{DeviceInfo, Intake, MicrophoneOptions, MicrophoneSource, devices, left_behind};
pub use pcm::{PcmFormat, PcmSource};
pub use resample::Resampler;
pub use ring::{Block, Gap, RingReader, RingStats, RingWriter, ring};
pub use scripted::{ScriptedSource, Step};

/// How long a source waits for its thread to end before it leaves it behind.
const STOP_PATIENCE: std::time::Duration = std::time::Duration::from_secs(1);

/// What a source delivers, known before it starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceSpec {
    /// The device's name, the file's path, "standard input".
    pub name: String,
    /// Rate of the samples that go into the ring, Hz.
    pub sample_rate: u32,
    /// Channels of the device or file, before they are made one.
    pub channels: u16,
    /// Whether sound comes at its own pace: then nothing may hold it up, and what does not fit is dropped and counted.
    pub live: bool,
    /// Length in samples at `sample_rate`, where it is known beforehand.
    pub total_samples: Option<u64>,
}

/// Sound in. The samples go into the ring, what happens to the source goes to the events.
pub trait Source: Send {
    /// What it delivers.
    fn spec(&self) -> &SourceSpec;

    /// Begins to deliver, from a thread or callback of its own, and returns at once. The writer is dropped after the last sample.
    fn start(&mut self, ring: RingWriter, events: EventSender) -> Result<(), AudioError>;

    /// Stops: no sample comes after it has returned. It returns in bounded time even when the device hangs.
    fn stop(&mut self);
}

/// How several channels become one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ChannelPick {
    /// Their mean.
    #[default]
    MixDown,
    /// One of them, counted from 0.
    Channel(u16),
}
