//! A pack's reading of speech: what its CTC branch at full depth reads in hours of speech, the posteriorgram of several conditions. A keyword from text gets its
//! threshold from it within a second, without audio.
//!
//! The file `speech` of a pack is a gzip stream: a line of JSON, [`Header`], and the parts in blocks of [`BLOCK`] frames. A block is
//! `[classes + 1, BLOCK]` bytes: the cost of each class in each frame, which is how many steps its log-probability is below that of the likeliest one.
//! Classes with the cost `absent` are further away; the last row has their cost on average, as the logarithm of their mean probability.

use std::io::{BufRead, BufReader, Read};

use flate2::bufread::MultiGzDecoder;
use serde::Deserialize;

use super::calibrate::{Condition, Peaks, Tail};
use super::matcher::Matcher;
use super::phones::Phones;
use super::spotter::{Hit, Spotter};
use super::template::{FrameBlock, LANES};
use super::verification::{FullDepth, LEAD_SECONDS, PHONE_LEAD_FRAMES};
use crate::stream::SessionError;

/// Frames of a block.
const BLOCK: usize = 64;
/// Maximum length of the header.
const HEADER_BYTES: u64 = 1 << 22;
/// Frames kept to be verified: the longest match, and what precedes it.
const KEPT: usize = 1024;

/// Why a pack's reading of speech is unusable.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadingError {
    /// It ends early, or is not compressed as it should be.
    #[error("the pack's `speech` is damaged: {0}; restore the pack, or pass recordings as background")]
    Io(#[from] std::io::Error),
    /// Its header is invalid, or it is not a reading by this pack.
    #[error(
        "the pack's `speech` is unusable: {0}; rebuild it with `python -m models.keywords.speech PACK`, or pass recordings as background"
    )]
    Header(String),
}

/// The first line.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    /// Number of classes.
    classes: usize,
    /// A step of the costs, nats.
    step: f32,
    /// The cost of classes that are further away.
    absent: u8,
    /// The recordings, one after the other.
    parts: Vec<Part>,
}

/// A recording of several sentences.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Part {
    condition: Condition,
    /// Number of its blocks.
    blocks: u64,
    /// First frame and text of each sentence.
    texts: Vec<(u64, String)>,
}

/// The words of a text in lower case, with a space around each: a phrase is in a text if its words are, and not as a part of others.
fn words(text: &str) -> String {
    let lower = text.to_lowercase();
    let words: Vec<&str> = lower.split(|letter: char| !letter.is_alphanumeric()).filter(|word| !word.is_empty()).collect();
    format!(" {} ", words.join(" "))
}

/// [`BLOCK`] frames of a reading.
pub(super) struct Block<'a> {
    /// Number of the part.
    number: usize,
    part: &'a Part,
    /// `[BLOCK, classes]`; the highest of a frame is 0.
    logits: &'a [f32],
}

/// A reading, block by block.
pub(super) struct Reading<R> {
    source: BufReader<MultiGzDecoder<R>>,
    header: Header,
    /// The present part, and the number of its blocks that were read.
    at: (usize, u64),
    bytes: Vec<u8>,
    logits: Vec<f32>,
}

impl<R: BufRead> Reading<R> {
    /// Reads the header of a file for `classes` classes.
    pub fn open(source: R, classes: usize) -> Result<Self, ReadingError> {
        let mut source = BufReader::new(MultiGzDecoder::new(source));
        let mut line = Vec::new();
        (&mut source).take(HEADER_BYTES).read_until(b'\n', &mut line)?;
        let header: Header = serde_json::from_slice(&line).map_err(|error| ReadingError::Header(error.to_string()))?;
        if header.classes != classes {
            return Err(ReadingError::Header(format!("it has {} classes, and the pack {classes}", header.classes)));
        }
        if !(header.step.is_finite() && header.step > 0.0) {
            return Err(ReadingError::Header(format!("its step is {}", header.step)));
        }
        let bytes = vec![0; (classes + 1) * BLOCK];
        let logits = vec![0.0; classes * BLOCK];
        Ok(Self { source, header, at: (0, 0), bytes, logits })
    }

    /// The next block.
    pub fn next(&mut self) -> Result<Option<Block<'_>>, ReadingError> {
        while self.header.parts.get(self.at.0).is_some_and(|part| self.at.1 >= part.blocks) {
            self.at = (self.at.0 + 1, 0);
        }
        let Some(part) = self.header.parts.get(self.at.0) else { return Ok(None) };
        self.source.read_exact(&mut self.bytes)?;
        self.at.1 += 1;
        let Header { classes, step, absent, .. } = self.header;
        let (costs, others) = self.bytes.split_at(classes * BLOCK);
        for (class, costs) in costs.chunks_exact(BLOCK).enumerate() {
            for (frame, (&cost, &other)) in costs.iter().zip(others).enumerate() {
                self.logits[frame * classes + class] = -step * f32::from(if cost == absent { other.max(absent) } else { cost });
            }
        }
        Ok(Some(Block { number: self.at.0, part, logits: &self.logits }))
    }
}

/// The highest peaks of the phones of `matcher` in each condition of a reading, in frames of `hop_seconds`, except in sentences that contain `phrase`, which
/// are counted. `progress` receives the seconds of speech processed since its last call.
pub(super) fn tails<R: BufRead, E: From<ReadingError> + From<SessionError>>(
    mut reading: Reading<R>,
    (phrase, matcher): (&str, &Matcher),
    vocabulary: &[String],
    hop_seconds: f64,
    mut progress: impl FnMut(f64) -> Result<(), E>,
) -> Result<Vec<Tail>, E> {
    let phrase = words(phrase);
    let mut searches = Vec::<(Condition, Search<'_>)>::new();
    let mut present = None;
    while let Some(Block { number, part, logits }) = reading.next()? {
        let at = searches.iter().position(|(of, _)| *of == part.condition).unwrap_or_else(|| {
            searches.push((part.condition, Search::new(matcher, vocabulary, hop_seconds)));
            searches.len() - 1
        });
        let search = &mut searches[at].1;
        if present != Some(number) {
            present = Some(number);
            search.begin(part, &phrase)?;
        }
        search.push(logits)?;
        progress(BLOCK as f64 * hop_seconds)?;
    }
    let tail = |(condition, mut search): (_, Search<'_>)| {
        search.end_part()?;
        let tail = search.peaks.tail(condition, search.recent.end() as f64 * hop_seconds);
        Ok(Tail { said: search.said, ..tail })
    };
    searches.sort_by_key(|(condition, _)| *condition);
    searches.into_iter().map(tail).collect()
}

/// The search in one condition.
struct Search<'a> {
    spotter: Spotter,
    recent: Recent<'a>,
    peaks: Peaks,
    block: FrameBlock,
    /// The frames of the present part in which the phrase is said.
    saying: Vec<(u64, u64)>,
    /// Sentences in which it is said.
    said: u32,
}

impl<'a> Search<'a> {
    fn new(matcher: &Matcher, vocabulary: &'a [String], hop_seconds: f64) -> Self {
        let peaks = Peaks::of(matcher);
        let spotter = Spotter::new(matcher.clone(), peaks.options(hop_seconds));
        Self {
            spotter,
            recent: Recent::new(vocabulary, hop_seconds),
            peaks,
            block: FrameBlock::default(),
            saying: Vec::new(),
            said: 0,
        }
    }

    /// Begins a part. No match spans two of them.
    fn begin(&mut self, part: &Part, phrase: &str) -> Result<(), SessionError> {
        self.end_part()?;
        let first = self.recent.end();
        let ends = part.texts.iter().skip(1).map(|(start, _)| *start).chain([part.blocks.saturating_mul(BLOCK as u64)]);
        let saying = part.texts.iter().zip(ends).filter(|((_, text), _)| words(text).contains(phrase));
        self.saying = saying.map(|((start, _), end)| (first.saturating_add(*start), first.saturating_add(end))).collect();
        self.said += self.saying.len() as u32;
        Ok(())
    }

    /// Adds a peak, unless the phrase is said there.
    fn add(peaks: &mut Peaks, saying: &[(u64, u64)], hit: Hit) {
        if !saying.iter().any(|&(start, end)| hit.start < end && start < hit.end) {
            peaks.add(hit);
        }
    }

    fn push(&mut self, logits: &[f32]) -> Result<(), SessionError> {
        self.recent.push(logits);
        let classes = self.recent.vocabulary.len();
        for rows in logits.chunks(LANES * classes) {
            self.block.fill_with_logits(rows, classes);
            let Self { spotter, recent, peaks, saying, block, .. } = self;
            spotter.step(block, Some(recent), |_, hit| Self::add(peaks, saying, hit))?;
            self.spotter.set_near_miss(self.peaks.floor);
        }
        Ok(())
    }

    fn end_part(&mut self) -> Result<(), SessionError> {
        let pending = self.spotter.reset(Some(&mut self.recent))?;
        pending.into_iter().for_each(|hit| Self::add(&mut self.peaks, &self.saying, hit));
        Ok(())
    }
}

/// The last frames of a condition.
struct Recent<'a> {
    vocabulary: &'a [String],
    /// Frames before a match that are searched as well.
    lead: u64,
    /// Logits from frame `first` on, `[frames, classes]`.
    logits: Vec<f32>,
    first: u64,
    block: FrameBlock,
}

impl<'a> Recent<'a> {
    /// At the start, in frames of `hop_seconds`.
    fn new(vocabulary: &'a [String], hop_seconds: f64) -> Self {
        Self { vocabulary, lead: (LEAD_SECONDS / hop_seconds) as u64, logits: Vec::new(), first: 0, block: FrameBlock::default() }
    }

    /// Number of frames so far.
    fn end(&self) -> u64 {
        self.first + (self.logits.len() / self.vocabulary.len()) as u64
    }

    /// Adds the next frames.
    fn push(&mut self, logits: &[f32]) {
        self.logits.extend_from_slice(logits);
        let frames = self.logits.len() / self.vocabulary.len();
        if frames > 2 * KEPT {
            self.logits.drain(..(frames - KEPT) * self.vocabulary.len());
            self.first += (frames - KEPT) as u64;
        }
    }

    fn rows(&self, start: u64, end: u64) -> &[f32] {
        let classes = self.vocabulary.len();
        let at = |frame: u64| (frame.saturating_sub(self.first) as usize * classes).min(self.logits.len());
        &self.logits[at(start)..at(end)]
    }
}

impl FullDepth for Recent<'_> {
    fn blocks(
        &mut self,
        (start, end): (u64, u64),
        phones: Option<&Phones>,
        mut each: impl FnMut(u64, &FrameBlock),
    ) -> Result<f32, SessionError> {
        let from = start.saturating_sub(self.lead).max(self.first);
        let mut block = std::mem::take(&mut self.block);
        for (number, rows) in self.rows(from, end).chunks(LANES * self.vocabulary.len()).enumerate() {
            block.fill_with_logits(rows, self.vocabulary.len());
            each(from + (number * LANES) as u64, &block);
        }
        self.block = block;
        let rows = self.rows(start.saturating_sub(PHONE_LEAD_FRAMES), end);
        Ok(phones.map_or(1.0, |phones| phones.factor(rows, self.vocabulary)))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::{Compression, write::GzEncoder};

    use super::super::phone_search::Classes;
    use super::*;

    const ABSENT: u8 = 28;

    fn vocabulary() -> Vec<String> {
        ["<blank>", "a", "b", "c"].map(str::to_owned).to_vec()
    }

    /// A file whose frames read the letters of each part, or `-` for a blank; the others are absent, 12 nats below it.
    fn file(header: &str, parts: &[&str]) -> Vec<u8> {
        let mut out = GzEncoder::new(Vec::new(), Compression::fast());
        out.write_all(format!("{header}\n").as_bytes()).unwrap();
        for block in parts.iter().flat_map(|part| part.as_bytes().chunks(BLOCK)) {
            for class in *b"-abc" {
                let costs: Vec<u8> =
                    (0..BLOCK).map(|t| if block.get(t).unwrap_or(&b'-') == &class { 0 } else { ABSENT }).collect();
                out.write_all(&costs).unwrap();
            }
            out.write_all(&[48; BLOCK]).unwrap();
        }
        out.finish().unwrap()
    }

    fn header(parts: &str) -> String {
        format!(r#"{{"classes": 4, "step": 0.25, "absent": {ABSENT}, "parts": [{parts}]}}"#)
    }

    fn part(condition: &str, blocks: usize, texts: &str) -> String {
        format!(r#"{{"condition": "{condition}", "blocks": {blocks}, "texts": [{texts}]}}"#)
    }

    fn found(file: &[u8]) -> Result<Vec<Tail>, Problem> {
        let vocabulary = vocabulary();
        let phones = Phones { phrase: vec![["a", "b", "c"].map(String::from).to_vec()], near: Vec::new() };
        let classes = phones.classes(&vocabulary).into_iter().flatten().collect::<Vec<Classes>>();
        let matcher = Matcher::new([]).with_phones(phones, classes);
        let mut seconds = 0.0;
        let tails = tails::<_, Problem>(Reading::open(file, 4)?, ("A, b-c", &matcher), &vocabulary, 0.02, |part| {
            seconds += part;
            Ok(())
        })?;
        assert!((seconds - tails.iter().map(|tail| 3600.0 * tail.hours).sum::<f64>()).abs() < 1e-6);
        Ok(tails)
    }

    #[derive(Debug, thiserror::Error)]
    enum Problem {
        #[error(transparent)]
        Reading(#[from] ReadingError),
        #[error(transparent)]
        Session(#[from] SessionError),
    }

    #[test]
    fn the_phrase_is_found_in_each_condition_and_not_across_parts() {
        let parts = header(
            &[("noise", 1), ("plain", 2), ("plain", 1), ("plain", 1)].map(|(name, blocks)| part(name, blocks, "")).join(", "),
        );
        let said = |text: &str, frames: usize| format!("{text:-<frames$}");
        let split = format!("{:->64}", "aabb");
        let (plain, noise) = (said("---aab-cc---", 100), said("-a-b-b-", 64));
        let tails = found(&file(&parts, &[&noise, &plain, &split, &said("ccc", 64)])).unwrap();
        assert_eq!(tails.iter().map(|tail| tail.condition).collect::<Vec<_>>(), [Condition::Plain, Condition::Noise]);
        assert!((tails[0].hours * 3600.0 - 4.0 * 64.0 * 0.02).abs() < 1e-9);
        assert!(tails[0].peaks.len() == 1 && tails[0].peaks[0] > 0.99, "{:?}", tails[0].peaks);
        assert!(tails[1].peaks.is_empty(), "one phone is 12 nats away: {:?}", tails[1].peaks);
    }

    #[test]
    fn sentences_that_contain_the_phrase_are_counted_and_give_no_peaks() {
        let said = format!("{:-<64}{:-<64}{:-<64}", "aab-cc", "abc", "a-b-c");
        let texts = |texts: &str| found(&file(&header(&part("plain", 3, texts)), &[&said])).unwrap().remove(0);
        assert_eq!((texts("").peaks.len(), texts("").said), (3, 0));
        let one = texts(r#"[0, "another"], [64, "He said: A b, c!"], [128, "abc"]"#);
        assert_eq!((one.peaks.len(), one.said), (2, 1));
        assert_eq!(texts(r#"[0, "a b c"], [64, "a b c"], [120, "x a b c y"]"#), Tail { peaks: Vec::new(), said: 3, ..one });
    }

    #[test]
    fn a_file_that_is_damaged_or_of_another_pack_is_rejected() {
        let whole = file(&header(&part("plain", 1, "")), &["abc"]);
        assert!(found(&whole).is_ok());
        let message = |file: &[u8]| found(file).unwrap_err().to_string();
        assert!(message(&whole[..whole.len() / 2]).contains("damaged"));
        assert!(message(b"not compressed").contains("damaged"));
        assert!(message(&file(&header(&part("plain", 3, "")), &["abc"])).contains("damaged"), "fewer blocks than announced");
        assert!(message(&file("{}", &[])).contains("missing field"));
        assert!(message(&file(&header("").replace('4', "5"), &[])).contains("5 classes, and the pack 4"));
        assert!(message(&file(&header("").replace("0.25", "0"), &[])).contains("step is 0"));
        assert!(message(&file(&header(&part("whispered", 1, "")), &[])).contains("whispered"));
    }
}
