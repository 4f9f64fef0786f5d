//! The sound that was computed, as a WAV file: to hear what Bellis heard.

use std::fs::File;
use std::io::BufWriter;
use std::path::{Path, PathBuf};

use super::{Consumer, ConsumerError, StreamInfo, Wants};
use crate::stream::Representation;

/// Writes 32-bit float WAV at the pack's rate.
pub struct Wav {
    path: PathBuf,
    out: Option<hound::WavWriter<BufWriter<File>>>,
}

impl Wav {
    /// Will write to `path`, which is made when the stream begins.
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), out: None }
    }

    fn failed(&self) -> impl Fn(hound::Error) -> ConsumerError + use<> {
        let place = self.path.display().to_string();
        move |error| match error {
            hound::Error::IoError(error) => ConsumerError::write(place.clone(), error),
            other => ConsumerError::Other(format!("{place}: {other}")),
        }
    }
}

impl Consumer for Wav {
    fn name(&self) -> &str {
        "wav"
    }

    fn wants(&self) -> Wants {
        Wants { audio: true, ..Wants::default() }
    }

    fn begin(&mut self, stream: &StreamInfo) -> Result<(), ConsumerError> {
        let sample_format = hound::SampleFormat::Float;
        let spec = hound::WavSpec { channels: 1, sample_rate: stream.sample_rate, bits_per_sample: 32, sample_format };
        self.out = Some(hound::WavWriter::create(&self.path, spec).map_err(self.failed())?);
        Ok(())
    }

    fn consume(&mut self, representation: &Representation) -> Result<(), ConsumerError> {
        let failed = self.failed();
        if let (Some(out), Some(audio)) = (&mut self.out, &representation.audio) {
            audio.iter().try_for_each(|&sample| out.write_sample(sample)).map_err(failed)?;
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<(), ConsumerError> {
        let failed = self.failed();
        self.out.take().map_or(Ok(()), |out| out.finalize().map_err(failed))
    }
}
