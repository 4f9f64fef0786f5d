//! int8 matmuls: the units of the last head agree with those in f32.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use bellis::audio::{ChannelPick, decode_file};
use bellis::engine::{Encoder, Int8Kernel, LoadOptions, Precision};
use bellis::pack::Pack;
use common::{deviation, never_exit, repository, speech};

/// Minimum share of frames with the same unit at the last head. Measured: 98.2 to 99.5 % over ten minutes of each kind of audio
/// (benches/agreement.py). The margin of half a percent, six of these frames, allows for chance and for the rounding of other processors.
const AGREEMENT: f64 = 0.975;

fn units(logits: &[f32], classes: usize) -> Vec<usize> {
    let likeliest = |row: &[f32]| (0..classes).max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap();
    logits.chunks_exact(classes).map(likeliest).collect()
}

/// Logits of every head and chunk, bit by bit.
fn bits(encoder: &std::sync::Arc<Encoder>, audio: &[f32]) -> Vec<u32> {
    let chunks = never_exit(encoder, audio, 16);
    chunks.iter().flat_map(|chunk| chunk.logits.iter().flat_map(|frames| frames.as_slice())).map(|x| x.to_bits()).collect()
}

#[test]
fn all_int8_kernels_of_this_processor_compute_the_same_results() {
    let pack = Pack::open(&repository("models/daisy-tiny")).unwrap();
    let audio = &speech()[..2 * 16_000];
    let load = |options: LoadOptions| Encoder::load(&pack, &options.precision(Precision::Int8)).unwrap();
    let selected = bits(&load(LoadOptions::default()), audio);
    let kernels: Vec<Int8Kernel> = Int8Kernel::available().into_iter().collect();
    let skipped = std::env::var_os("BELLIS_WITHOUT_INT8").is_some();
    assert!(skipped || !kernels.is_empty(), "this processor has no int8 kernel; BELLIS_WITHOUT_INT8=1 skips this test");
    for kernel in kernels {
        let encoder = load(LoadOptions::default().kernels(kernel));
        assert_eq!(encoder.precision(), Precision::Int8);
        println!("{kernel}: {} logits", selected.len());
        assert!(bits(&encoder, audio) == selected, "{kernel} differs");
        // Every matmul of the layers, and no other kernel.
        let speeds = encoder.matmul_speeds(16);
        let layers: Vec<_> = speeds.iter().filter(|one| one.stage == "layers").collect();
        assert!(!layers.is_empty() && layers.iter().all(|one| one.kernel == kernel.name()), "{layers:?}");
        assert_eq!(layers.iter().map(|one| one.count).sum::<usize>() % encoder.layers(), 0, "{layers:?}");
        assert!(speeds.iter().all(|one| one.speed > 0.0 && one.ceiling > 0.0), "{speeds:?}");
    }
}

#[test]
fn int8_agrees_with_f32_on_the_units() {
    let pack = Pack::open(&repository("models/daisy-tiny")).unwrap();
    let load = |precision| Encoder::load(&pack, &LoadOptions::default().precision(precision)).unwrap();
    let (exact, int8) = (load(Precision::F32), load(Precision::Int8));
    assert_eq!(exact.precision(), Precision::F32);
    // All bundled speech: 25 seconds, so that a frame is less than a tenth of a percent.
    let mut audio = speech();
    let mut files: Vec<_> =
        std::fs::read_dir(repository("models/bench/speech")).unwrap().map(|file| file.unwrap().path()).collect();
    files.sort();
    for file in files {
        audio.extend(decode_file(&file, ChannelPick::MixDown).unwrap().0);
    }
    let (reference, quantised) = (never_exit(&exact, &audio, 16), never_exit(&int8, &audio, 16));
    let (mut same, mut frames, mut off) = (0usize, 0usize, 0.0f32);
    for (full, coarse) in reference.iter().zip(&quantised) {
        let (a, b) = (full.logits.last().unwrap(), coarse.logits.last().unwrap());
        off = off.max(deviation(a.as_slice(), b.as_slice()));
        let (a, b) = (units(a.as_slice(), exact.units()), units(b.as_slice(), exact.units()));
        same += a.iter().zip(&b).filter(|(a, b)| a == b).count();
        frames += a.len();
    }
    let agreement = same as f64 / frames as f64;
    println!(
        "{}: {:.2} % of {frames} frames have f32's unit, logits differ by at most {off:.3}",
        int8.precision(),
        agreement * 100.0
    );
    assert!(agreement >= AGREEMENT, "only {agreement}");
    match int8.precision() {
        // A processor without the instructions computes in f32, with identical results.
        Precision::F32 => assert_eq!(off, 0.0),
        _ => assert!(off > 0.0, "int8 was not used"),
    }
}
