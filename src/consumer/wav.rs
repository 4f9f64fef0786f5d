//! The sound that was computed, as a WAV file: to hear what Bellis heard.

use std::fs::File;
use std::io::BufWriter;
use std::path::{Path, PathBuf};

use super::{Consumer, ConsumerError, Requirements, StreamInfo};
use crate::stream::Representation;

/// Writes 32-bit float WAV at the pack's rate.
pub struct Wav {
    path: PathBuf,
    out: Option<hound::WavWriter<BufWriter<File>>>,
    /// Put the header right after every chunk: a live run may be killed.
    live: bool,
    samples: u64,
}

/// The format counts bytes in 32 bits: 18 hours at 16 kHz.
const LONGEST_SAMPLES: u64 = (u32::MAX as u64 - 1024) / 4;

impl Wav {
    /// Will write to `path`, which is made when the stream begins.
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), out: None, live: false, samples: 0 }
    }

    fn failed(&self) -> impl Fn(hound::Error) -> ConsumerError + use<> {
        let place = self.path.display().to_string();
        move |error| match error {
            hound::Error::IoError(error) => ConsumerError::write(place.clone(), error),
            other => ConsumerError::other(format!("{place}: {other}")),
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
        self.live = stream.live;
        let sample_format = hound::SampleFormat::Float;
        let spec = hound::WavSpec { channels: 1, sample_rate: stream.sample_rate, bits_per_sample: 32, sample_format };
        self.out = Some(hound::WavWriter::create(&self.path, spec).map_err(self.failed())?);
        Ok(())
    }

    fn consume(&mut self, representation: &Representation) -> Result<(), ConsumerError> {
        let failed = self.failed();
        if let (Some(out), Some(audio)) = (&mut self.out, &representation.audio) {
            self.samples += audio.len() as u64;
            if self.samples > LONGEST_SAMPLES {
                let path = self.path.display();
                return Err(ConsumerError::other(format!(
                    "{path}: a WAV file holds no more than 4 GiB; begin a new one in time"
                )));
            }
            audio.iter().try_for_each(|&sample| out.write_sample(sample)).map_err(&failed)?;
            if self.live {
                out.flush().map_err(failed)?;
            }
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<(), ConsumerError> {
        let failed = self.failed();
        self.out.take().map_or(Ok(()), |out| out.finalize().map_err(failed))
    }
}
