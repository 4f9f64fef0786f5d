//! All frames of a stream as one NumPy array `[frames, dim] f32`, and a side file with a line of JSON per chunk.
//!
//! The header has space for any number of frames. It is updated periodically and at the end, for live audio after every chunk. Memory use
//! is therefore constant, and a killed run leaves a valid file with the frames computed so far.

use std::path::{Path, PathBuf};

use super::files::{LineFile, RowFile, chunks_per_header};
use super::jsonl::{JsonLines, JsonOptions};
use super::{Consumer, ConsumerError, StreamInfo};
use crate::stream::Representation;

/// Writes `x.npy` and `x.chunks.jsonl`.
pub struct Npy {
    path: PathBuf,
    frames_out: Option<RowFile>,
    chunks_out: Option<JsonLines<LineFile>>,
    dim: usize,
    chunks_per_header: u64,
    bytes: Vec<u8>,
}

/// Bytes of the header: the magic, its length, and the dictionary padded to a multiple of 64 (NumPy's format 1.0).
pub(super) const HEADER_BYTES: usize = 128;

impl Npy {
    /// Writes to `path` and its side file, which are created or overwritten when the stream begins.
    pub fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            frames_out: None,
            chunks_out: None,
            dim: 0,
            chunks_per_header: chunks_per_header(false),
            bytes: Vec::new(),
        }
    }

    fn write_header(&mut self) -> Result<(), ConsumerError> {
        let Some(out) = &mut self.frames_out else { return Ok(()) };
        out.write_header(&header(out.rows(), self.dim))
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
        self.chunks_per_header = chunks_per_header(stream.live);
        self.frames_out = Some(RowFile::create(&self.path, &header(0, self.dim), None, 4 * self.dim)?);
        let side = super::side_file(&self.path);
        let place = side.display().to_string();
        let mut lines = LineFile::new(side);
        lines.create().map_err(|error| ConsumerError::write(place.clone(), error))?;
        self.chunks_out = Some(JsonLines::new(lines, place, JsonOptions::default()));
        Ok(())
    }

    fn consume(&mut self, representation: &Representation) -> Result<(), ConsumerError> {
        if let (Some(frames), Some(chunks)) = (&mut self.frames_out, &mut self.chunks_out) {
            self.bytes.clear();
            self.bytes.extend(representation.vectors.as_slice().iter().flat_map(|value| value.to_le_bytes()));
            frames.append(&self.bytes)?;
            chunks.consume(representation)?;
            if representation.sequence % self.chunks_per_header == self.chunks_per_header - 1 {
                self.write_header()?;
            }
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<(), ConsumerError> {
        let written = self.write_header();
        self.frames_out = None;
        match self.chunks_out.take() {
            Some(mut chunks) => written.and(chunks.finish()),
            None => written,
        }
    }
}
