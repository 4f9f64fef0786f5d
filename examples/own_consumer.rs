//! A custom consumer that prints a bar per chunk, whose length is the exit layer, and the mean norm of the vectors.
//!
//!     cargo run --release --example own_consumer [AUDIO FILE]

use std::path::Path;

use bellis::audio::{ChannelPick, FileSource};
use bellis::consumer::{Consumer, ConsumerError, StreamInfo};
use bellis::engine::{Encoder, LoadOptions};
use bellis::exit::PolicySpec;
use bellis::pack::Pack;
use bellis::runtime::RunBuilder;
use bellis::stream::Representation;

/// Computes the mean norm of all vectors.
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
        self.sum += chunk.vectors.rows().map(norm).sum::<f64>();
        self.frames += chunk.vectors.frames();
        println!("{:6.2} s  {}", chunk.start_seconds(), "▇".repeat(chunk.exit_layer));
        Ok(())
    }

    fn finish(&mut self) -> Result<(), ConsumerError> {
        println!("mean norm of {} vectors: {:.2}", self.frames, self.sum / self.frames.max(1) as f64);
        Ok(())
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let audio = std::env::args().nth(1).unwrap_or_else(|| "models/sample.wav".into());
    let pack = Pack::open(Path::new("models/daisy-tiny"))?;
    let encoder = Encoder::load(&pack, &LoadOptions::default())?;
    let policy = PolicySpec::default().build(&pack)?;
    let source = FileSource::open(Path::new(&audio), ChannelPick::MixDown, false)?;
    RunBuilder::new(source, &encoder, policy).consumer(MeanLevel::default()).start()?.join().into_result()?;
    Ok(())
}
