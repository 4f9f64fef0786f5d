//! The consumers that settings name.

use std::path::Path;

use anyhow::{Context, bail};
use bellis::consumer::{Consumer, JsonLines, JsonOptions, Npy, Null, Wav};
use bellis::pack::Pack;

use super::keywords::consumer as keywords;
use super::settings::Settings;

/// Makes every consumer that was asked for; JSON lines on standard output without any.
pub fn consumers(settings: &Settings, pack: &Pack) -> anyhow::Result<Vec<Box<dyn Consumer>>> {
    asked(settings).iter().map(|text| one(text, settings, pack)).collect()
}

/// The consumers that were asked for, as they were written.
pub fn asked(settings: &Settings) -> Vec<String> {
    match settings.consumer.is_empty() {
        true => vec!["jsonl".to_owned()],
        false => settings.consumer.clone(),
    }
}

/// Makes one consumer.
pub fn one(text: &str, settings: &Settings, pack: &Pack) -> anyhow::Result<Box<dyn Consumer>> {
    let json = JsonOptions { vectors: settings.with_vectors, units: settings.with_units };
    Ok(match text.split_once(':').map_or((text, None), |(name, rest)| (name, Some(rest))) {
        ("null", None) => Box::new(Null),
        ("jsonl", None) => Box::new(JsonLines::new(std::io::stdout(), "standard output", json)),
        ("jsonl", Some(path)) => {
            let file = std::fs::File::create(path).with_context(|| path.to_owned())?;
            Box::new(JsonLines::new(std::io::BufWriter::new(file), path, json))
        }
        ("npy", Some(path)) => Box::new(Npy::new(Path::new(path))),
        ("wav", Some(path)) => Box::new(Wav::new(Path::new(path))),
        ("keyword", path) => Box::new(keywords(path.map(Path::new), settings, pack)?),
        (name @ ("npy" | "wav"), None) => bail!("--consumer {name} wants a file: {name}:out.{name}"),
        (name, _) => {
            let hint = bellis::toml_file::nearest(name, ["jsonl", "npy", "wav", "keyword", "null"])
                .map_or_else(String::new, |near| format!("; did you mean `{near}`?"));
            bail!(
                "there is no consumer `{name}`: jsonl, jsonl:FILE, npy:FILE, wav:FILE, keyword, keyword:FILE-or-FOLDER and null are there{hint}"
            )
        }
    })
}
