//! Conversion of interleaved channels to mono.

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
            Self::MixDown => frame.iter().map(|&sample| to_f32(sample)).sum::<f32>() / frame.len() as f32,
        }
    }

    /// Appends the mono samples of interleaved f32 frames to `out`.
    pub(super) fn append(self, interleaved: &[f32], channels: u16, out: &mut Vec<f32>) {
        out.extend(interleaved.chunks_exact(usize::from(channels)).map(|frame| self.of_frame(frame, |sample| sample)));
    }
}
