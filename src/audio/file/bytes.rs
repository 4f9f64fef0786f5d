//! A byte stream with lookahead, parsed by the readers of all formats. It does not seek, so it works on files and pipes.

use std::io::Read;

/// Bytes requested from the reader at a time.
const READ_BYTES: usize = 32 << 10;

/// A reader with lookahead that counts the consumed bytes.
pub(super) struct Bytes {
    reader: Box<dyn Read + Send>,
    buffer: Vec<u8>,
    start: usize,
    consumed: u64,
    ended: bool,
    /// Total length, for regular files.
    length: Option<u64>,
}

impl Bytes {
    pub fn new(reader: Box<dyn Read + Send>, length: Option<u64>) -> Self {
        Self { reader, buffer: Vec::new(), start: 0, consumed: 0, ended: false, length }
    }

    /// The buffered bytes.
    pub fn buffered(&self) -> &[u8] {
        &self.buffer[self.start..]
    }

    /// Returns at least `count` bytes, or all that remain before the end of the stream.
    pub fn fill(&mut self, count: usize) -> std::io::Result<&[u8]> {
        while self.buffer.len() - self.start < count && !self.ended {
            if self.start > 0 {
                self.buffer.drain(..self.start);
                self.start = 0;
            }
            let filled = self.buffer.len();
            self.buffer.resize(filled + READ_BYTES.max(count - filled), 0);
            let read = self.reader.read(&mut self.buffer[filled..]);
            self.buffer.truncate(filled + read.as_ref().copied().unwrap_or(0));
            match read {
                Ok(0) => self.ended = true,
                Ok(_) => {}
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(self.buffered())
    }

    /// Replaces buffered bytes, `at` bytes ahead.
    pub fn overwrite<const N: usize>(&mut self, at: usize, bytes: [u8; N]) {
        if let Some(place) = self.buffer[self.start..].get_mut(at..at + N) {
            place.copy_from_slice(&bytes);
        }
    }

    /// Drops `count` buffered bytes.
    pub fn consume(&mut self, count: usize) {
        let count = count.min(self.buffer.len() - self.start);
        self.start += count;
        self.consumed += count as u64;
    }

    /// Skips `count` bytes, buffered or not, and returns how many existed.
    pub fn skip(&mut self, count: u64) -> std::io::Result<u64> {
        let mut left = count;
        while left > 0 {
            let step = left.min(READ_BYTES as u64) as usize;
            let available = self.fill(step)?.len().min(step);
            if available == 0 {
                break;
            }
            self.consume(available);
            left -= available as u64;
        }
        Ok(count - left)
    }

    /// Bytes consumed so far.
    pub fn position(&self) -> u64 {
        self.consumed
    }

    /// Remaining bytes, if the length is known.
    pub fn left(&self) -> Option<u64> {
        self.length.map(|length| length.saturating_sub(self.consumed))
    }
}

impl Read for Bytes {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        let buffered = self.fill(1)?;
        let count = buffered.len().min(out.len());
        out[..count].copy_from_slice(&buffered[..count]);
        self.consume(count);
        Ok(count)
    }
}
