//! Decodes a file or pipe to mono at one rate: selects channels, resamples streams of another rate, counts damage.

use super::bytes::Bytes;
use super::damage::Damage;
use super::{Failure, Layout, Piece, Stream, detect, mpeg};
use crate::audio::channels::Downmix;
use crate::audio::{AudioError, AudioErrorKind, ChannelPick, Resampler, SAMPLE_RATES};

/// An open file or pipe.
pub(super) struct Decoder {
    pub place: String,
    pub layout: Layout,
    /// Samples declared by the header.
    pub announced: Option<u64>,
    pick: ChannelPick,
    downmix: Downmix,
    stream: Box<dyn Stream>,
    /// Layout of the current stream; several can follow each other.
    current: Layout,
    resampler: Option<Resampler>,
    interleaved: Vec<f32>,
    mono: Vec<f32>,
    /// Samples delivered or lost.
    position: u64,
    delivered: u64,
    damage: Damage,
}

/// The next piece of audio.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Samples were appended.
    Samples,
    /// This number of samples is damaged.
    Lost(u64),
    /// The end.
    End,
}

impl Decoder {
    pub fn open(bytes: Bytes, place: String, pick: ChannelPick) -> Result<Self, AudioError> {
        let stream = detect::open(bytes).map_err(|failure| failure.at(&place))?;
        let (layout, announced) = (stream.layout(), stream.announced());
        let decoder = Self {
            layout,
            announced,
            pick,
            downmix: Downmix::new(pick, layout.channels, layout.rate),
            stream,
            current: layout,
            resampler: None,
            interleaved: Vec::new(),
            mono: Vec::new(),
            position: 0,
            delivered: 0,
            damage: Damage::default(),
            place,
        };
        decoder.check()?;
        if announced == Some(0) {
            return Err(Failure::Malformed("contains no samples".into()).at(&decoder.place));
        }
        Ok(decoder)
    }

    fn check(&self) -> Result<(), AudioError> {
        let Layout { rate, channels } = self.current;
        self.pick.check(channels, &self.place)?;
        if !SAMPLE_RATES.contains(&rate) {
            let text = format!("contradictory header: the sample rate must be between 1,000 and 384,000 Hz, got {rate}");
            return Err(AudioError::new(AudioErrorKind::Malformed, &self.place, text));
        }
        Ok(())
    }

    /// Appends the next mono samples to `out`.
    pub fn next(&mut self, out: &mut Vec<f32>) -> Result<Next, AudioError> {
        loop {
            self.interleaved.clear();
            let piece = self.stream.next(&mut self.interleaved).map_err(|failure| failure.at(&self.place))?;
            let before = out.len();
            match piece {
                Piece::Samples => match &mut self.resampler {
                    None => self.downmix.append(&self.interleaved, out),
                    Some(resampler) => {
                        self.mono.clear();
                        self.downmix.append(&self.interleaved, &mut self.mono);
                        resampler.push(&self.mono, out);
                    }
                },
                Piece::Lost { samples: 0 } => {}
                Piece::Lost { samples } => {
                    let samples = (samples as f64 * f64::from(self.layout.rate) / f64::from(self.current.rate)).round() as u64;
                    self.damage.lose(self.position, samples);
                    self.position += samples;
                    return Ok(Next::Lost(samples));
                }
                Piece::CutOff { samples } => {
                    let samples = (samples as f64 * f64::from(self.layout.rate) / f64::from(self.current.rate)).round() as u64;
                    self.damage.cut_off(self.position, samples);
                }
                Piece::Next => self.change(out)?,
                Piece::End => {
                    if let Some(next) = self.following().map_err(|failure| failure.at(&self.place))? {
                        self.stream = next;
                        self.change(out)?;
                        continue;
                    }
                    if let Some(mut resampler) = self.resampler.take() {
                        resampler.finish(out);
                    }
                    if out.len() == before {
                        if self.delivered == 0 {
                            let text = match self.damage.is_none() {
                                true => "contains no samples",
                                false => "contains no samples that can be decoded",
                            };
                            return Err(AudioError::new(AudioErrorKind::Malformed, &self.place, text));
                        }
                        return Ok(Next::End);
                    }
                }
            }
            if out.len() > before {
                self.position += (out.len() - before) as u64;
                self.delivered += (out.len() - before) as u64;
                return Ok(Next::Samples);
            }
        }
    }

    /// The stream after this one, if there is another.
    fn following(&mut self) -> Result<Option<Box<dyn Stream>>, Failure> {
        let Some(bytes) = self.stream.rest() else { return Ok(None) };
        detect::skip_tags(bytes)?;
        if !detect::is_container(bytes.fill(detect::HEAD_BYTES)?) && !mpeg::detect(bytes)? {
            return Ok(None);
        }
        let bytes = std::mem::replace(bytes, Bytes::new(Box::new(std::io::empty()), None));
        detect::open(bytes).map(Some)
    }

    /// Switches to the next stream.
    fn change(&mut self, out: &mut Vec<f32>) -> Result<(), AudioError> {
        if let Some(mut resampler) = self.resampler.take() {
            resampler.finish(out);
        }
        self.current = self.stream.layout();
        self.check()?;
        self.downmix = Downmix::new(self.pick, self.current.channels, self.current.rate);
        if self.current.rate != self.layout.rate {
            self.resampler = Some(Resampler::new(self.current.rate, self.layout.rate)?);
        }
        Ok(())
    }

    /// Reports lost samples after everything was read.
    pub fn damage(&self) -> Result<(), AudioError> {
        self.damage.outcome(&self.place, self.layout.rate, self.delivered)
    }
}
