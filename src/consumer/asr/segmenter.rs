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
}

impl Default for SegmentRules {
    /// For frames of 20 ms: at least 0.1 s of speech, 0.5 s of hangover, 0.2 s of padding, at most 30 s.
    fn default() -> Self {
        Self { speech: 0.5, quiet: 0.35, least_speech: 5, hangover: 25, pad: 10, longest: 1500 }
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
    frame: u64,
    /// Earliest start of the next utterance: after the previous one and after dropped audio.
    floor: u64,
    /// Frames of speech that have not started an utterance yet.
    onset: usize,
    open: Option<u64>,
    last_speech: u64,
    speaking: bool,
    /// Probabilities of the frames from `keep_from`.
    probabilities: VecDeque<f32>,
}

impl Segmenter {
    /// A segmenter at the start of a stream.
    pub fn new(rules: SegmentRules) -> Self {
        let rules = SegmentRules { least_speech: rules.least_speech.max(1), longest: rules.longest.max(2), ..rules };
        let probabilities = VecDeque::new();
        Self { rules, frame: 0, floor: 0, onset: 0, open: None, last_speech: 0, speaking: false, probabilities }
    }

    /// The earliest possible start of an utterance that was not returned yet.
    pub fn keep_from(&self) -> u64 {
        let before = (self.rules.pad + self.onset) as u64;
        self.open.unwrap_or_else(|| self.frame.saturating_sub(before).max(self.floor))
    }

    /// Adds a frame; returns an utterance if the frame ends one.
    pub fn push(&mut self, probability: f32) -> Option<Utterance> {
        let rules = self.rules;
        let here = self.frame;
        self.frame += 1;
        self.probabilities.push_back(probability);
        self.speaking = probability >= if self.speaking { rules.quiet } else { rules.speech };
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
    pub fn lost(&mut self, frames: u64) -> (Option<Utterance>, bool) {
        let quiet = if self.open.is_some() { self.frame - (self.last_speech + 1) } else { 0 };
        if quiet + frames < self.rules.hangover.max(1) as u64 {
            return (None, false);
        }
        let found = self.open.and_then(|start| self.close(start, Cut::Lost));
        (self.floor, self.onset, self.speaking) = (self.frame, 0, false);
        self.forget();
        (found, true)
    }

    /// Adds a frame that belongs to no utterance.
    pub fn skip(&mut self) {
        self.push(0.0);
        self.floor = self.frame;
        self.forget();
    }

    /// Ends the stream.
    pub fn finish(&mut self) -> Option<Utterance> {
        let found = self.open.and_then(|start| self.close(start, Cut::End));
        (self.floor, self.onset, self.speaking) = (self.frame, 0, false);
        found
    }

    fn close(&mut self, start: u64, cut: Cut) -> Option<Utterance> {
        self.open = None;
        self.floor = start;
        // After a cut, the rest may contain no speech.
        if self.last_speech < start {
            return None;
        }
        let end = (self.last_speech + 1 + self.rules.pad as u64).min(self.frame);
        self.floor = end;
        Some(self.span(start, end, cut))
    }

    fn cut_if_too_long(&mut self, start: u64) -> Option<Utterance> {
        let length = (self.frame - start) as usize;
        if length < self.rules.longest {
            return None;
        }
        // Cut at the quietest frame of the last fifth; the next utterance starts after it.
        let offset = length - (length / 5).max(1);
        let quietest =
            (offset..length).min_by(|&a, &b| self.probabilities[a].total_cmp(&self.probabilities[b])).unwrap_or(length - 1);
        let end = start + quietest as u64 + 1;
        let span = self.span(start, end, Cut::Longest);
        self.floor = end;
        self.open = Some(end);
        Some(span)
    }

    fn span(&self, start: u64, end: u64, cut: Cut) -> Utterance {
        let first = self.frame - self.probabilities.len() as u64;
        let inside = self.probabilities.range((start - first) as usize..(end - first) as usize);
        let speech = inside.sum::<f32>() / (end - start).max(1) as f32;
        Utterance { start, end, speech, cut }
    }

    fn forget(&mut self) {
        let keep = (self.frame - self.keep_from()) as usize;
        let gone = self.probabilities.len().saturating_sub(keep);
        self.probabilities.drain(..gone);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const RULES: SegmentRules = SegmentRules { speech: 0.5, quiet: 0.3, least_speech: 3, hangover: 5, pad: 2, longest: 40 };

    /// '#' is speech, '~' is between the thresholds, anything else is silence.
    fn cut(text: &str) -> Vec<(u64, u64, Cut)> {
        let mut segmenter = Segmenter::new(RULES);
        let frame = |c| match c {
            '#' => 1.0,
            '~' => 0.4,
            _ => 0.0,
        };
        let mut spans: Vec<Utterance> = text.chars().filter_map(|c| segmenter.push(frame(c))).collect();
        spans.extend(segmenter.finish());
        spans.iter().map(|span| (span.start, span.end, span.cut)).collect()
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
        let speak = |segmenter: &mut Segmenter| (0..4).filter_map(|_| segmenter.push(1.0)).count();
        let mut segmenter = Segmenter::new(RULES);
        assert_eq!(speak(&mut segmenter), 0);
        assert_eq!(segmenter.lost(4), (None, false), "shorter than the hangover: the utterance continues");
        assert_eq!(speak(&mut segmenter), 0);
        let (span, apart) = segmenter.lost(5);
        assert_eq!((span.map(|span| (span.start, span.end, span.cut)), apart), (Some((0, 8, Cut::Lost)), true));
        assert_eq!(segmenter.keep_from(), 8, "earlier frames are not joined to later ones");
        speak(&mut segmenter);
        assert_eq!(segmenter.finish().map(|span| (span.start, span.end)), Some((8, 12)));
    }

    proptest! {
        #[test]
        fn utterances_are_in_order_apart_and_within_bounds(frames in prop::collection::vec(prop_oneof![Just(0.0f32), Just(0.4), Just(1.0)], 0..400)) {
            let mut segmenter = Segmenter::new(RULES);
            let mut spans = Vec::new();
            for &probability in &frames {
                let keep = segmenter.keep_from();
                let found = segmenter.push(probability);
                prop_assert!(segmenter.probabilities.len() <= RULES.longest + 1);
                // Nothing that an utterance needs is discarded.
                prop_assert!(found.is_none_or(|span| span.start >= keep));
                spans.extend(found);
            }
            spans.extend(segmenter.finish());
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
    }
}
