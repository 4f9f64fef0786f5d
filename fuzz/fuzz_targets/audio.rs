//! Any bytes as an audio file in a pipe: the source ends, and captured = read + dropped.
#![no_main]

use std::io::Cursor;

use bellis::audio::{ChannelPick, PcmFormat, RawLayout, Source, open_pipe};
use bellis::internal::{Block, events, ring};
use libfuzzer_sys::fuzz_target;

/// A file of a few bytes may claim hours of audio.
const MAX_SAMPLES: u64 = 1 << 20;

fuzz_target!(|bytes: &[u8]| {
    let Some((&choice, file)) = bytes.split_first() else { return };
    let pick = match choice % 4 {
        0 => ChannelPick::Auto,
        1 => ChannelPick::Channel(1),
        _ => ChannelPick::MixDown,
    };
    let raw = RawLayout { format: PcmFormat::S16le, sample_rate: 16_000, channels: 1, is_given: choice & 16 != 0 };
    let Ok(mut source) = open_pipe(Box::new(Cursor::new(file.to_vec())), raw, pick, false) else { return };
    let (writer, mut reader) = ring(1 << 14, source.spec().sample_rate);
    let (sender, _receiver) = events();
    if source.start(writer, sender).is_err() {
        return;
    }
    let mut block = [0.0; 4_096];
    loop {
        match reader.read(&mut block) {
            Block::Samples(samples) => assert!(samples.iter().all(|sample| sample.is_finite())),
            Block::Gap(_) => {}
            Block::Empty => reader.wait(1, std::time::Duration::from_millis(100)),
            Block::Closed => break,
        }
        if reader.stats().captured() > MAX_SAMPLES {
            source.stop();
            return;
        }
    }
    source.stop();
    let stats = reader.stats();
    assert_eq!(stats.captured(), stats.read() + stats.dropped());
});
