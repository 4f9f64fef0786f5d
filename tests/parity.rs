//! Results equal those of the Python reference (onnxruntime) on a real recording: hidden states within 1e-4 of their root mean square
//! (single values reach 100), all else within 1e-4, and exit layers exactly.
//!
//! | pack | golden file by | compared |
//! |---|---|---|
//! | bundled | `models/reference.py` | states, entropies and forecasts at full depth; exit layers, states and CTC logits with exits |
//! | windowed: HuBERT, wav2vec 2.0, WavLM | `models/convert/golden.py` | states, logits and entropies at full depth; exit layers |
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use bellis::engine::{Encoder, LoadOptions, Precision};
use bellis::exit::{PolicyName, PolicySpec};
use bellis::internal::Measurer;
use bellis::pack::{GapFill, Pack};
use bellis::stream::{Session, SessionOptions};
use common::{Golden, deviation, never_exit, relative_deviation, repository};

const TOLERANCE: f32 = 1e-4;

/// Arrays of the golden file of a windowed pack that the bundled pack's lacks.
const WINDOWED: &[&str] = &["logits", "exit_layer"];

/// Streams the golden file's audio through the pack at full depth, and compares all results. `optional` are the arrays of this golden file
/// that not all golden files have.
fn compare(pack: &str, golden: &str, chunk_frames: usize, optional: &[&str]) {
    let pack = Pack::open(&repository(pack)).unwrap();
    let encoder = Encoder::load(&pack, &LoadOptions::default().precision(Precision::F32)).unwrap();
    let mut golden = Golden::open(&repository(golden));
    let (_, audio) = golden.f32("audio");
    let (shape, h) = golden.f32("h");
    let entropy = golden.f64("entropy");
    let [states, frames, dim] = shape[..] else { panic!("h is {shape:?}") };
    assert_eq!((states, dim), (encoder.layers() + 1, encoder.dim()));
    for name in ["logits", "exit_layer", "forecast"] {
        assert_eq!(golden.has(name), optional.contains(&name), "{name} of the golden file");
    }
    let logits = optional.contains(&"logits").then(|| golden.f32("logits").1);
    let forecasts = optional.contains(&"forecast").then(|| golden.f32("forecast").1);

    let chunks = never_exit(&encoder, &audio, chunk_frames);
    let count = chunks.len();
    assert_eq!(frames, audio.len().div_ceil(encoder.audio().hop));
    assert_eq!(entropy.len(), count * (encoder.layers() + usize::from(encoder.may_exit_at_frontend())));
    let (mut in_states, mut in_logits, mut in_entropies, mut in_forecasts) = (0.0f32, 0.0f32, 0.0f32, 0.0f32);
    let mut measurer = Measurer::default();
    let mut at = 0;
    for (index, chunk) in chunks.iter().enumerate() {
        let own = chunk.features[0].frames();
        assert_eq!(chunk.features.len(), states);
        assert_eq!(chunk.logits.len() * count, entropy.len());
        assert_eq!(chunk.forecasts.len() * count, forecasts.as_ref().map_or(0, Vec::len));
        for (k, feature) in chunk.features.iter().enumerate() {
            let from = (k * frames + at) * dim;
            in_states = in_states.max(relative_deviation(feature.as_slice(), &h[from..from + own * dim]));
        }
        measurer.begin_chunk();
        for (k, found) in chunk.logits.iter().enumerate() {
            let evidence = measurer.measure(k, found.as_slice(), encoder.units(), false);
            let difference = (f64::from(evidence.entropy) - entropy[k * count + index]).abs();
            assert!(!difference.is_nan(), "NaN");
            in_entropies = in_entropies.max(difference as f32);
            if let Some(logits) = &logits {
                let from = (k * frames + at) * encoder.units();
                in_logits = in_logits.max(deviation(found.as_slice(), &logits[from..from + own * encoder.units()]));
            }
        }
        for (k, found) in chunk.forecasts.iter().enumerate() {
            let expected = forecasts.as_ref().unwrap()[k * count + index];
            in_forecasts = in_forecasts.max(deviation(&[*found], &[expected]));
        }
        at += own;
    }
    assert_eq!(at, frames);
    println!(
        "{count} chunks: states differ by at most {in_states:.1e}, logits by {in_logits:.1e}, entropies by {in_entropies:.1e}, \
         forecasts by {in_forecasts:.1e}"
    );
    assert!(in_states < TOLERANCE && in_logits < TOLERANCE && in_entropies < TOLERANCE && in_forecasts < TOLERANCE);

    if optional.contains(&"exit_layer") {
        // The golden file's exits are those of the pack's own policy.
        let options = SessionOptions::default().chunk_frames(chunk_frames);
        let mut session = Session::new(&encoder, PolicySpec::default().build(&pack).unwrap(), options).unwrap();
        session.push(&audio).unwrap();
        session.finish();
        let layers: Vec<i64> =
            std::iter::from_fn(|| session.next_chunk().unwrap()).map(|chunk| chunk.exit_layer as i64).collect();
        assert_eq!(layers, golden.i64("exit_layer"));
    }
}

#[test]
fn the_bundled_pack() {
    compare("models/daisy-tiny", "tests/data/daisy-tiny/golden.npz", 16, &["forecast"]);
}

#[test]
fn windowed_with_a_norm_over_the_window_and_features_before_the_norm() {
    compare("tests/data/windowed-base/pack", "tests/data/windowed-base/golden.npz", 16, WINDOWED);
}

#[test]
fn windowed_with_a_front_end_by_frames() {
    compare("tests/data/windowed-large/pack", "tests/data/windowed-large/golden.npz", 16, WINDOWED);
}

#[test]
fn windowed_wavlm() {
    compare("tests/data/windowed-wavlm/pack", "tests/data/windowed-wavlm/golden.npz", 20, WINDOWED);
}

/// With exits and either way of gap filling, exit layers, states and CTC logits equal the reference's.
#[test]
fn exits_with_both_ways_of_gap_filling() {
    let pack = Pack::open(&repository("models/daisy-tiny")).unwrap();
    let mut golden = Golden::open(&repository("tests/data/daisy-tiny/golden.npz"));
    let (_, audio) = golden.f32("audio");
    let daisy = PolicySpec::named(PolicyName::Threshold).threshold(golden.f32("threshold").1[0]);
    let gain = PolicySpec::named(PolicyName::Gain);
    for (gap_fill, name, spec) in
        [(GapFill::CatchUp, "catch_up", &daisy), (GapFill::Project, "project", &daisy), (GapFill::Project, "gain", &gain)]
    {
        let encoder = Encoder::load(&pack, &LoadOptions::default().precision(Precision::F32).gap_fill(gap_fill)).unwrap();
        let options = SessionOptions::default().chunk_frames(16).ctc(true);
        let mut session = Session::new(&encoder, spec.build(&pack).unwrap(), options).unwrap();
        session.push(&audio).unwrap();
        session.finish();
        let (mut layers, mut states, mut phones) = (Vec::new(), Vec::new(), Vec::new());
        while let Some(chunk) = session.next_chunk().unwrap() {
            layers.push(chunk.exit_layer as i64);
            states.extend_from_slice(chunk.vectors.as_slice());
            phones.extend(chunk.ctc_logits.iter().flat_map(|logits| logits.as_slice()));
        }
        assert_eq!(layers, golden.i64(&format!("exit_layer_{name}")), "{name}");
        let worst = relative_deviation(&states, &golden.f32(&format!("exit_state_{name}")).1);
        let in_phones = deviation(&phones, &golden.f32(&format!("ctc_{name}")).1);
        println!("{name}: exit layers {layers:?}, states differ by at most {worst:.1e}, CTC logits by {in_phones:.1e}");
        assert!(worst < TOLERANCE && in_phones < TOLERANCE, "{name}: {worst} {in_phones}");
        assert!(layers.iter().min() != layers.iter().max(), "the recording's exits do not vary: nothing was shown");
    }
}
