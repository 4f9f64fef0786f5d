//! The processed audio, as a WAV file.

use std::io::Write;
use std::path::{Path, PathBuf};

use super::files::{RowFile, chunks_per_header};
use super::{Consumer, ConsumerError, Requirements, StreamInfo};
use crate::stream::Representation;

/// Sample format.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum WavFormat {
    /// 16-bit PCM, which every program supports; samples beyond full scale are clipped.
    #[default]
    S16,
    /// 32-bit float: the exact input of the front end.
    F32,
}

/// Writes mono WAV at the pack's rate.
pub struct Wav {
    target: Target,
    format: WavFormat,
    chunks_per_header: u64,
    sample_rate: u32,
    bytes: Vec<u8>,
}

enum Target {
    Path(PathBuf),
    File(RowFile),
    Writer(Box<dyn Write + Send>, String),
}

/// Maximum size that a WAV header can represent.
const LONGEST_BYTES: u64 = u32::MAX as u64 - 1024;

impl WavFormat {
    pub(super) fn bytes(self) -> usize {
        match self {
            Self::S16 => 2,
            Self::F32 => 4,
        }
    }

    /// Appends samples in the file's format.
    pub(super) fn encode(self, samples: &[f32], out: &mut Vec<u8>) {
        match self {
            Self::S16 => out.extend(
                samples.iter().flat_map(|sample| ((sample * 32_768.0).round().clamp(-32_768.0, 32_767.0) as i16).to_le_bytes()),
            ),
            Self::F32 => out.extend(samples.iter().flat_map(|sample| sample.to_le_bytes())),
        }
    }

    /// The header for `samples` samples; `None` for a stream of unknown length, as sox and ffmpeg write it to a pipe.
    pub(super) fn header(self, sample_rate: u32, samples: Option<u64>) -> Vec<u8> {
        let bytes = self.bytes() as u32;
        // PCM uses the shortest form; other formats require an extension (of zero bytes) and the number of samples.
        let (tag, format_bytes): (u16, u32) = match self {
            Self::S16 => (1, 16),
            Self::F32 => (3, 18),
        };
        let count = samples.map(|samples| u32::try_from(samples).unwrap_or(u32::MAX));
        let data = count.map_or(u32::MAX, |count| count.saturating_mul(bytes));
        let mut out = b"RIFF\0\0\0\0WAVEfmt ".to_vec();
        out.extend(format_bytes.to_le_bytes());
        out.extend(tag.to_le_bytes());
        out.extend(1u16.to_le_bytes());
        out.extend(sample_rate.to_le_bytes());
        out.extend(sample_rate.saturating_mul(bytes).to_le_bytes());
        out.extend((bytes as u16).to_le_bytes());
        out.extend((8 * bytes as u16).to_le_bytes());
        if self == Self::F32 {
            out.extend([0, 0]);
            out.extend(b"fact\x04\0\0\0");
            out.extend(count.unwrap_or(u32::MAX).to_le_bytes());
        }
        out.extend(b"data");
        out.extend(data.to_le_bytes());
        let riff = data.saturating_add(out.len() as u32 - 8);
        out[4..8].copy_from_slice(&riff.to_le_bytes());
        out
    }
}

impl Wav {
    /// Writes 16-bit PCM to `path`, which is created or overwritten when the stream begins.
    pub fn new(path: &Path) -> Self {
        Self::to(Target::Path(path.to_owned()))
    }

    /// Writes 16-bit PCM with a header of unknown length to `out`; `place` names it in errors.
    pub fn to_writer(out: impl Write + Send + 'static, place: impl Into<String>) -> Self {
        Self::to(Target::Writer(Box::new(out), place.into()))
    }

    fn to(target: Target) -> Self {
        let format = WavFormat::default();
        Self { target, format, chunks_per_header: chunks_per_header(false), sample_rate: 1, bytes: Vec::new() }
    }

    /// Sets the sample format.
    pub fn format(mut self, format: WavFormat) -> Self {
        self.format = format;
        self
    }

    fn write_header(&mut self) -> Result<(), ConsumerError> {
        match &mut self.target {
            Target::File(file) => file.write_header(&self.format.header(self.sample_rate, Some(file.rows()))),
            _ => Ok(()),
        }
    }
}

impl Consumer for Wav {
    fn name(&self) -> &str {
        "wav"
    }

    fn requires(&self) -> Requirements {
        Requirements { audio: true, ..Requirements::default() }
    }

    fn begin(&mut self, stream: &StreamInfo) -> Result<(), ConsumerError> {
        self.sample_rate = stream.sample_rate;
        self.chunks_per_header = chunks_per_header(stream.live);
        let header = |samples| self.format.header(stream.sample_rate, samples);
        match &mut self.target {
            Target::Path(path) => {
                let file = RowFile::create(path, &header(Some(0)), Some(&header(None)), self.format.bytes())?;
                self.target = Target::File(file);
            }
            Target::Writer(out, place) => {
                out.write_all(&header(None))
                    .and_then(|()| out.flush())
                    .map_err(|error| ConsumerError::write(place.clone(), error))?;
            }
            Target::File(_) => {}
        }
        Ok(())
    }

    fn consume(&mut self, representation: &Representation) -> Result<(), ConsumerError> {
        let Some(audio) = &representation.audio else { return Ok(()) };
        self.bytes.clear();
        self.format.encode(audio, &mut self.bytes);
        match &mut self.target {
            Target::File(file) => {
                if file.rows() * self.format.bytes() as u64 + self.bytes.len() as u64 > LONGEST_BYTES {
                    return Err(ConsumerError::other(
                        "a WAV file has at most 4 GiB; restart with another file before that, or use stream:- with --arrays audio",
                    ));
                }
                file.append(&self.bytes)?;
            }
            Target::Writer(out, place) => {
                out.write_all(&self.bytes)
                    .and_then(|()| out.flush())
                    .map_err(|error| ConsumerError::write(place.clone(), error))?;
            }
            Target::Path(_) => {}
        }
        if representation.sequence % self.chunks_per_header == self.chunks_per_header - 1 {
            self.write_header()?;
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<(), ConsumerError> {
        self.write_header()
    }
}
