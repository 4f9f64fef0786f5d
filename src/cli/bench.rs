//! `bellis bench`.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use bellis::bench::{self, Compared, NoiseKind, Plan, Report, Speech, bench, default_policies, sound_files};
use bellis::engine::Encoder;
use bellis::pack::Pack;
use clap::Args;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::{locate, signals};

/// Measure depth, quality and cost under noise
///
/// Real speech is mixed with noise at exact ratios and streamed through the whole runtime with every policy; the numbers are
/// compared with full depth.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  bellis bench                                             bundled speech and noise, every policy
  bellis bench --speech recordings --noise white,cafe.wav --snr 20,10,0
  bellis bench --policy gain,gain:0.05,threshold:2.5,fixed:5
  bellis bench --json pi4.json --html pi4.html             on the board
  bellis bench --compare pi4.json pi5.json                 two boards, or two packs, side by side")]
pub struct Bench {
    /// The pack: its folder, or the name of a bundled one
    #[arg(long, value_name = "PACK", default_value = locate::DEFAULT_PACK)]
    pack: PathBuf,
    /// Speech: files or folders; bundled recordings without
    #[arg(long, value_name = "PATH", num_args = 1..)]
    speech: Vec<PathBuf>,
    /// Noise: white, pink, brown, babble (of the speech itself), or sound files
    #[arg(long, value_name = "KIND|FILE", value_delimiter = ',')]
    noise: Vec<String>,
    /// Signal-to-noise ratios, dB; clean speech is always measured
    #[arg(long, value_name = "DB", value_delimiter = ',', default_value = "20,10,5,0,-5", allow_hyphen_values = true)]
    snr: Vec<f64>,
    /// Policies, as NAME or NAME:NUMBER (a threshold, a layer, an agreement); all that the pack has numbers for without
    #[arg(long, value_name = "POLICY", value_delimiter = ',')]
    policy: Vec<String>,
    /// New sound per chunk, milliseconds
    #[arg(long, value_name = "MS")]
    chunk: Option<f64>,
    /// Speech per condition, seconds, at most
    #[arg(long, value_name = "SECONDS", default_value_t = 30.0)]
    seconds: f64,
    /// Let sound come at its own pace and measure the delay to its representation, too (as long as the sound takes)
    #[arg(long)]
    realtime: bool,
    /// Write the numbers as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write a page with pictures
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Set two JSON reports side by side and measure nothing
    #[arg(long, value_names = ["A.json", "B.json"], num_args = 2, conflicts_with_all = ["speech", "noise", "policy", "json", "html"])]
    compare: Option<Vec<PathBuf>>,
}

impl Bench {
    pub fn run(self) -> anyhow::Result<()> {
        if let Some([a, b]) = self.compare.as_deref() {
            print!("{}", Compared(&read(a)?, &read(b)?));
            return Ok(());
        }
        let pack = Pack::open(&locate::pack(&self.pack)?)?;
        let policies = if self.policy.is_empty() { default_policies(&pack) } else { self.policy.clone() };
        // What cannot be made is told before anything long begins.
        for text in &policies {
            bench::policy(text)?.build(&pack)?;
        }
        let audio = &pack.manifest.audio;
        let hop_ms = audio.hop as f64 * 1e3 / f64::from(audio.sample_rate);
        let chunk_frames = self.chunk.map_or(pack.default_chunk_frames(), |ms| (ms / hop_ms).round() as usize);
        let encoder = Encoder::load(&pack, None)?;
        encoder.check_chunk(chunk_frames)?;
        let bundled = |folder: &str| locate::bench_sound(folder).map(|path| vec![path]);
        let speech = sound_files(&if self.speech.is_empty() { bundled("speech")? } else { self.speech.clone() })?;
        let noises: Vec<NoiseKind> = match self.noise.is_empty() {
            false => self.noise.iter().filter_map(|text| text.parse().ok()).collect(),
            true => [NoiseKind::White, NoiseKind::Babble]
                .into_iter()
                .chain(sound_files(&bundled("noise")?)?.into_iter().map(NoiseKind::File))
                .collect(),
        };
        let plan = Plan {
            speech: Speech::read(&speech, audio.sample_rate, self.seconds)?,
            noises,
            snrs: self.snr.clone(),
            policies,
            chunk_frames,
            realtime: self.realtime,
        };
        let bar = bar();
        let stop = signals::stop_on_signals()?;
        let report = bench(&pack, &encoder, &plan, &stop, |done, of| {
            bar.set_length(of as u64);
            bar.set_position(done as u64);
        })?;
        bar.finish_and_clear();
        print!("{report}");
        let write = |path: &Path, text: String| std::fs::write(path, text).with_context(|| path.display().to_string());
        if let Some(path) = &self.json {
            write(path, serde_json::to_string_pretty(&report)? + "\n")?;
        }
        if let Some(path) = &self.html {
            write(path, bench::page(&report))?;
        }
        if stop.is_set() {
            bail!("stopped before the end: the numbers are of what had run by then");
        }
        Ok(())
    }
}

fn read(path: &Path) -> anyhow::Result<Report> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    serde_json::from_str(&text).with_context(|| format!("{}: is no report of `bellis bench --json`", path.display()))
}

fn bar() -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
    let style = ProgressStyle::with_template("{wide_bar} {pos} of {len} runs  {eta} left")
        .unwrap_or_else(|_| ProgressStyle::default_bar());
    bar.set_style(style);
    bar
}
