//! Where the word is in a recording, and what makes a recording unfit as an example.

/// A stretch of samples.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// First sample.
    pub start: usize,
    /// The sample after the last one.
    pub end: usize,
}

/// Why a recording makes no example.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
pub enum TakeProblem {
    /// Nothing in it, or next to nothing.
    #[error(
        "too quiet: its loudest part has {level:.0} dBFS, and an example wants {QUIETEST_DBFS} or more — speak up, or come nearer"
    )]
    TooQuiet {
        /// Level of the loud parts, dB of full scale.
        level: f32,
    },
    /// The loud parts are cut off.
    #[error("clipped: {percent:.1} % of its speech is cut off at full scale — turn the microphone down, or step back")]
    Clipped {
        /// Share of samples in flat runs at full scale.
        percent: f32,
    },
    /// The level hardly changes: noise, a hum, music.
    #[error(
        "no word stands out: from its quiet to its loud parts there are {contrast:.0} dB, and speech has {LEAST_CONTRAST_DB} or more — is this noise?"
    )]
    NothingStandsOut {
        /// Between the loud and the quiet parts, dB.
        contrast: f32,
    },
    /// There is a word, but hardly.
    #[error(
        "too short: {seconds:.2} s of speech, and an example wants {SHORTEST_SECONDS} s or more — a word of two syllables or more is found better, too"
    )]
    TooShort {
        /// Length of what was found.
        seconds: f64,
    },
    /// More than a word.
    #[error("too long: {seconds:.1} s of speech, and an example has {LONGEST_SECONDS} s at most — record the word alone")]
    TooLong {
        /// Length of what was found.
        seconds: f64,
    },
    /// Speech, a pause, speech.
    #[error(
        "{words} words: speech at {first:.2} s and, after a pause, at {second:.2} s — record the word once, or the phrase without a pause"
    )]
    SeveralWords {
        /// How many stretches of speech.
        words: usize,
        /// Where the first one starts, seconds.
        first: f64,
        /// Where the next one starts, seconds.
        second: f64,
    },
    /// The model itself hears nobody speak.
    #[error("the model hears no speech in it")]
    NoSpeech,
    /// Another word than the other examples, as the model hears it.
    #[error("too unlike the others: its score with them is {score:.2}, and {least:.2} is the least — was another word said?")]
    TooUnlike {
        /// Best score with another example.
        score: f32,
        /// What would do.
        least: f32,
    },
}

const QUIETEST_DBFS: f32 = -50.0;
/// Stationary noise stays within 3 dB in frames of 20 ms, a hum within 1; a word alone, cut without any silence, has 15 or more.
const LEAST_CONTRAST_DB: f32 = 8.0;
const SHORTEST_SECONDS: f64 = 0.2;
const LONGEST_SECONDS: f64 = 3.0;
/// A pause from here on parts words; the closures of stops and the gaps between a phrase's words are shorter.
const PAUSE_SECONDS: f64 = 0.3;
/// What stands alone and is shorter is a click.
const CLICK_SECONDS: f64 = 0.07;
/// Speech is at most so far below its own loud parts, dB …
const SPEECH_RANGE_DB: f32 = 35.0;
/// … and above the quiet parts by this share of the way to the loud ones.
const ABOVE_FLOOR: f32 = 0.35;
/// Kept before and after: weak onsets and ends lie under the threshold.
const MARGIN_SECONDS: f64 = 0.03;
const FRAME_SECONDS: f64 = 0.02;
const STEP_SECONDS: f64 = 0.01;
const CLIPPED_PERCENT: f32 = 0.3;

/// Finds the one word of a recording.
pub fn find_speech(audio: &[f32], sample_rate: u32) -> Result<Span, TakeProblem> {
    let samples = |seconds: f64| (seconds * f64::from(sample_rate)) as usize;
    let (step, frame) = (samples(STEP_SECONDS).max(1), samples(FRAME_SECONDS).max(1));
    let levels = levels(audio, frame, step);
    let mut sorted = levels.clone();
    sorted.sort_by(f32::total_cmp);
    let at = |share: f64| sorted.get((share * sorted.len().saturating_sub(1) as f64) as usize).copied().unwrap_or(SILENCE_DBFS);
    // Of a long recording with a short word, 5 % may be all that the word has.
    let (loud, quiet) = (at(0.97), at(0.1));
    if loud < QUIETEST_DBFS {
        return Err(TakeProblem::TooQuiet { level: loud });
    }
    if loud - quiet < LEAST_CONTRAST_DB {
        return Err(TakeProblem::NothingStandsOut { contrast: loud - quiet });
    }
    let threshold = (loud - SPEECH_RANGE_DB).max(quiet + ABOVE_FLOOR * (loud - quiet));
    let mut stretches: Vec<Span> = Vec::new();
    for (index, _) in levels.iter().enumerate().filter(|(_, level)| **level > threshold) {
        let (start, end) = (index * step, (index * step + frame).min(audio.len()));
        match stretches.last_mut() {
            Some(last) if start < last.end + samples(PAUSE_SECONDS) => last.end = end,
            _ => stretches.push(Span { start, end }),
        }
    }
    stretches.retain(|stretch| stretch.end - stretch.start >= samples(CLICK_SECONDS));
    let seconds = |samples: usize| samples as f64 / f64::from(sample_rate);
    let span = match stretches[..] {
        [] => return Err(TakeProblem::TooShort { seconds: 0.0 }),
        [span] => span,
        [first, second, ..] => {
            let (first, second) = (seconds(first.start), seconds(second.start));
            return Err(TakeProblem::SeveralWords { words: stretches.len(), first, second });
        }
    };
    let long = seconds(span.end - span.start);
    if long < SHORTEST_SECONDS {
        return Err(TakeProblem::TooShort { seconds: long });
    }
    if long > LONGEST_SECONDS {
        return Err(TakeProblem::TooLong { seconds: long });
    }
    let percent = clipped_percent(&audio[span.start..span.end]);
    if percent > CLIPPED_PERCENT {
        return Err(TakeProblem::Clipped { percent });
    }
    let margin = samples(MARGIN_SECONDS);
    Ok(Span { start: span.start.saturating_sub(margin), end: (span.end + margin).min(audio.len()) })
}

const SILENCE_DBFS: f32 = -120.0;

/// Level of each frame, dB of full scale, its mean taken out.
fn levels(audio: &[f32], frame: usize, step: usize) -> Vec<f32> {
    let level = |samples: &[f32]| {
        let count = samples.len() as f64;
        let mean = samples.iter().map(|&x| f64::from(x)).sum::<f64>() / count;
        let power = samples.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / count;
        if power.is_finite() { (10.0 * power.max(1e-12).log10()) as f32 } else { SILENCE_DBFS }
    };
    audio.windows(frame).step_by(step).map(level).collect()
}

/// Share of samples, in percent, that lie in runs of three or more at full scale.
fn clipped_percent(audio: &[f32]) -> f32 {
    let full = |x: f32| x.abs() >= 0.985;
    let clipped: usize =
        audio.chunk_by(|a, b| full(*a) == full(*b)).filter(|run| full(run[0]) && run.len() >= 3).map(<[f32]>::len).sum();
    100.0 * clipped as f32 / audio.len().max(1) as f32
}
