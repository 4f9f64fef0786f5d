//! The textual form of consumers, `NAME` or `NAME:OUTPUT`, on the command line and in configuration files.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use super::asr::SEGMENTS;
use super::side_file;
use super::wav::WavFormat;

/// A consumer and its output, from its textual form.
///
/// ```
/// use bellis::consumer::ConsumerSpec;
///
/// let spec: ConsumerSpec = "npy:talk.npy".parse()?;
/// assert_eq!(spec.files().len(), 2); // the array, and talk.chunks.jsonl
/// assert!("jsonl".parse::<ConsumerSpec>()?.is_stdout());
/// # Ok::<(), bellis::consumer::ConsumerSpecError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConsumerSpec {
    /// `jsonl`, `jsonl:FILE`: one line per chunk.
    JsonLines(TextOutput),
    /// `npy:FILE`: all frames as a NumPy array, with a side file of chunks.
    Npy(PathBuf),
    /// `wav:FILE`, `wav:f32:FILE`: the processed audio; `wav:-` writes it to standard output.
    Wav(TextOutput, WavFormat),
    /// `phones`: phones as text to read along.
    PhonesText,
    /// `phones:FILE`: phones as JSON lines.
    Phones(TextOutput),
    /// `segments`: one line per utterance.
    SegmentLines,
    /// `segments:FOLDER`: each utterance as WAV and NPY, and the lines.
    SegmentFolder(PathBuf),
    /// `segments:stream:ENDPOINT`: utterances as a binary stream.
    SegmentStream(StreamOutput),
    /// `stream:ENDPOINT`: chunks as a binary stream.
    Stream(StreamOutput),
    /// `keyword`, `keyword:NAME`, `keyword:FOLDER`: detections of the enrolled keywords, of one, or of those in a folder.
    Keyword(Option<PathBuf>),
    /// `null`: nothing is written.
    Null,
}

/// Output of a consumer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TextOutput {
    /// Standard output, written `-`.
    Stdout,
    /// A file.
    File(PathBuf),
}

/// Destination of a binary stream.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum StreamOutput {
    /// Standard output, written `-`.
    Stdout,
    /// A Unix socket at which the reader listens, written `unix:/path`.
    Unix(PathBuf),
}

/// Errors of parsing a [`ConsumerSpec`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConsumerSpecError {
    /// No consumer has this name.
    #[error("no consumer `{name}`; available: {}{}", ConsumerSpec::NAMES.join(", "), .near.as_deref().map_or_else(String::new, |near| format!("; did you mean `{near}`?")))]
    #[non_exhaustive]
    Unknown {
        /// The name.
        name: String,
        /// A similar name.
        near: Option<String>,
    },
    /// The output is missing, or the consumer does not support it.
    #[error("consumer `{spec}`: {reason}")]
    #[non_exhaustive]
    Output {
        /// The text.
        spec: String,
        /// The problem, and what to write instead.
        reason: String,
    },
}

impl ConsumerSpec {
    /// The names of all consumers.
    pub const NAMES: &[&str] = &["jsonl", "npy", "wav", "phones", "segments", "stream", "keyword", "null"];

    /// Whether it writes to standard output.
    pub fn is_stdout(&self) -> bool {
        match self {
            Self::JsonLines(output) | Self::Phones(output) | Self::Wav(output, _) => *output == TextOutput::Stdout,
            Self::PhonesText | Self::SegmentLines | Self::Keyword(_) => true,
            Self::SegmentStream(endpoint) | Self::Stream(endpoint) => *endpoint == StreamOutput::Stdout,
            Self::Npy(_) | Self::SegmentFolder(_) | Self::Null => false,
        }
    }

    /// The file or folder that the consumer writes.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::Npy(path) | Self::SegmentFolder(path) => Some(path),
            Self::JsonLines(TextOutput::File(path))
            | Self::Phones(TextOutput::File(path))
            | Self::Wav(TextOutput::File(path), _) => Some(path),
            _ => None,
        }
    }

    /// All files with known names that the consumer writes, including side files and a folder's list of utterances.
    pub fn files(&self) -> Vec<PathBuf> {
        let Some(path) = self.path() else { return Vec::new() };
        match self {
            Self::Npy(_) => vec![path.to_owned(), side_file(path)],
            Self::SegmentFolder(_) => vec![path.to_owned(), path.join(SEGMENTS)],
            _ => vec![path.to_owned()],
        }
    }
}

/// Whether a text looks like a sample format, such as f64 or s24le, and not like the beginning of a path.
fn is_sample_format(text: &str) -> bool {
    let bits = text.trim_start_matches(['s', 'u', 'f', 'i']).trim_end_matches("le").trim_end_matches("be");
    bits.len() < text.len() && matches!(bits, "8" | "16" | "24" | "32" | "64")
}

impl TryFrom<&OsStr> for ConsumerSpec {
    type Error = ConsumerSpecError;

    /// Parses the textual form. The path need not be UTF-8.
    fn try_from(text: &OsStr) -> Result<Self, ConsumerSpecError> {
        let wrong = |reason: &str| ConsumerSpecError::Output { spec: spec_label(text), reason: reason.to_owned() };
        let (name, output) = split(text);
        if output.is_some_and(OsStr::is_empty) {
            return Err(wrong("the output after the colon is missing"));
        }
        let to = |output: &OsStr| if output == "-" { TextOutput::Stdout } else { TextOutput::File(output.into()) };
        let endpoint = |output: &OsStr| match split(output) {
            (Some("-"), None) => Ok(StreamOutput::Stdout),
            (Some("unix"), Some(path)) if !path.is_empty() => Ok(StreamOutput::Unix(path.into())),
            _ => Err(wrong("the endpoint must be `-` (standard output) or `unix:/path/of/a/socket`")),
        };
        Ok(match (name.unwrap_or_default(), output) {
            ("jsonl", output) => Self::JsonLines(output.map_or(TextOutput::Stdout, to)),
            ("npy", Some(output)) if output == "-" => {
                return Err(wrong(
                    "an array cannot be written to a pipe, because its header contains its length; name a file, or use stream:-",
                ));
            }
            ("npy", Some(path)) => Self::Npy(path.into()),
            ("npy", None) => return Err(wrong("needs a file: npy:out.npy")),
            ("wav", Some(output)) => match split(output) {
                (Some("f32" | "s16"), file) if file.is_none_or(OsStr::is_empty) => {
                    return Err(wrong("needs a file: wav:f32:out.wav"));
                }
                (Some("f32"), Some(output)) => Self::Wav(to(output), WavFormat::F32),
                (Some("s16"), Some(output)) => Self::Wav(to(output), WavFormat::S16),
                (Some(format), Some(_)) if is_sample_format(format) => {
                    return Err(wrong("the sample format must be s16 or f32"));
                }
                _ => Self::Wav(to(output), WavFormat::S16),
            },
            ("wav", None) => return Err(wrong("needs a file: wav:out.wav")),
            ("phones", None) => Self::PhonesText,
            ("phones", Some(output)) => Self::Phones(to(output)),
            ("segments", None) => Self::SegmentLines,
            ("segments", Some(output)) if output == "-" => Self::SegmentLines,
            ("segments", Some(output)) => match split(output) {
                (Some("stream"), Some(output)) => Self::SegmentStream(endpoint(output)?),
                (Some("stream"), None) => {
                    return Err(wrong("needs an endpoint: segments:stream:- or segments:stream:unix:/path/of/a/socket"));
                }
                _ => Self::SegmentFolder(output.into()),
            },
            ("stream", Some(output)) => Self::Stream(endpoint(output)?),
            ("stream", None) => return Err(wrong("needs an endpoint: stream:- or stream:unix:/path/of/a/socket")),
            ("keyword", path) => Self::Keyword(path.map(PathBuf::from)),
            ("null", None) => Self::Null,
            ("null", Some(_)) => return Err(wrong("has no output")),
            _ => {
                let label = spec_label(text);
                let name = label.split(':').next().unwrap_or_default().to_owned();
                let near = crate::toml_file::nearest(&name, Self::NAMES.iter().copied());
                return Err(ConsumerSpecError::Unknown { name, near });
            }
        })
    }
}

impl FromStr for ConsumerSpec {
    type Err = ConsumerSpecError;

    fn from_str(text: &str) -> Result<Self, ConsumerSpecError> {
        OsStr::new(text).try_into()
    }
}

/// The textual form of a consumer for messages and metrics. Bytes that are not UTF-8 are escaped as `\xFF`, so that two paths do not get the
/// same label.
pub fn spec_label(text: &OsStr) -> String {
    let escaped = |chunk: std::str::Utf8Chunk| {
        let invalid: String = chunk.invalid().iter().map(|byte| format!("\\x{byte:02X}")).collect();
        format!("{}{invalid}", chunk.valid())
    };
    text.as_encoded_bytes().utf8_chunks().map(escaped).collect()
}

/// The word before the first colon, if it is UTF-8, and what follows the colon.
fn split(text: &OsStr) -> (Option<&str>, Option<&OsStr>) {
    #[cfg(unix)]
    {
        use std::os::unix::ffi::OsStrExt;
        let bytes = text.as_bytes();
        let colon = bytes.iter().position(|&byte| byte == b':');
        let word = std::str::from_utf8(&bytes[..colon.unwrap_or(bytes.len())]).ok();
        (word, colon.map(|colon| OsStr::from_bytes(&bytes[colon + 1..])))
    }
    #[cfg(not(unix))]
    match text.to_str().map(|text| (text, text.split_once(':'))) {
        Some((_, Some((word, rest)))) => (Some(word), Some(OsStr::new(rest))),
        Some((word, None)) => (Some(word), None),
        None => (None, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(text: &str) -> ConsumerSpec {
        text.parse().unwrap_or_else(|error| panic!("{error}"))
    }

    #[test]
    fn what_goes_to_standard_output() {
        let on = ["jsonl", "jsonl:-", "wav:-", "wav:f32:-", "phones", "phones:-", "segments", "segments:-", "segments:stream:-"];
        for text in on.into_iter().chain(["stream:-", "keyword", "keyword:folder"]) {
            assert!(spec(text).is_stdout() && spec(text).files().is_empty(), "{text}");
        }
        for text in ["jsonl:a", "npy:a", "wav:a", "phones:a", "segments:a", "stream:unix:/a", "segments:stream:unix:/a", "null"] {
            assert!(!spec(text).is_stdout(), "{text}");
        }
    }

    #[test]
    fn what_is_written() {
        assert_eq!(spec("npy:a/x.npy").files(), [Path::new("a/x.npy"), Path::new("a/x.chunks.jsonl")]);
        assert_eq!(spec("segments:a").files(), [Path::new("a"), Path::new("a/segments.jsonl")]);
        assert_eq!(spec("wav:f32:a:b.wav"), ConsumerSpec::Wav(TextOutput::File("a:b.wav".into()), WavFormat::F32));
        assert_eq!(spec("wav:s16:b.wav"), spec("wav:b.wav"));
    }

    #[test]
    fn what_describes_no_consumer() {
        let cases = [
            ("jsnol", "did you mean `jsonl`?"),
            ("npy", "npy:out.npy"),
            ("npy:-", "use stream:-"),
            ("wav", "wav:out.wav"),
            ("stream", "unix:/path"),
            ("stream:tcp:1", "unix:/path"),
            ("jsonl:", "after the colon"),
            ("null:a", "no output"),
            ("wav:s16:", "needs a file"),
            ("wav:f64:a.wav", "s16 or f32"),
        ];
        for (text, expected) in cases {
            let error = text.parse::<ConsumerSpec>().unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_path_need_not_be_utf_8() {
        use std::os::unix::ffi::OsStrExt;
        let os = |bytes: &'static [u8]| OsStr::from_bytes(bytes);
        let path = PathBuf::from(os(b"a\xff:b"));
        for (text, expected) in [
            (&b"npy:a\xff:b"[..], ConsumerSpec::Npy(path.clone())),
            (b"wav:f32:a\xff:b", ConsumerSpec::Wav(TextOutput::File(path.clone()), WavFormat::F32)),
            (b"segments:stream:unix:a\xff:b", ConsumerSpec::SegmentStream(StreamOutput::Unix(path.clone()))),
            (b"keyword:a\xff:b", ConsumerSpec::Keyword(Some(path.clone()))),
        ] {
            assert_eq!(ConsumerSpec::try_from(os(text)), Ok(expected));
        }
        assert_eq!(spec_label(os(b"npy:a\xff\xfeb\xc3\xa9")), "npy:a\\xFF\\xFEb\u{e9}");
        let error = ConsumerSpec::try_from(os(b"js\xff:x")).unwrap_err().to_string();
        assert!(error.starts_with(r"no consumer `js\xFF`"), "{error}");
    }
}
