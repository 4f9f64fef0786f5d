//! `bellis run`.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use bellis::audio::Source;
#[cfg(feature = "bench")]
use bellis::consumer::Consumer;
use bellis::engine::Encoder;
use bellis::internal::replace_file;
use bellis::pack::Pack;
use bellis::runtime::{RunBuilder, RunReport};
use clap::Args;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::consumers::{check_outputs, consumers, writes_to_stdout};
use super::files::check_creatable;
#[cfg(feature = "bench")]
use super::report::Depths;
use super::settings::{Input, Settings};
use super::signals::stop_on_signals;
use super::source::{run_options, source};

/// Process a file, a pipe or the microphone
///
/// Prints one line of JSON per chunk on standard output, and a summary with the histogram of exit layers on standard error.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  bellis run                                        the bundled recording, default pack and policy
  bellis run talk.flac --policy threshold --threshold 2.5 > talk.jsonl
  bellis run mic --deadline 200                     live; exits early rather than exceed 200 ms
  bellis run talk.wav --consumer npy:talk.npy       all frames as a NumPy array
  bellis run mic --consumer wav:mic.wav             record the audio
  bellis run mic --consumer keyword                 detect enrolled keywords (`bellis enroll`)
  bellis run talk.wav --consumer phones             phones as text; phones:FILE writes JSON lines
  bellis run mic --consumer segments:talk/          each utterance as WAV and NPY
  bellis run mic --consumer stream:- | python3 examples/read_stream.py -
  bellis run talk.wav --policy fixed --layer 6      a fixed depth, for comparison
  arecord -f S16_LE -r 16000 -t raw | bellis run - --rate 16000 --format s16le
  bellis run --config bellis.toml                   settings from a file; flags take precedence

A configuration file has the flags' long names as keys:
  input = \"mic\"
  policy = \"threshold\"
  threshold = 2.5
  consumer = [\"jsonl\", \"npy:frames.npy\"]")]
pub struct Run {
    /// Configuration file (TOML); flags take precedence
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    settings: Settings,
}

/// How often the progress bar moves.
const REFRESH: Duration = Duration::from_millis(20);
/// Interval of checks for a signal in a run without one.
const SIGNALS: Duration = Duration::from_millis(250);
/// Minimum length of a file for a progress bar.
const BAR_FROM_SECONDS: f64 = 20.0;

impl Run {
    pub fn run(self) -> anyhow::Result<()> {
        let settings = match &self.config {
            Some(path) => self.settings.over(Settings::from_file(path)?),
            None => self.settings,
        };
        let pack = settings.pack_folder()?;
        check_report(&settings)?;
        let config: Vec<&Path> = self.config.as_deref().into_iter().collect();
        check_outputs(&settings, &pack, &config)?;
        let pack = Pack::open(&pack)?;
        let policy = settings.policy(&pack)?;
        let options = run_options(&settings, &pack)?;
        let source = source(&settings)?;
        let encoder = Encoder::load(&pack, &settings.load_options())?;
        // What the run would refuse later is refused before an output is renamed.
        options.session.chunk_frames.map_or(Ok(()), |frames| encoder.check_chunk(frames))?;
        settings.neighbours.check()?;
        let consumers = consumers(&settings, &pack, &encoder)?;
        #[cfg(feature = "bench")]
        let (consumers, depths) = with_depths(consumers, &settings);
        let stop = stop_on_signals()?;
        if settings.input() == Input::Microphone && !settings.quiet {
            let spec = source.spec();
            errln!("recording from {} at {} Hz; Ctrl-C stops", spec.name, spec.sample_rate);
        }
        let bar = progress_bar(&settings, source.as_ref());
        let total = source.spec().total_samples.unwrap_or(0);
        let builder = RunBuilder::new(source, &encoder, policy).consumers(consumers).options(options).stop_on(stop.clone());
        #[cfg(feature = "neighbours")]
        let (builder, node) = with_neighbours(builder, &settings, pack, &encoder)?;
        let run = builder.start()?;
        let mut stopping = false;
        while !run.wait_for(if bar.is_some() { REFRESH } else { SIGNALS }) {
            if stop.is_set() && !std::mem::replace(&mut stopping, true) {
                errln!("\nstopping: processing captured audio (Ctrl-C again to quit at once)");
            }
            if let Some(bar) = &bar {
                let counters = run.counters();
                bar.set_position(counters.samples().processed.min(total) * 1000 / total.max(1));
                bar.set_message(
                    counters.mean_exit_layer().map_or_else(String::new, |depth| format!("mean exit layer {depth:.2}")),
                );
            }
        }
        if let Some(bar) = bar {
            bar.finish_and_clear();
        }
        #[cfg(feature = "neighbours")]
        let counters = run.counters().clone();
        let report = run.join();
        #[cfg(feature = "bench")]
        let page = match (depths, &settings.report) {
            (Some(depths), Some(path)) => depths.write(path, &report.summary, encoder.layers()),
            _ => Ok(()),
        };
        #[cfg(not(feature = "bench"))]
        let page = Ok(());
        let told = tell(report, &settings).and(page);
        #[cfg(feature = "neighbours")]
        if let Some(node) = node.filter(|_| !settings.quiet) {
            super::neighbours::tell(node.roster(), &counters.exits());
        }
        told
    }
}

/// Adds the consumer of a report that shows every chunk.
#[cfg(feature = "bench")]
fn with_depths(mut consumers: Vec<Box<dyn Consumer>>, settings: &Settings) -> (Vec<Box<dyn Consumer>>, Option<Depths>) {
    let depths = Depths::wanted(settings.report.as_deref());
    consumers.extend(depths.clone().map(|depths| -> Box<dyn Consumer> { Box::new(depths) }));
    (consumers, depths)
}

/// Checks that the report can be written, which happens after hours.
pub fn check_report(settings: &Settings) -> anyhow::Result<()> {
    match settings.report.as_deref() {
        None => Ok(()),
        Some(path) if path == Path::new("-") => bail!("--report writes a file; name one, or /dev/stdout"),
        Some(path) => check_creatable(path).with_context(|| format!("--report {}", path.display())),
    }
}

/// Connects to neighbours, if any are configured.
#[cfg(feature = "neighbours")]
fn with_neighbours(
    builder: RunBuilder,
    settings: &Settings,
    pack: Pack,
    encoder: &std::sync::Arc<Encoder>,
) -> anyhow::Result<(RunBuilder, Option<super::neighbours::Node>)> {
    let mut node = super::neighbours::Node::new(pack.into(), encoder.clone());
    let source = node.source(&settings.neighbours, &settings.policy_spec())?;
    node.connect(&settings.neighbours)?;
    Ok(match source {
        Some(source) => {
            if settings.neighbours.is_source() {
                node.wait();
            }
            (builder.neighbours(source), Some(node))
        }
        None => (builder, settings.neighbours.is_worker().then_some(node)),
    })
}

/// Prints and writes the summary of a finished run, and returns its outcome.
pub fn tell(report: RunReport, settings: &Settings) -> anyhow::Result<()> {
    if !settings.quiet {
        err!("{}", report.summary);
    }
    let written = settings.report.as_ref().filter(|path| !is_page(path)).map_or(Ok(()), |path| {
        let text = serde_json::to_string_pretty(&report.summary)?;
        replace_file(path, (text + "\n").as_bytes()).with_context(|| path.display().to_string())
    });
    report.outcome?;
    written
}

/// Whether a report is a page instead of JSON.
pub fn is_page(path: &Path) -> bool {
    cfg!(feature = "bench") && path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("html"))
}

/// A progress bar for long files, if standard error is a terminal and the output is not on it.
fn progress_bar(settings: &Settings, source: &dyn Source) -> Option<ProgressBar> {
    let spec = source.spec();
    let seconds = spec.total_samples? as f64 / f64::from(spec.sample_rate);
    let lines_on_screen = std::io::stdout().is_terminal() && writes_to_stdout(settings);
    if settings.quiet || seconds < BAR_FROM_SECONDS || !std::io::stderr().is_terminal() || lines_on_screen {
        return None;
    }
    let bar = ProgressBar::with_draw_target(Some(1000), ProgressDrawTarget::stderr());
    let style = ProgressStyle::with_template("{wide_bar} {percent:>3} %  {eta} left  {msg}")
        .unwrap_or_else(|_| ProgressStyle::default_bar());
    bar.set_style(style);
    Some(bar)
}
