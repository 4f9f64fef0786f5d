//! Decoding of compressed packets to interleaved samples.

use symphonia::core::codecs::audio::{AudioCodecId, AudioCodecParameters, AudioDecoder, AudioDecoderOptions};
use symphonia::core::packet::Packet;
use symphonia::core::units::{Duration, Timestamp};

use super::Failure;

/// A Symphonia decoder for packets that the readers in this folder extract.
pub(super) struct Codec {
    decoder: Box<dyn AudioDecoder>,
    channels: u16,
    rate: u32,
    interleaved: Vec<f32>,
}

/// The packet cannot be decoded.
pub(super) struct Undecodable;

impl Codec {
    pub fn new(id: AudioCodecId, rate: u32, channels: u16, extra: Option<&[u8]>) -> Result<Self, Failure> {
        let mut parameters = AudioCodecParameters::new();
        parameters.for_codec(id).with_sample_rate(rate);
        if let Some(extra) = extra {
            parameters.with_extra_data(extra.into());
        }
        let decoder = symphonia::default::get_codecs()
            .make_audio_decoder(&parameters, &AudioDecoderOptions::default())
            .map_err(|error| Failure::Malformed(format!("has an invalid header: {error}")))?;
        Ok(Self { decoder, channels, rate, interleaved: Vec::new() })
    }

    /// Appends the samples of `packet`. Rejects a packet whose rate or channel count differs from the stream's.
    pub fn decode(&mut self, packet: &[u8], out: &mut Vec<f32>) -> Result<(), Undecodable> {
        let packet = Packet::new(0, Timestamp::ZERO, Duration::ZERO, packet);
        let decoded = self.decoder.decode(&packet).map_err(|_| Undecodable)?;
        if decoded.frames() == 0 {
            return Ok(());
        }
        if decoded.spec().channels().count() != usize::from(self.channels) || decoded.spec().rate() != self.rate {
            return Err(Undecodable);
        }
        decoded.copy_to_vec_interleaved(&mut self.interleaved);
        out.extend_from_slice(&self.interleaved);
        Ok(())
    }

    /// Resets the decoder after a discontinuity.
    pub fn reset(&mut self) {
        self.decoder.reset();
    }
}
