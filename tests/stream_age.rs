//! The cost of a chunk does not depend on the age of the stream: MACs, heap allocations and their bytes.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use bellis::audio::{ChannelPick, decode_file};
use bellis::engine::{Encoder, LoadOptions, Precision};
use bellis::exit::{PolicyName, PolicySpec};
use bellis::pack::Pack;
use bellis::stream::{Session, SessionOptions};

const MANIFEST: &str = env!("CARGO_MANIFEST_DIR");

/// Cost of a section of the stream.
#[derive(Debug, PartialEq)]
struct Cost {
    macs: u64,
    allocations: u64,
    bytes: u64,
}

#[test]
fn an_old_stream_costs_what_a_young_one_does() {
    let pack = Pack::open(&std::path::Path::new(MANIFEST).join("models/daisy-tiny")).unwrap();
    let encoder = Encoder::load(&pack, &LoadOptions::default().precision(Precision::F32)).unwrap();
    let (audio, _) = decode_file(&std::path::Path::new(MANIFEST).join("models/sample.wav"), ChannelPick::MixDown).unwrap();
    let chunk_frames = pack.default_chunk_frames();
    let chunk = chunk_frames * encoder.audio().hop;
    // With exits, which leave gaps and fill them: each section is the same recording, whole chunks of it, again.
    let chunks = audio.len() / chunk;
    let policy = PolicySpec::named(PolicyName::Periodic).build(&pack).unwrap();
    let mut session = Session::new(&encoder, policy, SessionOptions::default().chunk_frames(chunk_frames)).unwrap();
    let section = |session: &mut Session| {
        let before = session.work().macs;
        let counted = allocation_counter::measure(|| {
            // Whole periods of the policy's eight chunks.
            for block in audio.chunks_exact(chunk).take(chunks / 8 * 8) {
                session.push(block).unwrap();
                while session.next_chunk().unwrap().is_some() {}
            }
        });
        Cost { macs: session.work().macs - before, allocations: counted.count_total, bytes: counted.bytes_total }
    };
    // The first section fills caches.
    section(&mut session);
    let young = section(&mut session);
    for _ in 0..20 {
        section(&mut session);
    }
    assert_eq!(section(&mut session), young);
    assert!(young.macs > 0, "{young:?}: nothing was counted");
}

/// Once the first chunks have sized the buffers, a session allocates nothing: from samples to representations, with the policies that
/// evaluate no head, in every precision, while a consumer holds the last few representations.
#[test]
fn a_chunk_needs_no_allocation() {
    let folder = std::path::Path::new(MANIFEST).join("models");
    let (audio, _) = decode_file(&folder.join("sample.wav"), ChannelPick::MixDown).unwrap();
    for (pack, precision) in [("daisy-tiny", Precision::F32), ("daisy-tiny", Precision::Auto), ("daisy-nano", Precision::Auto)] {
        let pack = Pack::open(&folder.join(pack)).unwrap();
        let encoder = Encoder::load(&pack, &LoadOptions::default().precision(precision)).unwrap();
        let chunk = pack.default_chunk_frames() * encoder.audio().hop;
        for policy in [PolicyName::Gain, PolicyName::Never] {
            let policy = PolicySpec::named(policy).build(&pack).unwrap();
            let mut session = Session::new(&encoder, policy, SessionOptions::default()).unwrap();
            let mut held = std::collections::VecDeque::with_capacity(4);
            let mut run = |session: &mut Session| {
                let counted = allocation_counter::measure(|| {
                    for block in audio.chunks_exact(chunk) {
                        session.push(block).unwrap();
                        while let Some(representation) = session.next_chunk().unwrap() {
                            if held.len() == 4 {
                                held.pop_front();
                            }
                            held.push_back(representation);
                        }
                    }
                });
                counted.count_total
            };
            assert!(run(&mut session) > 0, "nothing was counted");
            run(&mut session);
            let work = session.work().macs;
            assert_eq!(run(&mut session), 0, "{}, {precision:?}", encoder.name());
            assert!(session.work().macs > work);
        }
    }
}
