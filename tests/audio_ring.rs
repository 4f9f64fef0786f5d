//! The ring: captured = read + dropped + queued, exactly, and gaps in stream order.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::time::{Duration, Instant};

use bellis::audio::ChannelPick;
use bellis::internal::{Block, Gap, Intake, ring, ring_of_frames};
use proptest::prelude::*;

const RATE: u32 = 16_000;

#[derive(Debug, Clone)]
enum Action {
    Push(usize),
    Read(usize),
}

fn actions() -> impl Strategy<Value = Vec<Action>> {
    prop::collection::vec(prop_oneof![(0usize..700).prop_map(Action::Push), (1usize..700).prop_map(Action::Read)], 1..200)
}

/// Reads one block and appends one sample of each frame to the received stream, with `None` for missing frames.
fn read(reader: &mut bellis::internal::RingReader, channels: usize, size: usize, received: &mut Vec<Option<f32>>) -> bool {
    let mut out = vec![0.0; size * channels];
    match reader.read(&mut out) {
        Block::Samples(samples) => {
            let frames = samples.chunks_exact(channels);
            assert!(frames.remainder().is_empty(), "part of a frame");
            for frame in frames {
                assert!(frame.iter().all(|sample| *sample == frame[0]), "a frame of parts of others");
                received.push(Some(frame[0]));
            }
        }
        Block::Gap(Gap { position, samples }) => {
            assert_eq!(position, received.len() as u64, "wrong position of a gap");
            received.extend((0..samples).map(|_| None));
        }
        Block::Empty | Block::Closed => return false,
    }
    true
}

proptest! {
    #[test]
    fn every_sample_is_read_at_its_position_or_reported_in_a_gap(
        capacity in 1usize..2_000, channels in 1usize..7, actions in actions(),
    ) {
        let (mut writer, mut reader) = ring_of_frames(capacity, RATE, channels as u16);
        let (mut next, mut received) = (0u32, Vec::new());
        for action in actions {
            match action {
                Action::Push(count) => {
                    let frames = next..next + count as u32;
                    let samples: Vec<f32> = frames.flat_map(|n| std::iter::repeat_n(n as f32, channels)).collect();
                    next += count as u32;
                    writer.push_live(&samples);
                }
                Action::Read(size) => { read(&mut reader, channels, size, &mut received); }
            }
            let stats = reader.stats();
            prop_assert_eq!(stats.captured(), u64::from(next));
            prop_assert_eq!(stats.captured(), stats.read() + stats.dropped() + reader.queued() as u64);
        }
        drop(writer);
        while read(&mut reader, channels, 100, &mut received) {}
        prop_assert!(matches!(reader.read(&mut [0.0; 7]), Block::Closed));
        prop_assert_eq!(received.len(), next as usize);
        for (index, sample) in received.iter().enumerate() {
            prop_assert!(sample.is_none_or(|sample| sample == index as f32), "{:?} at {}", sample, index);
        }
        let lost = received.iter().filter(|sample| sample.is_none()).count() as u64;
        prop_assert_eq!(lost, reader.stats().dropped());
    }
}

#[test]
fn two_threads_account_for_every_sample() {
    let (mut writer, mut reader) = ring(1_000, RATE);
    const TOTAL: u32 = 3_000_000;
    let source = std::thread::spawn(move || {
        let mut next = 0;
        while next < TOTAL {
            let count = (next % 613 + 1).min(TOTAL - next);
            writer.push_live(&(next..next + count).map(|n| n as f32).collect::<Vec<_>>());
            next += count;
        }
    });
    let (mut position, mut lost) = (0u64, 0u64);
    let mut out = [0.0; 257];
    loop {
        match reader.read(&mut out) {
            Block::Samples(samples) => {
                for &sample in samples {
                    assert_eq!(sample, position as f32);
                    position += 1;
                }
            }
            Block::Gap(gap) => {
                assert_eq!(gap.position, position);
                position += gap.samples;
                lost += gap.samples;
            }
            Block::Empty => std::thread::yield_now(),
            Block::Closed => break,
        }
    }
    source.join().unwrap();
    assert_eq!((position, lost), (u64::from(TOTAL), reader.stats().dropped()));
}

#[test]
fn a_source_that_can_wait_loses_nothing() {
    let (mut writer, mut reader) = ring(64, RATE);
    let source = std::thread::spawn(move || {
        let stop = std::sync::atomic::AtomicBool::new(false);
        assert!(writer.push_blocking(&(0..10_000).map(|n| n as f32).collect::<Vec<_>>(), &stop));
    });
    let mut received = Vec::new();
    let mut out = [0.0; 33];
    loop {
        match reader.read(&mut out) {
            Block::Samples(samples) => received.extend_from_slice(samples),
            Block::Empty => std::thread::yield_now(),
            Block::Gap(_) => panic!("dropped"),
            Block::Closed => break,
        }
    }
    source.join().unwrap();
    assert_eq!(received, (0..10_000).map(|n| n as f32).collect::<Vec<_>>());
}

#[test]
fn a_waiting_source_ends_when_the_reader_is_dropped() {
    let (mut writer, reader) = ring(8, RATE);
    drop(reader);
    assert!(!writer.push_blocking(&[0.0; 100], &std::sync::atomic::AtomicBool::new(false)));
}

/// Longer than any test may take: a reader that is not woken hangs.
const FOREVER: Duration = Duration::from_secs(3_600);

#[test]
fn a_waiting_reader_is_woken_by_every_block_it_waits_for_and_by_the_end() {
    let (mut writer, mut reader) = ring(1_000, RATE);
    const BLOCKS: usize = 20_000;
    const BLOCK: usize = 37;
    let (taken, may_push) = std::sync::mpsc::channel();
    let source = std::thread::spawn(move || {
        for _ in 0..BLOCKS {
            // In two parts: the first one is not enough.
            writer.push_live(&[0.0; 10]);
            writer.push_live(&[0.0; BLOCK - 10]);
            may_push.recv().unwrap();
        }
    });
    let mut out = [0.0; BLOCK];
    for _ in 0..BLOCKS {
        while reader.queued() < BLOCK {
            reader.wait(BLOCK, FOREVER);
        }
        assert!(matches!(reader.read(&mut out), Block::Samples(samples) if samples.len() == BLOCK));
        taken.send(()).unwrap();
    }
    while !matches!(reader.read(&mut out), Block::Closed) {
        reader.wait(1, FOREVER);
    }
    source.join().unwrap();
}

#[test]
fn a_reader_that_waits_for_more_than_fits_is_woken_when_the_ring_is_half_full() {
    let (mut writer, reader) = ring(100, RATE);
    let source = std::thread::spawn(move || {
        writer.push_live(&[0.0; 50]);
        writer
    });
    while reader.queued() < 50 {
        reader.wait(1_000_000, FOREVER);
    }
    drop(source.join().unwrap());
}

#[test]
fn samples_keep_the_instant_of_their_capture_also_after_drops() {
    let (writer, reader) = ring(1_000, RATE);
    let mut intake = Intake::new(writer, 2, ChannelPick::MixDown);
    let began = Instant::now() + Duration::from_secs(100);
    // The device's clock runs 1 % fast: 0.099 s per tenth of a second of audio. All but the first 1,000 samples are dropped.
    for callback in 0..10u32 {
        let first = began + Duration::from_millis(99) * callback;
        intake.take(&[0i16; 2 * 1_600], first);
        let start = f64::from(callback) / 10.0;
        for (seconds, millis) in [(start, 0.0), (start + 0.05, 50.0), (start + 0.1, 100.0)] {
            let captured = reader.stats().captured_at(seconds).unwrap();
            let wanted = first + Duration::from_secs_f64(millis / 1e3);
            let error = captured.max(wanted) - captured.min(wanted);
            assert!(error < Duration::from_micros(1), "{seconds} s: {error:?}");
        }
    }
    assert_eq!((reader.stats().captured(), reader.stats().dropped()), (16_000, 15_000));
}

#[test]
fn all_channels_go_through_the_ring_where_the_inference_thread_chooses() {
    let (writer, mut reader) = ring_of_frames(1_000, RATE, 3);
    let mut intake = Intake::new(writer, 3, ChannelPick::Auto);
    let frames: Vec<f32> = (0..3 * 500).map(|n| n as f32 / 2_048.0).collect();
    intake.take(&frames, Instant::now());
    assert_eq!((reader.stats().captured(), reader.queued()), (500, 500));
    let mut out = [0.0; 3 * 500];
    assert!(matches!(reader.read(&mut out), Block::Samples(samples) if samples == frames));
}
