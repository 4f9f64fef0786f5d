//! Output files of consumers. They stay valid if a run is interrupted by a full disk, a signal or a crash: lines are complete, and
//! headers match the rows.

use std::fs::{File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::ConsumerError;
use crate::output::claim;

/// Serialises `value` and writes it as a line in one call, so that lines of several writers do not interleave.
pub(super) fn write_line(out: &mut impl Write, place: &str, value: &impl Serialize) -> Result<(), ConsumerError> {
    let mut line = serde_json::to_vec(value).map_err(|error| ConsumerError::write(place, error.into()))?;
    line.push(b'\n');
    out.write_all(&line).and_then(|()| out.flush()).map_err(|error| ConsumerError::write(place, error))
}

/// Number of chunks from one update of a file's header to the next: a live run may be killed at any time.
pub(super) fn chunks_per_header(live: bool) -> u64 {
    if live { 1 } else { 64 }
}

/// A text file, created or truncated by the first write. A write is appended completely or not at all: if the disk fills up within a
/// line, the written part is removed. If another program truncates the file (logrotate's `copytruncate`), writing continues at its new
/// end.
#[derive(Debug)]
pub struct LineFile {
    path: PathBuf,
    file: Option<File>,
}

impl LineFile {
    /// Creates a writer for `path`, which is created or overwritten by the first write.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), file: None }
    }

    /// A writer for a file that is already open.
    pub fn opened(file: File) -> Self {
        Self { path: PathBuf::new(), file: Some(file) }
    }

    /// Creates or truncates the file now, so that an invalid path is reported at once.
    ///
    /// # Errors
    ///
    /// If the file cannot be created or opened.
    pub fn create(&mut self) -> std::io::Result<()> {
        self.open().map(drop)
    }

    fn open(&mut self) -> std::io::Result<&mut File> {
        match &mut self.file {
            Some(file) => Ok(file),
            none => {
                let file = OpenOptions::new().append(true).create(true).open(&self.path)?;
                if file.metadata()?.is_file() {
                    claim(&file)?;
                    file.set_len(0)?;
                }
                Ok(none.insert(file))
            }
        }
    }
}

impl Write for LineFile {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let file = self.open()?;
        let mut written = 0;
        while written < bytes.len() {
            let error = match file.write(&bytes[written..]) {
                Ok(0) => std::io::ErrorKind::WriteZero.into(),
                Ok(count) => {
                    written += count;
                    continue;
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(error) => error,
            };
            let length = file.metadata().ok().filter(|found| found.is_file()).map(|found| found.len());
            if let Some(length) = length.filter(|_| written > 0) {
                let _ = file.set_len(length.saturating_sub(written as u64));
            }
            return Err(error);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// A binary file with a header and rows. The header is rewritten after the rows; a partial last row is removed. If another program truncates the file
/// (logrotate's `copytruncate`), it begins again.
#[derive(Debug)]
pub(super) struct RowFile {
    file: File,
    place: String,
    is_file: bool,
    /// Bytes of the header and of complete rows.
    length: u64,
    /// The header for no rows.
    header: Vec<u8>,
    row_bytes: u64,
}

impl RowFile {
    /// Creates or truncates `path` and writes a header for zero rows. A pipe gets the header `endless` for an unknown number of rows, and is
    /// rejected if the format has none.
    pub fn create(path: &Path, header: &[u8], endless: Option<&[u8]>, row_bytes: usize) -> Result<Self, ConsumerError> {
        let place = path.display().to_string();
        let failed = |error| ConsumerError::write(place.clone(), error);
        let mut file = OpenOptions::new().write(true).create(true).truncate(false).open(path).map_err(failed)?;
        let is_file = file.metadata().map_err(failed)?.is_file();
        if is_file {
            claim(&file).and_then(|()| file.set_len(0)).map_err(failed)?;
        }
        let header = match file.stream_position() {
            Ok(_) => header,
            Err(_) => endless.ok_or_else(|| {
                ConsumerError::other(format!("{place}: is a pipe, in which a header cannot be rewritten; name a file"))
            })?,
        };
        file.write_all(header).map_err(failed)?;
        Ok(Self {
            file,
            place,
            is_file,
            length: header.len() as u64,
            header: header.to_vec(),
            row_bytes: row_bytes.max(1) as u64,
        })
    }

    /// Complete rows in the file.
    pub fn rows(&self) -> u64 {
        (self.length - self.header.len() as u64) / self.row_bytes
    }

    /// Appends rows. After an error, the rows that fitted remain.
    pub fn append(&mut self, rows: &[u8]) -> Result<(), ConsumerError> {
        if self.is_file && self.file.metadata().is_ok_and(|found| found.len() < self.length) {
            self.length = self.header.len() as u64;
            let header = self.header.clone();
            self.write_header(&header)?;
        }
        let mut written = 0;
        while written < rows.len() {
            match self.file.write(&rows[written..]) {
                Ok(count) if count > 0 => written += count,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                failed => {
                    self.length += written as u64 - written as u64 % self.row_bytes;
                    if self.is_file {
                        let _ = self.file.set_len(self.length);
                    }
                    let error = failed.err().unwrap_or_else(|| std::io::ErrorKind::WriteZero.into());
                    return Err(ConsumerError::write(self.place.clone(), error));
                }
            }
        }
        self.length += written as u64;
        Ok(())
    }

    /// Rewrites the header, with the length of the first one. Pipes and devices keep the first one.
    pub fn write_header(&mut self, header: &[u8]) -> Result<(), ConsumerError> {
        if !self.is_file {
            return Ok(());
        }
        let file = &mut self.file;
        let written = file.seek(SeekFrom::Start(0)).and_then(|_| file.write_all(header));
        let back = file.seek(SeekFrom::Start(self.length));
        written.and(back).map(drop).map_err(|error| ConsumerError::write(self.place.clone(), error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_truncated_by_another_program_goes_on_at_its_new_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.jsonl");
        std::fs::write(&path, "what was there before\n").unwrap();
        let mut file = LineFile::new(&path);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "what was there before\n");
        write_line(&mut file, "x", &1).unwrap();
        write_line(&mut file, "x", &2).unwrap();
        // logrotate: copy, then truncate.
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "1\n2\n");
        File::options().write(true).open(&path).unwrap().set_len(0).unwrap();
        write_line(&mut file, "x", &3).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "3\n");
    }

    #[test]
    fn rows_begin_again_in_a_file_that_is_truncated_by_another_program() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        let mut file = RowFile::create(&path, &[0; 8], None, 4).unwrap();
        file.append(&[1; 12]).unwrap();
        file.write_header(&[3; 8]).unwrap();
        File::options().write(true).open(&path).unwrap().set_len(0).unwrap();
        file.append(&[2; 4]).unwrap();
        assert_eq!((file.rows(), std::fs::read(&path).unwrap()), (1, [vec![0; 8], vec![2; 4]].concat()));
    }

    #[cfg(unix)]
    #[test]
    fn a_file_that_another_run_writes_is_not_truncated() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        let mut file = LineFile::new(&path);
        write_line(&mut file, "x", &1).unwrap();
        assert_eq!(LineFile::new(&path).create().unwrap_err().kind(), std::io::ErrorKind::ResourceBusy);
        let error = RowFile::create(&path, &[0; 8], None, 4).unwrap_err();
        assert!(
            matches!(&error, ConsumerError::Write { source, .. } if source.kind() == std::io::ErrorKind::ResourceBusy),
            "{error}"
        );
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "1\n");
        drop(file);
        let rows = RowFile::create(&path, &[0; 8], None, 4).unwrap();
        assert!(LineFile::new(&path).create().is_err());
        assert_eq!((rows.rows(), std::fs::read(&path).unwrap()), (0, vec![0; 8]));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_full_device_is_an_error() {
        let error = write_line(&mut LineFile::new("/dev/full"), "/dev/full", &1).unwrap_err();
        assert!(matches!(error, ConsumerError::Write { .. }), "{error}");
        let error = RowFile::create(Path::new("/dev/full"), &[0; 8], None, 4).unwrap_err();
        assert!(matches!(error, ConsumerError::Write { .. }), "{error}");
    }
}
