//! Sound in: sources push mono f32 at their own rate into the ring; the inference thread reads and resamples it.

mod channels;
mod error;
pub(crate) mod events;
#[cfg(feature = "files")]
mod file;
#[cfg(feature = "files")]
mod folder;
#[cfg(feature = "capture")]
pub(crate) mod microphone;
mod pcm;
mod resample;
pub(crate) mod ring;
#[cfg(any(feature = "cli", feature = "test-util"))]
pub(crate) mod scripted;

pub use error::{AudioError, AudioErrorKind};
pub(crate) use events::{EventReceiver, events};
pub use events::{EventSender, SourceEvent};
#[cfg(feature = "files")]
pub use file::{FileSource, RawLayout, decode_file, decode_file_at, decode_stream_at, open_pipe, read_file_at};
#[cfg(feature = "files")]
pub use folder::audio_files;
#[cfg(feature = "capture")]
pub use microphone::{DeviceInfo, MicrophoneOptions, MicrophoneSource, devices};
pub use pcm::{PcmFormat, PcmSource};
pub use resample::Resampler;
pub use ring::RingWriter;
pub(crate) use ring::{Block, Gap, RingReader, RingStats, ring};
#[cfg(feature = "test-util")]
pub use scripted::{ScriptedSource, Step};

/// Streams that did not close when their sound server died, and that only the end of the process frees.
#[cfg(feature = "serve")]
pub(crate) fn abandoned_streams() -> u64 {
    #[cfg(feature = "capture")]
    return microphone::left_behind();
    #[cfg(not(feature = "capture"))]
    return 0;
}

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

impl<S: Source + ?Sized> Source for Box<S> {
    fn spec(&self) -> &SourceSpec {
        (**self).spec()
    }

    fn start(&mut self, ring: RingWriter, events: EventSender) -> Result<(), AudioError> {
        (**self).start(ring, events)
    }

    fn stop(&mut self) {
        (**self).stop();
    }
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
