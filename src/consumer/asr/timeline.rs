//! Frames and where they lie in the stream, to the sample, lost sound counted.

use std::collections::VecDeque;

use crate::stream::Representation;

/// One frame's place in the stream, in samples at the pack's rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    /// Of its first sample.
    pub start: u64,
    /// Behind its last one.
    pub end: u64,
    /// Samples lost inside of it: its sound has a discontinuity.
    pub hole_inside: u64,
    /// Samples missing between the frame before and this one: lost, or of chunks that the consumer was too slow for.
    pub hole_before: u64,
    /// The layer at which its chunk stopped.
    pub layer: usize,
}

/// Numbers the frames that it is shown from 0, and remembers the places of those that are still needed.
#[derive(Debug, Default)]
pub(super) struct Timeline {
    first: u64,
    places: VecDeque<Place>,
    end: Option<u64>,
}

impl Timeline {
    /// The places of a chunk's frames.
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

    /// The place of frame number `frame`, if it was not forgotten.
    pub fn place(&self, frame: u64) -> Option<&Place> {
        self.places.get(frame.checked_sub(self.first)? as usize)
    }

    /// Frames before number `frame` are no longer needed.
    pub fn forget_before(&mut self, frame: u64) {
        let gone = frame.saturating_sub(self.first).min(self.places.len() as u64);
        self.places.drain(..gone as usize);
        self.first += gone;
    }

    /// Behind the last sample so far.
    pub fn end(&self) -> u64 {
        self.end.unwrap_or(0)
    }
}
