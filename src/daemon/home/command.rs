//! A program that is run for each detected keyword: with its arguments, without a shell, and not for ever.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::daemon::events::{KeywordEvent, Subscription};

/// How often a running program is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// A keyword that waited longer for the program before it is dropped.
const WAITS_WITHIN: Duration = Duration::from_secs(10);

/// What is run.
#[derive(Debug, Clone, PartialEq)]
pub struct DetectionCommand {
    /// Program and arguments.
    pub command: Vec<String>,
    /// How long it may run.
    pub limit: Duration,
}

/// Why a command cannot be run.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// No program.
    #[error("on-detection needs a program, such as [\"/usr/bin/aplay\", \"ding.wav\"]")]
    Empty,
    /// It does not start.
    #[error("cannot start")]
    Start(#[source] std::io::Error),
    /// It ended with an error.
    #[error("ended with {0}")]
    Failed(ExitStatus),
    /// It ran for too long.
    #[error("was killed: it ran for more than {} s (on-detection-limit)", .0.as_secs_f64())]
    Slow(Duration),
    /// Its thread does not start.
    #[error("cannot start the thread of on-detection")]
    Thread(#[source] std::io::Error),
}

/// What runs now.
#[derive(Debug, Default)]
struct Now {
    /// The program, until it has been waited for.
    child: Option<Child>,
    /// Whether nothing is started any more.
    stopped: bool,
}

type Running = Mutex<Now>;

/// The thread that runs a program for each keyword. When this is dropped, a running program is killed.
#[derive(Debug)]
pub struct RunningCommand {
    running: Arc<Running>,
}

impl Drop for RunningCommand {
    fn drop(&mut self) {
        let mut running = locked(&self.running);
        running.stopped = true;
        kill(&mut running);
    }
}

fn locked(running: &Running) -> MutexGuard<'_, Now> {
    running.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Kills the running program and those that it has started.
fn kill(running: &mut Now) {
    if let Some(mut child) = running.child.take() {
        let _ = killpg(Pid::from_raw(child.id() as i32), Signal::SIGKILL);
        let _ = child.wait();
    }
}

impl DetectionCommand {
    /// Starts a thread that runs it for each keyword, one after the other, until the events end.
    ///
    /// # Errors
    ///
    /// No program, or no thread.
    pub fn start(self, events: Subscription) -> Result<RunningCommand, CommandError> {
        if self.command.first().is_none_or(String::is_empty) {
            return Err(CommandError::Empty);
        }
        let program = Path::new(&self.command[0]);
        if program.components().count() > 1 && !program.is_file() {
            log::warn!("on-detection: {} is no file", program.display());
        }
        let running = Arc::new(Running::default());
        let own = running.clone();
        let thread = std::thread::Builder::new().name("on-detection".into()).spawn(move || self.serve(events, &own));
        thread.map(|_| RunningCommand { running }).map_err(CommandError::Thread)
    }

    fn serve(self, mut events: Subscription, running: &Running) {
        while let Some(event) = events.blocking_recv() {
            let Some(found) = event.detection() else { continue };
            if found.at.elapsed() > WAITS_WITHIN {
                log::warn!("on-detection: not run for `{}`: the program before it took too long", found.hit.keyword);
                continue;
            }
            if let Err(error) = self.run(found, running) {
                log::warn!("on-detection: {} {}", self.command[0], crate::chain::Chain(&error));
            }
        }
    }

    /// Runs it to its end.
    fn run(&self, KeywordEvent { hit, .. }: &KeywordEvent, running: &Running) -> Result<(), CommandError> {
        let mut now = locked(running);
        if now.stopped {
            return Ok(());
        }
        let child = Command::new(&self.command[0])
            .args(&self.command[1..])
            .env("BELLIS_KEYWORD", &hit.keyword)
            .env("BELLIS_SCORE", hit.score.to_string())
            .env("BELLIS_THRESHOLD", hit.threshold.to_string())
            .env("BELLIS_START", hit.start.to_string())
            .env("BELLIS_END", hit.end.to_string())
            .stdin(Stdio::null())
            // Standard output may be a consumer's.
            .stdout(Stdio::null())
            // So that the programs that it starts end with it.
            .process_group(0)
            .spawn()
            .map_err(CommandError::Start)?;
        now.child = Some(child);
        drop(now);
        let until = Instant::now() + self.limit;
        match wait(running, until) {
            Ok(Some(status)) if status.success() => Ok(()),
            Ok(Some(status)) => Err(CommandError::Failed(status)),
            _ => {
                let mut now = locked(running);
                kill(&mut now);
                if now.stopped { Ok(()) } else { Err(CommandError::Slow(self.limit)) }
            }
        }
    }
}

/// Waits for the program until it has ended; `None` if it has not by then, or was killed.
fn wait(running: &Running, until: Instant) -> std::io::Result<Option<ExitStatus>> {
    loop {
        {
            let mut now = locked(running);
            let Some(child) = &mut now.child else { return Ok(None) };
            if let Some(status) = child.try_wait()? {
                now.child = None;
                return Ok(Some(status));
            }
        }
        if Instant::now() >= until {
            return Ok(None);
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

#[cfg(all(test, unix))]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::consumer::KeywordHit;
    use crate::daemon::events::{Event, EventBus, Interest};

    fn keyword() -> KeywordEvent {
        let keyword = "$(touch x); \"lamp\"".into();
        let hit = KeywordHit { keyword, score: 0.5, threshold: 0.25, start: 1.0, end: 2.5, ..KeywordHit::default() };
        KeywordEvent { hit, muted: false, at: Instant::now() }
    }

    /// Far more than a program needs that ends by itself.
    const LONG: Duration = Duration::from_secs(60);
    const SHORT: Duration = Duration::from_millis(300);

    fn run(command: &[&str], limit: Duration) -> Result<(), CommandError> {
        let command = command.iter().map(|part| (*part).to_owned()).collect();
        DetectionCommand { command, limit }.run(&keyword(), &Running::default())
    }

    #[test]
    fn the_keyword_is_in_the_environment_and_arguments_stay_as_they_are() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("a file");
        let script =
            r#"printf '%s|' "$BELLIS_KEYWORD" "$BELLIS_SCORE" "$BELLIS_THRESHOLD" "$BELLIS_START" "$BELLIS_END" "$2" > "$1""#;
        run(&["/bin/sh", "-c", script, "sh", out.to_str().unwrap(), "$HOME; *"], LONG).unwrap();
        assert_eq!(std::fs::read_to_string(out).unwrap(), "$(touch x); \"lamp\"|0.5|0.25|1|2.5|$HOME; *|");
    }

    #[test]
    fn its_own_programs_end_with_it() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("pid");
        let script = r#"sleep 60 & echo $! > "$1"; wait"#;
        // A loaded machine may take longer to start it.
        let pid = [SHORT, 10 * SHORT, 100 * SHORT].into_iter().find_map(|limit| {
            let command = ["/bin/sh", "-c", script, "sh", out.to_str().unwrap()];
            assert!(matches!(run(&command, limit), Err(CommandError::Slow(_))));
            let pid = std::fs::read_to_string(&out).unwrap_or_default().trim().to_owned();
            (!pid.is_empty()).then_some(pid)
        });
        let pid = pid.unwrap();
        let state = || std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // Without a parent, it is a zombie until init has seen its end.
        assert!((0..6000).any(|_| {
            std::thread::sleep(Duration::from_millis(10));
            state().is_empty() || state().contains(") Z")
        }));
    }

    #[test]
    fn it_ends_with_the_daemon() {
        let (folder, events) = (tempfile::tempdir().unwrap(), EventBus::default());
        let out = folder.path().join("pid");
        let command = ["/bin/sh", "-c", "echo $$ > \"$1\"; sleep 60", "sh", out.to_str().unwrap()].map(str::to_owned).to_vec();
        let command = DetectionCommand { command, limit: Duration::from_secs(60) };
        let running = command.start(events.subscribe(Interest::Keywords)).unwrap();
        // Events of other kinds take no place in its queue.
        (0..1000).for_each(|_| events.publish(Event::Speech { speech: true }));
        events.publish(Event::Keyword(keyword()));
        let wait = |is: &dyn Fn() -> bool| {
            assert!((0..6000).any(|_| {
                std::thread::sleep(Duration::from_millis(10));
                is()
            }));
        };
        let pid = || std::fs::read_to_string(&out).unwrap_or_default().trim().to_owned();
        wait(&|| !pid().is_empty());
        drop(running);
        wait(&|| !std::path::Path::new(&format!("/proc/{}", pid())).exists());
        assert_eq!(events.lost(), 0);
    }

    #[test]
    fn every_bad_end_is_told() {
        assert!(matches!(run(&["/bin/sleep", "60"], SHORT), Err(CommandError::Slow(_))));
        assert!(matches!(run(&["/bin/false"], LONG), Err(CommandError::Failed(_))));
        assert!(matches!(run(&["/no/such/program"], LONG), Err(CommandError::Start(_))));
        let empty = DetectionCommand { command: Vec::new(), limit: Duration::from_secs(1) };
        assert!(matches!(empty.start(EventBus::default().subscribe(Interest::Detections)), Err(CommandError::Empty)));
    }
}
