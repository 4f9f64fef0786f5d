//! Representations as a length-prefixed binary stream, for programs at a pipe or a Unix socket. docs/output.md describes the
//! format; examples/read_stream.py reads it.
//!
//! ```text
//! stream  = "BELLIS1\n" message*                 the digit is the version
//! message = u32 header bytes, u32 payload bytes, header, payload          little endian
//! header  = JSON: "type" is "stream" (the first one), "chunk", "segment" or "end" (the last one), and
//!           "arrays": [{"name", "dtype", "shape"}], concatenated in the payload, row-major
//! ```

use std::io::{ErrorKind, Write};
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::jsonl::{JsonOptions, Line};
use super::{Consumer, ConsumerError, Requirements, StreamInfo};
use crate::names::named;
use crate::stream::Representation;

/// Time within which the reader of a socket accepts a part of a message.
const ACCEPTED_WITHIN: Duration = Duration::from_secs(10);
/// Magic of every stream; the digit is the version.
pub const MAGIC: &[u8; 8] = b"BELLIS1\n";

/// Number format of the payload.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FloatType {
    /// 32 bits
    #[default]
    F32,
    /// 16 bits (IEEE half precision): half the bytes, three digits
    F16,
}

named!(FloatType, "float type", { F32 => "f32", F16 => "f16" });

impl FloatType {
    /// NumPy's name.
    fn dtype(self) -> &'static str {
        match self {
            Self::F32 => "<f4",
            Self::F16 => "<f2",
        }
    }
}

/// Arrays in a chunk's payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum ArrayName {
    /// Vectors, [frames, dim]
    Vectors,
    /// Log-posteriors of the units at the exit layer, [frames, units]
    Posteriors,
    /// Keyword embeddings, [frames, width]
    Embedding,
    /// Logits of the exit layer's CTC branch, [frames, classes]
    Ctc,
    /// The chunk's audio, `[samples]`
    Audio,
}

named!(ArrayName, "array", {
    Vectors => "vectors",
    Posteriors => "posteriors",
    Embedding => "embedding",
    Ctc => "ctc",
    Audio => "audio",
});

/// One array of a message.
pub(super) struct Array<'a> {
    pub name: &'static str,
    pub shape: Vec<usize>,
    pub values: &'a [f32],
}

#[derive(Serialize)]
struct ArrayInfo<'a> {
    name: &'static str,
    dtype: &'static str,
    shape: &'a [usize],
}

#[derive(Serialize)]
struct Header<'a, T> {
    r#type: &'static str,
    #[serde(flatten)]
    content: &'a T,
    arrays: Vec<ArrayInfo<'a>>,
}

/// Destination of a stream.
pub enum Endpoint {
    /// Standard output.
    Stdout,
    /// A Unix socket on which the reader listens.
    Unix(PathBuf),
    /// Any writer, with its name for errors.
    Writer(Box<dyn Write + Send>, String),
}

impl From<super::StreamOutput> for Endpoint {
    fn from(output: super::StreamOutput) -> Self {
        match output {
            super::StreamOutput::Stdout => Self::Stdout,
            super::StreamOutput::Unix(path) => Self::Unix(path),
        }
    }
}

/// Writes messages to an endpoint.
pub(super) struct MessageWriter {
    out: Box<dyn Write + Send>,
    place: String,
    float: FloatType,
    message: Vec<u8>,
    /// Whether a message was not written completely.
    broken: bool,
}

impl MessageWriter {
    /// Opens the endpoint and writes the stream's description.
    pub fn open(endpoint: Endpoint, float: FloatType, stream: &StreamInfo) -> Result<Self, ConsumerError> {
        let (out, place): (Box<dyn Write + Send>, String) = match endpoint {
            Endpoint::Stdout => (Box::new(std::io::stdout()), "standard output".into()),
            Endpoint::Writer(out, place) => (out, place),
            #[cfg(unix)]
            Endpoint::Unix(path) => match std::os::unix::net::UnixStream::connect(&path) {
                // Otherwise a reader that accepts nothing would hold this thread, and whatever follows it, for ever.
                Ok(socket) => match socket.set_write_timeout(Some(ACCEPTED_WITHIN)) {
                    Ok(()) => (Box::new(socket), path.display().to_string()),
                    Err(error) => return Err(ConsumerError::write(path.display().to_string(), error)),
                },
                Err(error) => {
                    let path = path.display();
                    return Err(ConsumerError::other(format!(
                        "{path}: {error}; start the reader first, because it creates the socket (examples/read_stream.py {path})"
                    )));
                }
            },
            #[cfg(not(unix))]
            Endpoint::Unix(_) => return Err(ConsumerError::other("Unix sockets are not supported on this system".into())),
        };
        let mut writer = Self { out, place, float, message: MAGIC.to_vec(), broken: false };
        writer.append("stream", stream, &[])?;
        writer.send()?;
        Ok(writer)
    }

    /// Writes one message; nothing after a message that was not written completely.
    pub fn write<T: Serialize>(&mut self, kind: &'static str, content: &T, arrays: &[Array<'_>]) -> Result<(), ConsumerError> {
        if self.broken {
            return Ok(());
        }
        self.append(kind, content, arrays)?;
        self.send()
    }

    fn append<T: Serialize>(&mut self, kind: &'static str, content: &T, arrays: &[Array<'_>]) -> Result<(), ConsumerError> {
        let dtype = self.float.dtype();
        let infos = arrays.iter().map(|array| ArrayInfo { name: array.name, dtype, shape: &array.shape }).collect();
        let header = serde_json::to_vec(&Header { r#type: kind, content, arrays: infos })
            .map_err(|error| ConsumerError::other(format!("{}: {error}", self.place)))?;
        let values = || arrays.iter().flat_map(|array| array.values);
        let bytes = values().count() * if self.float == FloatType::F16 { 2 } else { 4 };
        for length in [header.len(), bytes] {
            let length =
                u32::try_from(length).map_err(|_| ConsumerError::other(format!("{}: a message exceeds 4 GiB", self.place)))?;
            self.message.extend_from_slice(&length.to_le_bytes());
        }
        self.message.extend_from_slice(&header);
        match self.float {
            FloatType::F32 => values().for_each(|value| self.message.extend_from_slice(&value.to_le_bytes())),
            FloatType::F16 => {
                values().for_each(|value| self.message.extend_from_slice(&half::f16::from_f32(*value).to_le_bytes()));
            }
        }
        Ok(())
    }

    fn send(&mut self) -> Result<(), ConsumerError> {
        let written = self.out.write_all(&self.message).and_then(|()| self.out.flush()).map_err(|error| match error.kind() {
            ErrorKind::WouldBlock | ErrorKind::TimedOut => {
                let text = format!("the reader has accepted nothing for {} s", ACCEPTED_WITHIN.as_secs());
                std::io::Error::new(ErrorKind::TimedOut, text)
            }
            _ => error,
        });
        self.message.clear();
        // A part of the message may have arrived: anything after it would be read as the rest.
        self.broken |= written.is_err();
        written.map_err(|error| ConsumerError::write(self.place.clone(), error))
    }
}

/// Writes one message per chunk.
pub struct Stream {
    endpoint: Option<Endpoint>,
    arrays: Vec<ArrayName>,
    float: FloatType,
    writer: Option<MessageWriter>,
    chunks: u64,
}

#[derive(Serialize)]
struct End {
    chunks: u64,
}

impl Stream {
    /// Writes `arrays` of every chunk to `endpoint`, which is opened when the stream begins.
    pub fn new(endpoint: Endpoint, arrays: Vec<ArrayName>, float: FloatType) -> Self {
        Self { endpoint: Some(endpoint), arrays, float, writer: None, chunks: 0 }
    }
}

impl Consumer for Stream {
    fn name(&self) -> &str {
        "stream"
    }

    fn requires(&self) -> Requirements {
        let has = |name| self.arrays.contains(&name);
        Requirements {
            posteriors: has(ArrayName::Posteriors),
            embedding: has(ArrayName::Embedding),
            ctc: has(ArrayName::Ctc),
            audio: has(ArrayName::Audio),
        }
    }

    fn begin(&mut self, stream: &StreamInfo) -> Result<(), ConsumerError> {
        if let Some(endpoint) = self.endpoint.take() {
            self.writer = Some(MessageWriter::open(endpoint, self.float, stream)?);
        }
        Ok(())
    }

    fn consume(&mut self, chunk: &Representation) -> Result<(), ConsumerError> {
        let Some(writer) = &mut self.writer else { return Ok(()) };
        let matrix = |name, frames: &'_ crate::engine::Frames| (name, vec![frames.frames(), frames.dim()]);
        let mut arrays = Vec::with_capacity(self.arrays.len());
        for name in &self.arrays {
            let rows = match name {
                ArrayName::Vectors => Some(("vectors", &chunk.vectors)),
                ArrayName::Posteriors => chunk.log_posteriors.as_ref().map(|rows| ("posteriors", rows)),
                ArrayName::Embedding => chunk.embedding.as_ref().map(|rows| ("embedding", rows)),
                ArrayName::Ctc => chunk.ctc_logits.as_ref().map(|rows| ("ctc", rows)),
                ArrayName::Audio => None,
            };
            if let Some((name, rows)) = rows {
                let (name, shape) = matrix(name, rows);
                arrays.push(Array { name, shape, values: rows.as_slice() });
            } else if let (ArrayName::Audio, Some(audio)) = (name, &chunk.audio) {
                arrays.push(Array { name: "audio", shape: vec![audio.len()], values: audio });
            }
        }
        self.chunks += 1;
        writer.write("chunk", &Line::new(chunk, JsonOptions::default()), &arrays)
    }

    fn finish(&mut self) -> Result<(), ConsumerError> {
        match &mut self.writer {
            Some(writer) => writer.write("end", &End { chunks: self.chunks }, &[]),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::consumer::testing::{chunks, stream};

    /// A message's header and its payload.
    fn message(bytes: &mut &[u8]) -> (serde_json::Value, Vec<u8>) {
        let mut take = |count: usize| {
            let mut part = vec![0; count];
            bytes.read_exact(&mut part).unwrap();
            part
        };
        let mut length = || u32::from_le_bytes(take(4).try_into().unwrap()) as usize;
        let (header, payload) = (length(), length());
        (serde_json::from_slice(&take(header)).unwrap(), take(payload))
    }

    #[cfg(unix)]
    fn sent(arrays: Vec<ArrayName>, float: FloatType) -> Vec<u8> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let reader = std::thread::spawn(move || {
            let mut bytes = Vec::new();
            listener.accept().unwrap().0.read_to_end(&mut bytes).unwrap();
            bytes
        });
        let mut consumer = Stream::new(Endpoint::Unix(path), arrays, float);
        consumer.begin(&stream(3)).unwrap();
        chunks(&[0.5; 15], 3, &[2, 3]).iter().for_each(|chunk| consumer.consume(chunk).unwrap());
        consumer.finish().unwrap();
        drop(consumer);
        reader.join().unwrap()
    }

    #[cfg(unix)]
    #[test]
    fn messages_carry_the_stream_then_every_chunk_then_the_end() {
        let bytes = sent(vec![ArrayName::Vectors, ArrayName::Ctc, ArrayName::Audio], FloatType::F32);
        let (magic, mut rest) = bytes.split_at(8);
        assert_eq!(magic, MAGIC);
        let (header, payload) = message(&mut rest);
        assert_eq!((&header["type"], &header["dim"], payload.len()), (&"stream".into(), &2.into(), 0));
        assert_eq!(header["vocabulary"].as_array().unwrap().len(), 3);
        let mut frame = 0.0f32;
        for (number, frames) in [(0, 2), (1, 3)] {
            let (header, payload) = message(&mut rest);
            assert_eq!(
                (&header["type"], &header["chunk"], &header["samples"]),
                (&"chunk".into(), &number.into(), &(frames * 320).into())
            );
            let shapes: Vec<_> = header["arrays"].as_array().unwrap().iter().map(|array| array["shape"].to_string()).collect();
            assert_eq!(shapes, [format!("[{frames},2]"), format!("[{frames},3]"), format!("[{}]", frames * 320)]);
            let values: Vec<f32> = payload.chunks(4).map(|four| f32::from_le_bytes(four.try_into().unwrap())).collect();
            assert_eq!(values.len(), frames * (2 + 3 + 320));
            for pair in values[..frames * 2].chunks(2) {
                assert_eq!(pair, [frame, 0.0]);
                frame += 1.0;
            }
            assert!(values[frames * 2..frames * 5].iter().all(|value| *value == 0.5));
        }
        let (header, payload) = message(&mut rest);
        assert_eq!((&header["type"], &header["chunks"], payload.len()), (&"end".into(), &2.into(), 0));
        assert!(rest.is_empty());
    }

    #[cfg(unix)]
    #[test]
    fn half_precision_has_half_the_bytes() {
        let bytes = sent(vec![ArrayName::Vectors], FloatType::F16);
        let mut rest = &bytes[8..];
        message(&mut rest);
        let (header, payload) = message(&mut rest);
        assert_eq!((&header["arrays"][0]["dtype"], payload), (&"<f2".into(), vec![0, 0, 0, 0, 0, 0x3c, 0, 0]));
    }

    /// Fails once after this many bytes, and then accepts everything, like a disk on which a file was deleted.
    struct FailsOnce {
        left: Option<usize>,
        out: Arc<Mutex<Vec<u8>>>,
    }

    impl Write for FailsOnce {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            let count = match &mut self.left {
                Some(0) => {
                    self.left = None;
                    return Err(std::io::Error::other("no space left"));
                }
                Some(left) => {
                    let count = bytes.len().min(*left);
                    *left -= count;
                    count
                }
                None => bytes.len(),
            };
            self.out.lock().unwrap().extend_from_slice(&bytes[..count]);
            Ok(count)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn nothing_follows_a_message_that_was_not_written_completely() {
        let written = |left: Option<usize>| {
            let out = Arc::<Mutex<Vec<u8>>>::default();
            let endpoint = Endpoint::Writer(Box::new(FailsOnce { left, out: out.clone() }), "disk".into());
            let mut consumer = Stream::new(endpoint, vec![ArrayName::Vectors], FloatType::F32);
            consumer.begin(&stream(3)).unwrap();
            let chunks = chunks(&[0.5; 21], 3, &[2, 3, 2]);
            let accepted: Vec<bool> = chunks.iter().map(|chunk| consumer.consume(chunk).is_ok()).collect();
            consumer.finish().unwrap();
            let bytes = out.lock().unwrap().clone();
            (bytes, accepted)
        };
        let (whole, accepted) = written(None);
        assert_eq!(accepted, [true; 3]);
        // The description of the stream and the first chunk.
        let mut rest = &whole[8..];
        message(&mut rest);
        message(&mut rest);
        let within_the_second = whole.len() - rest.len() + 20;
        let (part, accepted) = written(Some(within_the_second));
        assert!(accepted[0] && !accepted[1], "{accepted:?}");
        assert!(part == whole[..within_the_second], "{} bytes", part.len());
    }

    #[cfg(unix)]
    #[test]
    fn a_socket_without_a_reader_is_told_with_the_way_out() {
        let mut consumer = Stream::new(Endpoint::Unix("/nowhere/socket".into()), vec![], FloatType::F32);
        let error = consumer.begin(&stream(1)).unwrap_err().to_string();
        assert!(error.contains("/nowhere/socket") && error.contains("start the reader first"), "{error}");
    }
}
