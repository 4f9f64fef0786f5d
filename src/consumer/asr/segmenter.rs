//! Cuts utterances: from the probability of speech in each frame to spans of frames.

use std::collections::VecDeque;

/// Segmentation rules; lengths in frames.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SegmentRules {
    /// Minimum probability for speech to start.
    pub speech: f32,
    /// Probability below which speech ends; in between the state is unchanged.
    pub quiet: f32,
    /// Minimum frames of speech in an utterance; fewer are a click.
    pub least_speech: usize,
    /// Frames of silence that end it.
    pub hangover: usize,
    /// Frames kept before and after the speech.
    pub pad: usize,
    /// Maximum length in frames; a longer utterance is cut at the quietest frame of its last fifth.
    pub longest: usize,
    /// How phones tell speech from noise. `None` if phones are unknown.
    pub phones: Option<PhoneRules>,
}

/// Rules that tell speech from noise by its phones.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PhoneRules {
    /// Speech without a phone within this number of frames on either side is noise.
    pub reach: usize,
    /// So is speech with fewer phones than this share of the frames of speech within reach.
    pub share: f32,
    /// Minimum frames with a phone in an utterance.
    pub least: usize,
}

impl Default for SegmentRules {
    /// For frames of 20 ms: at least 0.1 s of speech, 0.5 s of hangover, 0.2 s of padding, at most 30 s; phones are ignored.
    fn default() -> Self {
        Self { speech: 0.5, quiet: 0.35, least_speech: 5, hangover: 25, pad: 10, longest: 1500, phones: None }
    }
}

/// Evidence of speech in one frame.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SpeechFrame {
    /// Probability of speech.
    pub probability: f32,
    /// Whether a phone was recognised; true if phones are unknown.
    pub phone: bool,
}

impl SpeechFrame {
    const SILENCE: Self = Self { probability: 0.0, phone: false };
}

/// Delays frames until the phones near them are known, and sets the probability of those with too few to 0.
#[derive(Debug, Clone)]
struct Confirmation {
    phones: PhoneRules,
    /// Probability from which a frame counts as speech.
    speech: f32,
    /// The frames within reach of the next one to be decided, and `waiting` frames from that one on.
    near: VecDeque<SpeechFrame>,
    waiting: usize,
}

impl Confirmation {
    fn new(rules: &SegmentRules) -> Option<Self> {
        rules.phones.map(|phones| Self { phones, speech: rules.quiet, near: VecDeque::new(), waiting: 0 })
    }

    fn push(&mut self, frame: SpeechFrame) -> Option<SpeechFrame> {
        self.near.push_back(frame);
        self.waiting += 1;
        if self.waiting > self.phones.reach { self.pop() } else { None }
    }

    fn pop(&mut self) -> Option<SpeechFrame> {
        let index = self.near.len() - self.waiting;
        let frame = *self.near.get(index)?;
        self.near.drain(..index.saturating_sub(self.phones.reach));
        self.waiting -= 1;
        let phones = self.near.iter().filter(|frame| frame.phone).count();
        let speech = self.near.iter().filter(|frame| frame.probability >= self.speech).count();
        let enough = (self.phones.share * speech as f32).max(1.0);
        Some(if phones as f32 >= enough { frame } else { SpeechFrame::SILENCE })
    }
}

/// Why an utterance ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cut {
    /// Silence.
    Quiet,
    /// Maximum length.
    Longest,
    /// Audio was dropped for longer than the hangover.
    Lost,
    /// The stream ended.
    End,
}

/// One utterance; frames count from the first one pushed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Utterance {
    /// First frame.
    pub start: u64,
    /// The frame after the last one.
    pub end: u64,
    /// Mean probability of speech.
    pub speech: f32,
    /// Reason for its end.
    pub cut: Cut,
}

/// Segments frame by frame; the result does not depend on chunk boundaries.
#[derive(Debug, Clone)]
pub struct Segmenter {
    rules: SegmentRules,
    confirmation: Option<Confirmation>,
    /// Number of frames processed; those that wait for confirmation are not.
    frame: u64,
    /// Earliest start of the next utterance: after the previous one and after dropped audio.
    floor: u64,
    /// Frames of speech that have not started an utterance yet.
    onset: usize,
    open: Option<u64>,
    last_speech: u64,
    speaking: bool,
    /// The frames from `keep_from`.
    frames: VecDeque<SpeechFrame>,
}

impl Segmenter {
    /// A segmenter at the start of a stream.
    pub fn new(rules: SegmentRules) -> Self {
        let rules = SegmentRules { least_speech: rules.least_speech.max(1), longest: rules.longest.max(2), ..rules };
        let confirmation = Confirmation::new(&rules);
        Self {
            rules,
            confirmation,
            frame: 0,
            floor: 0,
            onset: 0,
            open: None,
            last_speech: 0,
            speaking: false,
            frames: VecDeque::new(),
        }
    }

    /// The earliest possible start of an utterance that was not returned yet.
    pub fn keep_from(&self) -> u64 {
        let before = (self.rules.pad + self.onset) as u64;
        self.open.unwrap_or_else(|| self.frame.saturating_sub(before).max(self.floor))
    }

    /// Adds a frame; appends the utterances that it ends.
    pub fn push(&mut self, frame: SpeechFrame, found: &mut Vec<Utterance>) {
        let next = match &mut self.confirmation {
            Some(confirmation) => confirmation.push(frame),
            None => Some(frame),
        };
        if let Some(frame) = next {
            found.extend(self.advance(frame));
        }
    }

    /// Processes the frames that wait for confirmation.
    fn flush(&mut self, found: &mut Vec<Utterance>) {
        while let Some(frame) = self.confirmation.as_mut().and_then(Confirmation::pop) {
            found.extend(self.advance(frame));
        }
        self.confirmation = Confirmation::new(&self.rules);
    }

    fn advance(&mut self, frame: SpeechFrame) -> Option<Utterance> {
        let rules = self.rules;
        let here = self.frame;
        self.frame += 1;
        self.frames.push_back(frame);
        self.speaking = frame.probability >= if self.speaking { rules.quiet } else { rules.speech };
        let found = match (self.open, self.speaking) {
            (None, false) => {
                self.onset = 0;
                None
            }
            (None, true) => {
                self.onset += 1;
                if self.onset >= rules.least_speech {
                    let first = self.frame - self.onset as u64;
                    self.open = Some(first.saturating_sub(rules.pad as u64).max(self.floor));
                    self.last_speech = here;
                    self.onset = 0;
                }
                None
            }
            (Some(start), true) => {
                self.last_speech = here;
                self.cut_if_too_long(start)
            }
            (Some(start), false) if here - self.last_speech >= rules.hangover.max(1) as u64 => self.close(start, Cut::Quiet),
            (Some(start), false) => self.cut_if_too_long(start),
        };
        self.forget();
        found
    }

    /// Reports `frames` dropped frames before the next one. They count as silence; an utterance spans at most
    /// one hangover of them. Returns true if later frames cannot be joined to earlier ones.
    pub fn lost(&mut self, frames: u64, found: &mut Vec<Utterance>) -> bool {
        self.flush(found);
        let quiet = if self.open.is_some() { self.frame - (self.last_speech + 1) } else { 0 };
        if quiet + frames < self.rules.hangover.max(1) as u64 {
            return false;
        }
        found.extend(self.open.and_then(|start| self.close(start, Cut::Lost)));
        (self.floor, self.onset, self.speaking) = (self.frame, 0, false);
        self.forget();
        true
    }

    /// Adds a frame that belongs to no utterance, after [`lost`](Self::lost) has returned true.
    pub fn skip(&mut self) {
        self.advance(SpeechFrame::SILENCE);
        self.floor = self.frame;
        self.forget();
    }

    /// Ends the stream.
    pub fn finish(&mut self, found: &mut Vec<Utterance>) {
        self.flush(found);
        found.extend(self.open.and_then(|start| self.close(start, Cut::End)));
        (self.floor, self.onset, self.speaking) = (self.frame, 0, false);
    }

    fn close(&mut self, start: u64, cut: Cut) -> Option<Utterance> {
        self.open = None;
        self.floor = start;
        // After a cut, the rest may contain no speech.
        if self.last_speech < start {
            return None;
        }
        let end = (self.last_speech + 1 + self.rules.pad as u64).min(self.frame);
        let span = self.span(start, end, cut)?;
        self.floor = end;
        Some(span)
    }

    fn cut_if_too_long(&mut self, start: u64) -> Option<Utterance> {
        let length = (self.frame - start) as usize;
        if length < self.rules.longest {
            return None;
        }
        // Cut at the quietest frame of the last fifth; the next utterance starts after it.
        let offset = length - (length / 5).max(1);
        let quietest = (offset..length)
            .min_by(|&a, &b| self.frames[a].probability.total_cmp(&self.frames[b].probability))
            .unwrap_or(length - 1);
        let end = start + quietest as u64 + 1;
        let span = self.span(start, end, Cut::Longest);
        self.floor = end;
        self.open = Some(end);
        span
    }

    /// The utterance, unless it has too few phones.
    fn span(&self, start: u64, end: u64, cut: Cut) -> Option<Utterance> {
        let first = self.frame - self.frames.len() as u64;
        let inside = self.frames.range((start - first) as usize..(end - first) as usize);
        let least = self.rules.phones.map_or(0, |phones| phones.least);
        if inside.clone().filter(|frame| frame.phone).count() < least {
            return None;
        }
        let speech = inside.map(|frame| frame.probability).sum::<f32>() / (end - start).max(1) as f32;
        Some(Utterance { start, end, speech, cut })
    }

    fn forget(&mut self) {
        let keep = (self.frame - self.keep_from()) as usize;
        let gone = self.frames.len().saturating_sub(keep);
        self.frames.drain(..gone);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const RULES: SegmentRules =
        SegmentRules { speech: 0.5, quiet: 0.3, least_speech: 3, hangover: 5, pad: 2, longest: 40, phones: None };

    fn frame(probability: f32) -> SpeechFrame {
        SpeechFrame { probability, phone: false }
    }

    /// '#' is speech, '!' speech with a phone, '~' is between the thresholds, anything else is silence.
    fn cut_by(rules: SegmentRules, text: &str) -> Vec<(u64, u64, Cut)> {
        let mut segmenter = Segmenter::new(rules);
        let mut spans = Vec::new();
        for c in text.chars() {
            let probability = match c {
                '#' | '!' => 1.0,
                '~' => 0.4,
                _ => 0.0,
            };
            segmenter.push(SpeechFrame { probability, phone: c == '!' }, &mut spans);
        }
        segmenter.finish(&mut spans);
        spans.iter().map(|span| (span.start, span.end, span.cut)).collect()
    }

    fn cut(text: &str) -> Vec<(u64, u64, Cut)> {
        cut_by(RULES, text)
    }

    #[test]
    fn noise_without_phones_is_no_speech() {
        let rules = SegmentRules { phones: Some(PhoneRules { reach: 4, share: 0.0, least: 1 }), ..RULES };
        assert_eq!(cut_by(rules, "....##########......."), []);
        assert_eq!(cut_by(rules, "....###!###.........."), [(2, 13, Cut::Quiet)], "as without phones");
        let noise = "#".repeat(20);
        let found = cut_by(rules, &format!("{noise}!###!{noise}......."));
        assert_eq!(found, [(14, 31, Cut::Quiet)], "noise on both sides is cut off beyond the reach and the padding");
        assert_eq!(cut_by(rules, "..##!"), [(0, 5, Cut::End)], "the end does not wait for phones");
        let rules = SegmentRules { phones: Some(PhoneRules { reach: 4, share: 0.0, least: 2 }), ..RULES };
        assert_eq!(cut_by(rules, "....###!###.....#!!#......."), [(14, 22, Cut::Quiet)], "one phone is too few");
        let rules = SegmentRules { phones: Some(PhoneRules { reach: 4, share: 0.25, least: 2 }), ..RULES };
        assert_eq!(cut_by(rules, "....##!#####!#####!#######......."), [], "phones in a sixth of the speech");
        assert_eq!(cut_by(rules, "....##!#!##!#......"), [(2, 15, Cut::Quiet)], "in a third");
        assert_eq!(cut_by(rules, ".....!......#!!#......."), [(10, 18, Cut::Quiet)], "a short word needs no more");
    }

    #[test]
    fn an_utterance_has_its_pads_and_ends_after_the_hangover() {
        assert_eq!(cut("....####......."), [(2, 10, Cut::Quiet)]);
        assert_eq!(cut("..##.##...."), [], "clicks");
        assert_eq!(cut("###...###......"), [(0, 11, Cut::Quiet)], "a pause shorter than the hangover");
        assert_eq!(cut("..###.....###....."), [(0, 7, Cut::Quiet), (8, 15, Cut::Quiet)]);
        assert_eq!(cut("..##~~~#~....."), [(0, 11, Cut::Quiet)], "between the thresholds the state is unchanged");
        assert_eq!(cut("..~~~~~~"), []);
        assert_eq!(cut("...####"), [(1, 7, Cut::End)]);
    }

    #[test]
    fn pads_of_neighbours_do_not_overlap() {
        let spans = cut("###.....###.....###......");
        assert!(spans.windows(2).all(|pair| pair[0].1 <= pair[1].0), "{spans:?}");
        assert_eq!(spans.len(), 3);
    }

    #[test]
    fn the_longest_is_cut_at_its_quietest_and_goes_on() {
        let text = format!("{}~{}......", "#".repeat(35), "#".repeat(20));
        assert_eq!(cut(&text), [(0, 36, Cut::Longest), (36, 58, Cut::Quiet)]);
    }

    #[test]
    fn lost_sound_counts_as_quiet() {
        for rules in [RULES, SegmentRules { phones: Some(PhoneRules { reach: 9, share: 0.1, least: 2 }), ..RULES }] {
            let (mut segmenter, mut spans) = (Segmenter::new(rules), Vec::new());
            let speak = |segmenter: &mut Segmenter, spans: &mut Vec<Utterance>| {
                (0..4).for_each(|_| segmenter.push(SpeechFrame { probability: 1.0, phone: true }, spans));
            };
            speak(&mut segmenter, &mut spans);
            assert!(!segmenter.lost(4, &mut spans), "shorter than the hangover: the utterance continues");
            speak(&mut segmenter, &mut spans);
            assert!(spans.is_empty() && segmenter.lost(5, &mut spans));
            assert_eq!(segmenter.keep_from(), 8, "earlier frames are not joined to later ones");
            speak(&mut segmenter, &mut spans);
            segmenter.finish(&mut spans);
            let spans: Vec<_> = spans.iter().map(|span| (span.start, span.end, span.cut)).collect();
            assert_eq!(spans, [(0, 8, Cut::Lost), (8, 12, Cut::End)]);
        }
    }

    proptest! {
        #[test]
        fn utterances_are_in_order_apart_and_within_bounds(frames in prop::collection::vec(prop_oneof![Just(0.0f32), Just(0.4), Just(1.0)], 0..400)) {
            let mut segmenter = Segmenter::new(RULES);
            let mut spans = Vec::new();
            for &probability in &frames {
                let (keep, before) = (segmenter.keep_from(), spans.len());
                segmenter.push(frame(probability), &mut spans);
                prop_assert!(segmenter.frames.len() <= RULES.longest + 1);
                // Nothing that an utterance needs is discarded.
                prop_assert!(spans[before..].iter().all(|span| span.start >= keep));
            }
            segmenter.finish(&mut spans);
            prop_assert!(spans.iter().all(|span| span.start < span.end && span.end <= frames.len() as u64));
            prop_assert!(spans.iter().all(|span| span.end - span.start <= RULES.longest as u64));
            prop_assert!(spans.windows(2).all(|pair| pair[0].end <= pair[1].start));
            // Every sufficiently long run of speech is in an utterance.
            for start in 0..frames.len().saturating_sub(RULES.least_speech) {
                if frames[start..start + RULES.least_speech].iter().all(|p| *p == 1.0) {
                    let inside = (start..start + RULES.least_speech).all(|t| spans.iter().any(|s| (s.start..s.end).contains(&(t as u64))));
                    prop_assert!(inside, "{} {:?}", start, spans);
                }
            }
        }

        #[test]
        fn phones_only_remove_speech_and_phones_everywhere_remove_none(
            frames in prop::collection::vec((prop_oneof![Just(0.0f32), Just(0.4), Just(1.0)], any::<bool>()), 0..200),
            reach in 0usize..30,
            share in 0.0f32..0.9,
        ) {
            let least = 2;
            let spans = |reach: Option<usize>, everywhere: bool| {
                let phones = reach.map(|reach| PhoneRules { reach, share, least });
                let mut segmenter = Segmenter::new(SegmentRules { phones, ..RULES });
                let mut spans = Vec::new();
                for &(probability, phone) in &frames {
                    segmenter.push(SpeechFrame { probability, phone: phone || everywhere }, &mut spans);
                }
                segmenter.finish(&mut spans);
                spans
            };
            // What a cut leaves may be shorter than the least number of phones.
            let mut all = spans(None, false);
            all.retain(|span| span.end - span.start >= least as u64);
            prop_assert_eq!(&spans(Some(reach), true), &all);
            let covered = |spans: &[Utterance]| spans.iter().map(|span| span.end - span.start).sum::<u64>();
            prop_assert!(covered(&spans(Some(reach), false)) <= covered(&all));
        }
    }
}
