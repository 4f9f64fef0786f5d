//! Audio input. Sources write mono f32 at their own rate to the ring; the inference thread reads and resamples it.

mod channels;
mod error;
pub(crate) mod events;
#[cfg(feature = "files")]
mod file;
#[cfg(feature = "files")]
mod folder;
#[cfg(feature = "capture")]
pub(crate) mod microphone;
mod mixer;
mod pace;
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
pub(crate) use mixer::ChannelMixer;
pub use pcm::{PcmFormat, PcmSource};
pub use resample::{Resampler, SAMPLE_RATES};
pub use ring::RingWriter;
pub(crate) use ring::{Block, Gap, RingReader, RingStats, ring_of_frames};
#[cfg(feature = "test-util")]
pub use scripted::{ScriptedSource, Step};

/// Streams of this process that hang in their audio server, at opening or closing. Each holds a few threads and descriptors until it ends.
#[cfg(feature = "serve")]
pub(crate) fn abandoned_streams() -> u64 {
    let mut hanging = HANGING.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    hanging.retain(|ended| matches!(ended.try_recv(), Err(crossbeam_channel::TryRecvError::Empty)));
    hanging.len() as u64
}

/// Counts a stream whose thread hangs, until `ended` is disconnected.
#[cfg_attr(not(feature = "capture"), allow(dead_code))]
#[doc(hidden)]
pub fn abandon_stream(ended: crossbeam_channel::Receiver<()>) {
    HANGING.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(ended);
}

static HANGING: std::sync::Mutex<Vec<crossbeam_channel::Receiver<()>>> = std::sync::Mutex::new(Vec::new());

/// How long `stop` waits for a source's thread before it abandons the thread.
const STOP_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(1);

/// Description of a source, known before it starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceSpec {
    /// The device's name, the file's path, or "standard input".
    pub name: String,
    /// Rate of the samples written to the ring, Hz.
    pub sample_rate: u32,
    /// Channels of the device or file, before conversion to mono.
    pub channels: u16,
    /// Whether audio arrives in real time. A live source never waits; audio that does not fit into the ring is dropped and counted.
    pub live: bool,
    /// Length in samples at `sample_rate`, if known in advance.
    pub total_samples: Option<u64>,
}

/// A source of audio. It writes samples to the ring, and reports overruns, errors and its end as events.
pub trait Source: Send {
    /// The description of this source.
    fn spec(&self) -> &SourceSpec;

    /// Starts delivery from a thread or callback of its own, and returns at once. The writer is dropped after the last sample.
    fn start(&mut self, ring: RingWriter, events: EventSender) -> Result<(), AudioError>;

    /// Channels of the frames that it writes to the ring: 1, or several if the inference thread is to convert them to mono.
    fn ring_channels(&self) -> u16 {
        1
    }

    /// Stops delivery: no sample arrives after it has returned. It returns in bounded time even if the device hangs.
    fn stop(&mut self);
}

impl<S: Source + ?Sized> Source for Box<S> {
    fn spec(&self) -> &SourceSpec {
        (**self).spec()
    }

    fn start(&mut self, ring: RingWriter, events: EventSender) -> Result<(), AudioError> {
        (**self).start(ring, events)
    }

    fn ring_channels(&self) -> u16 {
        (**self).ring_channels()
    }

    fn stop(&mut self) {
        (**self).stop();
    }
}

/// How several channels are converted to mono.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ChannelPick {
    /// The mean of all channels.
    #[default]
    MixDown,
    /// One channel, counted from 0.
    Channel(u16),
    /// The mean of the live channels, with those in antiphase inverted. Decided by energy and correlation.
    Auto,
}
