//! `bellis keywords`, and the consumer of `bellis run --consumer keyword`.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use bellis::audio::audio_files;
use bellis::audio::{ChannelPick, read_file_at};
use bellis::consumer::KeywordLines;
use bellis::engine::{Encoder, LoadOptions};
use bellis::exit::PolicySpec;
use bellis::keyword::{
    Detection, Event, KEYWORD_SUFFIX, KeywordError, KeywordSearch, MOST_REFRACTORY, PackRef, SearchOptions, Verifier, Watched,
    check_name, find, load,
};
use bellis::pack::Pack;
use bellis::stream::{Representation, Session};
use clap::{Args, Subcommand};

use super::enroll::{damage_of, requested_rate, threshold};
use super::keyword_settings::{Feedback, Set};
use super::settings::Settings;
use super::{locate, table};

/// List, test, adapt and remove keywords
#[derive(Debug, Args)]
pub struct Keywords {
    #[command(subcommand)]
    command: Command,
    /// Folder of keywords [default: $BELLIS_KEYWORDS or ~/.local/share/bellis/keywords]
    #[arg(long, value_name = "FOLDER", global = true)]
    folder: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List keywords, their thresholds and their packs
    List,
    /// Show the score of recordings, and whether they are detected
    Test {
        /// Name or file of the keyword
        keyword: PathBuf,
        /// Recordings: files or folders
        #[arg(required = true, value_name = "PATH")]
        recordings: Vec<PathBuf>,
        /// Pack: a folder, or the name of a bundled one
        #[arg(long, value_name = "PACK", default_value = locate::DEFAULT_PACK)]
        pack: PathBuf,
    },
    Set(Set),
    Feedback(Feedback),
    /// Remove keywords
    Remove {
        /// Names of the keywords
        #[arg(required = true)]
        names: Vec<String>,
    },
}

impl Keywords {
    pub fn run(self) -> anyhow::Result<()> {
        let folder = self.folder.map_or_else(locate::keyword_folder, Ok)?;
        match self.command {
            Command::List => list(&folder),
            Command::Test { keyword, recordings, pack } => test(&folder, &keyword, &recordings, &pack),
            Command::Set(command) => command.run(&folder),
            Command::Feedback(command) => command.run(&folder),
            Command::Remove { names } => remove(&folder, &names),
        }
    }
}

fn list(folder: &Path) -> anyhow::Result<()> {
    if folder.is_file() {
        bail!("{}: is not a folder of keywords", folder.display());
    }
    let files = find(folder);
    if files.as_ref().is_err_and(is_empty) {
        outln!("no keywords in {}; enroll one with `bellis enroll NAME --say \"PHRASE\"`", folder.display());
        return Ok(());
    }
    for path in files? {
        match load(&path, None) {
            Ok(keyword) => {
                let lengths: Vec<String> =
                    keyword.example.iter().map(|example| format!("{} ({:.2} s)", example.source, example.seconds)).collect();
                let identity: String = keyword.pack.identity.chars().take(12).collect();
                let mut rows = Vec::new();
                if let Some(say) = &keyword.say {
                    rows.push(("phrase", format!("{} ({})", say.phrase, say.language)));
                }
                if !lengths.is_empty() {
                    rows.push(("examples", lengths.join(", ")));
                }
                rows.push(("threshold", threshold(&keyword)));
                if let Some(seconds) = keyword.refractory_seconds {
                    rows.push(("refractory", format!("{seconds} s")));
                }
                if keyword.priority != 0 {
                    rows.push(("priority", keyword.priority.to_string()));
                }
                if !keyword.feedback.is_empty() {
                    let (wrong, right) = (keyword.feedback.false_accepts.len(), keyword.feedback.utterances.len());
                    rows.push(("feedback", format!("{wrong} false accepts, {right} utterances")));
                }
                rows.push(("pack", format!("{} ({identity})", keyword.pack.name)));
                rows.push(("file", path.display().to_string()));
                table::print(&keyword.name, &rows);
            }
            // A broken file does not hide the others.
            Err(error) => table::print("cannot be used", &[("", error.to_string())]),
        }
    }
    Ok(())
}

fn test(folder: &Path, keyword: &Path, recordings: &[PathBuf], pack: &Path) -> anyhow::Result<()> {
    let pack = Pack::open(&locate::pack(pack)?)?;
    let path = file_of(folder, keyword)?;
    let keyword = load(&path, Some(&PackRef::to(&pack)))?;
    let encoder = Encoder::load(&pack, &LoadOptions::default())?;
    let audio = encoder.audio();
    let rate = f64::from(audio.sample_rate);
    outln!("keyword `{}`, threshold {}", keyword.name, threshold(&keyword));
    let mut damaged = 0;
    for file in audio_files(recordings)? {
        // As in a run.
        let options = SearchOptions { near_miss: Some(0.0), ..SearchOptions::default() };
        let (chunk_frames, mut hits) = (pack.default_chunk_frames(), Vec::new());
        let watched = Watched::new(&keyword, &path, &options, &encoder)?;
        let mut search = KeywordSearch::new(vec![watched], Some(Verifier::new(&encoder, chunk_frames)?));
        search.begin(audio.hop, chunk_frames);
        let options = search.session_options(chunk_frames);
        let mut session = Session::new(&encoder, PolicySpec::default().build(&pack)?, options)?;
        let mut take = |hit: Detection<'_>| {
            hits.push((hit.score, hit.start as f64 / rate, hit.end as f64 / rate, hit.example, hit.event == Event::Detection));
            Ok::<_, anyhow::Error>(())
        };
        let mut process = |chunk: &Representation| search.search(chunk, &mut take);
        let read = read_file_at(&file, ChannelPick::MixDown, audio.sample_rate, |block| {
            session.push(block)?;
            session.each(&mut process)
        });
        let damage = damage_of(read)?;
        session.finish();
        session.each(&mut process)?;
        search.end(&mut take)?;
        let best = hits.iter().max_by(|a, b| a.0.total_cmp(&b.0));
        outln!("{}", file.display());
        for hit @ (score, start, end, example, detected) in &hits {
            if !detected && best != Some(hit) {
                continue;
            }
            let fires = if *detected { "detected" } else { "not detected" };
            let example = example.map_or_else(String::new, |example| format!(", example {}", example + 1));
            outln!("  {fires}: score {score:.3} from {start:.2} to {end:.2} s{example}");
        }
        if hits.is_empty() {
            outln!("  not detected: no similar audio");
        }
        if let Some(error) = damage {
            damaged += 1;
            errln!("warning: {error}");
        }
    }
    if damaged > 0 {
        bail!("{damaged} of the files are damaged");
    }
    Ok(())
}

fn remove(folder: &Path, names: &[String]) -> anyhow::Result<()> {
    for name in names {
        check_name(name)?;
        let path = folder.join(format!("{name}{KEYWORD_SUFFIX}"));
        if !path.is_file() {
            return Err(unknown(folder, name));
        }
        std::fs::remove_file(&path).with_context(|| path.display().to_string())?;
        outln!("removed {}", path.display());
    }
    Ok(())
}

/// A keyword's file by its name, or by its path.
pub fn file_of(folder: &Path, keyword: &Path) -> anyhow::Result<PathBuf> {
    let named = folder.join(format!("{}{KEYWORD_SUFFIX}", keyword.display()));
    if named.is_file() {
        return Ok(named);
    }
    if keyword.is_file() {
        return Ok(keyword.to_owned());
    }
    Err(unknown(folder, &keyword.to_string_lossy()))
}

/// The error for a name that no keyword has.
fn unknown(folder: &Path, name: &str) -> anyhow::Error {
    let known: Vec<String> = find(folder)
        .unwrap_or_default()
        .iter()
        .filter_map(|path| path.file_name()?.to_str()?.strip_suffix(KEYWORD_SUFFIX).map(str::to_owned))
        .collect();
    let hint = match bellis::internal::nearest(name, known.iter().map(String::as_str)) {
        Some(near) => format!("did you mean `{near}`?"),
        None if known.is_empty() => "none is enrolled".to_owned(),
        None => format!("available: {}", known.join(", ")),
    };
    anyhow!("no keyword `{name}` in {}; {hint}", folder.display())
}

/// Whether a consumer may have no keyword to search for, until one is enrolled.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Missing {
    /// It may not.
    Rejected,
    /// It may if those that exist cannot be used.
    IfBroken,
    /// It may.
    Allowed,
}

/// The consumer of the keywords in `path`, a file or a folder, by default of all enrolled ones. It writes lines to `out`, called `place` in
/// errors.
pub fn consumer<W: Write + Send>(
    (path, missing): (Option<&Path>, Missing),
    settings: &Settings,
    pack: &Pack,
    encoder: &Arc<Encoder>,
    (out, place): (W, &str),
) -> anyhow::Result<KeywordLines<W>> {
    let path = located(path, settings)?;
    if !path.exists() && missing != Missing::Allowed {
        bail!(
            "{}: no such file or folder of keywords, nor a keyword of that name; enroll one with `bellis enroll NAME --say \"PHRASE\"`",
            path.display()
        );
    }
    let reference = PackRef::to(pack);
    let options = search_options(settings)?;
    let files = match find(&path) {
        Err(error) if missing == Missing::Allowed && is_empty(&error) => Vec::new(),
        files => files?,
    };
    // One broken file in a folder hides no other one.
    let skips = path.is_dir();
    let (mut watched, mut skipped) = (Vec::new(), 0);
    for file in files {
        let read = || {
            let keyword = load(&file, Some(&reference))?;
            let new = if skips { Watched::new_or_fixed } else { Watched::new };
            new(&keyword, &file, &options, encoder)
        };
        match read() {
            Ok(one) => watched.push(one),
            Err(error) if skips => {
                log::warn!("{:#}; the keyword is skipped", anyhow::Error::from(error));
                skipped += 1;
            }
            Err(error) => return Err(error.into()),
        }
    }
    if watched.is_empty() && skipped > 0 && missing == Missing::Rejected {
        bail!("{}: none of the keywords can be used; enroll them again", path.display());
    }
    if watched.is_empty() {
        log::warn!("{}: no keyword to search for yet; enroll one with `bellis enroll NAME --say \"PHRASE\"`", path.display());
    }
    let verifier = Verifier::new(encoder, pack.default_chunk_frames())?;
    Ok(KeywordLines::new(out, place, watched, Some(verifier)))
}

/// Whether a folder is absent, or has no keywords.
fn is_empty(error: &KeywordError) -> bool {
    match error {
        KeywordError::NoKeywords { .. } => true,
        KeywordError::File { source, .. } => source.kind() == std::io::ErrorKind::NotFound,
        _ => false,
    }
}

/// The files of the keywords in `path`, a file or a folder; by default of all enrolled ones.
pub fn files(path: Option<&Path>, settings: &Settings) -> Vec<PathBuf> {
    find(&located(path, settings).unwrap_or_default()).unwrap_or_default()
}

/// The same with the times of their last change.
#[cfg(feature = "serve")]
pub fn state(path: Option<&Path>, settings: &Settings) -> Vec<(PathBuf, Option<std::time::SystemTime>)> {
    let changed = |file: &PathBuf| file.metadata().and_then(|file| file.modified()).ok();
    files(path, settings).into_iter().map(|file| (file.clone(), changed(&file))).collect()
}

/// Where to search for keywords: a file, a folder, or the file of an enrolled keyword by its name; by default the folder of all enrolled ones.
fn located(path: Option<&Path>, settings: &Settings) -> anyhow::Result<PathBuf> {
    let folder = folder(settings)?;
    let Some(path) = path else { return Ok(folder) };
    // A name comes before a file or folder of that name, which may contain its recordings.
    let is_name = path.components().count() == 1;
    let named = folder.join(format!("{}{KEYWORD_SUFFIX}", path.display()));
    Ok(if is_name && named.is_file() { named } else { path.to_owned() })
}

/// The folder of enrolled keywords.
pub fn folder(settings: &Settings) -> anyhow::Result<PathBuf> {
    settings.keywords.clone().map_or_else(locate::keyword_folder, Ok)
}

/// How the settings change the search for enrolled keywords.
pub fn search_options(settings: &Settings) -> anyhow::Result<SearchOptions> {
    let rate = requested_rate(settings.false_accepts, settings.sensitivity)?;
    if let Some(seconds) = settings.refractory
        && !(0.0..=MOST_REFRACTORY).contains(&seconds)
    {
        bail!("--refractory must be between 0 and {MOST_REFRACTORY} seconds, got {seconds}");
    }
    if let Some(score) = settings.near_misses
        && !(0.0..=1.0).contains(&score)
    {
        bail!("--near-misses must be between 0 and 1, got {score}");
    }
    Ok(SearchOptions {
        false_accepts: rate,
        refractory: settings.refractory.map(Duration::from_secs_f64),
        near_miss: settings.near_misses,
    })
}
