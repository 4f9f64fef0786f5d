//! Cuts a stream of samples into chunks, with the samples that their frames cover.
//!
//! Frame t covers the samples `[t*hop − lead, t*hop − lead + receptive_field)`. The stream starts with `lead` zeros, and its end
//! is padded with zeros so that every sample is in the hop of a frame: S samples give ceil(S / hop) frames.
//!
//! A stream can end and restart ([`Chunker::restart`]): frame numbers restart at 0, sample positions continue.

use std::collections::VecDeque;

use crate::engine::{Encoder, WindowSpan};
use crate::sample::is_valid;

/// A position within a chunk where samples were dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Discontinuity {
    /// Index of the first of the chunk's received samples after the gap, from 1; equal to their number if the gap is at the end.
    pub offset: u64,
    /// Number of samples dropped there.
    pub lost_samples: u64,
}

/// Chunker of one stream. Frame positions count from the last start of the stream.
#[derive(Debug)]
pub struct Chunker {
    hop: usize,
    receptive_field: usize,
    chunk_frames: usize,
    /// Frames of left and right context (windowed mode).
    left_context: u64,
    right_context: u64,
    /// Whether the front end needs the samples of the whole window in each call.
    whole_window: bool,
    /// Lead and samples from `buffer_first`, where 0 is the first zero of the lead.
    buffer: Vec<f32>,
    buffer_first: u64,
    lead: usize,
    received: u64,
    next_frame: u64,
    /// Front-end frames produced so far.
    given_frames: u64,
    finished: bool,
    /// Dropped samples by position, in received samples.
    gaps: VecDeque<(u64, u64)>,
    lost: u64,
    /// The gaps within the current chunk.
    discontinuities: Vec<Discontinuity>,
    /// Position at which the stream last restarted, including dropped samples.
    base: u64,
}

/// One chunk: the input of its encoder call, and its position in the stream.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Chunk<'a> {
    /// Samples for the front end.
    pub audio: &'a [f32],
    /// The chunk's own received samples.
    pub own: &'a [f32],
    /// Received samples after the chunk that its frames cover.
    pub lookahead: &'a [f32],
    /// Frames of the call.
    pub span: WindowSpan,
    /// Position of the chunk's first sample, including dropped samples.
    pub first_sample: u64,
    /// Received samples of the chunk itself; fewer than `chunk_frames * hop` only at the end of a stream.
    pub samples: u64,
    /// Samples dropped since the previous chunk, up to this chunk's last sample.
    pub lost_samples: u64,
    /// Gaps within the chunk; those before its first sample are already in `first_sample`.
    pub discontinuities: &'a [Discontinuity],
}

impl Chunker {
    /// A chunker for `encoder` with `chunk_frames` frames per chunk.
    pub fn new(encoder: &Encoder, chunk_frames: usize) -> Self {
        let audio = encoder.audio();
        let mut chunker = Self {
            hop: audio.hop,
            receptive_field: audio.receptive_field,
            chunk_frames,
            left_context: encoder.left_context() as u64,
            right_context: encoder.right_context() as u64,
            whole_window: encoder.frontend_needs_window(),
            buffer: Vec::new(),
            buffer_first: 0,
            lead: audio.lead,
            received: 0,
            next_frame: 0,
            given_frames: 0,
            finished: false,
            gaps: VecDeque::new(),
            lost: 0,
            discontinuities: Vec::new(),
            base: 0,
        };
        chunker.buffer.resize(chunker.lead, 0.0);
        chunker
    }

    /// Restarts after the end, once every chunk has been taken. Later frames do not depend on earlier audio, and positions
    /// continue. `lost` samples are missing in between; the next chunk reports them, together with unreported earlier ones.
    /// Returns the number that it will report.
    pub fn restart(&mut self, lost: u64) -> u64 {
        let untold = lost + self.gaps.drain(..).map(|(_, samples)| samples).sum::<u64>();
        self.base += self.received + self.lost;
        self.buffer.clear();
        self.buffer.resize(self.lead, 0.0);
        (self.buffer_first, self.received, self.next_frame, self.given_frames, self.lost) = (0, 0, 0, 0, 0);
        self.finished = false;
        if untold > 0 {
            self.gaps.push_back((0, untold));
        }
        untold
    }

    /// Appends samples.
    pub fn push(&mut self, samples: &[f32]) {
        self.buffer.extend(samples.iter().map(|&sample| if is_valid(sample) { sample } else { 0.0 }));
        self.received += samples.len() as u64;
    }

    /// Reports that `samples` samples were dropped before the received sample number `position`, which may not have arrived yet.
    /// Gaps must be reported in order.
    pub fn gap(&mut self, position: u64, samples: u64) {
        self.gaps.push_back((position, samples));
    }

    /// Ends the input; the remaining samples form the last chunks.
    pub fn finish(&mut self) {
        if !self.finished {
            self.finished = true;
            let frames = self.received.div_ceil(self.hop as u64);
            if frames > 0 {
                let end = (frames - 1) * self.hop as u64 + self.receptive_field as u64;
                let missing = end.saturating_sub(self.buffer_first + self.buffer.len() as u64);
                self.buffer.resize(self.buffer.len() + missing as usize, 0.0);
            }
        }
    }

    /// Whether the stream has ended.
    pub fn ended(&self) -> bool {
        self.finished
    }

    /// Whether the next chunk can be computed.
    pub fn has_chunk(&self) -> bool {
        match self.finished {
            false => self.missing_samples() == 0,
            true => self.next_frame < self.received.div_ceil(self.hop as u64),
        }
    }

    /// The position in received samples from which on a gap can still be reported: that of the last gap, or the next chunk's start.
    pub fn earliest_gap(&self) -> u64 {
        let chunk = self.next_frame * self.hop as u64;
        self.gaps.back().map_or(chunk, |(position, _)| chunk.max(*position))
    }

    /// Samples received so far.
    pub fn received(&self) -> u64 {
        self.received
    }

    /// Samples missing for the next chunk.
    pub fn missing_samples(&self) -> u64 {
        let end = self.end_of(self.next_frame + self.chunk_frames as u64 + self.right_context);
        end.saturating_sub(self.buffer_first + self.buffer.len() as u64)
    }

    /// Samples queued after the next chunk.
    pub fn waiting_samples(&self) -> u64 {
        let end = self.end_of(self.next_frame + self.chunk_frames as u64 + self.right_context);
        (self.buffer_first + self.buffer.len() as u64).saturating_sub(end)
    }

    /// The next chunk, if all its samples have arrived.
    pub fn next_chunk(&mut self) -> Option<Chunk<'_>> {
        let first = self.next_frame;
        let end = first + self.chunk_frames as u64;
        let (chunk_end, window_end) = match self.finished {
            false if self.missing_samples() > 0 => return None,
            false => (end, end + self.right_context),
            true => {
                let frames = self.received.div_ceil(self.hop as u64);
                if first >= frames {
                    return None;
                }
                (end.min(frames), (end + self.right_context).min(frames))
            }
        };
        let window_first = first.saturating_sub(self.left_context);
        let audio_first = if self.whole_window { window_first } else { self.given_frames };

        // Discard what no later call needs, before this call's samples are borrowed.
        let stale = audio_first.min(first) * self.hop as u64 - self.buffer_first;
        self.buffer.drain(..(stale as usize).min(self.buffer.len()));
        self.buffer_first += stale;

        let from_buffer = |position: u64| (position - self.buffer_first) as usize;
        let audio = match window_end > audio_first {
            true => from_buffer(audio_first * self.hop as u64)..from_buffer(self.end_of(window_end)),
            false => 0..0,
        };
        let frames = (chunk_end - first) as usize;
        let (start, end) = (first * self.hop as u64, (chunk_end * self.hop as u64).min(self.received));
        let own = from_buffer(start + self.lead as u64)..from_buffer(end + self.lead as u64);
        let lookahead = own.end..audio.end.min(from_buffer(self.received + self.lead as u64)).max(own.end);
        let last = self.finished && end == self.received;
        let (mut lost_in_front, mut lost_samples) = (self.lost, 0);
        self.discontinuities.clear();
        while let Some(&(position, samples)) = self.gaps.front()
            && (position < end || last)
        {
            self.gaps.pop_front();
            self.lost += samples;
            lost_samples += samples;
            match position.checked_sub(start).filter(|offset| *offset > 0) {
                Some(offset) => self.discontinuities.push(Discontinuity { offset, lost_samples: samples }),
                None => lost_in_front += samples,
            }
        }
        self.next_frame = chunk_end;
        self.given_frames = window_end.max(self.given_frames);
        let span = WindowSpan { audio_first, window_first, chunk_first: first, chunk_frames: frames };
        let (audio, own, lookahead) = (&self.buffer[audio], &self.buffer[own], &self.buffer[lookahead]);
        Some(Chunk {
            audio,
            own,
            lookahead,
            span,
            first_sample: self.base + start + lost_in_front,
            samples: end - start,
            lost_samples,
            discontinuities: &self.discontinuities,
        })
    }

    /// End of the last sample that frame `frames − 1` covers, in buffer coordinates.
    fn end_of(&self, frames: u64) -> u64 {
        (frames.max(1) - 1) * self.hop as u64 + self.receptive_field as u64
    }
}
