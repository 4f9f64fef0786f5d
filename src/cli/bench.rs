//! `bellis bench`.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use bellis::audio::{SAMPLE_RATES, audio_files};
use bellis::bench::{
    self, Compared, NoiseKind, Plan, Report, Speech, bench, default_policies, default_policy, expected_duration,
};
use bellis::engine::{Encoder, Int8Kernel, LoadOptions, Precision};
use bellis::exit::PolicySpec;
use bellis::internal::RunFile;
use bellis::pack::Pack;
use clap::Args;
use indicatif::{HumanDuration, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::consumers::pack_files;
use super::files::check_creatable;
use super::settings::chunk_frames;
use super::{locate, signals, values};

/// Measure depth, quality, cost and latency under noise
///
/// Mixes speech with noise at exact SNRs, streams it through the whole runtime (ring, resampler, session) with every
/// policy, and compares the results with full depth. One condition is a device-like stream (30 % speech, 40 % silence, 30 % noise).
/// Prints a table, and writes a JSON report and an HTML page with plots.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  bellis bench                                             bundled speech and noise, every policy; one or two minutes
  bellis bench --speech recordings --noise white,cafe.wav --snr clean,20,10,0
  bellis bench --policy gain,gain:0.05,threshold:2.5,fixed:5
  bellis bench --json pi4.json --html pi4.html             on the board
  bellis bench --realtime                                  delay from capture to representation, in real time
  bellis bench --compare pi4.json pi5.json --html both.html   two boards or two packs side by side")]
pub struct Bench {
    /// Pack: a folder, or the name of a bundled one
    #[arg(long, value_name = "PACK", default_value = locate::DEFAULT_PACK)]
    pack: PathBuf,
    /// Speech: files or folders [default: bundled recordings]
    #[arg(long, value_name = "PATH", num_args = 1..)]
    speech: Vec<PathBuf>,
    /// Noise: white, pink, brown, babble, files or folders [default: bundled]
    ///
    /// `babble` is made from the speech itself. The default is white, babble, and recordings of a party and a restaurant.
    #[arg(long, value_name = "KIND|PATH", value_delimiter = ',')]
    noise: Vec<String>,
    /// SNRs in dB; clean speech is always included [default: 20,10,5,0,-5]
    #[arg(long, value_name = "DB", value_delimiter = ',', allow_hyphen_values = true, value_parser = ratio)]
    snr: Vec<Ratio>,
    /// Policies: NAME or NAME:NUMBER [default: all that the pack supports]
    ///
    /// NUMBER is the policy's threshold, layer or agreement. `+gate:P` adds a gate. Full depth and, except with --realtime,
    /// every fixed depth are measured too.
    #[arg(long, value_name = "POLICY", value_delimiter = ',')]
    policy: Vec<String>,
    /// Precision of the layers' matmuls
    #[arg(long, value_parser = values::precision(), default_value_t)]
    precision: Precision,
    /// Kernel of the int8 matmuls [default: the fastest]
    #[arg(long, value_name = "NAME", value_parser = values::kernels())]
    kernels: Option<Int8Kernel>,
    /// Threads for large f32 matmuls, 1 to 64
    #[arg(long, value_name = "COUNT", default_value_t = 1)]
    threads: usize,
    /// Chunk length in milliseconds [default: the pack's]
    #[arg(long, value_name = "MS")]
    chunk: Option<f64>,
    /// Speech per condition, seconds [default: 30, less if that takes over 5 minutes]
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    seconds: Option<f64>,
    /// Sample rate of the source; the runtime resamples to the pack's rate
    #[arg(long, value_name = "HZ", default_value_t = 48_000, value_parser = clap::value_parser!(u32).range(i64::from(*SAMPLE_RATES.start())..=i64::from(*SAMPLE_RATES.end())))]
    rate: u32,
    /// Skip the device-like stream
    #[arg(long)]
    no_device: bool,
    /// Play in real time, and measure the delay to the representation as well
    #[arg(long)]
    realtime: bool,
    /// JSON report [default: bellis-bench.json, without --html]
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// HTML page with plots [default: bellis-bench.html, without --json]
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Only print the table, without writing files
    #[arg(long, conflicts_with_all = ["json", "html"])]
    no_files: bool,
    /// Compare two JSON reports instead of measuring
    #[arg(long, value_names = ["A.json", "B.json"], num_args = 2, conflicts_with_all = ["speech", "noise", "policy", "json", "realtime", "snr", "chunk", "seconds", "pack", "precision", "kernels", "threads", "rate", "no_device", "no_files"])]
    compare: Option<Vec<PathBuf>>,
}

/// One entry of `--snr`.
#[derive(Debug, Clone, Copy)]
enum Ratio {
    Clean,
    Decibels(f64),
}

fn ratio(text: &str) -> Result<Ratio, String> {
    match (text, text.parse::<f64>()) {
        ("clean", _) => Ok(Ratio::Clean),
        (_, Ok(decibels)) if decibels.abs() <= 100.0 => Ok(Ratio::Decibels(decibels)),
        _ => Err("an SNR is a number from -100 to 100 (dB), or `clean`".to_owned()),
    }
}

fn seconds(text: &str) -> Result<f64, String> {
    let seconds = text.parse::<f64>().ok().filter(|seconds| *seconds > 0.0 && seconds.is_finite());
    seconds.ok_or_else(|| "must be a positive number of seconds".to_owned())
}

/// Default of `--seconds`, and its minimum where it is reduced to keep the benchmark short.
const SPEECH_SECONDS: f64 = 30.0;
const LEAST_SPEECH_SECONDS: f64 = 5.0;
/// A benchmark that takes longer uses less speech, unless `--seconds` is given.
const LONGEST: Duration = Duration::from_secs(300);

/// Defaults of `--snr`; in real time, a single SNR.
const RATIOS: [f64; 5] = [20.0, 10.0, 5.0, 0.0, -5.0];
const REALTIME_RATIOS: [f64; 1] = [0.0];

impl Bench {
    pub fn run(self) -> anyhow::Result<()> {
        self.check_outputs()?;
        if let Some([a, b]) = self.compare.as_deref() {
            let (a, b) = (read(a)?, read(b)?);
            let compared = Compared(&a, &b);
            out!("{compared}");
            return match &self.html {
                Some(path) => write(path, &bench::compared_page(&compared)),
                None => Ok(()),
            };
        }
        let pack = Pack::open(&locate::pack(&self.pack)?)?;
        let policies = self.policies(&pack);
        // Report invalid policies before any long computation.
        for text in &policies {
            text.parse::<PolicySpec>()?.build(&pack)?;
        }
        let audio = &pack.manifest.audio;
        let hop_ms = audio.hop as f64 * 1e3 / f64::from(audio.sample_rate);
        let chunk_frames = chunk_frames(self.chunk, hop_ms, pack.default_chunk_frames())?;
        let mut options = LoadOptions::default().precision(self.precision).threads(self.threads);
        options.kernels = self.kernels;
        let encoder = Encoder::load(&pack, &options)?;
        encoder.check_chunk(chunk_frames)?;
        let speech = match self.speech.is_empty() {
            true => audio_files(&[locate::bench_audio("speech")?])?,
            false => audio_files(&self.speech)?,
        };
        let mut plan = Plan {
            speech: Speech::read(&speech, audio.sample_rate, self.seconds.unwrap_or(SPEECH_SECONDS))?,
            noises: self.noises()?,
            snrs: self.ratios(),
            device: !self.no_device,
            policies,
            chunk_frames,
            rate: self.rate,
            realtime: self.realtime,
        };
        let mut expected = expected_duration(&pack, &encoder, &plan)?;
        if expected > LONGEST && self.seconds.is_none() {
            let length = |speech: &Speech| speech.samples.len() as f64 / f64::from(audio.sample_rate);
            let whole = length(&plan.speech);
            let seconds = (whole * LONGEST.as_secs_f64() / expected.as_secs_f64()).max(LEAST_SPEECH_SECONDS.min(whole));
            errln!(
                "{whole:.0} s of speech would take up to {}; using {seconds:.0} s (--seconds chooses)",
                HumanDuration(expected)
            );
            plan.speech = Speech::read(&speech, audio.sample_rate, seconds)?;
            expected = expected.mul_f64(length(&plan.speech) / whole);
        }
        errln!("expected duration: up to {}; Ctrl-C ends it with a report of what has finished", HumanDuration(expected));
        let (bar, began) = (bar(), Instant::now());
        let stop = signals::stop_on_signals()?;
        let report = bench(&pack, &encoder, &plan, &stop, |progress| {
            // The bar counts integers, so use milliseconds.
            bar.set_length((progress.total * 1e3) as u64);
            bar.set_position((progress.done * 1e3) as u64);
            bar.set_message(progress.now.to_owned());
        })?;
        bar.finish_and_clear();
        out!("{report}");
        let (json, html) = self.outputs();
        if let Some(path) = json {
            write(&path, &(serde_json::to_string_pretty(&report)? + "\n"))?;
        }
        if let Some(path) = html {
            write(&path, &bench::page(&report))?;
        }
        if stop.is_set() {
            bail!("interrupted: the report contains only what had finished");
        }
        errln!("done in {}", HumanDuration(began.elapsed()));
        Ok(())
    }

    /// The files for JSON and HTML.
    fn outputs(&self) -> (Option<PathBuf>, Option<PathBuf>) {
        let neither = self.json.is_none() && self.html.is_none() && !self.no_files && self.compare.is_none();
        let or = |path: &Option<PathBuf>, default: &str| path.clone().or_else(|| neither.then(|| default.into()));
        (or(&self.json, "bellis-bench.json"), or(&self.html, "bellis-bench.html"))
    }

    /// Checks before the measurement that the reports can be written, and that none is an input or the other one.
    fn check_outputs(&self) -> anyhow::Result<()> {
        let noises = self.noise.iter().map(PathBuf::from).filter(|noise| noise.exists());
        let recordings: Vec<PathBuf> = self.speech.iter().cloned().chain(noises).collect();
        // What is no recording is reported later.
        let recordings = recordings.iter().flat_map(|path| audio_files(std::slice::from_ref(path)).unwrap_or_default());
        let inputs = recordings.chain(self.compare.iter().flatten().cloned());
        let inputs = inputs.map(|path| RunFile::at(format!("the input {}", path.display()), &path));
        let inputs: Vec<_> = inputs.chain(locate::pack(&self.pack).iter().flat_map(|pack| pack_files(pack))).collect();
        let (json, html) = self.outputs();
        let outputs = [("--json", json), ("--html", html)].map(|(flag, path)| Some((flag, path?)));
        let mut files = Vec::new();
        for (flag, path) in outputs.into_iter().flatten() {
            check_creatable(&path).with_context(|| format!("{flag} {}", path.display()))?;
            files.push(RunFile::at(format!("{flag} {}", path.display()), &path));
        }
        Ok(bellis::internal::check_outputs(&inputs, &files)?)
    }

    fn policies(&self, pack: &Pack) -> Vec<String> {
        match (self.policy.is_empty(), self.realtime) {
            (false, _) => self.policy.clone(),
            (true, false) => default_policies(pack),
            (true, true) => vec![default_policy(pack)],
        }
    }

    fn ratios(&self) -> Vec<f64> {
        match (self.snr.is_empty(), self.realtime) {
            (true, false) => RATIOS.to_vec(),
            (true, true) => REALTIME_RATIOS.to_vec(),
            _ => {
                let mut ratios = Vec::new();
                for ratio in &self.snr {
                    if let Ratio::Decibels(value) = ratio
                        && !ratios.contains(value)
                    {
                        ratios.push(*value);
                    }
                }
                ratios
            }
        }
    }

    fn noises(&self) -> anyhow::Result<Vec<NoiseKind>> {
        if self.noise.is_empty() {
            let recorded = audio_files(&[locate::bench_audio("noise")?])?.into_iter().map(NoiseKind::File);
            let kinds = if self.realtime { vec![NoiseKind::Babble] } else { vec![NoiseKind::White, NoiseKind::Babble] };
            return Ok(kinds.into_iter().chain(recorded.filter(|_| !self.realtime)).collect());
        }
        let mut noises = Vec::new();
        for text in &self.noise {
            match text.parse()? {
                NoiseKind::File(path) if path.is_dir() => noises.extend(audio_files(&[path])?.into_iter().map(NoiseKind::File)),
                NoiseKind::File(path) if !path.exists() => {
                    bail!("--noise must be white, pink, brown, babble, a file or a folder, got `{text}`")
                }
                noise => noises.push(noise),
            }
        }
        let names: Vec<String> = noises.iter().map(NoiseKind::to_string).collect();
        for (at, name) in names.iter().enumerate() {
            if let Some(first) = names[..at].iter().position(|other| other == name) {
                bail!(
                    "--noise: number {} and number {} are both called `{name}` in the report; rename a file",
                    first + 1,
                    at + 1
                );
            }
        }
        Ok(noises)
    }
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    bellis::internal::replace_file(path, text.as_bytes()).with_context(|| path.display().to_string())?;
    errln!("wrote {}", path.display());
    Ok(())
}

fn read(path: &Path) -> anyhow::Result<Report> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let no_report = || format!("{}: not a report of `bellis bench --json`", path.display());
    let value: serde_json::Value = serde_json::from_str(&text).with_context(no_report)?;
    match value.get("format").and_then(serde_json::Value::as_u64) {
        Some(format) if format == u64::from(bench::FORMAT) => serde_json::from_value(value).with_context(no_report),
        Some(format) => bail!(
            "{}: report format {format} is not supported (this version reads {}); measure again with this version",
            path.display(),
            bench::FORMAT
        ),
        None => bail!(no_report()),
    }
}

fn bar() -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
    let style = ProgressStyle::with_template("{bar:30} {percent:>3} %  {eta} left  {wide_msg}")
        .unwrap_or_else(|_| ProgressStyle::default_bar());
    bar.set_style(style);
    bar
}
