//! Repair of output files after a power loss.
//!
//! A header is rewritten in place after every chunk and can reach the disk seconds before the file's new length does. If the power fails
//! in between, the header has more rows than the file. Likewise, the last line of a text file may be incomplete. The last block may be
//! padded with zeros.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;

use super::npy::{self, HEADER_BYTES};
use super::wav::WavFormat;

/// Makes the file at `path` consistent again if a consumer wrote it: the header of an NPY or WAV file gets the number of rows in the file,
/// and an incomplete last line of JSON is removed. Other files are not changed. Returns what was done, for the log.
///
/// # Errors
///
/// If the file cannot be read or written.
pub fn repair(path: &Path) -> std::io::Result<Option<String>> {
    let mut file = OpenOptions::new().read(true).write(true).open(path)?;
    let length = file.metadata()?.len();
    let mut start = Vec::new();
    (&mut file).take(HEADER_BYTES as u64).read_to_end(&mut start)?;
    if let Some(rows) = npy_rows(&start).or_else(|| wav_rows(&start)) {
        let in_file = length.saturating_sub(rows.header.len() as u64) / rows.row_bytes;
        // Readers ignore what follows the rows of the header.
        if in_file >= rows.count {
            return Ok(None);
        }
        let found = in_file.saturating_sub(padding(&mut file, length, rows.header.len() as u64)?.div_ceil(rows.row_bytes));
        file.seek(SeekFrom::Start(0))?;
        file.write_all(&(rows.with_count)(found))?;
        return Ok(Some(format!("the header had {} rows, the file has {found}", rows.count)));
    }
    if start.first() == Some(&b'{') {
        return cut_line(&mut file, length);
    }
    Ok(None)
}

/// Zeros at the end of the last block, which is possibly padded. They may also be digital silence, of which an eighth of a second is lost.
fn padding(file: &mut File, length: u64, header_bytes: u64) -> std::io::Result<u64> {
    const BLOCK: u64 = 4096;
    if length == 0 || !length.is_multiple_of(BLOCK) {
        return Ok(0);
    }
    file.seek(SeekFrom::Start((length - BLOCK).max(header_bytes)))?;
    let mut end = Vec::new();
    file.read_to_end(&mut end)?;
    Ok(end.iter().rev().take_while(|&&byte| byte == 0).count() as u64)
}

/// What a header written by a consumer says.
struct Rows {
    header: Vec<u8>,
    count: u64,
    row_bytes: u64,
    with_count: Box<dyn Fn(u64) -> Vec<u8>>,
}

fn npy_rows(start: &[u8]) -> Option<Rows> {
    let text = std::str::from_utf8(start.get(10..HEADER_BYTES)?).ok()?;
    let shape = text.split_once("'shape': (")?.1.split_once(')')?.0;
    let (rows, dim) = shape.split_once(", ")?;
    let (count, dim): (u64, usize) = (rows.parse().ok()?, dim.parse().ok()?);
    let header = npy::header(count, dim).to_vec();
    let with_count = Box::new(move |rows| npy::header(rows, dim).to_vec());
    (header == start && dim > 0).then_some(Rows { header, count, row_bytes: 4 * dim as u64, with_count })
}

fn wav_rows(start: &[u8]) -> Option<Rows> {
    let number = |from: usize| Some(u32::from_le_bytes(start.get(from..from + 4)?.try_into().ok()?));
    let rate = number(24)?;
    [WavFormat::S16, WavFormat::F32].into_iter().find_map(|format| {
        let header_bytes = format.header(rate, Some(0)).len();
        let row_bytes = format.bytes() as u64;
        let count = u64::from(number(header_bytes - 4)?) / row_bytes;
        let header = format.header(rate, Some(count));
        let with_count = Box::new(move |rows| format.header(rate, Some(rows)));
        (start.get(..header_bytes)? == header).then_some(Rows { header, count, row_bytes, with_count })
    })
}

/// Removes an incomplete last line. A line of JSON that only lacks its newline is kept.
fn cut_line(file: &mut File, length: u64) -> std::io::Result<Option<String>> {
    /// Lines with vectors have about 100 KB.
    const LONGEST_LINE: u64 = 4 << 20;
    let from = length.saturating_sub(LONGEST_LINE);
    file.seek(SeekFrom::Start(from))?;
    let mut end = Vec::new();
    file.read_to_end(&mut end)?;
    let complete = end.iter().rposition(|&byte| byte == b'\n').map_or(0, |position| position + 1);
    let line = &end[complete..];
    // Lines of consumers are objects; others belong to another program. A block that did not reach the disk is zeros.
    let foreign = !matches!(line.first(), Some(b'{' | 0));
    if foreign || (complete == 0 && from > 0) || serde_json::from_slice::<serde_json::Value>(line).is_ok() {
        return Ok(None);
    }
    file.set_len(from + complete as u64)?;
    Ok(Some(format!("removed {} bytes after the last complete line", line.len())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn repaired(name: &str, content: &[u8]) -> (Vec<u8>, bool) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        let done = repair(&path).unwrap().is_some();
        (std::fs::read(&path).unwrap(), done)
    }

    #[test]
    fn after_a_repair_a_header_has_the_rows_that_reached_the_disk() {
        let npy = |header_rows, rows: usize| [npy::header(header_rows, 3).to_vec(), vec![7; 12 * rows]].concat();
        let wav = |format: WavFormat, header_rows, rows: usize| {
            [format.header(16_000, Some(header_rows)), vec![7; format.bytes() * rows]].concat()
        };
        for (header_rows, rows) in [(9, 5), (9, 0), (12_345_678, 1)] {
            assert_eq!(repaired("x.npy", &npy(header_rows, rows)), (npy(rows as u64, rows), true));
            for format in [WavFormat::S16, WavFormat::F32] {
                assert_eq!(repaired("x.wav", &wav(format, header_rows, rows)), (wav(format, rows as u64, rows), true));
            }
        }
        // A part of a row remains behind the last one, where readers ignore it.
        let torn = |header_rows| [npy(header_rows, 2), vec![1; 5]].concat();
        assert_eq!(repaired("x.npy", &torn(4)), (torn(2), true));
        for correct in [npy(2, 2), npy(1, 2), [npy(2, 2), vec![0; 4096]].concat()] {
            assert_eq!(repaired("x.npy", &correct), (correct.clone(), false));
        }
    }

    #[test]
    fn zeros_that_pad_the_last_block_are_not_counted() {
        let padded = |header_rows| {
            let mut content = [WavFormat::S16.header(16_000, Some(header_rows)), vec![7; 5000]].concat();
            content.resize(8192, 0);
            content
        };
        assert_eq!(repaired("x.wav", &padded(9_000)), (padded(2_500), true));
        // The header is correct.
        assert_eq!(repaired("x.wav", &padded(2_500)), (padded(2_500), false));
        // A length that is not that of whole blocks is exact.
        let exact = |header_rows| [WavFormat::S16.header(16_000, Some(header_rows)), vec![0; 5000]].concat();
        assert_eq!(repaired("x.wav", &exact(9_000)), (exact(2_500), true));
    }

    #[test]
    fn only_an_incomplete_last_line_is_removed() {
        assert_eq!(repaired("x.jsonl", b"{\"a\":1}\n{\"a\":2"), (b"{\"a\":1}\n".to_vec(), true));
        assert_eq!(repaired("x.jsonl", b"{\"a\":1}\n{\"a\":2}\0\0\0"), (b"{\"a\":1}\n".to_vec(), true));
        assert_eq!(repaired("x.jsonl", b"{\"a"), (vec![], true));
        let pretty = b"{\n  \"a\": 1\n}";
        for kept in [&b"{\"a\":1}\n"[..], b"{\"a\":1}\n{\"a\":2}", b"a text\nof another program", pretty] {
            assert_eq!(repaired("x.jsonl", kept), (kept.to_vec(), false));
        }
    }

    #[test]
    fn files_of_other_programs_are_not_changed() {
        // A WAV file with a chunk before the data, and an array of other numbers.
        let list = [&b"RIFF\x24\0\0\0WAVELIST\x04\0\0\0abcd"[..], &[1; 64]].concat();
        let mut integers = [npy::header(9, 3).to_vec(), vec![7; 12]].concat();
        integers[21..24].copy_from_slice(b"<i4");
        for content in [&list, &integers, &b"RIFF".to_vec(), &vec![]] {
            assert_eq!(repaired("x", content), (content.clone(), false));
        }
    }
}
