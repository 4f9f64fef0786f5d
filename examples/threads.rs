//! Effect of `--threads` on a pack, with idle and busy cores:
//!
//!     cargo run --release --example threads -- PACK AUDIO.wav [THREADS] [CHUNKS]
//!
//! A session with one thread and one with THREADS (2) process the same audio in f32 at full depth, alternating chunk by chunk. One
//! row per number of busy threads in the background: the median time of a chunk on one thread, the speed-up with THREADS (medians,
//! and the slowest of twenty chunks), and the same for the calling thread's own processor time (Linux), which other programs hardly
//! affect. Fails if the outputs are not bit-identical.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use bellis::audio::{ChannelPick, decode_file};
use bellis::engine::{Encoder, LoadOptions, Precision};
use bellis::exit::{PolicyName, PolicySpec};
use bellis::pack::Pack;
use bellis::stream::{Session, SessionOptions};

type Failure = Box<dyn std::error::Error>;

/// Threads that keep cores busy.
const LOADS: [usize; 4] = [0, 1, 2, 4];
/// Chunks before the measurement.
const WARM_UP: usize = 3;

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [folder, audio, rest @ ..] = &arguments[..] else {
        return Err("usage: threads PACK AUDIO.wav [THREADS] [CHUNKS]".into());
    };
    let number = |at: usize, default: usize| rest.get(at).map_or(Ok(default), |text| text.parse());
    let (threads, chunks) = (number(0, 2)?, number(1, 60)?);
    let pack = Pack::open(Path::new(folder))?;
    let (samples, _) = decode_file(Path::new(audio), ChannelPick::MixDown)?;
    let load = |threads| Encoder::load(&pack, &LoadOptions::default().precision(Precision::F32).threads(threads));
    let encoders = [load(1)?, load(threads)?];
    println!("| busy threads | one thread, ms per chunk | {threads} threads: speed-up | slowest of twenty | caller's own time |");
    println!("|---|---|---|---|---|");
    for busy in LOADS {
        let [one, many] = in_turn(&encoders, &pack, &samples, chunks, busy)?;
        let ratio = |of: f64| one.at(of) / many.at(of);
        println!("| {busy} | {:.1} | {:.2} | {:.2} | {:.2} |", one.at(0.5), ratio(0.5), ratio(0.95), one.own / many.own);
    }
    Ok(())
}

/// Times of a session's chunks.
#[derive(Default)]
struct Times {
    /// Milliseconds of each chunk.
    chunks: Vec<f64>,
    /// Processor time of the calling thread, nanoseconds.
    own: f64,
}

impl Times {
    /// A quantile of the chunks' times, milliseconds.
    fn at(&self, share: f64) -> f64 {
        let mut sorted = self.chunks.clone();
        sorted.sort_by(f64::total_cmp);
        sorted.get((sorted.len() as f64 * share) as usize).copied().unwrap_or(f64::NAN)
    }
}

/// Runs one session of each encoder on the same chunks.
fn in_turn(
    encoders: &[Arc<Encoder>; 2],
    pack: &Pack,
    samples: &[f32],
    chunks: usize,
    busy: usize,
) -> Result<[Times; 2], Failure> {
    let stop = Arc::new(AtomicBool::new(false));
    for _ in 0..busy {
        let stop = stop.clone();
        std::thread::spawn(move || while !stop.load(Ordering::Relaxed) {});
    }
    let frames = pack.default_chunk_frames();
    let session = |encoder| -> Result<Session, Failure> {
        Ok(Session::new(
            encoder,
            PolicySpec::named(PolicyName::Never).build(pack)?,
            SessionOptions::default().chunk_frames(frames),
        )?)
    };
    let mut sessions = [session(&encoders[0])?, session(&encoders[1])?];
    let mut times = [Times::default(), Times::default()];
    let audio = samples.chunks_exact(frames * pack.manifest.audio.hop).cycle();
    for (chunk, samples) in audio.take(WARM_UP + chunks).enumerate() {
        let mut found = [Vec::new(), Vec::new()];
        for which in [chunk % 2, 1 - chunk % 2] {
            let (began, own) = (Instant::now(), on_processor());
            sessions[which].push(samples)?;
            while let Some(representation) = sessions[which].next_chunk()? {
                found[which].extend_from_slice(representation.vectors.as_slice());
            }
            if chunk >= WARM_UP {
                times[which].chunks.push(began.elapsed().as_secs_f64() * 1e3);
                times[which].own += on_processor() - own;
            }
        }
        if found[0] != found[1] {
            return Err(format!("chunk {chunk}: the outputs differ").into());
        }
    }
    stop.store(true, Ordering::Relaxed);
    Ok(times)
}

/// Nanoseconds that this thread has run; NaN on systems other than Linux.
fn on_processor() -> f64 {
    let line = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    line.split(' ').next().and_then(|nanoseconds| nanoseconds.parse().ok()).unwrap_or(f64::NAN)
}
