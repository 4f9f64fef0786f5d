//! A consumer of one's own: prints a bar per chunk, as long as the chunk was hard, and the mean of its vectors.
//!
//!     cargo run --release --example own_consumer [SOUND FILE]

use std::path::Path;

use bellis::audio::{ChannelPick, FileSource};
use bellis::consumer::{Consumer, ConsumerError, StreamInfo};
use bellis::engine::Encoder;
use bellis::exit::PolicySpec;
use bellis::pack::Pack;
use bellis::runtime::{RunOptions, StopFlag, run};
use bellis::stream::{Representation, SessionOptions};

/// Keeps the running mean of all vectors.
#[derive(Default)]
struct MeanLevel {
    sum: f64,
    frames: usize,
}

impl Consumer for MeanLevel {
    fn name(&self) -> &str {
        "mean-level"
    }

    fn begin(&mut self, stream: &StreamInfo) -> Result<(), ConsumerError> {
        println!("{} through {} ({} layers)", stream.source, stream.pack, stream.layers);
        Ok(())
    }

    fn consume(&mut self, chunk: &Representation) -> Result<(), ConsumerError> {
        let norm = |row: &[f32]| row.iter().map(|x| f64::from(x * x)).sum::<f64>().sqrt();
        let vectors = &chunk.vectors;
        self.sum += (0..vectors.frames()).map(|t| norm(vectors.row(t))).sum::<f64>();
        self.frames += vectors.frames();
        println!("{:6.2} s  {}", chunk.start_seconds(), "▇".repeat(chunk.exit_layer));
        Ok(())
    }

    fn finish(&mut self) -> Result<(), ConsumerError> {
        println!("mean length of {} vectors: {:.2}", self.frames, self.sum / self.frames.max(1) as f64);
        Ok(())
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let sound = std::env::args().nth(1).unwrap_or_else(|| "models/sample.wav".into());
    let pack = Pack::open(Path::new("models/daisy-tiny"))?;
    let encoder = Encoder::load(&pack, None)?;
    let policy = PolicySpec::default().build(&pack)?;
    let source = FileSource::open(Path::new(&sound), ChannelPick::MixDown, false)?;
    let options = RunOptions::new(SessionOptions::new(pack.default_chunk_frames()));
    run(Box::new(source), &encoder, policy, vec![Box::<MeanLevel>::default()], &options, &StopFlag::default(), |_| {})?.outcome?;
    Ok(())
}
