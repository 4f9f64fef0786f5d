//! Keyword files: TOML, a few tens of kilobytes, readable.
//!
//! ```toml
//! format = 5
//! name = "hello"
//! threshold = 0.55                # least score of a detection
//! false_accepts_per_hour = 0.5    # what the threshold was chosen for
//!
//! [pack]                          # what made it: another pack's units mean something else
//! name = "daisy-tiny"
//! identity = "5d1f…"
//! width = 192                     # numbers of a row
//!
//! [[background]]                  # the highest scores in speech without the keyword, as it is ("plain") and in babble
//! condition = "plain"
//! hours = 0.33
//! peaks = [0.51, 0.5]
//!
//! [[example]]                     # or [detector] with `file` and `sha256`
//! source = "hello-1.wav"
//! start = 0.41                    # seconds
//! seconds = 0.62
//! rows = ["12 -7 0 99 …"]         # of each frame its vector, the largest number 99
//! ```

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::calibrate::Tail;
use super::detector::Detector;
use super::spotter::Search;
use super::template::Template;
use crate::engine::{EngineError, Scorer};
use crate::pack::{Pack, StageFile};
use crate::toml_file::TomlFileError;

/// What a keyword file's name ends with.
pub const KEYWORD_SUFFIX: &str = ".keyword.toml";
const FORMAT: u32 = 5;
const LIMIT_BYTES: u64 = 4 << 20;
const MOST_EXAMPLES: usize = 16;
/// Of a written row.
const LARGEST: f32 = 99.0;
const LEAST_ROWS: usize = 4;
const MOST_ROWS: usize = 1000;

/// A keyword as its file says it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Keyword {
    /// Version of this format.
    pub format: u32,
    /// The word, for people and for detections.
    pub name: String,
    /// Least score of a detection.
    pub threshold: f32,
    /// The rate that the threshold was chosen for; absent when it was given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub false_accepts_per_hour: Option<f64>,
    /// The pack that made it.
    pub pack: PackRef,
    /// Scores of other speech.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub background: Vec<Tail>,
    /// The examples; none with a detector.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub example: Vec<Example>,
    /// A trained detector in their place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detector: Option<DetectorFile>,
}

/// A trained detector's graph, in the keyword file's folder.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DetectorFile {
    /// Its name.
    pub file: String,
    /// SHA-256 of its bytes, in hexadecimal.
    pub sha256: String,
}

impl DetectorFile {
    /// Its graph, for frames of so many numbers.
    pub fn load(&self, folder: &Path, width: usize) -> Result<Scorer, EngineError> {
        let path = folder.join(&self.file);
        let file = StageFile::open("detector", &path, Some(&self.sha256))?;
        Scorer::load(&file, width)
    }
}

/// The pack that a keyword was made with.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PackRef {
    /// Its name.
    pub name: String,
    /// [`Pack::identity`].
    pub identity: String,
    /// Numbers of a keyword embedding.
    pub width: usize,
}

impl std::fmt::Display for PackRef {
    /// Its name, and the first digits of its identity.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "`{}` ({:.12})", self.name, self.identity)
    }
}

impl PackRef {
    /// Names `pack`.
    pub fn to(pack: &Pack) -> Self {
        Self {
            name: pack.manifest.name.clone(),
            identity: pack.identity(),
            width: pack.manifest.embedding.as_ref().map_or(0, |embedding| embedding.width),
        }
    }
}

/// One example.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Example {
    /// The recording.
    pub source: String,
    /// Where its speech starts, seconds.
    pub start: f64,
    /// How long its speech is, seconds.
    pub seconds: f64,
    /// Of each frame its keyword embedding: whole numbers, the largest of which is 99.
    pub rows: Vec<String>,
}

/// Why a keyword was refused.
#[derive(Debug, thiserror::Error)]
pub enum KeywordError {
    /// No TOML, or not of the form.
    #[error(transparent)]
    Toml(#[from] TomlFileError),
    /// A value makes no sense.
    #[error("{}: {problem}; enroll the keyword anew", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// Made with another pack.
    #[error(
        "{}: `{keyword}` was enrolled with the pack {made}, and this is {running}: their frames \
         mean different things — run with that pack, or enroll the keyword anew with this one", path.display()
    )]
    OtherPack {
        /// The file.
        path: PathBuf,
        /// The keyword.
        keyword: String,
        /// The pack that made it.
        made: Box<PackRef>,
        /// The present pack.
        running: Box<PackRef>,
    },
    /// Cannot be read or written.
    #[error("cannot access {}", path.display())]
    File {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A folder without keywords.
    #[error("{}: holds no keyword (*{KEYWORD_SUFFIX}); `bellis enroll NAME --from a.wav b.wav c.wav` makes one", path.display())]
    NoKeywords {
        /// The folder.
        path: PathBuf,
    },
    /// No name for a file.
    #[error("`{name}` is no name for a keyword: 1 to 64 characters, no slash, no control character, no dot in front")]
    Name {
        /// The name.
        name: String,
    },
}

/// Refuses what cannot be a file's name.
pub fn check_name(name: &str) -> Result<(), KeywordError> {
    let fits = (1..=64).contains(&name.chars().count());
    let bad = |c: char| c.is_control() || matches!(c, '/' | '\\' | ':');
    match fits && !name.starts_with('.') && name.trim() == name && !name.contains(bad) {
        true => Ok(()),
        false => Err(KeywordError::Name { name: name.to_owned() }),
    }
}

/// Keyword files of `path`: itself, or those of a folder, by name.
pub fn find(path: &Path) -> Result<Vec<PathBuf>, KeywordError> {
    let io = |source| KeywordError::File { path: path.to_owned(), source };
    if !std::fs::metadata(path).map_err(io)?.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let entries = std::fs::read_dir(path).map_err(io)?.collect::<Result<Vec<_>, _>>().map_err(io)?;
    let mut files: Vec<PathBuf> = entries.into_iter().map(|entry| entry.path()).collect();
    files.retain(|file| file.file_name().is_some_and(|name| name.to_string_lossy().ends_with(KEYWORD_SUFFIX)));
    files.sort();
    if files.is_empty() { Err(KeywordError::NoKeywords { path: path.to_owned() }) } else { Ok(files) }
}

/// Reads and checks one keyword file. With `pack`, refuses one that another pack made.
pub fn load(path: &Path, pack: Option<&PackRef>) -> Result<Keyword, KeywordError> {
    /// What every version has, whatever else it says.
    #[derive(Deserialize)]
    struct Version {
        format: u32,
    }
    let invalid = |problem: String| KeywordError::Invalid { path: path.to_owned(), problem };
    let Version { format } = crate::toml_file::read(path, LIMIT_BYTES)?;
    if format != FORMAT {
        return Err(invalid(format!("has format {format}, and this version of Bellis reads {FORMAT}")));
    }
    let keyword: Keyword = crate::toml_file::read(path, LIMIT_BYTES)?;
    check_name(&keyword.name)?;
    let other = |pack: &&PackRef| (&pack.identity, pack.width) != (&keyword.pack.identity, keyword.pack.width);
    if let Some(running) = pack.filter(other) {
        let (made, running) = (Box::new(keyword.pack), Box::new(running.clone()));
        return Err(KeywordError::OtherPack { path: path.to_owned(), keyword: keyword.name, made, running });
    }
    if !(0.0..=1.0).contains(&keyword.threshold) {
        return Err(invalid(format!("threshold = {} is no score; scores are 0 to 1", keyword.threshold)));
    }
    if keyword.false_accepts_per_hour.is_some_and(|rate| !(rate.is_finite() && rate > 0.0)) {
        return Err(invalid("false_accepts_per_hour is no rate".into()));
    }
    let sane =
        |tail: &Tail| tail.hours.is_finite() && tail.hours >= 0.0 && tail.peaks.iter().all(|peak| (0.0..=1.0).contains(peak));
    if !keyword.background.iter().all(sane) {
        return Err(invalid("[[background]] holds what is no length or no score".into()));
    }
    let one = |name: &str| Path::new(name).components().count() == 1 && Path::new(name).file_name().is_some();
    match &keyword.detector {
        Some(_) if !keyword.example.is_empty() => return Err(invalid("has examples and a detector; one of them is used".into())),
        Some(detector) if !one(&detector.file) => {
            return Err(invalid(format!("detector `{}` is no file of the keyword's own folder", detector.file)));
        }
        None if keyword.example.is_empty() || keyword.example.len() > MOST_EXAMPLES => {
            return Err(invalid(format!("has {} examples; 1 to {MOST_EXAMPLES} make a keyword", keyword.example.len())));
        }
        _ => {}
    }
    keyword.templates().map_err(invalid)?;
    Ok(keyword)
}

impl Keyword {
    /// A keyword of these examples with the threshold 1, which nothing passes.
    pub fn new(name: &str, pack: PackRef, example: Vec<Example>) -> Result<Self, KeywordError> {
        check_name(name)?;
        Ok(Self {
            format: FORMAT,
            name: name.to_owned(),
            threshold: 1.0,
            false_accepts_per_hour: None,
            pack,
            background: Vec::new(),
            example,
            detector: None,
        })
    }

    /// Its file in `folder`.
    pub fn path_in(&self, folder: &Path) -> PathBuf {
        folder.join(format!("{}{KEYWORD_SUFFIX}", self.name))
    }

    /// Writes the file whole or not at all.
    pub fn save(&self, path: &Path) -> Result<(), KeywordError> {
        let io = |source| KeywordError::File { path: path.to_owned(), source };
        let text = toml::to_string(self).map_err(|error| io(std::io::Error::other(error)))?;
        let unfinished = path.with_extension("unfinished");
        std::fs::write(&unfinished, text).map_err(io)?;
        std::fs::rename(&unfinished, path).map_err(io)
    }

    /// What finds it; a detector's graph lies in `folder`. Otherwise what is wrong.
    pub fn search(&self, folder: &Path) -> Result<Search, String> {
        let Some(detector) = &self.detector else { return Ok(self.templates()?.into()) };
        let detector = detector.load(folder, self.pack.width).and_then(|scorer| Detector::new(&scorer));
        Ok(Search::Detector(Box::new(detector.map_err(|error| error.to_string())?)))
    }

    /// The examples, ready to be matched; otherwise what is wrong with which.
    fn templates(&self) -> Result<Vec<Template>, String> {
        let one = |(number, example): (usize, &Example)| {
            example.template(self.pack.width).map_err(|problem| format!("example {}: {problem}", number + 1))
        };
        self.example.iter().enumerate().map(one).collect()
    }
}

impl Example {
    /// As it is written, of vectors `[frames, width]`.
    pub fn new(source: String, start: f64, seconds: f64, vectors: &[f32], width: usize) -> Self {
        let row = |row: &[f32]| -> String {
            let largest = row.iter().fold(f32::MIN_POSITIVE, |largest, x| largest.max(x.abs()));
            row.iter().map(|x| ((x / largest * LARGEST).round() as i32).to_string()).collect::<Vec<_>>().join(" ")
        };
        Self { source, start, seconds, rows: vectors.chunks_exact(width.max(1)).map(row).collect() }
    }

    /// As it is matched.
    pub fn template(&self, width: usize) -> Result<Template, String> {
        if !(LEAST_ROWS..=MOST_ROWS).contains(&self.rows.len()) {
            return Err(format!("{} rows; {LEAST_ROWS} to {MOST_ROWS} are possible", self.rows.len()));
        }
        let mut vectors = Vec::with_capacity(self.rows.len() * width);
        for (index, text) in self.rows.iter().enumerate() {
            let before = vectors.len();
            for entry in text.split_whitespace() {
                match entry.parse::<i8>() {
                    Ok(number) if f32::from(number).abs() <= LARGEST => vectors.push(f32::from(number)),
                    _ => return Err(format!("row {}: `{entry}` is no whole number of -{LARGEST} to {LARGEST}", index + 1)),
                }
            }
            let row = &vectors[before..];
            if row.len() != width || row.iter().all(|&number| number == 0.0) {
                return Err(format!("row {}: {} numbers, and {width} are wanted, not all of them 0", index + 1, row.len()));
            }
        }
        Ok(Template::new(&vectors, width))
    }
}
