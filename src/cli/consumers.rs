//! The consumers that settings name.

use std::path::Path;

use anyhow::{Context, bail};
use bellis::consumer::{Consumer, JsonLines, JsonOptions, Npy, Null, Wav, side_file};

use super::settings::Settings;

/// Those that write the file behind their colon.
const WRITE_FILES: [&str; 3] = ["jsonl", "npy", "wav"];

/// Makes every consumer that was asked for; JSON lines on standard output without any.
pub fn consumers(settings: &Settings) -> anyhow::Result<Vec<Box<dyn Consumer>>> {
    asked(settings).iter().map(|text| consumer(text, settings)).collect()
}

/// The consumers that were asked for, as they were written.
pub fn asked(settings: &Settings) -> Vec<String> {
    match settings.consumer.is_empty() {
        true => vec!["jsonl".to_owned()],
        false => settings.consumer.clone(),
    }
}

/// Makes one consumer.
pub fn consumer(text: &str, settings: &Settings) -> anyhow::Result<Box<dyn Consumer>> {
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
        (name @ ("npy" | "wav"), None) => bail!("--consumer {name} wants a file: {name}:out.{name}"),
        (name, _) => {
            let hint = bellis::toml_file::nearest(name, ["jsonl", "npy", "wav", "null"])
                .map_or_else(String::new, |near| format!("; did you mean `{near}`?"));
            bail!("there is no consumer `{name}`: jsonl, jsonl:FILE, npy:FILE, wav:FILE and null are there{hint}")
        }
    })
}

/// The file that a consumer writes.
pub fn file_of(text: &str) -> Option<&Path> {
    let (name, path) = text.split_once(':')?;
    WRITE_FILES.contains(&name).then(|| Path::new(path))
}

/// Moves what an earlier life wrote out of the way: `x.npy` becomes `x.1.npy`, or the first number that is free.
pub fn set_aside(text: &str) -> anyhow::Result<()> {
    let Some(path) = file_of(text).filter(|path| path.metadata().is_ok_and(|found| found.is_file() && found.len() > 0)) else {
        return Ok(());
    };
    let extension = path.extension().unwrap_or_default().to_string_lossy();
    let numbered = |number: u64| path.with_extension(format!("{number}.{extension}").trim_end_matches('.'));
    let Some(free) = (1..).map(numbered).find(|free| !free.exists()) else { return Ok(()) };
    let side = text.starts_with("npy:").then(|| (side_file(path), side_file(&free)));
    for (from, to) in [(path.to_owned(), free.clone())].into_iter().chain(side).filter(|(from, _)| from.is_file()) {
        std::fs::rename(&from, &to).with_context(|| format!("{} → {}", from.display(), to.display()))?;
    }
    log::info!("{} is kept as {}", path.display(), free.display());
    Ok(())
}
