//! Heap allocations per chunk. Behind the feature `count-allocations`, because a counting allocator slows every build.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::engine::Encoder;
use crate::exit::ExitPolicy;
use crate::stream::SessionError;

/// Mean allocations per chunk of a steady stream; all of them are freed.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Allocations {
    /// Number of allocations.
    pub count: f64,
    /// Bytes.
    pub bytes: f64,
}

/// Counts the allocations of a session on `audio` (at the pack's rate), after a warm-up that fills the caches; `None` without the
/// feature or if the audio is too short.
#[cfg(feature = "count-allocations")]
pub(super) fn count(
    encoder: &Arc<Encoder>,
    audio: &[f32],
    chunk_frames: usize,
    policy: Box<dyn ExitPolicy>,
) -> Result<Option<Allocations>, SessionError> {
    use crate::stream::{Session, SessionOptions};

    let chunk = chunk_frames * encoder.audio().hop;
    // The left context and a few more chunks, then at most a minute.
    let start = encoder.left_context() / chunk_frames + 4;
    let most = start + 60 * encoder.audio().sample_rate as usize / chunk;
    let mut session = Session::new(encoder, policy, SessionOptions::default().chunk_frames(chunk_frames))?;
    let (mut chunks, mut allocations, mut bytes) = (0usize, 0.0, 0.0);
    for (index, block) in audio.chunks_exact(chunk).take(most).enumerate() {
        let mut outcome = Ok(None);
        let counted = allocation_counter::measure(|| {
            outcome = session.push(block).and_then(|()| session.next_chunk()).map(|representation| representation.map(drop));
        });
        if outcome?.is_some() && index >= start {
            chunks += 1;
            allocations += counted.count_total as f64;
            bytes += counted.bytes_total as f64;
        }
    }
    let per_chunk = |sum: f64| sum / chunks as f64;
    Ok((chunks > 0).then(|| Allocations { count: per_chunk(allocations), bytes: per_chunk(bytes) }))
}

/// Disabled: the feature is not enabled.
#[cfg(not(feature = "count-allocations"))]
pub(super) fn count(
    _encoder: &Arc<Encoder>,
    _audio: &[f32],
    _chunk_frames: usize,
    _policy: Box<dyn ExitPolicy>,
) -> Result<Option<Allocations>, SessionError> {
    Ok(None)
}
