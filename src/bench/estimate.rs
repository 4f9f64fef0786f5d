//! The expected duration of a benchmark, from a trial on its first seconds of speech.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::policies::is_fixed_depth;
use super::study::Study;
use super::{BenchError, Plan, device};
use crate::engine::Encoder;
use crate::pack::Pack;

/// Speech of the trial, seconds.
const TRIAL_SECONDS: f64 = 2.0;

/// Expected duration of [`bench`](super::bench) with `plan`: an upper bound, because policies are assumed never to exit early.
///
/// # Errors
/// If the encoder fails on the trial.
pub fn expected_duration(pack: &Pack, encoder: &Arc<Encoder>, plan: &Plan) -> Result<Duration, BenchError> {
    let rate = f64::from(encoder.audio().sample_rate);
    let speech = plan.speech.samples.len() as f64 / rate;
    let trial = &plan.speech.samples[..plan.speech.samples.len().min((TRIAL_SECONDS * rate) as usize)];
    let began = Instant::now();
    Study::of(encoder, trial, plan.chunk_frames)?;
    let pass = began.elapsed().as_secs_f64() / (trial.len() as f64 / rate);

    let conditions = 1.0 + (plan.noises.len() * plan.snrs.len()) as f64;
    let audio = speech * (conditions + if plan.device { 1.0 / device::SPEECH_SHARE } else { 0.0 });
    let (fixed, streamed): (Vec<String>, Vec<String>) =
        plan.all_policies(pack).into_iter().partition(|text| is_fixed_depth(text) && text != "never");
    // Every condition: all layers once, then each policy twice, streamed through the runtime and compared with full depth.
    let computing = pass * (audio * (1.0 + 2.0 * streamed.len() as f64) + speech * fixed.len() as f64);
    let playing = if plan.realtime { audio * streamed.len() as f64 + speech * fixed.len() as f64 } else { 0.0 };
    Ok(Duration::from_secs_f64(computing + playing))
}
