//! The place of the phrase in a take, and the reasons for which a take is rejected.

/// A stretch of samples.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// First sample.
    pub start: usize,
    /// The sample after the last one.
    pub end: usize,
}

/// Why a take is rejected.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
pub enum TakeProblem {
    /// Too little signal.
    #[error(
        "too quiet: {level:.0} dBFS at most, and an example needs {QUIETEST_DBFS}; speak up, or move closer to the microphone"
    )]
    TooQuiet {
        /// Level of the loud parts, dBFS.
        level: f32,
    },
    /// Clipped at full scale.
    #[error("clipped: {percent:.1} % of the speech is at full scale; lower the gain, or move away from the microphone")]
    Clipped {
        /// Share of samples in flat runs at full scale.
        percent: f32,
    },
    /// Nearly constant level: noise, a hum, music.
    #[error(
        "no word stands out: the level varies by {contrast:.0} dB, and speech varies by {LEAST_CONTRAST_DB} or more; record in a quieter place"
    )]
    NothingStandsOut {
        /// Difference between the loud and the quiet parts, dB.
        contrast: f32,
    },
    /// Less speech than an example needs.
    #[error(
        "too short: {seconds:.2} s of speech, and an example needs {SHORTEST_SECONDS} s; use a word of at least two syllables"
    )]
    TooShort {
        /// Duration of the speech.
        seconds: f64,
    },
    /// More speech than an example may have.
    #[error(
        "too long: {seconds:.1} s of speech, and an example has at most {LONGEST_SECONDS} s; record the phrase alone, or use a shorter one"
    )]
    TooLong {
        /// Duration of the speech.
        seconds: f64,
    },
    /// Speech with a pause.
    #[error(
        "{words} words: speech at {first:.2} s and, after a pause, at {second:.2} s; record the word once, or the phrase without a pause"
    )]
    SeveralWords {
        /// Number of stretches of speech.
        words: usize,
        /// Start of the first one, seconds.
        first: f64,
        /// Start of the second one, seconds.
        second: f64,
    },
    /// The model classifies nearly all of it as silence.
    #[error("the model detects no speech in it; record the word again")]
    NoSpeech,
    /// Scores low against the other examples: probably a different word.
    #[error("too unlike the others: it scores {score:.2} against them, and needs {least:.2}; record the same word")]
    TooUnlike {
        /// Best score with another example.
        score: f32,
        /// Least score.
        least: f32,
    },
}

const QUIETEST_DBFS: f32 = -50.0;
/// In frames of 20 ms, stationary noise varies by up to 3 dB, a hum by 1, a word without any silence around it by 15 or more.
const LEAST_CONTRAST_DB: f32 = 8.0;
const SHORTEST_SECONDS: f64 = 0.2;
const LONGEST_SECONDS: f64 = 3.0;
/// Least pause between words; closures of stops and gaps within a phrase are shorter.
const PAUSE_SECONDS: f64 = 0.3;
/// Longest click.
const CLICK_SECONDS: f64 = 0.07;
/// Range of speech below its loud parts, dB …
const SPEECH_RANGE_DB: f32 = 35.0;
/// … and its least level above the quiet parts, as a share of the difference to the loud ones.
const ABOVE_FLOOR: f32 = 0.35;
/// Margin before and after, for weak onsets and ends below the level threshold.
const MARGIN_SECONDS: f64 = 0.03;
const FRAME_SECONDS: f64 = 0.02;
const STEP_SECONDS: f64 = 0.01;
const CLIPPED_PERCENT: f32 = 0.3;

/// Finds the speech of a synthesised take, which may have pauses: everything but the silence at both ends.
pub fn trim(audio: &[f32], sample_rate: u32) -> Result<Span, TakeProblem> {
    let loudest = audio.iter().fold(0.0f32, |loudest, x| loudest.max(x.abs()));
    let threshold = loudest * 10f32.powf(-SPEECH_RANGE_DB / 20.0);
    let loud = |x: &f32| x.abs() > threshold;
    let (Some(start), Some(last)) = (audio.iter().position(loud), audio.iter().rposition(loud)) else {
        return Err(TakeProblem::NoSpeech);
    };
    check_length((last + 1 - start) as f64 / f64::from(sample_rate))?;
    Ok(Span { start, end: last + 1 })
}

fn check_length(seconds: f64) -> Result<(), TakeProblem> {
    match seconds {
        short if short < SHORTEST_SECONDS => Err(TakeProblem::TooShort { seconds }),
        long if long > LONGEST_SECONDS => Err(TakeProblem::TooLong { seconds }),
        _ => Ok(()),
    }
}

/// Finds the one word of a recording.
pub fn find_speech(audio: &[f32], sample_rate: u32) -> Result<Span, TakeProblem> {
    let samples = |seconds: f64| (seconds * f64::from(sample_rate)) as usize;
    let (step, frame) = (samples(STEP_SECONDS).max(1), samples(FRAME_SECONDS).max(1));
    let levels = levels(audio, frame, step);
    let mut sorted = levels.clone();
    sorted.sort_by(f32::total_cmp);
    let at = |share: f64| sorted.get((share * sorted.len().saturating_sub(1) as f64) as usize).copied().unwrap_or(SILENCE_DBFS);
    // In a long recording, a short word may be 5 % of the audio.
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
    check_length(seconds(span.end - span.start))?;
    let percent = clipped_percent(&audio[span.start..span.end]);
    if percent > CLIPPED_PERCENT {
        return Err(TakeProblem::Clipped { percent });
    }
    let margin = samples(MARGIN_SECONDS);
    Ok(Span { start: span.start.saturating_sub(margin), end: (span.end + margin).min(audio.len()) })
}

const SILENCE_DBFS: f32 = -120.0;

/// Level of each frame without its mean, dBFS.
pub(super) fn levels(audio: &[f32], frame: usize, step: usize) -> Vec<f32> {
    let level = |samples: &[f32]| {
        let count = samples.len() as f64;
        let mean = samples.iter().map(|&x| f64::from(x)).sum::<f64>() / count;
        let power = samples.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / count;
        if power.is_finite() { (10.0 * power.max(1e-12).log10()) as f32 } else { SILENCE_DBFS }
    };
    audio.windows(frame).step_by(step).map(level).collect()
}

/// Percentage of samples in runs of three or more at full scale.
fn clipped_percent(audio: &[f32]) -> f32 {
    let full = |x: f32| x.abs() >= 0.985;
    let clipped: usize =
        audio.chunk_by(|a, b| full(*a) == full(*b)).filter(|run| full(run[0]) && run.len() >= 3).map(<[f32]>::len).sum();
    100.0 * clipped as f32 / audio.len().max(1) as f32
}
