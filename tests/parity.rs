//! Every hidden state, logit and entropy equals the Python reference (onnxruntime) on a real recording within 1e-4.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use bellis::engine::Encoder;
use bellis::exit::Measurer;
use bellis::pack::Pack;
use common::{Golden, deviation, never_exit, repository};

const TOLERANCE: f32 = 1e-4;

/// Streams the golden file's audio through the pack, never exiting, and compares all there is.
fn compare(pack: &str, golden: &str, chunk_frames: usize) {
    let pack = Pack::open(&repository(pack)).unwrap();
    let encoder = Encoder::load(&pack, None).unwrap();
    let mut golden = Golden::open(&repository(golden));
    let (_, audio) = golden.f32("audio");
    let (shape, h) = golden.f32("h");
    let entropy = golden.f64("entropy");
    let [states, frames, dim] = shape[..] else { panic!("h is {shape:?}") };
    assert_eq!((states, dim), (encoder.layers() + 1, encoder.dim()));

    let chunks = never_exit(&encoder, &audio, chunk_frames);
    let whole_chunks = entropy.len() / encoder.layers();
    assert!(chunks.len() >= whole_chunks && whole_chunks > 3);
    let mut worst = (0.0f32, 0.0f32);
    let mut measurer = Measurer::default();
    let mut at = 0;
    for (index, chunk) in chunks.iter().enumerate().take(whole_chunks) {
        let own = chunk.features[0].frames();
        for (k, found) in chunk.features.iter().enumerate() {
            let from = (k * frames + at) * dim;
            worst.0 = worst.0.max(deviation(found.as_slice(), &h[from..from + own * dim]));
        }
        measurer.begin_chunk();
        for (k, logits) in chunk.logits.iter().enumerate() {
            let found = measurer.measure(k + 1, logits.as_slice(), encoder.units());
            worst.1 = worst.1.max((f64::from(found.entropy) - entropy[k * whole_chunks + index]).abs() as f32);
        }
        at += own;
    }
    println!("{whole_chunks} chunks: hidden states differ by at most {:.1e}, entropies by {:.1e} nats", worst.0, worst.1);
    assert!(worst.0 < TOLERANCE && worst.1 < TOLERANCE, "{worst:?}");
}

#[test]
fn pilot() {
    compare("../shared/pilot", "../shared/pilot/golden.npz", 16);
}
