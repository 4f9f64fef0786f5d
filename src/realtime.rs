//! Real-time scheduling of the capture and inference threads.
//!
//! SCHED_FIFO below 50, the priority of the kernel's interrupt threads, which serve the audio hardware and must run first.

use std::sync::atomic::{AtomicBool, Ordering};

/// The highest priority that can be requested.
pub const HIGHEST: u8 = 49;

/// Requests `priority` (1 to [`HIGHEST`]) for the calling thread and the threads that it starts. Without permission, the process logs
/// one warning and continues at normal priority.
pub fn request(priority: u8) {
    static WARNED: AtomicBool = AtomicBool::new(false);
    static LOGGED: AtomicBool = AtomicBool::new(false);
    let name = std::thread::current().name().unwrap_or("unnamed").to_owned();
    match set(priority.clamp(1, HIGHEST)) {
        // Log this once, not at every reconnection.
        Ok(()) => {
            let level = if LOGGED.swap(true, Ordering::Relaxed) { log::Level::Debug } else { log::Level::Info };
            log::log!(level, "the {name} thread has real-time priority {priority}");
        }
        Err(problem) if !WARNED.swap(true, Ordering::Relaxed) => log::warn!(
            "no real-time priority: {problem}; continuing without. Set LimitRTPRIO for the service, or add a line to \
             /etc/security/limits.d (docs/daemon.md)"
        ),
        Err(_) => {}
    }
}

#[cfg(unix)]
fn set(priority: u8) -> Result<(), String> {
    use thread_priority::{
        Error, RealtimeThreadSchedulePolicy, ThreadPriority, ThreadPriorityValue, ThreadSchedulePolicy,
        set_thread_priority_and_policy, thread_native_id,
    };
    let value = ThreadPriorityValue::try_from(priority).map_err(|error| error.to_string())?;
    let policy = ThreadSchedulePolicy::Realtime(RealtimeThreadSchedulePolicy::Fifo);
    set_thread_priority_and_policy(thread_native_id(), ThreadPriority::Crossplatform(value), policy).map_err(
        |error| match error {
            Error::OS(code) => std::io::Error::from_raw_os_error(code).to_string(),
            other => format!("{other:?}"),
        },
    )
}

#[cfg(not(unix))]
fn set(_priority: u8) -> Result<(), String> {
    Err("this system has none".to_owned())
}
