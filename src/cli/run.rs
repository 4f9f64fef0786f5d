//! `bellis run`.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use bellis::audio::{FileSource, MicrophoneOptions, MicrophoneSource, PcmFormat, PcmSource, Source};
use bellis::consumer::{Consumer, JsonLines, JsonOptions, Npy, Null, Wav};
use bellis::engine::Encoder;
use bellis::pack::Pack;
use bellis::runtime::{Counters, RunOptions, run};
use bellis::stream::{Mixture, SessionOptions, Vectors};
use clap::Args;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::locate;
use super::settings::{Settings, VectorsName};
use super::signals::stop_on_signals;

/// Stream a file, a pipe or the microphone through a pack
///
/// One line of JSON per chunk goes to standard output, a summary with the histogram of exit layers to standard error.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  bellis run                                        the bundled recording, default pack and policy
  bellis run talk.flac --policy threshold --threshold 2.5 > talk.jsonl
  bellis run mic --deadline 200                     live; sheds layers rather than be late
  bellis run talk.wav --consumer npy:talk.npy       all frames as a NumPy array
  bellis run mic --consumer wav:heard.wav           write what was heard
  bellis run talk.wav --policy fixed --layer 6      a fixed depth, to compare with
  arecord -f S16_LE -r 16000 -t raw | bellis run - --rate 16000 --format s16le
  bellis run --config bellis.toml                   the same settings from a file; flags win

A configuration file has the flags' long names as keys:
  input = \"mic\"
  policy = \"threshold\"
  threshold = 2.5
  consumer = [\"jsonl\", \"npy:frames.npy\"]")]
pub struct Run {
    /// Read settings from this TOML file; flags win
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    settings: Settings,
}

/// Rate of raw PCM when none is said, Hz.
const PCM_RATE: u32 = 16_000;
/// A progress bar is shown for files at least this long.
const BAR_FROM_SECONDS: f64 = 20.0;

impl Run {
    pub fn run(self) -> anyhow::Result<()> {
        let settings = match &self.config {
            Some(path) => self.settings.over(Settings::from_file(path)?),
            None => self.settings,
        };
        let pack = Pack::open(&locate::pack(settings.pack.as_deref().unwrap_or(Path::new(locate::DEFAULT_PACK)))?)?;
        let policy = settings.policy_spec().build(&pack)?;
        let options = run_options(&settings, &pack)?;
        let source = source(&settings)?;
        let consumers = consumers(&settings)?;
        let encoder = Encoder::load_with(&pack, settings.load_options())?;
        // The weights are in the encoder's own form now; their files need not stay in memory.
        drop(pack);
        let stop = stop_on_signals()?;
        let bar = progress_bar(&settings, source.as_ref());
        let total = source.spec().total_samples.unwrap_or(0);
        let watch = |counters: &Arc<Counters>| {
            if let Some(bar) = &bar {
                bar.set_position(counters.ring().read().min(total) * 1000 / total.max(1));
                bar.set_message(
                    counters.mean_exit_layer().map_or_else(String::new, |depth| format!("mean exit layer {depth:.2}")),
                );
            }
        };
        let report = run(source, &encoder, policy, consumers, &options, &stop, watch)?;
        if let Some(bar) = bar {
            bar.finish_and_clear();
        }
        if !settings.quiet {
            eprint!("{}", report.summary);
        }
        if let Some(path) = &settings.report {
            let text = serde_json::to_string_pretty(&report.summary)?;
            std::fs::write(path, text + "\n").with_context(|| path.display().to_string())?;
        }
        Ok(report.outcome?)
    }
}

fn run_options(settings: &Settings, pack: &Pack) -> anyhow::Result<RunOptions> {
    let manifest = &pack.manifest;
    let hop_ms = manifest.audio.hop as f64 * 1e3 / f64::from(manifest.audio.sample_rate);
    let mut session = SessionOptions::new(settings.chunk_frames(hop_ms, pack.default_chunk_frames())?);
    if settings.vectors == Some(VectorsName::Mixture) {
        session.vectors = Vectors::Mixture(match &manifest.mixture {
            Some(own) => Mixture { weights: own.weights.clone(), layer_norm: own.layer_norm },
            None => Mixture::uniform(manifest.encoder.layers),
        });
    }
    let mut options = RunOptions::new(session);
    if let Some(seconds) = settings.ring {
        if !(0.05..=600.0).contains(&seconds) {
            bail!("--ring {seconds}: the ring holds 0.05 to 600 seconds");
        }
        options.ring = Duration::from_secs_f64(seconds);
    }
    Ok(options)
}

fn source(settings: &Settings) -> anyhow::Result<Box<dyn Source>> {
    let pick = settings.channel_pick()?;
    Ok(match settings.input.as_deref() {
        None => {
            let path = locate::sample()?;
            eprintln!("no INPUT: playing {} (`bellis run mic` listens to the microphone)", path.display());
            Box::new(FileSource::open(&path, pick, settings.realtime)?)
        }
        Some("mic") => {
            let mut options = MicrophoneOptions {
                device: settings.device.clone(),
                sample_rate: settings.rate,
                channels: settings.channels,
                pick,
                ..Default::default()
            };
            if let Some(milliseconds) = settings.buffer {
                options.buffer = Duration::from_millis(milliseconds.max(1));
            }
            let source = MicrophoneSource::open(options)?;
            if !settings.quiet {
                let spec = source.spec();
                eprintln!("listening to {} at {} Hz; Ctrl-C stops", spec.name, spec.sample_rate);
            }
            Box::new(source)
        }
        Some("-") => {
            let format = settings.format.unwrap_or(PcmFormat::S16le);
            let (rate, channels) = (settings.rate.unwrap_or(PCM_RATE), settings.channels.unwrap_or(1));
            Box::new(PcmSource::new(Box::new(std::io::stdin()), "standard input", format, rate, channels, pick)?)
        }
        Some(path) => Box::new(FileSource::open(Path::new(path), pick, settings.realtime)?),
    })
}

fn consumers(settings: &Settings) -> anyhow::Result<Vec<Box<dyn Consumer>>> {
    let json = JsonOptions { vectors: settings.with_vectors, units: settings.with_units };
    let asked = match settings.consumer.is_empty() {
        true => vec!["jsonl".to_owned()],
        false => settings.consumer.clone(),
    };
    let one = |text: &String| -> anyhow::Result<Box<dyn Consumer>> {
        Ok(match text.split_once(':').map_or((text.as_str(), None), |(name, rest)| (name, Some(rest))) {
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
    };
    asked.iter().map(one).collect()
}

/// A bar for long files, where a person looks at standard error and the lines do not go to the same screen.
fn progress_bar(settings: &Settings, source: &dyn Source) -> Option<ProgressBar> {
    let spec = source.spec();
    let seconds = spec.total_samples? as f64 / f64::from(spec.sample_rate);
    let lines_on_screen = std::io::stdout().is_terminal() && settings.consumer.iter().all(|consumer| consumer == "jsonl");
    if settings.quiet || seconds < BAR_FROM_SECONDS || !std::io::stderr().is_terminal() || lines_on_screen {
        return None;
    }
    let bar = ProgressBar::with_draw_target(Some(1000), ProgressDrawTarget::stderr());
    let style = ProgressStyle::with_template("{wide_bar} {percent:>3} %  {eta} left  {msg}")
        .unwrap_or_else(|_| ProgressStyle::default_bar());
    bar.set_style(style);
    Some(bar)
}
