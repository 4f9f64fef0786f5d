//! Chunks of a session that continue on a neighbour: the interface to whatever carries them, and their way back.

use std::ops::Range;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError};

use super::mixture::Mixture;
use crate::engine::handover::Handover;
use crate::engine::{Frames, PastChunk, States};
use crate::exit::{Evidence, Needs, Reason};

/// A chunk that may leave: before anything has run, or at a depth from which the policy lets it continue.
pub(crate) struct Offer<'a> {
    /// Whether it is offered as audio, before anything has run.
    pub audio: bool,
    /// Number of the chunk in its stream.
    pub sequence: u64,
    /// Layers that have run.
    pub depth: usize,
    /// Time since the chunk's computation began.
    pub elapsed: Duration,
    /// The part of it that was spent waiting for earlier chunks.
    pub waited: Duration,
    /// Chunks whose audio waits behind this one.
    pub waiting: usize,
    /// Chunks of this session that are on their way.
    pub sent: usize,
    /// Mean time that this session takes for a chunk, seconds.
    pub compute_seconds: f64,
    /// Mean time that it takes for one that leaves, as audio or as states, seconds; `None` if none has left lately.
    pub leave_seconds: Option<f64>,
    /// Chunks that may be complete or on their way behind the oldest one on its way.
    pub window: usize,
    /// Audio that waits behind this chunk, where it counts against a deadline.
    pub backlog: Duration,
    /// How the session's representations are made.
    pub mixture: Option<&'a Mixture>,
    pub all_heads: bool,
    pub ctc: bool,
    /// What the policy needs after the next layer.
    pub next_needs: Needs,
}

/// Decides which chunks continue on a neighbour, and carries them there.
pub(crate) trait Offload: Send {
    /// Called at the start of every chunk, with the number of chunks behind it; returns the factor of [`ExitPolicy::relax`].
    fn begin_chunk(&mut self, waiting: usize, live: bool) -> f32;

    /// Most chunks that may be on their way behind the oldest one now.
    fn most(&self) -> usize;

    /// Whether the chunk is to leave at its present depth; called before it begins and after every layer. Must be quick.
    fn wanted(&mut self, offer: &Offer<'_>) -> bool;

    /// Sends the chunk; `None` if that is not possible after all.
    fn send(&mut self, offer: &Offer<'_>, chunk: &Handover) -> Option<Ticket>;

    /// Reports how a sent chunk ended.
    fn settle(&mut self, ticket: &Ticket, end: &End);

    /// The chunks in the left context of the one that starts at `first_frame` that left as audio, with their states, if a neighbour
    /// returns them until the given moment. After that, they are unknown here.
    fn recall(&mut self, first_frame: u64, until: Instant) -> Vec<PastChunk>;

    /// Forgets the present stream: its encoder starts again.
    fn restart(&mut self);
}

/// The longest wait without a sign of life.
const SLICE: Duration = Duration::from_millis(250);

/// A sent chunk.
pub(crate) struct Ticket {
    /// Number of the neighbour.
    pub neighbour: usize,
    /// Layers that had run.
    pub depth: usize,
    /// Frames of a chunk that left as audio, whose states remain on the neighbour.
    pub audio: Option<Range<u64>>,
    pub reply: Receiver<Reply>,
    /// When the chunk exits as it is.
    pub until: Instant,
}

/// An answer from a neighbour.
pub(crate) type Reply = Result<Returned, Refused>;

/// Why a neighbour did not compute a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Refused;

/// How a sent chunk ended.
pub(crate) enum End {
    /// Its result came in time.
    Returned(Box<Returned>),
    /// The neighbour refused it, answered nonsense, or is gone.
    Refused,
    /// No answer came by its deadline.
    Late,
}

/// What a neighbour made of a chunk.
#[derive(Debug, Clone)]
pub(crate) struct Returned {
    pub exit_layer: usize,
    pub reason: Reason,
    pub evidence: Vec<Evidence>,
    pub ctc_evidence: Vec<Evidence>,
    pub expected_kl: Option<f32>,
    /// Feature of the exit layer, `[T, D]`.
    pub feature: Frames,
    /// Outputs of the layers that ran there (cached mode), unless the chunk left as audio.
    pub states: States,
    /// Weighted sum of the features of those layers ([`Mixture::part`]), or the mixture of all if the chunk left as audio.
    pub mixed: Option<Frames>,
}

impl Ticket {
    /// The end of the chunk, if it has come.
    pub fn poll(&self) -> Option<End> {
        match self.reply.try_recv() {
            Ok(reply) => Some(reply.into()),
            Err(crossbeam_channel::TryRecvError::Disconnected) => Some(End::Refused),
            Err(crossbeam_channel::TryRecvError::Empty) => (Instant::now() >= self.until).then_some(End::Late),
        }
    }

    /// Waits for the end of the chunk, at most to its deadline, and while `goes_on`, which is asked several times a second.
    pub fn wait(&self, goes_on: Option<&(dyn Fn() -> bool + Send)>) -> End {
        loop {
            match self.reply.recv_deadline(self.until.min(Instant::now() + SLICE)) {
                Ok(reply) => return reply.into(),
                Err(RecvTimeoutError::Disconnected) => return End::Refused,
                Err(RecvTimeoutError::Timeout) => {
                    let ends = !goes_on.is_none_or(|goes_on| goes_on());
                    if ends || Instant::now() >= self.until {
                        return End::Late;
                    }
                }
            }
        }
    }
}

impl From<Reply> for End {
    fn from(reply: Reply) -> Self {
        match reply {
            Ok(returned) => Self::Returned(Box::new(returned)),
            Err(Refused) => Self::Refused,
        }
    }
}
