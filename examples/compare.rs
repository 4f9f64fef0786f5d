//! Runs one pack with Bellis and with unmodified tract, controlled by benches/compare.py:
//!
//!     cargo run --release --example compare -- PACK AUDIO.wav [SECONDS]
//!
//! Reads one candidate's name per line on standard input and answers each with a line of JSON: processor seconds of the whole
//! process, and the seconds of audio that it streamed; or the error. `f32:POLICY`, `int8:POLICY` … are Bellis's whole
//! runtime; `tract` runs every layer on the same windows with tract's defaults and fixed shapes, without heads, ring and policy.

use std::io::BufRead;
use std::path::Path;
use std::sync::Arc;

use bellis::audio::{ChannelPick, decode_file};
use bellis::consumer::Null;
use bellis::engine::{Encoder, LoadOptions, Precision};
use bellis::exit::PolicySpec;
use bellis::internal::ScriptedSource;
use bellis::pack::{FrontendScope, Level, Mode, Pack, Position, StageFile};
use bellis::runtime::RunBuilder;
use tract_onnx::prelude::*;

type Failure = Box<dyn std::error::Error>;

/// Samples of 10 ms.
const CALLBACK: usize = 160;

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [folder, sound, rest @ ..] = &arguments[..] else {
        return Err("usage: compare PACK AUDIO.wav [SECONDS]".into());
    };
    let pack = Pack::open(Path::new(folder))?;
    let (mut samples, rate) = decode_file(Path::new(sound), ChannelPick::MixDown)?;
    if rate != pack.manifest.audio.sample_rate {
        return Err(
            format!("{sound}: the sample rate must be the pack's, {} Hz, got {rate}", pack.manifest.audio.sample_rate).into()
        );
    }
    if let Some(seconds) = rest.first() {
        samples.truncate((seconds.parse::<f64>()? * f64::from(rate)) as usize);
    }
    let mut candidates = Candidates { pack: &pack, encoders: Vec::new(), tract: None, samples };
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let answer = match candidates.run(line.trim()) {
            Ok((cpu, seconds)) => serde_json::json!({ "candidate": line.trim(), "cpu": cpu, "seconds": seconds }),
            Err(error) => serde_json::json!({ "candidate": line.trim(), "error": error.to_string() }),
        };
        println!("{answer}");
    }
    Ok(())
}

struct Candidates<'a> {
    pack: &'a Pack,
    /// Loaded on demand.
    encoders: Vec<(String, Arc<Encoder>)>,
    tract: Option<Tract<'a>>,
    samples: Vec<f32>,
}

impl Candidates<'_> {
    fn encoder(&mut self, name: &str) -> Result<Arc<Encoder>, Failure> {
        if let Some((_, encoder)) = self.encoders.iter().find(|(known, _)| known == name) {
            return Ok(encoder.clone());
        }
        let precision = name.parse::<Precision>()?;
        let encoder = Encoder::load(self.pack, &LoadOptions::default().precision(precision))?;
        self.encoders.push((name.to_owned(), encoder.clone()));
        Ok(encoder)
    }

    /// Processor seconds, and seconds of audio.
    fn run(&mut self, name: &str) -> Result<(f64, f64), Failure> {
        match name.split_once(':') {
            Some((precision, policy)) => {
                let encoder = self.encoder(precision)?;
                bellis_run(self.pack, &encoder, policy, &self.samples)
            }
            None if name == "tract" => {
                let mut tract = match self.tract.take() {
                    Some(tract) => tract,
                    None => Tract::load(self.pack)?,
                };
                let before = cpu_seconds()?;
                let seconds = tract.stream(&self.samples)?;
                let cpu = cpu_seconds()? - before;
                self.tract = Some(tract);
                Ok((cpu, seconds))
            }
            None => Err(format!("`{name}` is neither PRECISION:POLICY nor tract").into()),
        }
    }
}

fn bellis_run(pack: &Pack, encoder: &Arc<Encoder>, name: &str, samples: &[f32]) -> Result<(f64, f64), Failure> {
    let rate = pack.manifest.audio.sample_rate;
    let source = ScriptedSource::in_callbacks(rate, false, samples, &[CALLBACK]);
    let policy = name.parse::<PolicySpec>()?.build(pack)?;
    let before = cpu_seconds()?;
    let summary = RunBuilder::new(source, encoder, policy).consumer(Null).start()?.join().into_result()?;
    let cpu = cpu_seconds()? - before;
    Ok((cpu, summary.audio_seconds))
}

/// Processor time of the process, seconds.
fn cpu_seconds() -> Result<f64, Failure> {
    use nix::sys::resource::{UsageWho, getrusage};
    let usage = getrusage(UsageWho::RUSAGE_SELF)?;
    let seconds = |time: nix::sys::time::TimeVal| time.tv_sec() as f64 + time.tv_usec() as f64 * 1e-6;
    Ok(seconds(usage.user_time()) + seconds(usage.system_time()))
}

type Plan = Arc<TypedRunnableModel>;

/// A pack's stages as in tract's documentation: load, set fixed shapes, optimise, run.
struct Tract<'a> {
    pack: &'a Pack,
    frontend: Plan,
    position: Option<Plan>,
    layers: Vec<Plan>,
    /// Frames of a chunk, and of a window (the chunk alone in a cached pack).
    chunk: usize,
    window: usize,
}

impl<'a> Tract<'a> {
    fn load(pack: &'a Pack) -> Result<Self, Failure> {
        let (audio, encoder) = (&pack.manifest.audio, &pack.manifest.encoder);
        let chunk = pack.default_chunk_frames();
        let cached = encoder.mode == Mode::Cached;
        let window = if cached { chunk } else { encoder.left_context + chunk + encoder.right_context };
        let fresh = if cached || encoder.frontend_scope != FrontendScope::Window { chunk } else { window };
        let (heads, context, dim) = (encoder.heads, encoder.left_context, encoder.dim);
        let hidden = vec![1, window, dim];
        let cache = vec![1, heads, context, dim / heads];
        let inputs = match cached {
            true => vec![hidden.clone(), cache.clone(), cache, vec![1, heads, window, context + window]],
            false => vec![hidden.clone()],
        };
        let layer = |file: &StageFile| plan(file, &inputs);
        Ok(Self {
            pack,
            frontend: plan(&pack.frontend, &[vec![1, audio.receptive_field + (fresh - 1) * audio.hop]])?,
            position: pack.position.as_ref().map(|file| plan(file, std::slice::from_ref(&hidden))).transpose()?,
            layers: pack.layers.iter().map(layer).collect::<Result<_, _>>()?,
            chunk,
            window,
        })
    }

    /// Streams the whole windows of `samples`; returns the seconds of audio.
    fn stream(&mut self, samples: &[f32]) -> Result<f64, Failure> {
        let (audio, encoder) = (&self.pack.manifest.audio, &self.pack.manifest.encoder);
        let mut padded = vec![0.0; audio.lead];
        padded.extend_from_slice(samples);
        let cached = encoder.mode == Mode::Cached;
        let fresh = if cached || encoder.frontend_scope != FrontendScope::Window { self.chunk } else { self.window };
        let length = audio.receptive_field + (fresh - 1) * audio.hop;
        let cache = Tensor::zero::<f32>(&[1, encoder.heads, encoder.left_context, encoder.dim / encoder.heads])?;
        let mut caches: Vec<(Tensor, Tensor)> = self.layers.iter().map(|_| (cache.clone(), cache.clone())).collect();
        let bias: TValue = self.bias()?.into();
        let mut kept = Tensor::zero::<f32>(&[1, self.window, encoder.dim])?;
        let mut windows = 0usize;
        while windows * self.chunk * audio.hop + length <= padded.len() {
            let first = windows * self.chunk * audio.hop;
            let window = match audio.level {
                Level::Raw => padded[first..first + length].to_vec(),
                Level::WindowNorm => normalised(&padded[first..first + length]),
            };
            let x = self.frontend.run(tvec![Tensor::from_shape(&[1, length], &window)?.into()])?;
            let mut x = x.into_iter().next().ok_or("the front end returned nothing")?;
            if fresh < self.window {
                // The previous frames of the window, shifted by a chunk.
                let stays = kept.slice(1, self.chunk, self.window)?;
                kept = Tensor::stack_tensors(1, &[&stays, &*x])?;
                x = kept.clone().into();
            }
            if let Some(position) = &self.position {
                x = position.run(tvec![x])?.into_iter().next().ok_or("the position stage returned nothing")?;
            }
            for (layer, (keys, values)) in self.layers.iter().zip(&mut caches) {
                let inputs = match cached {
                    true => tvec![x, keys.clone().into(), values.clone().into(), bias.clone()],
                    false => tvec![x],
                };
                let mut outputs = layer.run(inputs)?.into_iter();
                x = outputs.next().ok_or("a layer returned nothing")?;
                if cached {
                    for cache in [keys, values] {
                        let new = outputs.next().ok_or("a layer returned no keys and values")?;
                        let stays = cache.slice(2, self.chunk, encoder.left_context)?;
                        *cache = Tensor::stack_tensors(2, &[&stays, &*new])?;
                    }
                }
            }
            windows += 1;
        }
        Ok((windows * self.chunk * audio.hop) as f64 / f64::from(audio.sample_rate))
    }

    /// The attention bias of a stream that has been running for longer than its left context.
    fn bias(&self) -> Result<Tensor, Failure> {
        let encoder = &self.pack.manifest.encoder;
        let (heads, context, frames) = (encoder.heads, encoder.left_context, self.window);
        let slope = |head: usize| if encoder.position == Position::Alibi { encoder.alibi_slopes[head] } else { 0.0 };
        let values: Vec<f32> = (0..heads * frames * (context + frames))
            .map(|index| {
                let (head, row, column) =
                    (index / (frames * (context + frames)), index / (context + frames) % frames, index % (context + frames));
                -slope(head) * (row + context).abs_diff(column) as f32
            })
            .collect();
        Ok(Tensor::from_shape(&[1, heads, frames, context + frames], &values)?)
    }
}

/// Zero mean, unit variance.
fn normalised(samples: &[f32]) -> Vec<f32> {
    let mean = samples.iter().sum::<f32>() / samples.len() as f32;
    let variance = samples.iter().map(|x| (x - mean).powi(2)).sum::<f32>() / samples.len() as f32;
    samples.iter().map(|x| (x - mean) / (variance + 1e-7).sqrt()).collect()
}

fn plan(file: &StageFile, inputs: &[Vec<usize>]) -> Result<Plan, Failure> {
    let onnx = tract_onnx::onnx().with_ignore_output_shapes(true).with_ignore_value_info(true);
    let mut model = onnx.model_for_read(&mut &file.read()?[..])?;
    for (index, shape) in inputs.iter().enumerate() {
        model.set_input_fact(index, InferenceFact::dt_shape(f32::datum_type(), shape.as_slice()))?;
    }
    Ok(model.into_optimized()?.into_runnable()?)
}
