//! `bellis inspect`.

use std::path::PathBuf;

use bellis::engine::{Encoder, Int8Kernel, LoadOptions, Precision};
use bellis::internal;
use bellis::pack::{Feature, Manifest, Mode, Pack, PerLayer, StageFile};
use clap::Args;

use super::{locate, table, values};

/// Show and verify a pack
///
/// Prints its architecture, layers, size, context, policies, licence and provenance.
#[derive(Debug, Args)]
#[command(
    after_help = "Every file is verified against its SHA-256.\n\nExamples:\n  bellis inspect daisy-tiny\n  bellis inspect path/to/pack\n  bellis inspect --kernels                 kernel and speed of each matmul on this processor"
)]
pub struct Inspect {
    /// Pack: a folder, or the name of a bundled one
    #[arg(default_value = locate::DEFAULT_PACK)]
    pack: PathBuf,
    /// Print the kernel and speed of each matmul instead; NAME forces one
    ///
    /// Speeds are measured on this processor, with chunks of the default size, and compared with the ceiling: the kernel's
    /// multiplications and sums in registers, without loads.
    #[arg(long, value_name = "NAME", value_parser = values::kernels(), num_args = 0..=1, require_equals = true)]
    kernels: Option<Option<Int8Kernel>>,
    /// Precision of the layers' matmuls, with --kernels
    #[arg(long, value_parser = values::precision(), default_value_t, requires = "kernels")]
    precision: Precision,
}

impl Inspect {
    pub fn run(self) -> anyhow::Result<()> {
        let pack = Pack::open(&locate::pack(&self.pack)?)?;
        pack.verify()?;
        if let Some(forced) = self.kernels {
            return kernels(&pack, self.precision, forced);
        }
        let manifest = &pack.manifest;
        table::print(&format!("{} — {}", manifest.name, pack.dir.display()), &rows(&pack, manifest));
        Ok(())
    }
}

/// Prints the kernels of the pack's matmuls and their speeds.
fn kernels(pack: &Pack, precision: Precision, forced: Option<Int8Kernel>) -> anyhow::Result<()> {
    let mut options = LoadOptions::default().precision(precision);
    options.kernels = forced;
    let encoder = Encoder::load(pack, &options)?;
    let names: Vec<&str> = Int8Kernel::available().into_iter().map(Int8Kernel::name).collect();
    outln!("int8 kernels of this processor: {}", if names.is_empty() { "none".to_owned() } else { names.join(", ") });
    let frames = pack.default_chunk_frames();
    outln!("{:<18} {:>5} {:>18}  {:<11} {:>9} {:>14}", "stage", "count", "matmul", "kernel", "G MACs/s", "of the ceiling");
    for one in encoder.matmul_speeds(frames) {
        let size = format!("{frames} × {} × {}", one.inputs, one.outputs);
        let (speed, ceiling) = (one.speed / 1e9, one.ceiling / 1e9);
        let share = format!("{:.0} % of {ceiling:.0}", 100.0 * one.speed / one.ceiling);
        outln!("{:<18} {:>5} {size:>18}  {:<11} {speed:>9.1} {share:>14}", one.stage, one.count, one.kernel);
    }
    Ok(())
}

fn rows(pack: &Pack, m: &Manifest) -> Vec<(&'static str, String)> {
    let (audio, encoder) = (&m.audio, &m.encoder);
    let milliseconds = |frames: usize| frames as f64 * audio.hop as f64 * 1e3 / f64::from(audio.sample_rate);
    let mode = match encoder.mode {
        Mode::Cached => "cached: each frame goes through each layer once".to_owned(),
        Mode::Windowed => "windowed: each chunk is recomputed with its context".to_owned(),
    };
    let parameters = |stages: &[&StageFile]| -> u64 { stages.iter().filter_map(|stage| internal::parameters(stage)).sum() };
    let millions = |count: u64| format!("{:.2} M", count as f64 / 1e6);
    let layers: Vec<&StageFile> = pack.layers.iter().collect();
    let heads: Vec<&StageFile> = pack.heads.iter().map(|(_, head)| head).collect();
    let (in_layers, in_heads) = (parameters(&layers), parameters(&heads));
    let all = parameters(&pack.stages().collect::<Vec<_>>());
    let chunk = pack.default_chunk_frames();
    let mut units = format!("{} (entropy 0 to {:.3} nats)", encoder.units, (encoder.units as f64).ln());
    if let Some(unit) = encoder.quiet_unit {
        units += &format!("; unit {unit} is silence");
    }
    let heads_on = match (pack.heads.is_empty(), pack.shallowest_exit()) {
        (true, _) => "none",
        (false, 0) => "on the front end and on every layer: a chunk may exit before the first",
        (false, _) => "on every layer",
    };
    let mut rows = Vec::new();
    if !m.description.is_empty() {
        rows.push(("about", m.description.clone()));
    }
    if !encoder.architecture.is_empty() {
        rows.push(("architecture", encoder.architecture.clone()));
    }
    rows.extend([
        ("mode", mode),
        (
            "layers",
            format!(
                "{} of {} dimensions, {} attention heads, feature: {}",
                encoder.layers,
                encoder.dim,
                encoder.heads,
                match encoder.feature {
                    Feature::LayerOutput => "the layer's output",
                    Feature::BeforeNorm => "the feed-forward output before residual and norm",
                }
            ),
        ),
        (
            "parameters",
            format!(
                "{} (front end {}, a layer {}, heads {})",
                millions(all),
                millions(parameters(&[&pack.frontend])),
                millions(in_layers / encoder.layers as u64),
                millions(in_heads)
            ),
        ),
        ("files", format!("{:.1} MB, SHA-256 verified", pack.bytes() as f64 / 1e6)),
        (
            "audio",
            format!(
                "{} Hz mono; hop {} samples ({:.1} ms), receptive field {} samples ({:.1} ms)",
                audio.sample_rate,
                audio.hop,
                milliseconds(1),
                audio.receptive_field,
                audio.receptive_field as f64 * 1e3 / f64::from(audio.sample_rate)
            ),
        ),
        ("chunks", format!("{} frames; default {chunk} ({:.0} ms)", encoder.chunk_frames, milliseconds(chunk))),
        (
            "context",
            format!(
                "{} frames ({:.0} ms) left, {} right",
                encoder.left_context,
                milliseconds(encoder.left_context),
                encoder.right_context
            ),
        ),
        ("units", units),
        ("heads", heads_on.into()),
        ("policies", policies(m)),
    ]);
    if let Some(embedding) = &m.embedding {
        rows.push(("keywords", format!("embedding of {} dimensions per frame", embedding.width)));
    }
    if let Some(ctc) = &m.ctc {
        let layers: Vec<String> = pack.ctc.iter().map(|(layer, _)| layer.to_string()).collect();
        rows.push(("ctc", format!("layers {}: {} classes", layers.join(", "), ctc.vocabulary.len())));
        if !ctc.languages.is_empty() {
            rows.push(("languages", ctc.languages.join(", ")));
        }
    }
    rows.extend([("weights", m.provenance.weights.clone()), ("data", m.provenance.data.clone())]);
    if !m.provenance.held_out.is_empty() {
        rows.push(("held out", m.provenance.held_out.clone()));
    }
    rows.push(("licence", m.provenance.licence.clone()));
    if !m.provenance.command.is_empty() {
        rows.push(("command", m.provenance.command.clone()));
    }
    rows.push(("date", m.provenance.date.clone()));
    rows
}

/// The policies that the pack has parameters for, with these parameters.
fn policies(m: &Manifest) -> String {
    let exit = &m.exit;
    let numbers = |values: &PerLayer| match values {
        PerLayer::All(value) => value.to_string(),
        PerLayer::Each(_) => "per layer".to_owned(),
    };
    let mut known = Vec::new();
    known.extend(exit.threshold.as_ref().map(|values| format!("threshold ({} nats)", numbers(values))));
    known.extend(exit.range.map(|[first, last]| format!("range ({first} to {last})")));
    known.extend(exit.fixed.map(|layer| format!("fixed (layer {layer})")));
    known.extend(exit.calibrated.as_ref().map(|section| {
        let targets: Vec<String> = section.targets.iter().map(|target| target.agreement.to_string()).collect();
        format!("calibrated (agreement {})", targets.join(", "))
    }));
    known.extend(exit.ctc.as_ref().map(|values| format!("ctc ({} nats)", numbers(values))));
    known.extend(exit.change.as_ref().map(|values| format!("change ({} nats)", numbers(values))));
    known.extend(exit.gain.as_ref().map(|section| format!("gain ({} nats per layer)", section.lambda)));
    known.push("periodic, never".into());
    format!("{}; default {}", known.join(", "), exit.policy.as_deref().unwrap_or("never"))
}
