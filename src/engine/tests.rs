//! Invariants of cached streaming with early exit, checked on the bundled pack.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::sync::Arc;

use proptest::prelude::*;
use tract_onnx::prelude::*;

use super::*;
use crate::stream::Chunker;

const TOLERANCE: f32 = 1e-4;

fn encoder(gap_fill: GapFill) -> Arc<Encoder> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/daisy-tiny");
    Encoder::load(&Pack::open(&folder).unwrap(), &LoadOptions::default().precision(Precision::F32).gap_fill(gap_fill)).unwrap()
}

/// A few seconds of the bundled recording.
fn speech(samples: usize) -> Vec<f32> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/sample.wav");
    let (audio, rate) = crate::audio::decode_file(&path, crate::audio::ChannelPick::MixDown).unwrap();
    assert_eq!(rate, 16_000);
    audio[8_000..8_000 + samples].to_vec()
}

/// Streams `audio` in chunks with the exit layers `depths`, repeated cyclically. Returns the features h⁰ … of each chunk, and the work.
fn stream(encoder: &Arc<Encoder>, audio: &[f32], chunk_frames: usize, depths: &[usize]) -> (Vec<Vec<Frames>>, Work) {
    let mut chunker = Chunker::new(encoder, chunk_frames);
    let mut state = EncoderState::new(encoder).unwrap();
    chunker.push(audio);
    chunker.finish();
    let mut chunks = Vec::new();
    for &depth in depths.iter().cycle() {
        let Some(chunk) = chunker.next_chunk() else { break };
        let mut pass = state.begin(chunk.audio, chunk.span).unwrap();
        while pass.depth() < depth {
            pass.step().unwrap();
        }
        chunks.push(pass.features().to_vec());
        pass.finish();
    }
    (chunks, state.work())
}

/// Largest difference in units of the root mean square of `expected`, if that is more than 1: rounding errors grow with the values.
fn deviation(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len());
    // `max` ignores NaN.
    assert!(found.iter().chain(expected).all(|x| x.is_finite()));
    let mean = expected.iter().map(|x| x * x).sum::<f32>() / expected.len().max(1) as f32;
    found.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max) / mean.sqrt().max(1.0)
}

/// The reference: every layer over the whole recording in one call, with the chunk mask in the bias.
fn whole(encoder: &Arc<Encoder>, audio: &[f32], chunk_frames: usize) -> Vec<Frames> {
    let (spec, at) = (&encoder.spec, &encoder.audio);
    let frames = audio.len().div_ceil(at.hop);
    let mut padded = vec![0.0; (frames - 1) * at.hop + at.receptive_field];
    padded[at.lead..at.lead + audio.len()].copy_from_slice(audio);
    let mut x = encoder.frontend.as_ref().unwrap().plan_runner().unwrap().audio(&padded).unwrap();
    let context = spec.left_context;
    let mut bias = Vec::new();
    for slope in &encoder.slopes {
        for query in 0..frames {
            let chunk_start = query / chunk_frames * chunk_frames;
            let (first, end) = (chunk_start.saturating_sub(context), chunk_start + chunk_frames);
            bias.extend(vec![-1e4; context]);
            bias.extend(
                (0..frames).map(|key| if (first..end).contains(&key) { -slope * query.abs_diff(key) as f32 } else { -1e4 }),
            );
        }
    }
    let bias: TValue = Tensor::from_shape(&[1, spec.heads, frames, context + frames], &bias).unwrap().into();
    let cache: TValue = Tensor::zero::<f32>(&[1, spec.heads, context, spec.dim / spec.heads]).unwrap().into();
    let mut states = vec![x.clone()];
    for layer in &encoder.layers {
        let mut inputs = tvec![x.to_tensor().unwrap(), cache.clone(), cache.clone(), bias.clone()];
        inputs.extend(layer.states.iter().map(|(_, shape)| TValue::from(Tensor::zero::<f32>(shape).unwrap())));
        let mut runner = layer.full.plan_runner().unwrap();
        let outputs = runner.run(inputs).unwrap();
        x = runner.to_frames(outputs.into_iter().next()).unwrap();
        states.push(x.clone());
    }
    states
}

proptest! {
    // PROPTEST_CASES reduces this number under emulation.
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases.min(12), ..ProptestConfig::default() })]

    /// Invariant 1: never exiting, in chunks of any size the pack allows = the whole recording with the chunk mask.
    #[test]
    fn never_exiting_equals_the_whole_recording_with_the_chunk_mask(
        chunk_frames in prop::sample::select(vec![8usize, 16, 32]), samples in 3_000usize..50_000,
    ) {
        let encoder = encoder(GapFill::CatchUp);
        let audio = speech(samples);
        let expected = whole(&encoder, &audio, chunk_frames);
        let (chunks, work) = stream(&encoder, &audio, chunk_frames, &[encoder.layers()]);
        for k in 0..=encoder.layers() {
            let streamed: Vec<f32> = chunks.iter().flat_map(|chunk| chunk[k].as_slice().to_vec()).collect();
            let worst = deviation(&streamed, expected[k].as_slice());
            prop_assert!(worst < TOLERANCE, "layer {k}: {worst}");
        }
        prop_assert_eq!(work.layer_frames, (samples.div_ceil(encoder.audio.hop) * encoder.layers()) as u64);
    }

    /// Invariants 2 and 3: with exits and catch-up, the state equals the never-exit state whenever the receptive field was
    /// computed that deep, and no frame goes through a layer twice.
    #[test]
    fn catch_up_is_exact_and_never_does_work_twice(depths in prop::collection::vec(1usize..=10, 1..9)) {
        let encoder = encoder(GapFill::CatchUp);
        let audio = speech(64_000);
        let (full, _) = stream(&encoder, &audio, 8, &[encoder.layers()]);
        let (chunks, work) = stream(&encoder, &audio, 8, &depths);
        let reach = encoder.left_context().div_ceil(8);
        for (index, chunk) in chunks.iter().enumerate() {
            for (k, state) in chunk.iter().enumerate() {
                // Layer k attends to `reach` chunks back, whose layer k − 1 attends to `reach` more, and so on. All of them must have
                // been computed up to layer k − 1. A chunk that left every left context before that was never computed further.
                let field = index.saturating_sub(reach * k)..index;
                let deep = field.clone().all(|past| (past..=(past + reach).min(index)).any(|later| depths[later % depths.len()] >= k));
                if deep {
                    let worst = deviation(state.as_slice(), full[index][k].as_slice());
                    prop_assert!(worst < TOLERANCE, "chunk {index}, layer {k}: {worst}");
                }
            }
        }
        prop_assert!(work.layer_frames <= (64_000usize.div_ceil(320) * encoder.layers()) as u64);
        prop_assert_eq!(work.projected_frames, 0);
    }

    /// Projection also runs no layer twice, fills every gap by projections only, and is exact without gaps.
    #[test]
    fn projection_fills_gaps_without_running_layers(depths in prop::collection::vec(1usize..=10, 1..9)) {
        let encoder = encoder(GapFill::Project);
        let audio = speech(48_000);
        let (full, _) = stream(&encoder, &audio, 16, &[encoder.layers()]);
        let (chunks, work) = stream(&encoder, &audio, 16, &depths);
        let own: usize = chunks.iter().map(|chunk| (chunk.len() - 1) * chunk[0].frames()).sum();
        prop_assert_eq!(work.layer_frames, own as u64);
        let shallowest = depths.iter().copied().min().unwrap();
        for (index, chunk) in chunks.iter().enumerate() {
            for (k, state) in chunk.iter().enumerate().take(shallowest + 1) {
                let worst = deviation(state.as_slice(), full[index][k].as_slice());
                prop_assert!(worst < TOLERANCE, "chunk {index}, layer {k}: {worst}");
            }
        }
        let reach = encoder.left_context() / 16;
        let depth = |index: usize| chunks[index].len();
        let gaps = (0..chunks.len()).any(|index| (index.saturating_sub(reach)..index).any(|past| depth(past) < depth(index)));
        prop_assert_eq!(work.projected_frames > 0, gaps);
    }
}

/// With helpers for every matmul, however small, in both modes.
#[test]
fn results_with_helpers_are_bit_identical() {
    for folder in ["models/daisy-tiny", "tests/data/windowed-base/pack", "tests/data/windowed-large/pack"] {
        let pack = Pack::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join(folder)).unwrap();
        let options = LoadOptions { precision: Precision::F32, ..LoadOptions::default() };
        let load = |helpers| Encoder::load_with_helpers(&pack, &options, helpers).unwrap();
        let (alone, helped) = (load(None), load(Some(Helpers::start(2, 0).unwrap())));
        let bits = |encoder: &Arc<Encoder>| -> Vec<u32> {
            let chunks = stream(encoder, &speech(32_000), pack.default_chunk_frames(), &[encoder.layers()]).0;
            chunks.iter().flatten().flat_map(|frames| frames.as_slice()).map(|number| number.to_bits()).collect()
        };
        assert_eq!(bits(&alone), bits(&helped), "{folder}");
    }
}

/// The graph up to the keys and values gives the same ones as the whole layer.
#[test]
fn projected_keys_and_values_equal_those_of_the_layer() {
    let encoder = encoder(GapFill::Project);
    let spec = &encoder.spec;
    let x = Frames::build(16, spec.dim, |out| out.iter_mut().enumerate().for_each(|(i, x)| *x = (i as f32 * 0.37).sin()));
    let cache: TValue = Tensor::zero::<f32>(&[1, spec.heads, spec.left_context, spec.dim / spec.heads]).unwrap().into();
    let bias: TValue = Tensor::zero::<f32>(&[1, spec.heads, 16, spec.left_context + 16]).unwrap().into();
    for layer in &encoder.layers {
        let states: Vec<TValue> = layer.states.iter().map(|(_, shape)| Tensor::zero::<f32>(shape).unwrap().into()).collect();
        let mut inputs = tvec![x.to_tensor().unwrap(), cache.clone(), cache.clone(), bias.clone()];
        inputs.extend(states.iter().cloned());
        let full = layer.full.plan_runner().unwrap().run(inputs).unwrap();
        let mut inputs = tvec![x.to_tensor().unwrap()];
        inputs.extend(states);
        let cut = layer.project.as_ref().unwrap().plan_runner().unwrap().run(inputs).unwrap();
        let values = |value: &TValue| value.try_as_plain_ram().unwrap().as_slice::<f32>().unwrap().to_vec();
        for (full, cut) in full[full.len() - cut.len()..].iter().zip(&cut) {
            assert!(deviation(&values(full), &values(cut)) < 1e-5);
        }
    }
}

/// The front ends of the bundled packs run on Bellis's kernels, and equal tract's plan on a recording, loud and quiet, in chunks of
/// changing sizes, with gaps between some of them and calls too short for a frame.
#[test]
fn front_ends_equal_the_plan_of_their_graph() {
    for folder in ["models/daisy-tiny", "models/daisy-nano"] {
        let pack = Pack::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join(folder)).unwrap();
        let encoder = Encoder::load(&pack, &LoadOptions::default().precision(Precision::F32)).unwrap();
        let (stage, at) = (encoder.frontend.as_ref().unwrap(), &encoder.audio);
        let frontend = stage.frontend().unwrap_or_else(|| panic!("{folder}: the front end runs in tract's plan"));
        let (mut own, mut plan) = (stage.runner().unwrap(), stage.plan_runner().unwrap());
        for level in [1.0, 0.01, 0.0] {
            let audio: Vec<f32> = speech(90_000).iter().map(|sample| sample * level).collect();
            let mut first = 0;
            for frames in [16, 16, 8, 32, 1, 16, 2, 32, 16] {
                let samples = &audio[first..][..(frames - 1) * at.hop + at.receptive_field];
                let (own, plan) = (own.audio(samples).unwrap(), plan.audio(samples).unwrap());
                let worst = deviation(own.as_slice(), plan.as_slice());
                assert!(worst < TOLERANCE, "{folder}, level {level}, {frames} frames at {first}: {worst}");
                // Features kept from the previous call are those of a stream that begins here, to the bit.
                let afresh = stage.runner().unwrap().audio(samples).unwrap();
                assert_eq!(own, afresh, "{folder}, level {level}, {frames} frames at {first}");
                first += frames * at.hop + if frames == 2 { 77 } else { 0 };
            }
        }
        assert_eq!(own.macs(), plan.macs());
        assert_eq!(own.audio(&[0.0; 100]).unwrap().frames(), 0);

        // What the rule assumes about the graph is checked by results.
        let shape =
            Port::new("audio", [Size::Fixed(1), Size::Samples { receptive_field: at.receptive_field, hop: at.hop }]).at(4);
        let mut other = (**frontend).clone();
        assert!(stage.deviation(&Arc::new(other.clone()), &shape).unwrap() < TOLERANCE);
        other.stride += 1;
        assert!(!stage.deviation(&Arc::new(other), &shape).is_ok_and(|found| found <= stage::SAME_FRONTEND));
    }
}

/// A graph that no longer matches the fusion rules would be slow, and no other test would fail.
#[test]
fn layers_run_in_fused_operations() {
    let encoder = encoder(GapFill::Project);
    let allowed = ["Source", "Linear", "LayerNorm", "Attention", "ByHeads"];
    for layer in &encoder.layers {
        for stage in [&layer.full].into_iter().chain(&layer.project) {
            let operations = stage.operations();
            assert!(operations.iter().all(|name| allowed.contains(&name.as_str())), "{}: {operations:?}", stage.name);
            let program = stage.program().unwrap_or_else(|| panic!("{} runs in tract's plan", stage.name));
            assert!(program.check_buffers() <= 4, "{}: {}", stage.name, program.check_buffers());
        }
    }
    let branches = [&encoder.heads, &encoder.ctc, &encoder.gain, &encoder.embedding];
    for (_, branch) in branches.into_iter().flatten() {
        let program =
            branch.program().unwrap_or_else(|| panic!("{} runs in tract's plan: {:?}", branch.name, branch.operations()));
        program.check_buffers();
        let x = Frames::build(7, encoder.dim(), |out| out.iter_mut().enumerate().for_each(|(i, x)| *x = (i as f32 * 0.37).sin()));
        let mut workspace = Workspace::default();
        let found = branch.runner().unwrap().frames(&x, &mut workspace).unwrap();
        let plan = branch.plan_runner().unwrap().frames(&x, &mut workspace).unwrap();
        assert_eq!((found.frames(), found.dim()), (plan.frames(), plan.dim()), "{}", branch.name);
        assert!(deviation(found.as_slice(), plan.as_slice()) < 1e-5, "{}", branch.name);
    }
}

/// As for the layers: the waveform convolutions of the architectures that `models/convert` supports, with norms over the window and by
/// frame, and their positional convolutions.
#[test]
fn convolutions_run_in_fused_operations() {
    let allowed = ["Source", "AddAxis", "Convolution", "ChannelNorm", "LayerNorm", "Activate", "Linear", "Add"];
    for folder in ["tests/data/windowed-base/pack", "tests/data/windowed-large/pack", "tests/data/windowed-wavlm/pack"] {
        let pack = Pack::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join(folder)).unwrap();
        let encoder = Encoder::load(&pack, &LoadOptions::default()).unwrap();
        for stage in encoder.frontend.iter().chain(&encoder.position) {
            let operations = stage.operations();
            assert!(operations.iter().all(|name| allowed.contains(&name.as_str())), "{folder}, {}: {operations:?}", stage.name);
            assert!(operations.iter().any(|name| name == "Convolution"), "{folder}, {}: {operations:?}", stage.name);
        }
    }
}

/// The MACs counted before fusion equal those of the fused operations' matmuls, which are nearly all of them.
#[test]
fn fused_operations_report_the_macs_of_their_matmuls() {
    let encoder = encoder(GapFill::Project);
    let spec = &encoder.spec;
    let (frames, context) = (16, spec.left_context);
    for layer in &encoder.layers {
        let mut runner = layer.full.plan_runner().unwrap();
        let zeros = |shape: &[usize]| TValue::from(Tensor::zero::<f32>(shape).unwrap());
        let cache = [1, spec.heads, context, spec.dim / spec.heads];
        let mut inputs =
            tvec![zeros(&[1, frames, spec.dim]), zeros(&cache), zeros(&cache), zeros(&[1, spec.heads, frames, context + frames])];
        inputs.extend(layer.states.iter().map(|(_, shape)| zeros(shape)));
        runner.run(inputs).unwrap();
        let (counted, expected) = (runner.macs(), layer.full.macs_for(frames));
        assert!(expected <= counted && expected as f64 > 0.95 * counted as f64, "{expected} of {counted}");
    }
}

/// Features at the exits of `audio`'s chunks, which go as deep as `plans` says, over and over. A chunk whose plan has a second depth
/// changes there to one of two other machines; at depth 0 as audio, whose states come back once another machine needs them.
#[cfg(feature = "neighbours")]
fn handed_over(encoder: &Arc<Encoder>, audio: &[f32], plans: &[(usize, Option<(usize, usize)>)]) -> Vec<Frames> {
    let mut chunker = Chunker::new(encoder, encoder.default_chunk_frames());
    let mut states: Vec<EncoderState> = (0..3).map(|_| EncoderState::new(encoder).unwrap()).collect();
    states.iter_mut().filter(|_| encoder.is_cached()).for_each(EncoderState::keep_states);
    let [own, others @ ..] = &mut states[..] else { panic!() };
    chunker.push(audio);
    chunker.finish();
    let (mut features, mut elsewhere) = (Vec::new(), Vec::<(u64, usize)>::new());
    for &(depth, change) in plans.iter().cycle() {
        let Some(chunk) = chunker.next_chunk() else { break };
        let first = chunk.span.chunk_first;
        let audio_to = change.filter(|&(at, _)| at == 0 && encoder.can_begin_anywhere()).map(|(_, other)| other);
        if elsewhere.iter().any(|&(_, machine)| audio_to != Some(machine)) {
            let past = elsewhere.drain(..).flat_map(|(frame, machine)| others[machine].chunks(&[frame]));
            let past = past.filter(|chunk| chunk.end() + encoder.left_context() as u64 > first).collect();
            own.add_context(first, past).unwrap();
        }
        if let Some(other) = audio_to {
            let mut there = others[other].take_over(own.hand_over_audio(chunk.audio, chunk.span)).unwrap();
            while there.depth() < depth {
                there.step().unwrap();
            }
            features.push(there.feature(depth).clone());
            there.finish();
            elsewhere.push((first, other));
            continue;
        }
        let mut pass = own.begin(chunk.audio, chunk.span).unwrap();
        let here = change.map_or(depth, |(at, _)| at.min(depth));
        while pass.depth() < here {
            pass.step().unwrap();
        }
        let Some((_, other)) = change.filter(|_| here < depth) else {
            features.push(pass.feature(depth).clone());
            pass.finish();
            continue;
        };
        let handover = pass.hand_over();
        pass.finish();
        let mut there = others[other].take_over(handover).unwrap();
        while there.depth() < depth {
            there.step().unwrap();
        }
        let (feature, returned) = (there.feature(depth).clone(), there.states());
        there.finish();
        own.add_states(first, returned);
        features.push(feature);
    }
    features
}

#[cfg(feature = "neighbours")]
proptest! {
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases.min(12), ..ProptestConfig::default() })]

    /// Where a chunk's layers run makes no difference, in both modes: machines may change from chunk to chunk and back.
    #[test]
    fn chunks_that_change_the_machine_equal_those_that_stay(
        plans in prop::collection::vec((1usize..=10, prop::option::of((0usize..10, 0usize..2))), 1..12),
    ) {
        let windowed = |folder: &str| {
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
            Encoder::load(&Pack::open(&folder).unwrap(), &LoadOptions::default().precision(Precision::F32)).unwrap()
        };
        for encoder in [encoder(GapFill::Project), windowed("tests/data/windowed-base/pack"), windowed("tests/data/windowed-wavlm/pack")] {
            let most = encoder.layers();
            let plans: Vec<_> = plans.iter().map(|&(depth, change)| (depth.min(most), change)).collect();
            let staying: Vec<_> = plans.iter().map(|&(depth, _)| (depth, None)).collect();
            let audio = speech(100_000);
            let (found, wanted) = (handed_over(&encoder, &audio, &plans), handed_over(&encoder, &audio, &staying));
            prop_assert_eq!(found.len(), wanted.len());
            for (index, (found, wanted)) in found.iter().zip(&wanted).enumerate() {
                let worst = deviation(found.as_slice(), wanted.as_slice());
                prop_assert!(worst < TOLERANCE, "{}, chunk {index}: {worst}", encoder.name());
            }
        }
    }
}

/// What no machine with the same pack hands over is refused; none of it panics.
#[cfg(feature = "neighbours")]
#[test]
fn a_handover_of_another_shape_is_refused() {
    use handover::{Handover, Input};
    let encoder = encoder(GapFill::Project);
    let dim = encoder.dim();
    let frames = |count: usize, dim: usize| Frames::build(count, dim, |_| {});
    let good = Handover { depth: 2, first_frame: 64, input: Input::States(frames(16, dim)), own: 0..16, past: Vec::new() };
    let past = |first_frame, states| vec![PastChunk { first_frame, states }];
    let samples = |frames: usize| vec![0.0; encoder.audio().receptive_field + (frames - 1) * encoder.audio().hop];
    let audio = Handover { depth: 0, input: Input::Audio(samples(16)), ..good.clone() };
    let mut state = EncoderState::new(&encoder).unwrap();
    assert!(state.take_over(good.clone()).is_ok() && state.take_over(audio.clone()).is_ok());
    for wrong in [
        Handover { depth: 1, ..audio.clone() },
        Handover { input: Input::Audio(vec![0.0; 100]), ..audio.clone() },
        Handover { input: Input::Audio(samples(16)[1..].to_vec()), ..audio.clone() },
        Handover { input: Input::Audio(samples(15)), ..audio.clone() },
        Handover { input: Input::Audio(samples(200)), own: 0..200, ..audio.clone() },
        Handover { first_frame: 3, own: 4..16, ..audio.clone() },
        Handover { depth: 10, ..good.clone() },
        Handover { input: Input::States(frames(16, dim + 1)), ..good.clone() },
        Handover { own: 0..17, ..good.clone() },
        Handover { own: 4..16, ..good.clone() },
        Handover { own: 3..3, ..good.clone() },
        Handover { input: Input::States(frames(200, dim)), own: 0..200, ..good.clone() },
        Handover { past: past(60, vec![(1, frames(16, dim))]), ..good.clone() },
        Handover { past: past(48, vec![(1, frames(16, dim)), (2, frames(8, dim))]), ..good.clone() },
        Handover { past: past(48, vec![(1, frames(0, dim))]), ..good.clone() },
        Handover { past: past(u64::MAX - 3, vec![(1, frames(3, dim))]), ..good.clone() },
    ] {
        let refused = matches!(state.take_over(wrong.clone()), Err(EngineError::Handover { .. }));
        assert!(refused, "{wrong:?}");
    }
}
