//! The ring between two threads.

use std::sync::atomic::AtomicBool;
use std::time::Duration;

use crate::ring::{Block, RingReader, ring_of_frames};

const BLOCKS: u64 = if cfg!(miri) { 60 } else { 20_000 };

/// Reads to the end and checks that each frame is at its position. Returns the frames before the end, and the lost ones.
fn read_all(reader: &mut RingReader, channels: usize) -> (u64, u64) {
    let (mut position, mut lost, mut out) = (0, 0, vec![0.0; 64 * channels]);
    loop {
        match reader.read(&mut out) {
            Block::Samples(samples) => {
                for frame in samples.chunks_exact(channels) {
                    assert!(frame.iter().all(|&sample| sample == position as f32));
                    position += 1;
                }
            }
            Block::Gap(gap) => {
                assert_eq!(gap.position, position);
                position += gap.samples;
                lost += gap.samples;
            }
            Block::Empty => reader.wait(8, Duration::from_millis(100)),
            Block::Closed => return (position, lost),
        }
    }
}

/// Blocks of 1 to 97 frames, each sample of which is its position.
fn blocks(channels: usize) -> impl Iterator<Item = Vec<f32>> {
    let mut first = 0;
    (0..BLOCKS).map(move |block| {
        let frames = 1 + block * block % 97;
        let samples = (first..first + frames).flat_map(|frame| std::iter::repeat_n(frame as f32, channels)).collect();
        first += frames;
        samples
    })
}

#[test]
fn a_live_source_loses_what_does_not_fit() {
    for channels in [1, 3] {
        let (mut writer, mut reader) = ring_of_frames(50, 16_000, channels);
        let channels = usize::from(channels);
        let stats = reader.stats().clone();
        let thread = std::thread::spawn(move || blocks(channels).for_each(|block| writer.push_live(&block)));
        let (position, lost) = read_all(&mut reader, channels);
        thread.join().unwrap();
        assert_eq!((position, lost), (stats.captured(), stats.dropped()));
        assert_eq!(stats.captured(), stats.read() + stats.dropped());
        assert_eq!(stats.captured(), blocks(1).map(|block| block.len() as u64).sum());
    }
}

#[test]
fn a_source_that_waits_loses_nothing() {
    let (mut writer, mut reader) = ring_of_frames(500, 16_000, 2);
    let stats = reader.stats().clone();
    let stop = AtomicBool::new(false);
    let thread = std::thread::spawn(move || {
        for block in blocks(2).take(60) {
            assert!(writer.push_blocking(&block, &stop));
        }
    });
    let (position, lost) = read_all(&mut reader, 2);
    thread.join().unwrap();
    assert_eq!((position, lost), (blocks(1).take(60).map(|block| block.len() as u64).sum(), 0));
    assert_eq!(stats.captured(), stats.read());
}
