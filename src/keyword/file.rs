//! Keyword files: TOML, 20 to 200 KB, readable.
//!
//! ```toml
//! format = 7
//! name = "lamp"
//! threshold = 0.55                # least score of a detection
//! false_accepts_per_hour = 0.5    # the rate that the threshold was set for
//! refractory_seconds = 2.0        # without a second detection; 1 if absent
//! priority = 1                    # among keywords that are detected in the same audio; 0 if absent
//!
//! [pack]                          # embeddings of another pack are not comparable
//! name = "daisy-tiny"
//! identity = "5d1f…"
//! width = 192                     # dimensions of a row
//!
//! [say]                           # the phrase, if it was enrolled from text
//! phrase = "turn on the lamp"
//! language = "en-us"
//!
//! [phones]                        # its phones, if the pack's CTC branches have them
//! phrase = [["t", "ɝ", "n", …]]   # its pronunciations, one of each accent
//! near = [["t", "ɝ", "n", …]]     # phrases with the opposite meaning
//!
//! [feedback]                      # scores that the user has labelled
//! false_accepts = [0.42]
//! utterances = [0.31]
//! given = 0.4                     # the threshold without them, if it was given as a number
//!
//! [[background]]                  # the highest scores in speech without the keyword, one section per condition
//! condition = "plain"
//! hours = 0.33
//! peaks = [0.51, 0.5]
//!
//! [[example]]                     # recordings; or synthesised takes, if the phones are not known
//! source = "lamp-1.wav"           # a recording, or a voice of the synthesiser
//! origin = "recording"            # or "synthesis"
//! weight = 1.0                    # relative weight of its score
//! start = 0.41                    # seconds
//! seconds = 0.62
//! rows = ["12 -7 0 99 …"]         # one embedding per frame, scaled so that its largest value is 99
//! ```
//!
//! A file of an older format is rejected: the keyword has to be enrolled again.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::calibrate::{LEAST_WITH_PHONES, TEXT_IN_NOISE, Tail, false_accepts_of};
use super::feedback::Feedback;
use super::matcher::Matcher;
use super::phones::{MOST_PHONES, Phones};
use super::template::Template;
use crate::output::replace_file;
use crate::pack::Pack;
use crate::toml_file::TomlFileError;

/// Suffix of a keyword file's name.
pub const KEYWORD_SUFFIX: &str = ".keyword.toml";
const FORMAT: u32 = 7;
const LIMIT_BYTES: u64 = 4 << 20;
const MOST_EXAMPLES: usize = 32;
/// Largest absolute value in a row.
const LARGEST: f32 = 99.0;
const LEAST_ROWS: usize = 4;
const MOST_ROWS: usize = 1000;
const MOST_PRONUNCIATIONS: usize = 8;
/// False accepts per hour of a keyword whose threshold was given as a number.
const USUAL_RATE: f64 = 0.5;
/// Range of thresholds that feedback may set if there is no background.
const FREE_RANGE: (f32, f32) = (0.05, 0.95);
/// Threshold up to which feedback may move that of a keyword from text, whatever its background.
const MOST_WITH_PHONES: f32 = 0.5;
/// Maximum refractory time, seconds.
pub const MOST_REFRACTORY: f64 = 3600.0;

/// A keyword, as in its file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Keyword {
    /// Version of the format.
    pub format: u32,
    /// Name, as in detections.
    pub name: String,
    /// Least score of a detection.
    pub threshold: f32,
    /// The rate that the threshold was set for; absent if the threshold was given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub false_accepts_per_hour: Option<f64>,
    /// Seconds after a detection without another one; absent for the default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refractory_seconds: Option<f64>,
    /// Rank among keywords that are detected in the same audio; see [`KeywordSearch`](super::KeywordSearch).
    #[serde(default, skip_serializing_if = "is_default")]
    pub priority: i32,
    /// The pack that it was enrolled with.
    pub pack: PackRef,
    /// The phrase, if it was enrolled from text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub say: Option<Say>,
    /// The phones of the phrase, if it was enrolled from text with a pack that has CTC branches.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phones: Option<Phones>,
    /// Scores that its user has labelled.
    #[serde(default, skip_serializing_if = "is_default")]
    pub feedback: Feedback,
    /// Scores in background speech.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub background: Vec<Tail>,
    /// The examples.
    #[serde(default)]
    pub example: Vec<Example>,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// The phrase of a keyword that was enrolled from text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Say {
    /// Phrase.
    pub phrase: String,
    /// Language, as the synthesiser calls it.
    pub language: String,
}

/// How an example was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Origin {
    /// A person said the phrase.
    Recording,
    /// A speech synthesiser said the phrase.
    Synthesis,
}

/// The pack that a keyword was enrolled with.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PackRef {
    /// Name.
    pub name: String,
    /// [`Pack::identity`].
    pub identity: String,
    /// Dimensions of a keyword embedding.
    pub width: usize,
}

impl std::fmt::Display for PackRef {
    /// Name and first digits of the identity.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "`{}` ({:.12})", self.name, self.identity)
    }
}

impl PackRef {
    /// The reference to `pack`.
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
    /// Name of the recording, or voice of the synthesiser.
    pub source: String,
    /// How it was made.
    pub origin: Origin,
    /// Relative weight of its score, above 0.
    pub weight: f32,
    /// Start of the speech, seconds.
    pub start: f64,
    /// Duration of the speech, seconds.
    pub seconds: f64,
    /// The keyword embedding of each frame: integers, the largest of which is 99.
    pub rows: Vec<String>,
}

/// Why a keyword is rejected.
#[derive(Debug, thiserror::Error)]
pub enum KeywordError {
    /// Not TOML, or an unknown key.
    #[error(transparent)]
    Toml(#[from] TomlFileError),
    /// A value is invalid, or the format is another one.
    #[error("{}: {problem}; enroll the keyword again", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// Enrolled with another pack.
    #[error(
        "{}: `{keyword}` was enrolled with the pack {made}, and its embeddings are not comparable with those of {running}; run with that \
         pack, or enroll the keyword again with this one", path.display()
    )]
    OtherPack {
        /// The file.
        path: PathBuf,
        /// The keyword.
        keyword: String,
        /// The pack that it was enrolled with.
        made: Box<PackRef>,
        /// The current pack.
        running: Box<PackRef>,
    },
    /// The file cannot be read or written.
    #[error("cannot access {}", path.display())]
    File {
        /// The file or folder.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// A folder without keywords.
    #[error("{}: contains no keyword (*{KEYWORD_SUFFIX}); enroll one with `bellis enroll NAME --say \"PHRASE\"`", path.display())]
    NoKeywords {
        /// The folder.
        path: PathBuf,
    },
    /// A false-accept rate was requested for a keyword whose threshold was given at enrolment.
    #[error("{}: enrolled with a fixed threshold, which does not depend on a rate of false accepts or a sensitivity", path.display())]
    FixedThreshold {
        /// The file.
        path: PathBuf,
    },
    /// Not a valid name.
    #[error(
        "`{name}` is not a valid keyword name; use 1 to 64 characters (200 bytes) without slashes, colons or control characters, that do not \
         begin with a dot or begin or end with a space"
    )]
    Name {
        /// The name.
        name: String,
    },
}

/// Rejects names that cannot be a file's name.
pub fn check_name(name: &str) -> Result<(), KeywordError> {
    let fits = (1..=64).contains(&name.chars().count()) && name.len() <= 200;
    let bad = |c: char| c.is_control() || matches!(c, '/' | '\\' | ':');
    match fits && !name.starts_with('.') && name.trim() == name && !name.contains(bad) {
        true => Ok(()),
        false => Err(KeywordError::Name { name: name.to_owned() }),
    }
}

/// Keyword files of `path`: itself, or those in a folder, sorted by name. A pipe of such a name is none.
pub fn find(path: &Path) -> Result<Vec<PathBuf>, KeywordError> {
    let io = |source| KeywordError::File { path: path.to_owned(), source };
    if !std::fs::metadata(path).map_err(io)?.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let entries = std::fs::read_dir(path).map_err(io)?.collect::<Result<Vec<_>, _>>().map_err(io)?;
    let mut files: Vec<PathBuf> = entries.into_iter().map(|entry| entry.path()).collect();
    let is_named = |file: &Path| file.file_name().is_some_and(|name| name.to_string_lossy().ends_with(KEYWORD_SUFFIX));
    files.retain(|file| is_named(file) && (file.is_file() || !file.exists()));
    files.sort();
    if files.is_empty() { Err(KeywordError::NoKeywords { path: path.to_owned() }) } else { Ok(files) }
}

/// Reads and checks one keyword file. With `pack`, rejects a keyword of another pack.
pub fn load(path: &Path, pack: Option<&PackRef>) -> Result<Keyword, KeywordError> {
    /// The key that every format has.
    #[derive(Deserialize)]
    struct Version {
        format: Option<toml::Value>,
    }
    let invalid = |problem: String| KeywordError::Invalid { path: path.to_owned(), problem };
    let text = crate::toml_file::text(path, LIMIT_BYTES)?;
    let Version { format } = crate::toml_file::parse(&text, path)?;
    match format {
        Some(toml::Value::Integer(format)) if format == i64::from(FORMAT) => {}
        Some(format) => return Err(invalid(format!("has format {format}, and this version of Bellis reads format {FORMAT}"))),
        None => return Err(invalid(format!("has no `format`, and this version of Bellis reads format {FORMAT}"))),
    }
    let keyword: Keyword = crate::toml_file::parse(&text, path)?;
    check_name(&keyword.name)?;
    let other = |pack: &&PackRef| (&pack.identity, pack.width) != (&keyword.pack.identity, keyword.pack.width);
    if let Some(running) = pack.filter(other) {
        let (made, running) = (Box::new(keyword.pack), Box::new(running.clone()));
        return Err(KeywordError::OtherPack { path: path.to_owned(), keyword: keyword.name, made, running });
    }
    if !(0.0..=1.0).contains(&keyword.threshold) {
        return Err(invalid(format!("threshold must be between 0 and 1, got {}", keyword.threshold)));
    }
    if keyword.false_accepts_per_hour.is_some_and(|rate| !(rate.is_finite() && rate > 0.0)) {
        return Err(invalid("false_accepts_per_hour must be above 0".into()));
    }
    if keyword.refractory_seconds.is_some_and(|seconds| !(0.0..=MOST_REFRACTORY).contains(&seconds)) {
        return Err(invalid(format!("refractory_seconds must be between 0 and {MOST_REFRACTORY}")));
    }
    if !keyword.feedback.is_valid() {
        return Err(invalid("[feedback] has a score out of range, or too many".into()));
    }
    let sane =
        |tail: &Tail| tail.hours.is_finite() && tail.hours >= 0.0 && tail.peaks.iter().all(|peak| (0.0..=1.0).contains(peak));
    if !keyword.background.iter().all(sane) {
        return Err(invalid("[[background]] has a duration or a score out of range".into()));
    }
    let least = usize::from(keyword.phones.is_none());
    if !(least..=MOST_EXAMPLES).contains(&keyword.example.len()) {
        return Err(invalid(format!("has {} examples, must have {least} to {MOST_EXAMPLES}", keyword.example.len())));
    }
    let sane = |phones: &Phones| {
        (1..=MOST_PRONUNCIATIONS).contains(&phones.phrase.len())
            && phones.phrase.iter().all(|own| (1..=MOST_PHONES).contains(&own.len()))
    };
    if !keyword.phones.as_ref().is_none_or(sane) {
        return Err(invalid(format!(
            "[phones] must have 1 to {MOST_PRONUNCIATIONS} pronunciations of 1 to {MOST_PHONES} phones"
        )));
    }
    keyword.templates().map_err(|error| invalid(error.to_string()))?;
    Ok(keyword)
}

impl Keyword {
    /// A keyword with these examples and the threshold 1.
    pub fn new(name: &str, pack: PackRef, example: Vec<Example>) -> Result<Self, KeywordError> {
        check_name(name)?;
        Ok(Self {
            format: FORMAT,
            name: name.to_owned(),
            threshold: 1.0,
            false_accepts_per_hour: None,
            refractory_seconds: None,
            priority: 0,
            pack,
            say: None,
            phones: None,
            feedback: Feedback::default(),
            background: Vec::new(),
            example,
        })
    }

    /// Path of its file in `folder`.
    pub fn path_in(&self, folder: &Path) -> PathBuf {
        folder.join(format!("{}{KEYWORD_SUFFIX}", self.name))
    }

    /// Writes the file atomically, and to the disk.
    pub fn save(&self, path: &Path) -> Result<(), KeywordError> {
        let io = |source| KeywordError::File { path: path.to_owned(), source };
        let text = toml::to_string(self).map_err(|error| io(std::io::Error::other(error)))?;
        replace_file(path, text.as_bytes()).map_err(io)
    }

    /// The threshold for a rate of false accepts per hour, moved by the [`feedback`](Self::feedback) within the rates from 0.05 to 5, or up to 0.5 from text;
    /// `None` if it was enrolled without background speech.
    pub fn threshold_for(&self, per_hour: f64) -> Option<f32> {
        self.background_threshold(per_hour).map(|threshold| self.feedback.adjust(threshold, self.range()))
    }

    /// Sets the threshold for a rate of false accepts per hour; `false` if it was enrolled without background speech.
    #[must_use]
    pub fn set_false_accepts(&mut self, per_hour: f64) -> bool {
        let Some(threshold) = self.threshold_for(per_hour) else { return false };
        (self.threshold, self.false_accepts_per_hour) = (threshold, Some(per_hour));
        true
    }

    /// Sets a fixed threshold, whatever the feedback.
    pub fn set_threshold(&mut self, threshold: f32) {
        (self.threshold, self.false_accepts_per_hour, self.feedback.given) = (threshold, None, None);
    }

    /// Takes over what a user has set for the keyword in the file `path`, if there is one that this one replaces: priority and refractory time.
    pub fn replace(&mut self, path: &Path) {
        match load(path, None) {
            Ok(replaced) => (self.priority, self.refractory_seconds) = (replaced.priority, replaced.refractory_seconds),
            Err(_) if !path.exists() => {}
            Err(error) => log::warn!("{error}; its priority and refractory time are not kept"),
        }
    }

    /// The threshold without feedback.
    pub fn threshold_without_feedback(&self) -> f32 {
        let own = self.false_accepts_per_hour.and_then(|per_hour| self.background_threshold(per_hour));
        own.or(self.feedback.given).unwrap_or(self.threshold)
    }

    /// Adapts the threshold to the present feedback.
    pub fn apply_feedback(&mut self) {
        let own = self.threshold_without_feedback();
        self.threshold = self.feedback.adjust(own, self.range());
        self.feedback.given = (self.false_accepts_per_hour.is_none() && !self.feedback.is_empty()).then_some(own);
    }

    /// The lowest and the highest threshold that feedback may set.
    fn range(&self) -> (f32, f32) {
        let at = |sensitivity| self.background_threshold(false_accepts_of(sensitivity));
        let (least, most) = at(1.0).zip(at(0.0)).unwrap_or(FREE_RANGE);
        // Background speech may never resemble a phrase from text; a user's feedback is then the only evidence.
        (least, if self.phones.is_some() { most.max(MOST_WITH_PHONES) } else { most })
    }

    /// The threshold for a rate of false accepts per hour.
    ///
    /// With a phone check, background speech has few peaks with low scores, and a threshold set on it alone would admit near-phrases. So the
    /// threshold has a minimum, which holds if there are too few peaks to set one.
    fn background_threshold(&self, per_hour: f64) -> Option<f32> {
        if self.phones.is_none() {
            return super::calibrate::threshold(&self.background, per_hour);
        }
        // A condition with few peaks above the lowest score admits any threshold.
        let has_audio = !self.background.is_empty() && self.background.iter().all(|tail| tail.hours > 0.0);
        let each = self.background.iter().filter_map(|tail| tail.threshold(per_hour));
        has_audio.then(|| each.fold(LEAST_WITH_PHONES, f32::max))
    }

    /// The factor of scores in noise ([`Contrast`](super::contrast::Contrast)) for a rate of false accepts: 1 or more with examples, whose scores noise lowers,
    /// and less than 1 for text.
    pub(super) fn noise_gain(&self, per_hour: Option<f64>) -> f32 {
        if self.example.is_empty() {
            return TEXT_IN_NOISE;
        }
        let per_hour = per_hour.or(self.false_accepts_per_hour).unwrap_or(USUAL_RATE);
        super::calibrate::noise_gain(&self.background, per_hour)
    }

    /// Minutes of the background speech that the threshold was set on.
    pub fn background_minutes(&self) -> f64 {
        self.background.first().map_or(0.0, |tail| tail.hours * 60.0)
    }

    /// Its phones and examples, ready to be matched in streams with CTC branches of `vocabulary`.
    ///
    /// # Errors
    ///
    /// An example that is not `[frames, width]` integers, and a phone that is not in the vocabulary.
    pub fn matcher(&self, vocabulary: &[String]) -> Result<Matcher, MatchError> {
        let matcher = Matcher::new(self.templates()?);
        let Some(phones) = &self.phones else { return Ok(matcher) };
        let classes = phones.classes(vocabulary).ok_or(MatchError::Phones)?;
        Ok(matcher.with_phones(phones.clone(), classes))
    }

    /// Its examples with their weights.
    fn templates(&self) -> Result<Vec<(Template, f32)>, MatchError> {
        let one = |(number, example): (usize, &Example)| {
            let problem = |problem| MatchError::Example { number: number + 1, problem };
            if !(example.weight > 0.0 && example.weight.is_finite()) {
                return Err(problem(format!("weight must be above 0, got {}", example.weight)));
            }
            Ok((example.template(self.pack.width).map_err(problem)?, example.weight))
        };
        self.example.iter().enumerate().map(one).collect()
    }
}

/// Why a keyword cannot be matched.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MatchError {
    /// An example has invalid contents.
    #[error("example {number}: {problem}")]
    Example {
        /// Its number, from 1.
        number: usize,
        /// What is wrong.
        problem: String,
    },
    /// Its phones are not those of the pack's CTC branches.
    #[error("the CTC branches of the pack do not have all phones of the phrase")]
    Phones,
}

impl Example {
    /// A recording with vectors `[frames, width]` and weight 1.
    pub fn new(source: String, start: f64, seconds: f64, vectors: &[f32], width: usize) -> Self {
        let row = |row: &[f32]| -> String {
            let largest = row.iter().fold(f32::MIN_POSITIVE, |largest, x| largest.max(x.abs()));
            row.iter().map(|x| ((x / largest * LARGEST).round() as i32).to_string()).collect::<Vec<_>>().join(" ")
        };
        let rows = vectors.chunks_exact(width.max(1)).map(row).collect();
        Self { source, origin: Origin::Recording, weight: 1.0, start, seconds, rows }
    }

    /// Its rows, ready to be matched; otherwise the problem.
    pub fn template(&self, width: usize) -> Result<Template, String> {
        if !(LEAST_ROWS..=MOST_ROWS).contains(&self.rows.len()) {
            return Err(format!("{} rows, must have {LEAST_ROWS} to {MOST_ROWS}", self.rows.len()));
        }
        let mut vectors = Vec::with_capacity(self.rows.len() * width);
        for (index, text) in self.rows.iter().enumerate() {
            let before = vectors.len();
            for entry in text.split_whitespace() {
                match entry.parse::<i8>() {
                    Ok(number) if f32::from(number).abs() <= LARGEST => vectors.push(f32::from(number)),
                    _ => return Err(format!("row {}: `{entry}` is not an integer between -{LARGEST} and {LARGEST}", index + 1)),
                }
            }
            let row = &vectors[before..];
            if row.len() != width || row.iter().all(|&number| number == 0.0) {
                return Err(format!("row {}: must have {width} integers, not all 0; has {}", index + 1, row.len()));
            }
        }
        Ok(Template::new(&vectors, width))
    }
}

#[cfg(test)]
mod tests {
    use super::super::calibrate::{Condition, LEAST_WITH_PHONES};
    use super::*;

    #[test]
    fn with_a_phone_check_the_threshold_has_a_minimum_and_needs_no_peaks() {
        let pack = PackRef { name: "test".into(), identity: "0".into(), width: 2 };
        let mut keyword = Keyword::new("x", pack, vec![Example::new("x".into(), 0.0, 1.0, &[1.0, 0.0], 2)]).unwrap();
        let tail = |peaks: &[f32]| Tail { condition: Condition::Plain, hours: 0.5, peaks: peaks.to_vec(), said: 0 };
        keyword.background = vec![tail(&[0.06]), tail(&[0.08, 0.075, 0.07, 0.065, 0.06])];
        assert_eq!(keyword.threshold_for(0.5), None, "too few peaks");
        keyword.phones = Some(Phones { phrase: vec![vec!["a".into()]], near: Vec::new() });
        assert_eq!(keyword.threshold_for(0.5), Some(LEAST_WITH_PHONES));
        keyword.background[1] = tail(&[0.4, 0.38, 0.36, 0.34, 0.32]);
        assert!(keyword.threshold_for(0.5).unwrap() > 0.4);
        keyword.background.clear();
        assert_eq!(keyword.threshold_for(0.5), None, "no background");
        // In noise, scores of examples may be raised, and those of text alone are lowered.
        assert_eq!(keyword.noise_gain(None), 1.0);
        keyword.example.clear();
        assert_eq!(keyword.noise_gain(None), TEXT_IN_NOISE);
    }

    #[cfg(unix)]
    #[test]
    fn a_pipe_is_no_keyword_file() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        assert!(std::process::Command::new("mkfifo").arg(at("x.keyword.toml")).status().unwrap().success());
        assert!(matches!(find(folder.path()), Err(KeywordError::NoKeywords { .. })));
        std::fs::write(at("lamp.keyword.toml"), "").unwrap();
        // A link to nothing is a file that cannot be read, which is reported.
        std::os::unix::fs::symlink("nothing", at("lost.keyword.toml")).unwrap();
        assert_eq!(find(folder.path()).unwrap(), [at("lamp.keyword.toml"), at("lost.keyword.toml")]);
    }
}
