//! `--consumer` and its flags.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;

use anyhow::{Context, bail};
use bellis::consumer::asr::{Decoder, Form, Phones, SegmentRules, SegmentTarget, Segments, SpeechDetector};
use bellis::consumer::stream::{ArrayName, Endpoint, Stream};
use bellis::consumer::{Consumer, JsonLines, JsonOptions, Npy, Null, Wav};
use bellis::engine::Encoder;
use bellis::pack::Pack;

use super::keywords::consumer as keywords;
use super::settings::Settings;

/// Names of the consumers.
const KNOWN: [&str; 8] = ["jsonl", "npy", "wav", "phones", "segments", "stream", "keyword", "null"];
/// Limit for `--beam`; the best hypotheses are among the first few.
const WIDEST_BEAM: usize = 1000;

/// Creates all requested consumers.
pub fn consumers(settings: &Settings, pack: &Pack, encoder: &Arc<Encoder>) -> anyhow::Result<Vec<Box<dyn Consumer>>> {
    let asked = asked(settings);
    let on_stdout: Vec<&String> = asked.iter().filter(|text| to_stdout(text)).collect();
    if let [first, second, ..] = on_stdout[..] {
        bail!("consumers `{first}` and `{second}` both write to standard output; write one of them to a file");
    }
    asked.iter().map(|text| one(text, settings, pack, encoder)).collect()
}

/// Whether one of them writes to standard output.
pub fn writes_to_stdout(settings: &Settings) -> bool {
    asked(settings).iter().any(|text| to_stdout(text))
}

/// The requested consumers as text; the default is JSON lines on standard output.
pub fn asked(settings: &Settings) -> Vec<String> {
    if settings.consumer.is_empty() { vec!["jsonl".to_owned()] } else { settings.consumer.clone() }
}

fn to_stdout(text: &str) -> bool {
    matches!(text, "jsonl" | "phones" | "segments" | "keyword") || text.starts_with("keyword:") || text.ends_with(":-")
}

/// Creates one consumer.
pub fn one(text: &str, settings: &Settings, pack: &Pack, encoder: &Arc<Encoder>) -> anyhow::Result<Box<dyn Consumer>> {
    let json = JsonOptions { vectors: settings.with_vectors, units: settings.with_units };
    let float = settings.float.unwrap_or_default();
    Ok(match text.split_once(':').map_or((text, None), |(name, rest)| (name, Some(rest))) {
        ("null", None) => Box::new(Null),
        ("jsonl", path) => {
            let (out, place) = lines_to(path)?;
            Box::new(JsonLines::new(out, place, json))
        }
        ("npy", Some(path)) => Box::new(Npy::new(Path::new(path))),
        ("wav", Some(path)) => Box::new(Wav::new(Path::new(path))),
        ("keyword", path) => Box::new(keywords(path.map(Path::new), settings, pack, encoder)?),
        ("phones", path) => {
            let decoder = match settings.beam {
                Some(width) if !(1..=WIDEST_BEAM).contains(&width) => {
                    bail!("--beam must be between 1 and {WIDEST_BEAM}, got {width}")
                }
                width => Decoder::new(width),
            };
            let form = if path.is_none() { Form::Text } else { Form::Json };
            let (out, place) = lines_to(path)?;
            Box::new(Phones::new(out, place, form, decoder))
        }
        ("segments", target) => {
            let target = match target.map(|target| (target, target.strip_prefix("stream:"))) {
                Some((_, Some(endpoint))) => SegmentTarget::Stream(at(endpoint)?, float),
                Some((folder, None)) if folder != "-" => SegmentTarget::Folder(folder.into()),
                _ => {
                    let (out, place) = lines_to(None)?;
                    SegmentTarget::Lines(out, place)
                }
            };
            let quiet_unit = pack.manifest.encoder.quiet_unit.filter(|_| !pack.heads.is_empty());
            Box::new(Segments::new(target, SpeechDetector::new(quiet_unit), rules(settings, pack)?))
        }
        ("stream", Some(endpoint)) => {
            let arrays = if settings.arrays.is_empty() { vec![ArrayName::Vectors] } else { settings.arrays.clone() };
            Box::new(Stream::new(at(endpoint)?, arrays, float))
        }
        (name @ ("npy" | "wav"), None) => bail!("consumer `{name}` needs a file: {name}:out.{name}"),
        ("stream", None) => bail!("consumer `stream` needs an endpoint: stream:- or stream:unix:/path/to/socket"),
        (name, _) => {
            let hint =
                bellis::internal::nearest(name, KNOWN).map_or_else(String::new, |near| format!("; did you mean `{near}`?"));
            bail!("no consumer `{name}`; available: {} (see `bellis run --help`){hint}", KNOWN.join(", "))
        }
    })
}

/// Standard output, or a file.
fn lines_to(path: Option<&str>) -> anyhow::Result<(Box<dyn Write + Send>, String)> {
    Ok(match path {
        None | Some("-") => (Box::new(std::io::stdout()), "standard output".into()),
        Some(path) => (Box::new(BufWriter::new(File::create(path).with_context(|| path.to_owned())?)), path.into()),
    })
}

fn at(endpoint: &str) -> anyhow::Result<Endpoint> {
    Endpoint::from_str(endpoint).map_err(anyhow::Error::msg)
}

/// The segmentation rules in frames.
fn rules(settings: &Settings, pack: &Pack) -> anyhow::Result<SegmentRules> {
    let audio = &pack.manifest.audio;
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
        ..SegmentRules::default()
    })
}
