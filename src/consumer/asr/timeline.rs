//! Positions of frames in the stream, to the sample, including dropped audio.

use std::collections::VecDeque;

use crate::stream::Representation;

/// Position of a frame, in samples at the pack's rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    /// First sample.
    pub start: u64,
    /// End (exclusive).
    pub end: u64,
    /// Samples dropped within it.
    pub hole_inside: u64,
    /// Samples missing before it: dropped, or in chunks that the consumer was too slow for.
    pub hole_before: u64,
    /// Exit layer of its chunk.
    pub layer: usize,
}

/// Numbers frames from 0, and stores the positions of those that are still needed.
#[derive(Debug, Default)]
pub(super) struct Timeline {
    first: u64,
    places: VecDeque<Place>,
    end: Option<u64>,
}

impl Timeline {
    /// Adds the frames of a chunk.
    pub fn push(&mut self, chunk: &Representation) -> Vec<Place> {
        let (hop, samples) = (chunk.hop_samples as u64, chunk.samples);
        let frames = samples.div_ceil(hop.max(1));
        let mut places = Vec::with_capacity(frames as usize);
        for frame in 0..frames {
            let (from, to) = (frame * hop, ((frame + 1) * hop).min(samples));
            let (start, end) = (chunk.position(from), chunk.position(to - 1) + 1);
            let hole_before = start.saturating_sub(self.end.unwrap_or(start));
            self.end = Some(end);
            places.push(Place { start, end, hole_inside: end - start - (to - from), hole_before, layer: chunk.exit_layer });
        }
        self.places.extend(&places);
        places
    }

    /// Position of frame number `frame`, if it is still stored.
    pub fn place(&self, frame: u64) -> Option<&Place> {
        self.places.get(frame.checked_sub(self.first)? as usize)
    }

    /// Discards frames before number `frame`.
    pub fn forget_before(&mut self, frame: u64) {
        let gone = frame.saturating_sub(self.first).min(self.places.len() as u64);
        self.places.drain(..gone as usize);
        self.first += gone;
    }

    /// End of the last sample so far.
    pub fn end(&self) -> u64 {
        self.end.unwrap_or(0)
    }
}
