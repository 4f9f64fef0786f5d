//! Resource usage of the process, where the system reports it.

use std::time::Duration;

/// Processor time of the process, all threads, user and system.
pub fn cpu_time() -> Option<Duration> {
    #[cfg(unix)]
    {
        use nix::sys::resource::{UsageWho, getrusage};
        let usage = getrusage(UsageWho::RUSAGE_SELF).ok()?;
        let seconds = |time: nix::sys::time::TimeVal| {
            Duration::from_secs(time.tv_sec().max(0) as u64) + Duration::from_micros(time.tv_usec().max(0) as u64)
        };
        Some(seconds(usage.user_time()) + seconds(usage.system_time()))
    }
    #[cfg(not(unix))]
    None
}

/// Maximum resident memory of the process, bytes: since its start, or since [`reset_peak_memory`].
pub fn peak_memory() -> Option<u64> {
    // `reset_peak_memory` does not reset `getrusage`.
    status_kilobytes("VmHWM:").map(|kilobytes| kilobytes * 1024).or_else(peak_memory_of_resource_usage)
}

fn peak_memory_of_resource_usage() -> Option<u64> {
    #[cfg(unix)]
    {
        use nix::sys::resource::{UsageWho, getrusage};
        let unit = if cfg!(target_os = "macos") { 1 } else { 1024 };
        getrusage(UsageWho::RUSAGE_SELF).ok().map(|usage| usage.max_rss().max(0) as u64 * unit)
    }
    #[cfg(not(unix))]
    None
}

/// Resets [`peak_memory`] to the current usage. Returns false if the system does not support it.
pub fn reset_peak_memory() -> bool {
    // Linux alone: 5 resets the high-water mark (proc(5)).
    cfg!(target_os = "linux") && std::fs::write("/proc/self/clear_refs", "5").is_ok()
}

/// Resident memory of the process, bytes (Linux).
pub fn resident_memory() -> Option<u64> {
    status_kilobytes("VmRSS:").map(|kilobytes| kilobytes << 10)
}

/// Virtual memory of the process, bytes (Linux).
#[cfg(feature = "serve")]
pub fn virtual_memory() -> Option<u64> {
    status_kilobytes("VmSize:").map(|kilobytes| kilobytes << 10)
}

fn status_kilobytes(key: &str) -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    status.lines().find_map(|line| line.strip_prefix(key))?.trim().strip_suffix("kB")?.trim().parse().ok()
}

/// Start time of the process, seconds since the Unix epoch (Linux), as the clock was at the first call: it does not change with the clock.
#[cfg(feature = "serve")]
pub fn start_time() -> Option<f64> {
    static START: std::sync::OnceLock<Option<f64>> = std::sync::OnceLock::new();
    *START.get_or_init(read_start_time)
}

#[cfg(feature = "serve")]
fn read_start_time() -> Option<f64> {
    // proc(5): field 22 is in clock ticks since boot, of which Linux reports 100 per second. The name in field 2 may contain spaces.
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    let ticks: f64 = stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()?;
    let system = std::fs::read_to_string("/proc/stat").ok()?;
    let boot: f64 = system.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()?;
    Some(boot + ticks / 100.0)
}

/// Maximum number of open file descriptors.
#[cfg(feature = "serve")]
pub fn max_descriptors() -> Option<u64> {
    #[cfg(unix)]
    return nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE).ok().map(|(soft, _)| soft);
    #[cfg(not(unix))]
    None
}

/// Number of entries of a folder in /proc: threads, descriptors.
pub fn entries(folder: &str) -> Option<u64> {
    Some(std::fs::read_dir(folder).ok()?.count() as u64)
}

/// The board's or processor's name, and the number of cores.
pub fn machine() -> (String, usize) {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let board = std::fs::read_to_string("/proc/device-tree/model").unwrap_or_default();
    let named = text.lines().find_map(|line| line.strip_prefix("model name").and_then(|rest| rest.split_once(':')));
    let name = match (board.trim_matches(['\0', '\n', ' ']), named) {
        ("", Some((_, name))) => name.trim().to_owned(),
        ("", None) => std::env::consts::ARCH.to_owned(),
        (board, _) => board.to_owned(),
    };
    (name, cores)
}
