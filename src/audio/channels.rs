//! Conversion of interleaved channels to mono.

use super::mixer::ChannelMixer;
use super::{AudioError, AudioErrorKind, ChannelPick};

impl ChannelPick {
    /// Rejects a channel that does not exist and audio without channels. `place` names the device or file.
    pub(super) fn check(self, channels: u16, place: &str) -> Result<(), AudioError> {
        let error = |message: String| Err(AudioError::new(AudioErrorKind::Unsupported, place, message));
        match self {
            _ if channels == 0 => error("has no channels".into()),
            Self::Channel(channel) if channel >= channels => {
                error(format!("has {channels} channel(s), but channel {} was requested", channel + 1))
            }
            _ => Ok(()),
        }
    }

    /// The mono sample of one frame.
    pub(super) fn of_frame<T: Copy>(self, frame: &[T], to_f32: impl Fn(T) -> f32) -> f32 {
        match self {
            Self::Channel(channel) => frame.get(usize::from(channel)).map_or(0.0, |&sample| to_f32(sample)),
            Self::MixDown if frame.len() == 1 => to_f32(frame[0]),
            Self::MixDown | Self::Auto => frame.iter().map(|&sample| to_f32(sample)).sum::<f32>() / frame.len() as f32,
        }
    }
}

/// Makes interleaved f32 frames mono, one part of a stream after the other.
pub(super) struct Downmix {
    pick: ChannelPick,
    channels: u16,
    mixer: Option<ChannelMixer>,
}

impl Downmix {
    pub fn new(pick: ChannelPick, channels: u16, sample_rate: u32) -> Self {
        let mixer = (pick == ChannelPick::Auto && channels > 1).then(|| ChannelMixer::new(channels, sample_rate));
        Self { pick, channels, mixer }
    }

    /// Appends the mono samples of interleaved frames to `out`.
    pub fn append(&mut self, interleaved: &[f32], out: &mut Vec<f32>) {
        match &mut self.mixer {
            Some(mixer) => mixer.append(interleaved, out),
            None => {
                let frames = interleaved.chunks_exact(usize::from(self.channels.max(1)));
                out.extend(frames.map(|frame| self.pick.of_frame(frame, |sample| sample)));
            }
        }
    }
}
