//! The ring and its gaps.

use std::sync::Arc;
use std::time::Duration;

use crate::explore;
use crate::ring::{Block, RingReader, RingStats, RingWriter, ring};
use crate::sync::atomic::{AtomicBool, Ordering};

/// Samples that are written or lost at a time, at most.
const MOST_AT_ONCE: u64 = 3;

/// Reads to the end, and checks that each sample is at its position. `wait` is called when the ring is empty.
fn read_all(reader: &mut RingReader, wait: impl Fn(&RingReader)) -> (u64, u64) {
    let (mut position, mut lost, mut out) = (0, 0, [0.0; 2]);
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
            Block::Empty => wait(reader),
            Block::Closed => return (position, lost),
        }
        balances(reader.stats());
    }
}

/// What is gone never exceeds what was captured by more than one block, whose drops are counted before its captures.
fn balances(stats: &Arc<RingStats>) {
    let removed = stats.read() + stats.dropped();
    assert!(removed <= stats.captured() + MOST_AT_ONCE, "{removed} samples are gone of {}", stats.captured());
}

fn write(writer: &mut RingWriter, first: u64, samples: u64) {
    let block: Vec<f32> = (first..first + samples).map(|sample| sample as f32).collect();
    writer.append(&block);
}

#[test]
fn samples_and_gaps_arrive_in_order_and_add_up() {
    explore(3, || {
        let (mut writer, mut reader) = ring(2, 16_000);
        let stats = reader.stats().clone();
        let thread = loom::thread::spawn(move || {
            // A full ring drops part of the second and third block.
            for block in 0..3 {
                write(&mut writer, 2 * block, 2);
            }
        });
        let (position, lost) = read_all(&mut reader, |_| loom::thread::yield_now());
        thread.join().unwrap();
        assert_eq!((position, lost), (6, stats.dropped()));
        assert_eq!(stats.captured(), stats.read() + stats.dropped());
    });
}

#[test]
fn a_gap_of_the_source_keeps_its_position() {
    explore(2, || {
        let (mut writer, mut reader) = ring(2, 16_000);
        let stats = reader.stats().clone();
        let thread = loom::thread::spawn(move || {
            write(&mut writer, 0, 1);
            writer.lose(3);
            write(&mut writer, 4, 2);
            writer.lose(1);
        });
        let (position, lost) = read_all(&mut reader, |_| loom::thread::yield_now());
        thread.join().unwrap();
        assert_eq!((position, lost), (7, stats.dropped()));
        assert!(lost >= 4);
    });
}

#[test]
fn no_wake_up_is_lost() {
    explore(3, || {
        let (mut writer, mut reader) = ring(4, 16_000);
        let thread = loom::thread::spawn(move || {
            write(&mut writer, 0, 1);
            write(&mut writer, 1, 1);
        });
        // Without a time-out: a missed wake-up would be a deadlock.
        let (position, _) = read_all(&mut reader, |reader| reader.wait(1, Duration::MAX));
        thread.join().unwrap();
        assert_eq!(position, 2);
    });
}

#[test]
fn a_source_that_waits_loses_nothing_and_stops_with_its_reader() {
    explore(2, || {
        let (mut writer, mut reader) = ring(1, 16_000);
        let thread = loom::thread::spawn(move || writer.push_blocking(&[0.0, 1.0], &AtomicBool::new(false)));
        let (position, lost) = read_all(&mut reader, |_| loom::thread::yield_now());
        assert!(thread.join().unwrap());
        assert_eq!((position, lost), (2, 0));
    });
    explore(2, || {
        let (mut writer, reader) = ring(1, 16_000);
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = loom::thread::spawn(move || writer.push_blocking(&[0.0, 1.0], &stopped));
        stop.store(true, Ordering::Relaxed);
        drop(reader);
        assert!(!thread.join().unwrap());
    });
}

#[test]
fn discarded_samples_are_counted() {
    explore(3, || {
        let (mut writer, mut reader) = ring(2, 16_000);
        let stats = reader.stats().clone();
        let thread = loom::thread::spawn(move || {
            write(&mut writer, 0, 1);
            write(&mut writer, 1, 2);
        });
        let mut out = [0.0; 1];
        let _ = reader.read(&mut out);
        thread.join().unwrap();
        reader.discard();
        assert_eq!(stats.captured(), stats.read() + stats.dropped());
        assert_eq!(stats.captured(), 3);
    });
}
