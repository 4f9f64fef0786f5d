//! What Ctrl-C and SIGTERM do.

use std::io::Write;

use bellis::runtime::StopFlag;

/// The first Ctrl-C (or SIGTERM) asks the run to end; a second one ends the process.
pub fn stop_on_signals() -> anyhow::Result<StopFlag> {
    let stop = StopFlag::default();
    let flag = stop.clone();
    ctrlc::set_handler(move || {
        if flag.is_set() {
            std::process::exit(130);
        }
        flag.stop();
        let _ = writeln!(std::io::stderr(), "\nstopping: computing what was captured (again to give up)");
    })?;
    Ok(stop)
}
