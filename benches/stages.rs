//! Each stage from samples to representations by itself, on the bundled pack and recording, one chunk at a time:
//!
//!     cargo bench                      all; compares with the previous run
//!     cargo bench -- 'head|entropy'    some
//!
//! Ring and resampler are measured on one chunk of audio as delivered by a microphone: 48 kHz, callbacks of 10 ms.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bellis::audio::{ChannelPick, Resampler, decode_file};
use bellis::engine::{Encoder, Frames, LoadOptions, Precision};
use bellis::exit::{PolicyName, PolicySpec};
use bellis::internal::keyword::{FrameBlock, Spotter, SpotterOptions, Template, Track};
use bellis::internal::{Block, Chunker, EncoderState, Measurer, Pass, WindowSpan, ring};
use bellis::keyword::Verifier;
use bellis::pack::Pack;
use bellis::stream::{Session, SessionOptions};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

struct Bench {
    pack: Pack,
    encoder: Arc<Encoder>,
    audio: Vec<f32>,
    chunk_frames: usize,
}

impl Bench {
    fn new() -> Self {
        let pack = Pack::open(&repository("models/daisy-tiny")).unwrap();
        let encoder = Encoder::load(&pack, &LoadOptions::default().precision(Precision::F32)).unwrap();
        let (audio, _) = decode_file(&repository("models/sample.wav"), ChannelPick::MixDown).unwrap();
        let chunk_frames = pack.default_chunk_frames();
        Self { pack, encoder, audio, chunk_frames }
    }

    /// The front end's samples for every whole chunk of the recording, with their spans.
    fn chunks(&self) -> Vec<(Vec<f32>, WindowSpan)> {
        let mut chunker = Chunker::new(&self.encoder, self.chunk_frames);
        chunker.push(&self.audio);
        let mut chunks = Vec::new();
        while let Some(chunk) = chunker.next_chunk() {
            chunks.push((chunk.audio.to_vec(), chunk.span));
        }
        chunks
    }

    /// Streams the recording's chunks repeatedly; `timed` processes each pass and returns the time of the measured part.
    fn pass(&self, chunks: &[(Vec<f32>, WindowSpan)], times: u64, mut timed: impl FnMut(&mut Pass<'_>) -> Duration) -> Duration {
        let mut state = EncoderState::new(&self.encoder).unwrap();
        let mut total = Duration::ZERO;
        for (number, (audio, _)) in (0..times).zip(chunks.iter().cycle()) {
            let first = number * self.chunk_frames as u64;
            let span =
                WindowSpan { audio_first: first, window_first: first, chunk_first: first, chunk_frames: self.chunk_frames };
            let mut pass = state.begin(audio, span).unwrap();
            total += timed(&mut pass);
            pass.finish();
        }
        total
    }
}

fn took<T>(work: impl FnOnce() -> T) -> Duration {
    let began = Instant::now();
    black_box(work());
    began.elapsed()
}

fn stages(criterion: &mut Criterion) {
    let bench = Bench::new();
    let chunks = bench.chunks();
    let (layers, units) = (bench.encoder.layers(), bench.encoder.units());
    let chunk_samples = bench.chunk_frames * bench.encoder.audio().hop;
    let mut group = criterion.benchmark_group("chunk");
    group.throughput(Throughput::Elements(1));

    let mut at = 0u64;
    let mut state = EncoderState::new(&bench.encoder).unwrap();
    group.bench_function("front end", |b| {
        b.iter(|| {
            let (audio, _) = &chunks[at as usize % chunks.len()];
            let first = at * bench.chunk_frames as u64;
            let span =
                WindowSpan { audio_first: first, window_first: first, chunk_first: first, chunk_frames: bench.chunk_frames };
            at += 1;
            state.begin(black_box(audio), span).unwrap().finish();
        });
    });
    group.bench_function("layer", |b| {
        b.iter_custom(|times| {
            let all = bench.pass(&chunks, times, |pass| took(|| (0..layers).for_each(|_| _ = pass.step().unwrap())));
            all / layers as u32
        });
    });
    group.bench_function("head", |b| {
        b.iter_custom(|times| {
            bench.pass(&chunks, times, |pass| {
                pass.step().unwrap();
                took(|| pass.head().unwrap())
            })
        });
    });
    if !bench.pack.gain.is_empty() {
        group.bench_function("predictor", |b| {
            b.iter_custom(|times| {
                bench.pass(&chunks, times, |pass| {
                    pass.step().unwrap();
                    took(|| pass.forecast().unwrap())
                })
            });
        });
    }
    let mut logits = None::<Frames>;
    bench.pass(&chunks, 1, |pass| {
        pass.step().unwrap();
        logits = Some(pass.head().unwrap());
        Duration::ZERO
    });
    let logits = logits.unwrap();
    let mut measurer = Measurer::default();
    for (name, change) in [("entropy", false), ("entropy and change", true)] {
        group.bench_function(name, |b| {
            b.iter(|| {
                measurer.begin_chunk();
                measurer.measure(1, black_box(logits.as_slice()), units, false);
                if change {
                    measurer.measure(2, black_box(logits.as_slice()), units, true);
                }
            });
        });
    }

    let microphone = vec![0.1f32; 3 * chunk_samples];
    let mut resampler = Resampler::new(48_000, 16_000).unwrap();
    let mut out = Vec::with_capacity(2 * chunk_samples);
    group.bench_function("resampler, 48 to 16 kHz", |b| {
        b.iter(|| {
            out.clear();
            resampler.push(black_box(&microphone), &mut out);
        });
    });
    let (mut writer, mut reader) = ring(96_000, 48_000);
    let mut block = vec![0.0; 4096];
    group.bench_function("ring", |b| {
        b.iter(|| {
            microphone.chunks(480).for_each(|callback| writer.push_live(callback));
            while let Block::Samples(samples) = reader.read(&mut block) {
                black_box(samples);
            }
        });
    });
    let audio = vec![0.1f32; chunk_samples];
    let mut chunker = Chunker::new(&bench.encoder, bench.chunk_frames);
    group.bench_function("chunker", |b| {
        b.iter(|| {
            chunker.push(black_box(&audio));
            black_box(chunker.next_chunk());
        });
    });
    group.finish();
}

/// A chunk from samples to representation, with the usual policies.
fn sessions(criterion: &mut Criterion) {
    let bench = Bench::new();
    let chunk_samples = bench.chunk_frames * bench.encoder.audio().hop;
    let mut group = criterion.benchmark_group("session");
    for name in [PolicyName::Never, PolicyName::Threshold, PolicyName::Gain] {
        let Ok(policy) = PolicySpec::named(name).build(&bench.pack) else { continue };
        let mut session =
            Session::new(&bench.encoder, policy, SessionOptions::default().chunk_frames(bench.chunk_frames)).unwrap();
        let mut blocks = bench.audio.chunks_exact(chunk_samples).cycle();
        group.bench_function(format!("{name:?}").to_lowercase(), |b| {
            b.iter(|| {
                session.push(blocks.next().unwrap()).unwrap();
                black_box(session.next_chunk().unwrap());
            });
        });
    }
    group.finish();
}

/// A chunk of the recording against keywords of three examples of 0.6 seconds, taken from the recording.
fn keywords(criterion: &mut Criterion) {
    let bench = Bench::new();
    let policy = PolicySpec::default().build(&bench.pack).unwrap();
    let track = Track::of(&bench.audio, &bench.encoder, policy, bench.chunk_frames).unwrap();
    let template = |first: usize| Template::new(track.rows(first..first + 30), track.width());
    let starts = track.frames() - 30;
    let options = SpotterOptions::new(0.8, 0.02);
    let spotter = |n: usize| Spotter::new((0..3).map(|k| template((97 * n + 31 * k) % starts)).collect::<Vec<_>>(), options);
    let chunks: Vec<&[f32]> = track.rows(0..track.frames()).chunks_exact(bench.chunk_frames * track.width()).collect();
    let mut group = criterion.benchmark_group("keywords");
    for count in [1, 10, 100, 1000] {
        let mut spotters: Vec<Spotter> = (0..count).map(spotter).collect();
        let (mut rows, mut block) = (chunks.iter().cycle(), FrameBlock::default());
        group.throughput(Throughput::Elements(count as u64));
        group.bench_function(count.to_string(), |b| {
            b.iter(|| {
                block.fill(rows.next().unwrap(), track.width());
                for spotter in &mut spotters {
                    spotter
                        .step(&block, None::<&mut Verifier>, |_, hit| {
                            black_box(hit);
                        })
                        .unwrap();
                }
            });
        });
    }
    group.finish();
}

/// Several streams on one encoder's weights, interleaved chunk by chunk; time per chunk.
fn streams(criterion: &mut Criterion) {
    let bench = Bench::new();
    let chunk_samples = bench.chunk_frames * bench.encoder.audio().hop;
    let mut group = criterion.benchmark_group("streams");
    for count in [1, 2, 4, 8] {
        let session = || {
            let policy = PolicySpec::named(PolicyName::Never).build(&bench.pack).unwrap();
            Session::new(&bench.encoder, policy, SessionOptions::default().chunk_frames(bench.chunk_frames)).unwrap()
        };
        let mut sessions: Vec<Session> = std::iter::repeat_with(session).take(count).collect();
        let mut blocks = bench.audio.chunks_exact(chunk_samples).cycle();
        group.throughput(Throughput::Elements(count as u64));
        group.bench_function(count.to_string(), |b| {
            b.iter(|| {
                let block = blocks.next().unwrap();
                for session in &mut sessions {
                    session.push(block).unwrap();
                    black_box(session.next_chunk().unwrap());
                }
            });
        });
    }
    group.finish();
}

criterion_group! {
    name = all;
    config = Criterion::default().sample_size(30).warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(3));
    targets = stages, sessions, keywords, streams
}
criterion_main!(all);
