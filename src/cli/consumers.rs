//! `--consumer` and its flags.

use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, bail};
use bellis::consumer::asr::{Decoder, Form, PhoneRules, Phones, SegmentRules, SegmentTarget, Segments, SpeechDetector};
use bellis::consumer::stream::{ArrayName, Stream};
use bellis::consumer::{
    Consumer, ConsumerSpec, JsonLines, JsonOptions, KeywordObserver, LineFile, Npy, Null, TextOutput, Wav, spec_label,
};
use bellis::engine::Encoder;
use bellis::internal::RunFile;
use bellis::pack::Pack;

use super::files::{check_unclaimed, check_writable, set_aside};
use super::keywords::{Missing, consumer as keywords, files as keyword_files};
use super::settings::{Input, Settings};

/// Maximum of `--beam`; the best hypotheses are among the first few.
const WIDEST_BEAM: usize = 1000;

/// A requested consumer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// Its textual form, in messages and metrics.
    pub label: String,
    pub spec: ConsumerSpec,
}

/// Creates all requested consumers. Existing files are renamed.
pub fn consumers(settings: &Settings, pack: &Pack, encoder: &Arc<Encoder>) -> anyhow::Result<Vec<Box<dyn Consumer>>> {
    let asked = asked(settings)?;
    let made = asked.iter().map(|asked| one(asked, settings, pack, encoder, None)).collect::<anyhow::Result<_>>()?;
    // No file is renamed before all outputs are known to be usable.
    asked.iter().try_for_each(|one| check_writable(&one.spec))?;
    asked.iter().try_for_each(|one| check_unclaimed(&one.spec))?;
    let outputs = output_paths(settings, &asked);
    for Asked { spec, .. } in &asked {
        // A folder that already contains utterances is rejected.
        if !matches!(spec, ConsumerSpec::SegmentFolder(_)) {
            set_aside(spec, &outputs)?;
        }
        create_file(spec)?;
    }
    Ok(made)
}

/// The files that a run writes.
pub fn output_paths<'a>(settings: &Settings, consumers: impl IntoIterator<Item = &'a Asked>) -> Vec<PathBuf> {
    consumers.into_iter().flat_map(|one| one.spec.files()).chain(settings.report.clone()).collect()
}

/// The files of a pack.
pub fn pack_files(pack: &Path) -> impl Iterator<Item = RunFile> {
    let stages = std::fs::read_dir(pack).into_iter().flatten().flatten();
    stages.map(|entry| RunFile::at(format!("the pack's {}", entry.path().display()), &entry.path()))
}

/// Creates a consumer's text file, so that an invalid path is reported at once.
pub fn create_file(spec: &ConsumerSpec) -> anyhow::Result<()> {
    match spec {
        // A pipe without a reader would block, and one with a reader would end when it is closed again.
        ConsumerSpec::JsonLines(TextOutput::File(path)) | ConsumerSpec::Phones(TextOutput::File(path))
            if path.metadata().is_ok_and(|found| !found.is_file() && !found.is_dir()) =>
        {
            Ok(())
        }
        ConsumerSpec::JsonLines(TextOutput::File(path)) | ConsumerSpec::Phones(TextOutput::File(path)) => {
            LineFile::new(path).create().with_context(|| path.display().to_string())
        }
        _ => Ok(()),
    }
}

/// Checks that no output of a run is one of its inputs or another output. `files` are further inputs, such as the configuration.
pub fn check_outputs(settings: &Settings, pack: &Path, files: &[&Path]) -> anyhow::Result<()> {
    let (mut inputs, mut outputs) = (Vec::new(), Vec::new());
    match settings.input() {
        Input::Sample | Input::Microphone | Input::None => {}
        Input::Stdin => inputs.extend(RunFile::of("standard input", std::io::stdin())),
        Input::File(path) => inputs.push(RunFile::at(format!("the input {}", path.display()), path)),
    }
    let secrets = [settings.page_token_file.as_deref(), settings.mqtt.as_ref().and_then(|mqtt| mqtt.password_file.as_deref())];
    let files = files.iter().copied().chain(secrets.into_iter().flatten());
    inputs.extend(files.map(|path| RunFile::at(path.display().to_string(), path)));
    inputs.extend(pack_files(pack));
    let mut first_on_stdout: Option<Asked> = None;
    for Asked { label: text, spec } in asked(settings)? {
        if let ConsumerSpec::Keyword(path) = &spec {
            let read = keyword_files(path.as_deref(), settings);
            inputs.extend(read.iter().map(|path| RunFile::at(format!("the keyword {}", path.display()), path)));
        }
        if spec.is_stdout() {
            match &first_on_stdout {
                Some(first) if matches!((&first.spec, &spec), (ConsumerSpec::Keyword(_), ConsumerSpec::Keyword(_))) => {
                    bail!(
                        "`{}` and `{text}`: a run has one consumer `keyword`; keyword:FOLDER searches for several keywords",
                        first.label
                    )
                }
                Some(Asked { label: first, .. }) => {
                    bail!("consumers `{first}` and `{text}` both write to standard output; write one of them to a file")
                }
                None => outputs.extend(RunFile::of(format!("consumer `{text}` on standard output"), std::io::stdout())),
            }
            first_on_stdout = Some(Asked { label: text, spec });
            continue;
        }
        outputs.extend(spec.files().iter().map(|path| RunFile::at(format!("consumer `{text}`"), path)));
    }
    outputs.extend(settings.report.iter().map(|path| RunFile::at(format!("--report {}", path.display()), path)));
    Ok(bellis::internal::check_outputs(&inputs, &outputs)?)
}

/// Whether one of them writes to standard output.
pub fn writes_to_stdout(settings: &Settings) -> bool {
    asked(settings).is_ok_and(|asked| asked.iter().any(|one| one.spec.is_stdout()))
}

/// The requested consumers; the default is JSON lines on standard output, and nothing without an input.
pub fn asked(settings: &Settings) -> anyhow::Result<Vec<Asked>> {
    let default = [OsString::from(if settings.input() == Input::None { "null" } else { "jsonl" })];
    let texts = if settings.consumer.is_empty() { &default } else { &settings.consumer[..] };
    texts.iter().map(|text| Ok(Asked { label: spec_label(text), spec: ConsumerSpec::try_from(&**text)? })).collect()
}

/// What a consumer of a service has that one of a single run lacks.
pub struct Service<'a> {
    /// Receives the detections of keywords.
    pub observer: &'a KeywordObserver,
    /// Whether the service runs already: its last keyword may be removed, and another one follow.
    pub runs: bool,
}

/// Creates one consumer.
pub fn one(
    asked: &Asked,
    settings: &Settings,
    pack: &Pack,
    encoder: &Arc<Encoder>,
    service: Option<Service<'_>>,
) -> anyhow::Result<Box<dyn Consumer>> {
    let json = JsonOptions { vectors: settings.with_vectors, units: settings.with_units };
    let float = settings.float.unwrap_or_default();
    Ok(match asked.spec.clone() {
        ConsumerSpec::Null => Box::new(Null),
        ConsumerSpec::JsonLines(output) => {
            let (out, place) = lines_to(output);
            Box::new(JsonLines::new(out, place, json))
        }
        ConsumerSpec::Npy(path) => Box::new(Npy::new(&path)),
        ConsumerSpec::Wav(TextOutput::File(path), format) => Box::new(Wav::new(&path).format(format)),
        ConsumerSpec::Wav(TextOutput::Stdout, format) => Box::new(Wav::to_writer(std::io::stdout(), STDOUT).format(format)),
        ConsumerSpec::Keyword(path) => {
            let missing = match &service {
                // The first keyword may come from the live page.
                Some(service) if service.runs || settings.page_token_file.is_some() && path.is_none() => Missing::Allowed,
                Some(_) => Missing::IfBroken,
                None => Missing::Rejected,
            };
            let out = (stdout(), STDOUT);
            let keywords = keywords((path.as_deref(), missing), settings, pack, encoder, out)?;
            match service {
                Some(service) => Box::new(keywords.observer(service.observer.clone())),
                None => Box::new(keywords),
            }
        }
        ConsumerSpec::PhonesText => Box::new(Phones::new(stdout(), STDOUT, Form::Text, decoder(settings)?)),
        ConsumerSpec::Phones(output) => {
            let (out, place) = lines_to(output);
            Box::new(Phones::new(out, place, Form::Json, decoder(settings)?))
        }
        ConsumerSpec::SegmentLines => segments(SegmentTarget::Lines(stdout(), STDOUT.into()), settings, encoder)?,
        ConsumerSpec::SegmentFolder(folder) => segments(SegmentTarget::Folder(folder), settings, encoder)?,
        ConsumerSpec::SegmentStream(output) => segments(SegmentTarget::Stream(output.into(), float), settings, encoder)?,
        ConsumerSpec::Stream(output) => {
            let arrays = if settings.arrays.is_empty() { vec![ArrayName::Vectors] } else { settings.arrays.clone() };
            Box::new(Stream::new(output.into(), arrays, float))
        }
        _ => bail!("consumer `{}` is not available here", asked.label),
    })
}

/// Name in messages.
const STDOUT: &str = "standard output";

/// Standard output for text. If it is a file, no line is incomplete where the disk is full.
fn stdout() -> Box<dyn Write + Send> {
    #[cfg(unix)]
    if let Ok(file) = std::os::fd::AsFd::as_fd(&std::io::stdout()).try_clone_to_owned().map(std::fs::File::from)
        && file.metadata().is_ok_and(|found| found.is_file())
    {
        return Box::new(LineFile::opened(file));
    }
    Box::new(std::io::stdout())
}

/// Standard output, or a file that is created by the first line.
fn lines_to(output: TextOutput) -> (Box<dyn Write + Send>, String) {
    match output {
        TextOutput::Stdout => (stdout(), STDOUT.into()),
        TextOutput::File(path) => (Box::new(LineFile::new(&path)), path.display().to_string()),
    }
}

fn decoder(settings: &Settings) -> anyhow::Result<Decoder> {
    match settings.beam {
        Some(width) if !(1..=WIDEST_BEAM).contains(&width) => bail!("--beam must be between 1 and {WIDEST_BEAM}, got {width}"),
        width => Ok(Decoder::new(width)),
    }
}

fn segments(target: SegmentTarget, settings: &Settings, encoder: &Encoder) -> anyhow::Result<Box<dyn Consumer>> {
    let quiet_unit = encoder.quiet_unit();
    let phones = quiet_unit.is_some() && encoder.has_all_ctc() && settings.least_phones != Some(0);
    Ok(Box::new(Segments::new(target, SpeechDetector::new(quiet_unit, phones), rules(settings, encoder, phones)?)))
}

/// Distance from a phone beyond which speech is noise. Chosen on 45 minutes of speech, noise and silence (examples/recogniser): a shorter one
/// splits utterances, and a longer one keeps more noise around them.
const PHONE_REACH_SECONDS: f64 = 0.4;
/// Share of the frames of speech near a frame that have a phone: 2.5 a second. Speech has about ten, distant voices have two. Chosen on words
/// and sentences in the noise of 3 to 12 talkers.
const PHONE_SHARE: f32 = 0.05;
/// Frames with a phone in an utterance. Half of the noise that passes has one; a word has at least two phones.
const LEAST_PHONES: usize = 2;

/// The segmentation rules in frames.
fn rules(settings: &Settings, encoder: &Encoder, phones: bool) -> anyhow::Result<SegmentRules> {
    let audio = encoder.audio();
    let frame = audio.hop as f64 / f64::from(audio.sample_rate);
    let frames = |flag: &str, asked: Option<f64>, seconds: f64, least: f64| -> anyhow::Result<usize> {
        let seconds = asked.unwrap_or(seconds);
        if !(least..=600.0).contains(&seconds) {
            bail!("--{flag} must be between {least} and 600 seconds, got {seconds}");
        }
        Ok((seconds / frame).round() as usize)
    };
    let milliseconds = |value: Option<f64>| value.map(|value| value / 1e3);
    Ok(SegmentRules {
        least_speech: frames("least-speech", milliseconds(settings.least_speech), 0.1, 0.0)?,
        hangover: frames("hangover", milliseconds(settings.hangover), 0.5, 0.0)?,
        pad: frames("pad", milliseconds(settings.pad), 0.2, 0.0)?,
        longest: frames("longest", settings.longest, 30.0, 1.0)?,
        phones: phones.then(|| PhoneRules {
            reach: (PHONE_REACH_SECONDS / frame).round() as usize,
            share: PHONE_SHARE,
            least: settings.least_phones.unwrap_or(LEAST_PHONES),
        }),
        ..SegmentRules::default()
    })
}
