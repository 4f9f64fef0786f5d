//! All frames of a stream as one NumPy array `[frames, dim] f32`, and beside it a line of JSON per chunk.
//!
//! The header has room for any number of frames and is put right now and then and at the end, with live sound after every chunk:
//! memory stays constant however long the stream is, and a run that is killed leaves a file that opens and holds what it computed.

use std::fs::File;
use std::io::{BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use super::jsonl::{JsonLines, JsonOptions};
use super::{Consumer, ConsumerError, StreamInfo};
use crate::stream::Representation;

/// Writes `x.npy` and `x.chunks.jsonl`.
pub struct Npy {
    path: PathBuf,
    frames_out: Option<BufWriter<File>>,
    chunks_out: Option<JsonLines<BufWriter<File>>>,
    frames: u64,
    dim: usize,
    chunks_per_header: u64,
}

/// Bytes of the header: the magic, its length, and the dictionary padded to a multiple of 64 (NumPy's format 1.0).
const HEADER_BYTES: usize = 128;
/// How often a running file's header is put right when nobody waits for its chunks.
const CHUNKS_PER_HEADER: u64 = 64;

impl Npy {
    /// Will write to `path`, which is made when the stream begins.
    pub fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            frames_out: None,
            chunks_out: None,
            frames: 0,
            dim: 0,
            chunks_per_header: CHUNKS_PER_HEADER,
        }
    }

    fn failed(&self) -> impl Fn(std::io::Error) -> ConsumerError + use<> {
        let place = self.path.display().to_string();
        move |error| ConsumerError::write(place.clone(), error)
    }
}

impl Npy {
    fn put_header_right(&mut self) -> Result<(), ConsumerError> {
        let (header, failed) = (header(self.frames, self.dim), self.failed());
        let Some(out) = &mut self.frames_out else { return Ok(()) };
        let end = out.stream_position().map_err(&failed)?;
        out.seek(SeekFrom::Start(0)).map_err(&failed)?;
        out.write_all(&header).map_err(&failed)?;
        out.seek(SeekFrom::Start(end)).map_err(&failed)?;
        Ok(())
    }
}

/// The header of a file of `frames` rows of `dim` f32.
pub(super) fn header(frames: u64, dim: usize) -> [u8; HEADER_BYTES] {
    let mut header = [b' '; HEADER_BYTES];
    let text = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({frames}, {dim}), }}");
    header[..8].copy_from_slice(b"\x93NUMPY\x01\x00");
    header[8..10].copy_from_slice(&((HEADER_BYTES - 10) as u16).to_le_bytes());
    header[10..10 + text.len()].copy_from_slice(text.as_bytes());
    header[HEADER_BYTES - 1] = b'\n';
    header
}

impl Consumer for Npy {
    fn name(&self) -> &str {
        "npy"
    }

    fn begin(&mut self, stream: &StreamInfo) -> Result<(), ConsumerError> {
        self.dim = stream.dim;
        self.chunks_per_header = if stream.live { 1 } else { CHUNKS_PER_HEADER };
        let create = |path: &Path| {
            let failed = |error| ConsumerError::write(path.display().to_string(), error);
            File::create(path).map(BufWriter::new).map_err(failed)
        };
        let mut out = create(&self.path)?;
        out.write_all(&header(0, self.dim)).map_err(self.failed())?;
        self.frames_out = Some(out);
        let side = super::side_file(&self.path);
        self.chunks_out = Some(JsonLines::new(create(&side)?, side.display().to_string(), JsonOptions::default()));
        Ok(())
    }

    fn consume(&mut self, representation: &Representation) -> Result<(), ConsumerError> {
        let failed = self.failed();
        if let (Some(frames), Some(chunks)) = (&mut self.frames_out, &mut self.chunks_out) {
            for value in representation.vectors.as_slice() {
                frames.write_all(&value.to_le_bytes()).map_err(&failed)?;
            }
            self.frames += representation.vectors.frames() as u64;
            chunks.consume(representation)?;
            if representation.sequence % self.chunks_per_header == self.chunks_per_header - 1 {
                self.put_header_right()?;
            }
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<(), ConsumerError> {
        let failed = self.failed();
        if let Some(mut chunks) = self.chunks_out.take() {
            chunks.finish()?;
        }
        self.put_header_right()?;
        if let Some(mut frames) = self.frames_out.take() {
            frames.flush().map_err(&failed)?;
        }
        Ok(())
    }
}
