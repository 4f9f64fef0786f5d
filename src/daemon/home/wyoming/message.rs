//! Messages of the Wyoming protocol: a line of JSON, then as many bytes of further JSON and of payload as the line announces.
//!
//! ```text
//! {"type": "audio-chunk", "data_length": 48, "payload_length": 2048}⏎
//! {"rate": 16000, "width": 2, "channels": 1}<2048 bytes of PCM>
//! ```

use std::io::Write;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Maximum length of the line.
pub const LINE_LIMIT: usize = 64 << 10;
/// Maximum length of the JSON after the line.
pub const DATA_LIMIT: usize = 64 << 10;
/// Maximum length of the payload: 32 s of 16-bit mono audio at 16 kHz.
pub const PAYLOAD_LIMIT: usize = 1 << 20;

/// A message.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Message {
    /// Its type, such as `audio-chunk`.
    pub kind: String,
    /// Its data.
    pub data: Map<String, Value>,
    /// Its payload.
    pub payload: Vec<u8>,
}

/// Why bytes are no message.
#[derive(Debug, thiserror::Error)]
pub enum MessageError {
    /// The line does not end.
    #[error("a message's first line is longer than {LINE_LIMIT} bytes")]
    LongLine,
    /// The line, or the JSON after it, is not what it should be.
    #[error("a message is not valid")]
    Json(#[from] serde_json::Error),
    /// A block is too long.
    #[error("a message announces {length} bytes of {block}; at most {limit} are accepted")]
    TooLong {
        /// `data` or `payload`.
        block: &'static str,
        /// What it announces.
        length: u64,
        /// What is accepted.
        limit: usize,
    },
}

/// The line. Unknown keys, such as the sender's version, are ignored.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Line {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default, skip_serializing)]
    data: Option<Map<String, Value>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    data_length: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    payload_length: Option<u64>,
}

impl Message {
    /// A message of type `kind` with `data`, which is left out unless it is an object.
    pub fn new(kind: &str, data: Value) -> Self {
        let data = if let Value::Object(data) = data { data } else { Map::new() };
        Self { kind: kind.to_owned(), data, payload: Vec::new() }
    }

    /// Writes it in one call.
    ///
    /// # Errors
    ///
    /// Those of `out`.
    pub fn write(&self, out: &mut impl Write) -> std::io::Result<()> {
        let data = if self.data.is_empty() { Vec::new() } else { serde_json::to_vec(&self.data)? };
        let length = |block: &[u8]| (!block.is_empty()).then_some(block.len() as u64);
        let line =
            Line { kind: self.kind.clone(), data: None, data_length: length(&data), payload_length: length(&self.payload) };
        let mut bytes = serde_json::to_vec(&line)?;
        bytes.push(b'\n');
        bytes.extend_from_slice(&data);
        bytes.extend_from_slice(&self.payload);
        out.write_all(&bytes)
    }
}

/// Splits a stream of bytes into messages. It holds at most one message of the largest size and what [`push`](Self::push) adds.
#[derive(Debug, Default)]
pub struct Parser {
    buffer: Vec<u8>,
    /// What of the buffer belongs to earlier messages.
    done: usize,
    /// Bytes after `done` that are known to hold no end of a line.
    searched: usize,
    /// The present message's line, and the lengths of its blocks.
    line: Option<(Line, usize, usize)>,
}

impl Parser {
    /// Appends received bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.drain(..self.done);
        self.done = 0;
        self.buffer.extend_from_slice(bytes);
    }

    /// Whether a message has begun and is not complete.
    pub fn is_within_message(&self) -> bool {
        self.line.is_some() || self.done < self.buffer.len()
    }

    /// The next complete message.
    ///
    /// # Errors
    ///
    /// After an error, where the next message begins is unknown: the connection has to be closed.
    pub fn next_message(&mut self) -> Result<Option<Message>, MessageError> {
        let (line, data_length, payload_length) = match self.line.take() {
            Some(line) => line,
            None => {
                let rest = &self.buffer[self.done..];
                let Some(end) = rest[self.searched..].iter().position(|&byte| byte == b'\n') else {
                    self.searched = rest.len();
                    return if rest.len() > LINE_LIMIT { Err(MessageError::LongLine) } else { Ok(None) };
                };
                let end = self.searched + end;
                self.searched = 0;
                if end > LINE_LIMIT {
                    return Err(MessageError::LongLine);
                }
                let line: Line = serde_json::from_slice(&rest[..end])?;
                let data = bounded("data", line.data_length, DATA_LIMIT)?;
                let payload = bounded("payload", line.payload_length, PAYLOAD_LIMIT)?;
                self.done += end + 1;
                (line, data, payload)
            }
        };
        let rest = &self.buffer[self.done..];
        if rest.len() < data_length + payload_length {
            self.line = Some((line, data_length, payload_length));
            return Ok(None);
        }
        let (block, payload) = rest[..data_length + payload_length].split_at(data_length);
        let mut data = line.data.unwrap_or_default();
        if !block.is_empty() {
            data.append(&mut serde_json::from_slice(block)?);
        }
        let message = Message { kind: line.kind, data, payload: payload.to_vec() };
        self.done += data_length + payload_length;
        Ok(Some(message))
    }
}

fn bounded(block: &'static str, length: Option<u64>, limit: usize) -> Result<usize, MessageError> {
    match length.unwrap_or(0) {
        length if length > limit as u64 => Err(MessageError::TooLong { block, length, limit }),
        length => Ok(length as usize),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn all(bytes: &[u8], cut: usize) -> Result<Vec<Message>, MessageError> {
        let (mut parser, mut messages) = (Parser::default(), Vec::new());
        for part in bytes.chunks(cut) {
            parser.push(part);
            while let Some(message) = parser.next_message()? {
                messages.push(message);
            }
        }
        Ok(messages)
    }

    fn messages() -> impl Strategy<Value = Vec<Message>> {
        let data = prop::collection::btree_map("[a-z]{1,6}", any::<i32>(), 0..4);
        let payload = prop::collection::vec(any::<u8>(), 0..40);
        let one = ("[a-z-]{1,12}", data, payload).prop_map(|(kind, data, payload)| Message {
            kind,
            data: data.into_iter().map(|(key, value)| (key, value.into())).collect(),
            payload,
        });
        prop::collection::vec(one, 0..6)
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back_wherever_the_stream_is_cut(messages in messages(), cut in 1usize..64) {
            let mut bytes = Vec::new();
            messages.iter().for_each(|message| message.write(&mut bytes).unwrap());
            prop_assert_eq!(all(&bytes, cut).unwrap(), messages);
        }

        #[test]
        fn arbitrary_bytes_are_messages_or_an_error_and_never_a_panic(
            bytes in prop::collection::vec(any::<u8>(), 0..400),
            line in prop::sample::select(vec![&b"{\"type\":\"ping\"}\n"[..], b"{\"type\":\"x\",\"data_length\":9,\"payload_length\":3}\n", b""]),
            cut in 1usize..64,
        ) {
            let _ = all(&[line, &bytes].concat(), cut);
        }

        #[test]
        fn a_damaged_message_is_read_or_refused(messages in messages(), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
            let mut bytes = Vec::new();
            messages.iter().for_each(|message| message.write(&mut bytes).unwrap());
            if !bytes.is_empty() {
                let at = at.index(bytes.len());
                bytes[at] = byte;
                let _ = all(&bytes, 7);
            }
        }
    }

    #[test]
    fn data_in_the_line_and_after_it_are_merged() {
        let read =
            all(b"{\"type\":\"detect\",\"data\":{\"a\":1,\"b\":1},\"data_length\":7,\"version\":\"1\"}\n{\"b\":2}", 5).unwrap();
        assert_eq!(read, [Message::new("detect", json!({"a": 1, "b": 2}))]);
    }

    #[test]
    fn sizes_are_refused_before_anything_is_kept() {
        let refused = |line: &str| all(line.as_bytes(), 1024).unwrap_err().to_string();
        assert!(refused("{\"type\":\"x\",\"payload_length\":99999999999}\n").contains("99999999999 bytes of payload"));
        assert!(refused("{\"type\":\"x\",\"data_length\":65537}\n").contains("65537 bytes of data"));
        assert!(refused("{\"type\":\"x\",\"data_length\":-1}\n").contains("not valid"));
        assert!(refused(&"x".repeat(LINE_LIMIT + 2)).contains("longer than"));
        assert!(refused(&("[".repeat(1000) + "\n")).contains("not valid"));
    }

    #[test]
    fn the_parser_keeps_no_more_than_a_message() {
        let mut parser = Parser::default();
        let mut one = Vec::new();
        Message { payload: vec![1; 2048], ..Message::new("audio-chunk", json!({"rate": 16_000})) }.write(&mut one).unwrap();
        for _ in 0..1000 {
            parser.push(&one);
            assert!(
                parser.next_message().unwrap().is_some()
                    && parser.next_message().unwrap().is_none()
                    && !parser.is_within_message()
            );
        }
        assert!(parser.buffer.capacity() < 4 * one.len());
    }
}
