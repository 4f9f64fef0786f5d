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
use super::spotter::Spotter;
use super::template::{FrameBlock, LANES};
use super::verification::{FullDepth, LEAD_SECONDS, PHONE_LEAD_FRAMES};
use crate::stream::SessionError;

/// Frames of a block.
const BLOCK: usize = 64;
/// Maximum length of the header.
const HEADER_BYTES: u64 = 1 << 16;
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
    /// Condition and number of blocks of each part.
    parts: Vec<(Condition, u64)>,
}

/// [`BLOCK`] frames of a reading.
pub(super) struct Block<'a> {
    /// Number of the part.
    part: usize,
    condition: Condition,
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
        while self.header.parts.get(self.at.0).is_some_and(|(_, blocks)| self.at.1 >= *blocks) {
            self.at = (self.at.0 + 1, 0);
        }
        let Some(&(condition, _)) = self.header.parts.get(self.at.0) else { return Ok(None) };
        self.source.read_exact(&mut self.bytes)?;
        self.at.1 += 1;
        let Header { classes, step, absent, .. } = self.header;
        let (costs, others) = self.bytes.split_at(classes * BLOCK);
        for (class, costs) in costs.chunks_exact(BLOCK).enumerate() {
            for (frame, (&cost, &other)) in costs.iter().zip(others).enumerate() {
                self.logits[frame * classes + class] = -step * f32::from(if cost == absent { other.max(absent) } else { cost });
            }
        }
        Ok(Some(Block { part: self.at.0, condition, logits: &self.logits }))
    }
}

/// The highest peaks of the phones of `matcher` in each condition of a reading, in frames of `hop_seconds`. `progress` receives the seconds of
/// speech processed since its last call.
pub(super) fn tails<R: BufRead, E: From<ReadingError> + From<SessionError>>(
    mut reading: Reading<R>,
    matcher: &Matcher,
    vocabulary: &[String],
    hop_seconds: f64,
    mut progress: impl FnMut(f64) -> Result<(), E>,
) -> Result<Vec<Tail>, E> {
    let mut searches = Vec::<(Condition, Search<'_>)>::new();
    let mut present = 0;
    while let Some(Block { part, condition, logits }) = reading.next()? {
        if part != present {
            present = part;
            // No match spans two parts.
            searches.iter_mut().try_for_each(|(_, search)| search.end_part())?;
        }
        let at = searches.iter().position(|(of, _)| *of == condition).unwrap_or_else(|| {
            searches.push((condition, Search::new(matcher, vocabulary, hop_seconds)));
            searches.len() - 1
        });
        searches[at].1.push(logits)?;
        progress(BLOCK as f64 * hop_seconds)?;
    }
    let tail = |(condition, mut search): (_, Search<'_>)| {
        search.end_part()?;
        Ok(search.peaks.tail(condition, search.recent.end() as f64 * hop_seconds))
    };
    searches.into_iter().map(tail).collect()
}

/// The search in one condition.
struct Search<'a> {
    spotter: Spotter,
    recent: Recent<'a>,
    peaks: Peaks,
    block: FrameBlock,
}

impl<'a> Search<'a> {
    fn new(matcher: &Matcher, vocabulary: &'a [String], hop_seconds: f64) -> Self {
        let peaks = Peaks::of(matcher);
        let spotter = Spotter::new(matcher.clone(), peaks.options(hop_seconds));
        Self { spotter, recent: Recent::new(vocabulary, hop_seconds), peaks, block: FrameBlock::default() }
    }

    fn push(&mut self, logits: &[f32]) -> Result<(), SessionError> {
        self.recent.push(logits);
        let classes = self.recent.vocabulary.len();
        for rows in logits.chunks(LANES * classes) {
            self.block.fill_with_logits(rows, classes);
            self.spotter.step(&self.block, Some(&mut self.recent), |_, hit| self.peaks.add(hit))?;
            self.spotter.set_near_miss(self.peaks.floor);
        }
        Ok(())
    }

    fn end_part(&mut self) -> Result<(), SessionError> {
        let pending = self.spotter.reset(Some(&mut self.recent))?;
        pending.into_iter().for_each(|hit| self.peaks.add(hit));
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

    fn found(file: &[u8]) -> Result<Vec<Tail>, Problem> {
        let vocabulary = vocabulary();
        let phones = Phones { phrase: vec![["a", "b", "c"].map(String::from).to_vec()], near: Vec::new() };
        let classes = phones.classes(&vocabulary).into_iter().flatten().collect::<Vec<Classes>>();
        let matcher = Matcher::new([]).with_phones(phones, classes);
        let mut seconds = 0.0;
        let tails = tails::<_, Problem>(Reading::open(file, 4)?, &matcher, &vocabulary, 0.02, |part| {
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
        let parts = header(r#"["plain", 2], ["babble", 1], ["plain", 1], ["plain", 1]"#);
        let said = |text: &str, frames: usize| format!("{text:-<frames$}");
        let split = format!("{:->64}", "aabb");
        let (plain, babble) = (said("---aab-cc---", 100), said("-a-b-b-", 64));
        let tails = found(&file(&parts, &[&plain, &babble, &split, &said("ccc", 64)])).unwrap();
        assert_eq!(tails.iter().map(|tail| tail.condition).collect::<Vec<_>>(), [Condition::Plain, Condition::Babble]);
        assert!((tails[0].hours * 3600.0 - 4.0 * 64.0 * 0.02).abs() < 1e-9);
        assert!(tails[0].peaks.len() == 1 && tails[0].peaks[0] > 0.99, "{:?}", tails[0].peaks);
        assert!(tails[1].peaks.is_empty(), "one phone is 12 nats away: {:?}", tails[1].peaks);
    }

    #[test]
    fn a_file_that_is_damaged_or_of_another_pack_is_rejected() {
        let whole = file(&header(r#"["plain", 1]"#), &["abc"]);
        assert!(found(&whole).is_ok());
        let message = |file: &[u8]| found(file).unwrap_err().to_string();
        assert!(message(&whole[..whole.len() / 2]).contains("damaged"));
        assert!(message(b"not compressed").contains("damaged"));
        assert!(message(&file(&header(r#"["plain", 3]"#), &["abc"])).contains("damaged"), "fewer blocks than announced");
        assert!(message(&file("{}", &[])).contains("missing field"));
        assert!(message(&file(&header("").replace('4', "5"), &[])).contains("5 classes, and the pack 4"));
        assert!(message(&file(&header("").replace("0.25", "0"), &[])).contains("step is 0"));
        assert!(message(&file(&header(r#"["whispered", 1]"#), &[])).contains("whispered"));
    }
}
