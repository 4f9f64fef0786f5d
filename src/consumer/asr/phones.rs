//! Phones as they become final, as JSON lines or as text.

use std::io::Write;

use super::decoder::Decoder;
use super::phone::{BLANK, PhoneSpan};
use super::timeline::Timeline;
use crate::consumer::{Consumer, ConsumerError, Phone, Requirements, StreamInfo};
use crate::exit::log_probabilities;
use crate::stream::Representation;

/// Output format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// One line of JSON per phone.
    Json,
    /// One line per stretch of speech, with its start in seconds, extended as phones arrive. Spaces separate words if the vocabulary has
    /// word boundaries, otherwise phones.
    Text,
}

/// Time without a phone after which a new line of text starts.
const PAUSE_SECONDS: f64 = 0.4;
/// The class for a word boundary.
const WORD_BOUNDARY: &str = "<wb>";

/// Decodes the exit layer's CTC branch.
#[derive(Debug)]
pub struct PhoneReader {
    decoder: Decoder,
    vocabulary: Vec<String>,
    boundary: Option<usize>,
    /// Whether a word boundary precedes the next phone.
    word_begins: bool,
    sample_rate: f64,
    timeline: Timeline,
    log_p: Vec<f32>,
    spans: Vec<PhoneSpan>,
}

impl PhoneReader {
    /// A reader for the start of a stream.
    pub fn new(decoder: Decoder) -> Self {
        Self {
            decoder,
            vocabulary: Vec::new(),
            boundary: None,
            word_begins: false,
            sample_rate: 1.0,
            timeline: Timeline::default(),
            log_p: Vec::new(),
            spans: Vec::new(),
        }
    }

    /// Sets the vocabulary.
    pub fn begin(&mut self, stream: &StreamInfo) {
        self.vocabulary = stream.vocabulary.clone();
        self.boundary = stream.vocabulary.iter().position(|class| class == WORD_BOUNDARY);
        self.sample_rate = f64::from(stream.sample_rate.max(1));
    }

    /// Decodes a chunk, and appends the phones that have become final to `out`.
    ///
    /// # Errors
    ///
    /// The chunk has no CTC logits.
    pub fn push(&mut self, chunk: &Representation, out: &mut Vec<Phone>) -> Result<(), ConsumerError> {
        let Some(logits) = &chunk.ctc_logits else {
            let text = format!("chunk {} has no CTC logits; enable `ctc` in the session options", chunk.sequence);
            return Err(ConsumerError::other(text));
        };
        for (frame, place) in self.timeline.push(chunk).iter().enumerate() {
            // No phone spans dropped audio.
            if place.hole_before > 0 || place.hole_inside > 0 {
                self.decoder.finish(&mut self.spans);
            }
            let row = logits.row(frame);
            self.log_p.resize(row.len(), 0.0);
            if !log_probabilities(row, &mut self.log_p) {
                // Skip a frame with non-finite logits.
                self.log_p.fill(f32::NEG_INFINITY);
                self.log_p[BLANK] = 0.0;
            }
            self.decoder.push(&self.log_p, &mut self.spans);
        }
        self.take(out);
        self.timeline.forget_before(self.decoder.pending_since());
        Ok(())
    }

    /// Appends the phone that is not final yet, if there is one.
    pub fn finish(&mut self, out: &mut Vec<Phone>) {
        self.decoder.finish(&mut self.spans);
        self.take(out);
    }

    /// The position up to which all phones are final.
    pub fn final_until(&self) -> u64 {
        self.timeline.place(self.decoder.pending_since()).map_or(self.timeline.end(), |place| place.start)
    }

    fn take(&mut self, out: &mut Vec<Phone>) {
        for span in std::mem::take(&mut self.spans) {
            if self.boundary == Some(span.class) {
                self.word_begins = true;
                continue;
            }
            let word_begins = std::mem::take(&mut self.word_begins);
            // A decoder outputs only frames that it has received and that are still pending.
            let (Some(first), Some(last)) = (self.timeline.place(span.start), self.timeline.place(span.end - 1)) else {
                continue;
            };
            let round = |value: f64| (value * 1e4).round() / 1e4;
            let seconds = |samples: u64| round(samples as f64 / self.sample_rate);
            out.push(Phone {
                phone: self.vocabulary.get(span.class).map_or("?", String::as_str).to_owned(),
                start: seconds(first.start),
                end: seconds(last.end),
                sample: first.start,
                samples: last.end - first.start,
                confidence: round(f64::from(span.confidence)),
                layer: first.layer,
                word_begins,
            });
        }
    }
}

/// Decodes the exit layer's CTC branch and writes phones.
pub struct Phones<W> {
    out: W,
    place: String,
    form: Form,
    reader: PhoneReader,
    phones: Vec<Phone>,
    /// End of the last phone on the open line of text, in samples.
    line_end: Option<u64>,
}

impl<W: Write + Send> Phones<W> {
    /// Writes phones to `out`, named `place` in errors.
    pub fn new(out: W, place: impl Into<String>, form: Form, decoder: Decoder) -> Self {
        Self { out, place: place.into(), form, reader: PhoneReader::new(decoder), phones: Vec::new(), line_end: None }
    }

    /// Writes the phones that have become final.
    fn write(&mut self) -> Result<(), ConsumerError> {
        let phones = std::mem::take(&mut self.phones);
        let written = phones.iter().try_for_each(|phone| self.write_one(phone)).and_then(|()| self.out.flush());
        self.phones = phones;
        self.phones.clear();
        written.map_err(|error| ConsumerError::write(self.place.clone(), error))
    }

    fn write_one(&mut self, phone: &Phone) -> std::io::Result<()> {
        match self.form {
            Form::Json => {
                let mut text = serde_json::to_vec(phone)?;
                text.push(b'\n');
                // In one call, so that lines of several consumers do not interleave.
                self.out.write_all(&text)
            }
            Form::Text => {
                let (name, words) = (&phone.phone, self.reader.boundary.is_some());
                let same_line = self.line_end.is_some_and(|before| self.seconds_between(before, phone.sample) < PAUSE_SECONDS);
                let newline = if self.line_end.is_some() { "\n" } else { "" };
                match same_line {
                    false => write!(self.out, "{newline}{:8.2}  {name}", phone.sample as f64 / self.reader.sample_rate)?,
                    true if phone.word_begins || !words => write!(self.out, " {name}")?,
                    true => write!(self.out, "{name}")?,
                }
                self.line_end = Some(phone.sample + phone.samples);
                Ok(())
            }
        }
    }

    fn seconds_between(&self, earlier: u64, later: u64) -> f64 {
        later.saturating_sub(earlier) as f64 / self.reader.sample_rate
    }

    /// Ends the line of text after a pause.
    fn end_line(&mut self) -> Result<(), ConsumerError> {
        self.line_end = None;
        let ended = self.out.write_all(b"\n").and_then(|()| self.out.flush());
        ended.map_err(|error| ConsumerError::write(self.place.clone(), error))
    }
}

impl<W: Write + Send> Consumer for Phones<W> {
    fn name(&self) -> &str {
        "phones"
    }

    fn requires(&self) -> Requirements {
        Requirements { ctc: true, ..Requirements::default() }
    }

    fn begin(&mut self, stream: &StreamInfo) -> Result<(), ConsumerError> {
        self.reader.begin(stream);
        Ok(())
    }

    fn consume(&mut self, chunk: &Representation) -> Result<(), ConsumerError> {
        self.reader.push(chunk, &mut self.phones)?;
        self.write()?;
        match self.line_end {
            Some(end) if self.seconds_between(end, self.reader.final_until()) >= PAUSE_SECONDS => self.end_line(),
            _ => Ok(()),
        }
    }

    fn finish(&mut self) -> Result<(), ConsumerError> {
        self.reader.finish(&mut self.phones);
        self.write()?;
        if self.line_end.is_some() { self.end_line() } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::consumer::testing::{chunks, stream};
    use crate::stream::Discontinuity;

    const CLASSES: usize = 4;

    /// The lines for logits `[frames, 4]` in chunks of these sizes.
    fn lines(
        logits: &[f32],
        sizes: &[usize],
        width: Option<usize>,
        change: impl Fn(&mut Vec<Representation>),
    ) -> Vec<serde_json::Value> {
        let mut chunks = chunks(logits, CLASSES, sizes);
        change(&mut chunks);
        let mut out = Vec::new();
        let mut phones = Phones::new(&mut out, "test", Form::Json, Decoder::new(width));
        phones.begin(&stream(CLASSES)).unwrap();
        chunks.iter().for_each(|chunk| phones.consume(chunk).unwrap());
        phones.finish().unwrap();
        String::from_utf8(out).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    fn sure(classes: &[usize]) -> Vec<f32> {
        classes.iter().flat_map(|&class| (0..CLASSES).map(move |c| if c == class { 9.0 } else { 0.0 })).collect()
    }

    proptest! {
        /// Chunks of any size give the phones of a single chunk, at the same samples.
        #[test]
        fn streaming_is_offline(
            logits in prop::collection::vec(-4.0f32..4.0, CLASSES * 60), sizes in prop::collection::vec(1usize..20, 60),
            width in prop::option::of(1usize..7),
        ) {
            let mut left = 60;
            let mut cut: Vec<usize> = sizes.iter().map(|size| { let take = (*size).min(left); left -= take; take }).collect();
            cut.retain(|size| *size > 0);
            prop_assert_eq!(lines(&logits, &cut, width, |_| {}), lines(&logits, &[60], width, |_| {}));
        }
    }

    #[test]
    fn positions_count_lost_samples_and_no_phone_reaches_over_them() {
        let logits = sure(&[0, 1, 1, 1, 0, 2, 2, 0]);
        let whole = lines(&logits, &[4, 4], None, |_| {});
        let at = |lines: &[serde_json::Value]| -> Vec<(String, u64, u64)> {
            let one = |line: &serde_json::Value| {
                (line["phone"].as_str().unwrap().into(), line["sample"].as_u64().unwrap(), line["samples"].as_u64().unwrap())
            };
            lines.iter().map(one).collect()
        };
        assert_eq!(at(&whole), [("p1".into(), 320, 960), ("p2".into(), 1600, 640)]);
        // 1,000 samples dropped before the second chunk.
        let shifted = lines(&logits, &[4, 4], None, |chunks| chunks[1].first_sample += 1000);
        assert_eq!(at(&shifted), [("p1".into(), 320, 960), ("p2".into(), 2600, 640)]);
        // 1,000 samples dropped within the first chunk, between frames 1 and 2 (sample 640): the phone there is split.
        let torn = lines(&logits, &[4, 4], None, |chunks| {
            chunks[0].discontinuities.push(Discontinuity { offset: 640, lost_samples: 1000 });
            chunks[1].first_sample += 1000;
        });
        assert_eq!(at(&torn), [("p1".into(), 320, 320), ("p1".into(), 1640, 640), ("p2".into(), 2600, 640)]);
    }

    #[test]
    fn a_frame_that_is_not_finite_says_nothing() {
        let mut logits = sure(&[1, 1, 2]);
        logits[5] = f32::NAN;
        let found = lines(&logits, &[3], None, |_| {});
        assert_eq!(found.iter().map(|line| line["phone"].as_str().unwrap()).collect::<Vec<_>>(), ["p1", "p2"]);
        assert_eq!(found[0]["samples"], 320);
    }

    #[test]
    fn text_grows_by_phones_and_breaks_at_pauses() {
        let mut classes = vec![1, 0, 2, 0];
        classes.extend([0; 30]);
        classes.extend([3, 3, 0]);
        let mut out = Vec::new();
        let mut phones = Phones::new(&mut out, "test", Form::Text, Decoder::new(None));
        phones.begin(&stream(CLASSES)).unwrap();
        chunks(&sure(&classes), CLASSES, &[8, 8, 8, 8, 5]).iter().for_each(|chunk| phones.consume(chunk).unwrap());
        phones.finish().unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), "    0.00  p1 p2\n    0.68  p3\n");
    }

    #[test]
    fn word_boundaries_set_words_apart_and_are_no_phones() {
        let written = |form| {
            let mut out = Vec::new();
            let mut phones = Phones::new(&mut out, "test", form, Decoder::new(None));
            let mut stream = stream(CLASSES);
            stream.vocabulary[3] = "<wb>".into();
            phones.begin(&stream).unwrap();
            chunks(&sure(&[1, 2, 3, 2, 0, 1]), CLASSES, &[6]).iter().for_each(|chunk| phones.consume(chunk).unwrap());
            phones.finish().unwrap();
            String::from_utf8(out).unwrap()
        };
        assert_eq!(written(Form::Text), "    0.00  p1p2 p2p1\n");
        let begins: Vec<bool> = written(Form::Json).lines().map(|line| line.contains("\"word_begins\":true")).collect();
        assert_eq!(begins, [false, false, true, false]);
    }

    #[test]
    fn a_chunk_without_logits_is_an_error() {
        let mut phones = Phones::new(Vec::new(), "test", Form::Json, Decoder::new(None));
        let mut chunk = chunks(&sure(&[1]), CLASSES, &[1]).remove(0);
        chunk.ctc_logits = None;
        assert!(phones.consume(&chunk).unwrap_err().to_string().contains("no CTC logits"));
    }
}
