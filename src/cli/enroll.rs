//! `bellis enroll`.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, bail};
use bellis::audio::{
    AudioError, AudioErrorKind, ChannelPick, FileSource, MicrophoneOptions, Source, SourceSpec, audio_files, decode_file_at,
};
use bellis::engine::{Encoder, LoadOptions};
use bellis::internal::keyword::Condition;
use bellis::keyword::{
    Enroller, Enrolment, Estimate, Keyword, Origin, OtherSpeech, PackRef, Tail, Take, TakeProblem, check_alike, check_name,
    expected_false_accepts, expected_recall, false_accepts_of, find, load, weaknesses,
};
use bellis::pack::Pack;
use bellis::runtime::{InputGain, StopFlag};
use clap::Args;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::files::{check_folder, existing};
use super::record::Recording;
use super::settings::{Channel, Gain};
use super::signals::stop_on_signals;
use super::{locate, table};

/// Minutes of background speech below which a threshold is doubtful.
const FEW_MINUTES: f64 = 10.0;

/// Enroll a keyword from text, recordings or both
///
/// Nothing is trained. With --say, streams are searched for the phones of the phrase, as espeak-ng pronounces it; with --from or --record, for
/// the recordings. A recording in addition to --say adapts the keyword to its speaker. The threshold is set on speech without the keyword, for the
/// requested false-accept rate. Use a phrase of three or more syllables.
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("examples").args(["say", "from", "record"]).required(true).multiple(true), after_help = "Examples:
  bellis enroll lamp --say \"turn on the lamp\"
  bellis enroll lampe --say \"Licht an im Flur\" --language de
  bellis enroll lamp --say \"turn on the lamp\" --record 1   adapt it to a speaker
  bellis enroll lamp --from lamp-1.wav lamp-2.wav lamp-3.wav
  bellis enroll lamp --record 3 --talk 60           record it three times, then other speech
  bellis enroll lamp --from takes/ --false-accepts 0.1 --background tv.flac radio/
  bellis run mic --consumer keyword                 detect it")]
pub struct Enroll {
    /// Name of the keyword
    name: String,
    /// Phrase to search for
    #[arg(long, value_name = "PHRASE")]
    say: Option<String>,
    /// Language of the phrase, as in `espeak-ng --voices`
    #[arg(long, value_name = "LANGUAGE", default_value = "en-us", requires = "say")]
    language: String,
    /// Recordings of the phrase: 1 to 16 files, or folders
    #[arg(long, value_name = "PATH", num_args = 1.., conflicts_with = "record")]
    from: Vec<PathBuf>,
    /// Number of takes to record from the microphone
    #[arg(long, value_name = "TAKES", value_parser = clap::value_parser!(u8).range(1..=16))]
    record: Option<u8>,
    /// Microphone, by id or part of its name
    #[arg(long, value_name = "DEVICE", requires = "record", conflicts_with = "from")]
    device: Option<String>,
    /// Channels of the microphone; as in `bellis run`
    #[arg(long, value_name = "COUNT", requires = "record", conflicts_with = "from")]
    channels: Option<u16>,
    /// Channel to record, from 1, or `auto` [default: the mean of all]; as in `bellis run`
    #[arg(long, value_name = "NUMBER", requires = "record", conflicts_with = "from")]
    channel: Option<Channel>,
    /// Gain of the microphone, decibels, or `auto`; as in `bellis run`
    #[arg(long, value_name = "DB", allow_hyphen_values = true, requires = "record", conflicts_with = "from")]
    gain_db: Option<Gain>,
    /// Pack: a folder, or the name of a bundled one
    #[arg(long, value_name = "PACK", default_value = locate::DEFAULT_PACK)]
    pack: PathBuf,
    /// False accepts per hour of speech that the threshold allows
    #[arg(long, value_name = "PER-HOUR", default_value_t = 0.5)]
    false_accepts: f64,
    /// Sensitivity, 0 to 1: 0.05 to 5 false accepts per hour [default: 0.5]
    #[arg(long, value_name = "SENSITIVITY", conflicts_with = "false_accepts")]
    sensitivity: Option<f64>,
    /// Speech without the word: files or folders [default: bundled recordings]
    #[arg(long, value_name = "PATH", num_args = 1..)]
    background: Vec<PathBuf>,
    /// Other speech of the keyword's own speaker, without the word: files or folders
    ///
    /// A minute is enough. It resembles the recordings more than other people's speech does, so it raises the threshold.
    #[arg(long, value_name = "PATH", num_args = 1.., conflicts_with_all = ["threshold", "talk"])]
    own_speech: Vec<PathBuf>,
    /// Record this many seconds of such speech after the takes
    #[arg(long, value_name = "SECONDS", requires = "record", conflicts_with_all = ["threshold", "from"], value_parser = clap::value_parser!(u16).range(20..=600))]
    talk: Option<u16>,
    /// Fixed threshold, 0 to 1, instead of one set on background speech
    #[arg(long, value_name = "SCORE", conflicts_with_all = ["false_accepts", "sensitivity", "background"])]
    threshold: Option<f32>,
    /// Folder for keywords [default: $BELLIS_KEYWORDS or ~/.local/share/bellis/keywords]
    #[arg(long, value_name = "FOLDER")]
    folder: Option<PathBuf>,
    /// Keep examples that differ from the others, such as other speakers'
    #[arg(long)]
    keep_unlike: bool,
    /// Replace an existing keyword of the same name
    #[arg(long)]
    replace: bool,
}

impl Enroll {
    pub fn run(mut self) -> anyhow::Result<()> {
        check_name(&self.name)?;
        if let Some(sensitivity) = self.sensitivity {
            self.false_accepts = false_accepts(sensitivity)?;
        }
        if !(self.false_accepts.is_finite() && self.false_accepts > 0.0) {
            bail!("--false-accepts must be a number above 0, got {}", self.false_accepts);
        }
        if self.threshold.is_some_and(|score| !(0.0..=1.0).contains(&score)) {
            bail!("--threshold must be between 0 and 1");
        }
        let folder = self.folder.clone().map_or_else(locate::keyword_folder, Ok)?;
        if folder.exists() && !folder.is_dir() {
            bail!("{}: is not a folder", folder.display());
        }
        let pack = Pack::open(&locate::pack(&self.pack)?)?;
        let encoder = Encoder::load(&pack, &LoadOptions::default())?;
        encoder.check_heads()?;
        let enroller = Enroller::new(Arc::new(pack), encoder);
        let mut keyword = Keyword::new(&self.name, PackRef::to(enroller.pack()), Vec::new())?;
        let path = keyword.path_in(&folder);
        if path.exists() && !self.replace {
            bail!("{}: keyword `{}` exists; pass --replace to replace it", path.display(), self.name);
        }
        keyword.replace(&path);
        // A folder that cannot be written is reported before the recording.
        check_folder(existing(&folder)).with_context(|| folder.display().to_string())?;
        let stop = stop_on_signals()?;
        let synthesised = self.synthesised(&enroller, &mut keyword)?;
        let (mut takes, own) = match self.record {
            Some(count) => self.recorded(usize::from(count), &enroller, &stop)?,
            None => (self.read(&enroller)?, self.own_speech(&enroller)?),
        };
        takes.extend(synthesised);
        if let Some(score) = enroller.adopt(&mut keyword, &takes) {
            errln!(
                "warning: the recordings score at most {score:.2} as \"{}\", so only they are searched for; are they the same phrase?",
                self.say.as_deref().unwrap_or_default()
            );
        }
        match self.threshold {
            Some(threshold) => keyword.set_threshold(threshold),
            None => {
                let read = self.background.is_empty() && enroller.has_reading(&keyword);
                let files = if read { Vec::new() } else { self.background_files()? };
                let speech = if read { OtherSpeech::Default(&[]) } else { OtherSpeech::Files(&files) };
                let bar = bar(&files)?;
                let progress = |seconds: f64| {
                    bar.inc((1e3 * seconds) as u64);
                    !stop.is_set()
                };
                enroller.set_threshold(&mut keyword, self.false_accepts, speech, progress)?;
                bar.finish_and_clear();
                if !own.is_empty() {
                    enroller.add_own_speech(&mut keyword, &own)?;
                }
                if keyword.background_minutes() < FEW_MINUTES {
                    errln!(
                        "warning: {:.1} minutes of background speech are few for a threshold; {FEW_MINUTES} or more make it reliable",
                        keyword.background_minutes()
                    );
                }
            }
        }
        std::fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
        keyword.save(&path)?;
        report(&keyword, &takes, &path);
        let others: Vec<Keyword> = find(&folder)?.iter().filter_map(|other| load(other, None).ok()).collect();
        for weakness in weaknesses(&keyword, &takes, &others, enroller.pack()) {
            errln!("warning: {weakness}");
        }
        Ok(())
    }

    /// Sets the phones of --say, or returns synthesised examples.
    fn synthesised(&self, enroller: &Enroller, keyword: &mut Keyword) -> anyhow::Result<Vec<Enrolment>> {
        let Some(phrase) = &self.say else { return Ok(Vec::new()) };
        Ok(enroller.say(keyword, phrase, &self.language)?)
    }

    /// Reads the recordings. Fails with the file and the reason if one is unsuitable.
    fn read(&self, enroller: &Enroller) -> anyhow::Result<Vec<Enrolment>> {
        if self.from.is_empty() {
            return Ok(Vec::new());
        }
        let files = audio_files(&self.from)?;
        if files.len() > 16 {
            bail!("--from accepts 1 to 16 recordings, got {}; three are usually enough", files.len());
        }
        let mut takes = Vec::new();
        for file in &files {
            let audio = decode_file_at(file, ChannelPick::MixDown, enroller.encoder().audio().sample_rate)?;
            let name = file.file_name().unwrap_or(file.as_os_str()).to_string_lossy().into_owned();
            let take = Take { source: name, origin: Origin::Recording, audio };
            takes.push(enroller.take(&take)?.map_err(|problem| anyhow::anyhow!("{}: {problem}", file.display()))?);
        }
        if !self.keep_unlike
            && let Err((index, problem)) = check_alike(&takes)
        {
            bail!("{}: {problem}, or pass --keep-unlike", files[index].display());
        }
        Ok(takes)
    }

    /// Other speech of the speaker, at the pack's rate; empty without --own-speech.
    fn own_speech(&self, enroller: &Enroller) -> anyhow::Result<Vec<f32>> {
        let mut audio = Vec::new();
        let files = if self.own_speech.is_empty() { Vec::new() } else { audio_files(&self.own_speech)? };
        for file in files {
            audio.extend(decode_file_at(&file, ChannelPick::MixDown, enroller.encoder().audio().sample_rate)?);
        }
        Ok(audio)
    }

    /// Records the takes, and then other speech.
    fn recorded(&self, count: usize, enroller: &Enroller, stop: &StopFlag) -> anyhow::Result<(Vec<Enrolment>, Vec<f32>)> {
        let mut takes: Vec<Enrolment> = Vec::new();
        errln!("say \"{}\" {count} times, with a pause after each", self.say.as_ref().unwrap_or(&self.name));
        let pick = self.channel.map_or(Ok(ChannelPick::MixDown), Channel::pick)?;
        let microphone =
            MicrophoneOptions { device: self.device.clone(), channels: self.channels, pick, ..MicrophoneOptions::default() };
        let gain = self.gain_db.map_or(Ok(InputGain::default()), Gain::checked)?;
        let mut recording = Recording::start(microphone, gain, enroller.encoder().audio().sample_rate, stop)?;
        recording.takes(|audio| {
            let number = takes.len() + 1;
            let outcome = enroller.take(&Take { source: format!("take {number}"), origin: Origin::Recording, audio })?;
            let alike =
                |take: &Enrolment| if self.keep_unlike { Ok(1.0) } else { take.likeness(takes.iter()).unwrap_or(Ok(1.0)) };
            match outcome.and_then(|take| alike(&take).map(|_| take)) {
                Ok(take) => {
                    errln!("take {number} of {count}: {:.2} s of speech", take.example.seconds);
                    takes.push(take);
                }
                Err(problem) => {
                    errln!("rejected: {problem}");
                    // With two takes, it is unknown which one is wrong.
                    if takes.len() == 1 && matches!(problem, TakeProblem::TooUnlike { .. }) {
                        errln!("take 1 is discarded as well; record it again");
                        takes.clear();
                    }
                }
            }
            Ok(takes.len() == count)
        })?;
        let Some(seconds) = self.talk else { return Ok((takes, self.own_speech(enroller)?)) };
        errln!("now talk for {seconds} s about anything else");
        let own = recording.talk(f64::from(seconds))?;
        Ok((takes, own))
    }

    /// The background speech.
    fn background_files(&self) -> anyhow::Result<Vec<PathBuf>> {
        let paths = match (self.background.is_empty(), locate::keyword_background()) {
            (false, _) => self.background.clone(),
            (true, Some(bundled)) => vec![bundled],
            (true, None) => bail!(
                "the bundled background speech was not found; run from the repository's root, or pass --background or --threshold"
            ),
        };
        Ok(audio_files(&paths)?)
    }
}

/// The damage to a file of which the readable part was processed.
pub fn damage_of(read: anyhow::Result<()>) -> anyhow::Result<Option<AudioError>> {
    match read.map_err(anyhow::Error::downcast::<AudioError>) {
        Ok(()) => Ok(None),
        Err(Ok(error)) if error.kind() == AudioErrorKind::Damaged => Ok(Some(error)),
        Err(Ok(error)) => Err(error.into()),
        Err(Err(other)) => Err(other),
    }
}

/// Prints the keyword.
fn report(keyword: &Keyword, takes: &[Enrolment], path: &Path) {
    let mut rows = Vec::new();
    let mut lowest = f32::INFINITY;
    if let Some(phones) = &keyword.phones {
        rows.extend(phones.phrase.iter().map(|own| ("phones", own.join(" "))));
    }
    for (index, take) in takes.iter().enumerate() {
        let others = takes.iter().enumerate().filter(|(other, _)| *other != index).map(|(_, take)| take);
        let alike = match take.likeness(others) {
            Some(Ok(score)) => {
                lowest = lowest.min(score);
                format!(", score against the others {score:.2}")
            }
            _ => String::new(),
        };
        let example = &take.example;
        rows.push((
            "example",
            format!("{}: speech from {:.2} s, {:.2} s long{alike}", example.source, example.start, example.seconds),
        ));
    }
    rows.push(("threshold", threshold(keyword)));
    if let Some(Estimate { value, interval: (low, high), count, of }) = expected_false_accepts(keyword) {
        let of = format!("{count} in {:.0} minutes of clear speech", 60.0 * of);
        rows.push(("false accepts", format!("{value:.2} per hour expected, {low:.2} to {high:.2} (95 %): {of}")));
    }
    if let Some(Estimate { value, interval: (low, high), count, of }) = expected_recall(keyword, takes) {
        let of = format!("the others detect {count} of {of:.0} recordings");
        rows.push(("recall", format!("{value:.2} expected of this speaker, {low:.2} to {high:.2} (95 %): {of}")));
    }
    rows.push(("file", path.display().to_string()));
    table::print(&format!("keyword `{}`", keyword.name), &rows);
    if lowest < keyword.threshold {
        errln!(
            "warning: an example scores below the threshold against the others ({lowest:.2}): expect misses. Use a longer word, more examples, or a higher \
             --false-accepts."
        );
    }
}

/// The false accepts per hour of --sensitivity.
fn false_accepts(sensitivity: f64) -> anyhow::Result<f64> {
    if !(0.0..=1.0).contains(&sensitivity) {
        bail!("--sensitivity must be between 0 and 1, got {sensitivity}");
    }
    Ok(false_accepts_of(sensitivity))
}

/// The false accepts per hour of --false-accepts or --sensitivity, if one of them is given.
pub fn requested_rate(per_hour: Option<f64>, sensitivity: Option<f64>) -> anyhow::Result<Option<f64>> {
    let rate = match sensitivity {
        Some(sensitivity) if per_hour.is_none() => Some(false_accepts(sensitivity)?),
        Some(_) => bail!("sensitivity and false-accepts cannot be combined; keep one of them"),
        None => per_hour,
    };
    if let Some(rate) = rate
        && !(rate.is_finite() && rate > 0.0)
    {
        bail!("--false-accepts must be above 0, got {rate}");
    }
    Ok(rate)
}

/// A keyword's threshold, and how it was set.
pub fn threshold(keyword: &Keyword) -> String {
    let from = match keyword.false_accepts_per_hour {
        Some(rate) => {
            let highest = |tail: &Tail| {
                let score = tail.peaks.first().map_or("none".to_owned(), |peak| format!("{peak:.2}"));
                format!("{}{score}", tail.condition)
            };
            let scores: Vec<String> = keyword.background.iter().map(highest).collect();
            format!(
                " for {} false accepts per hour; highest score in {:.0} minutes of speech {}",
                rounded(rate),
                keyword.background_minutes(),
                scores.join(", ")
            )
        }
        None => " (fixed)".to_owned(),
    };
    let own = keyword.threshold_without_feedback();
    let moved = if own == keyword.threshold { String::new() } else { format!(", moved to {:.3} by feedback", keyword.threshold) };
    format!("{own:.3}{from}{moved}")
}

/// A rate with at most three decimals.
pub fn rounded(rate: f64) -> f64 {
    (1e3 * rate).round() / 1e3
}

/// Progress over the audio of all files in all conditions, in milliseconds. None without files: the pack's own reading takes a second.
fn bar(files: &[PathBuf]) -> anyhow::Result<ProgressBar> {
    if files.is_empty() || !std::io::stderr().is_terminal() {
        return Ok(ProgressBar::hidden());
    }
    let mut seconds = 0.0;
    for file in files {
        let source = FileSource::open(file, ChannelPick::MixDown, false)?;
        let SourceSpec { total_samples, sample_rate, .. } = source.spec();
        seconds += total_samples.unwrap_or(0) as f64 / f64::from(*sample_rate);
    }
    let length = 1e3 * seconds * Condition::ALL.len() as f64;
    let bar = ProgressBar::with_draw_target(Some(length as u64), ProgressDrawTarget::stderr());
    let style = ProgressStyle::with_template("processing background speech {wide_bar} {percent} %  {eta} left")
        .unwrap_or_else(|_| ProgressStyle::default_bar());
    bar.set_style(style);
    Ok(bar)
}
