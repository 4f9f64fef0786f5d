//! Handling of Ctrl-C, SIGTERM and SIGHUP.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use bellis::runtime::StopFlag;
use signal_hook::flag;

/// A terminal that closes sends SIGHUP.
#[cfg(unix)]
const SIGNALS: [i32; 3] = [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM, signal_hook::consts::SIGHUP];
#[cfg(not(unix))]
const SIGNALS: [i32; 2] = [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM];
/// Exit status after a second signal: that of a program ended by Ctrl-C.
const INTERRUPTED: i32 = 130;

/// Returns a flag that the first signal sets; a second signal ends the process at once.
pub fn stop_on_signals() -> anyhow::Result<StopFlag> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in SIGNALS {
        // In this order, so that the first signal does not end the process.
        flag::register_conditional_shutdown(signal, INTERRUPTED, stop.clone())?;
        flag::register(signal, stop.clone())?;
    }
    Ok(stop.into())
}
