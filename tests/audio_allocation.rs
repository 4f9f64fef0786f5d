//! The capture callback never allocates, in a million calls with a ring that is full half of the time and a reader that is woken.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::time::{Duration, Instant};

use bellis::audio::{ChannelPick, SourceEvent};
use bellis::internal::{Block, Intake, events, ring_of_frames};

#[test]
fn a_million_callbacks_allocate_nothing() {
    for pick in [ChannelPick::MixDown, ChannelPick::Auto] {
        callbacks_allocate_nothing(pick);
    }
}

fn callbacks_allocate_nothing(pick: ChannelPick) {
    let ring_channels = if pick == ChannelPick::Auto { 2 } else { 1 };
    let (writer, mut reader) = ring_of_frames(48_000, 48_000, ring_channels);
    // From its first wait on, this thread is the one that the ring wakes.
    reader.wait(1, Duration::ZERO);
    let stats = reader.stats().clone();
    let mut intake = Intake::new(writer, 2, pick);
    let (events, _receiver) = events();
    let integers = [1_000i16, -3_000].repeat(480);
    let floats = [0.25f32, f32::NAN].repeat(480);
    let mut out = vec![0.0; 1_000];
    let counted = allocation_counter::measure(|| {
        for callback in 0..500_000u32 {
            match callback % 2 {
                0 => intake.take(&integers[..2 * (1 + callback as usize % 480)], Instant::now()),
                _ => intake.take(&floats[..2 * (1 + callback as usize % 480)], Instant::now()),
            }
            // A callback wakes the reader only while it waits, which this thread does not do during a callback.
            stats.wake_reader();
            if callback % 1_000 == 0 {
                events.send(SourceEvent::Xrun);
            }
            if callback % 2_000 > 1_000 {
                reader.wait(1, Duration::ZERO);
                std::hint::black_box(matches!(reader.read(&mut out), Block::Samples(_)));
            }
        }
    });
    assert!(stats.dropped() > 0 && stats.read() > 0 && stats.non_finite() > 0, "not every branch was covered");
    assert_eq!(counted.count_total, 0, "{} allocations", counted.count_total);
}
