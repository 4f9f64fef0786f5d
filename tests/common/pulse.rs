//! A microphone without a sound card: a PulseAudio server of the test's own, with a null sink whose monitor is the microphone.
//! What is played into the sink is captured sample by sample.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A running server; one at a time, since each wants the processor for itself.
#[allow(dead_code)]
pub struct Pulse {
    folder: tempfile::TempDir,
    _alone: MutexGuard<'static, ()>,
}

static ALONE: Mutex<()> = Mutex::new(());

pub const RATE: u32 = 48_000;

fn sink() -> String {
    format!("module-null-sink sink_name=mic rate={RATE} channels=1 format=s16le norewinds=1")
}

#[allow(dead_code)]
impl Pulse {
    /// Starts a server. A machine without PulseAudio fails the test, unless BELLIS_SKIP_PULSE=1 skips it (`None`).
    pub fn start() -> Option<Self> {
        let installed = Command::new("pulseaudio").arg("--version").stdout(Stdio::null()).status().is_ok();
        if !installed {
            let skip = std::env::var_os("BELLIS_SKIP_PULSE").is_some();
            assert!(skip, "pulseaudio is not installed: run `scripts/setup test`, or skip this test with BELLIS_SKIP_PULSE=1");
            eprintln!("skipped: pulseaudio is not installed");
            return None;
        }
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(
            folder.path().join(".asoundrc"),
            "pcm.!default { type pulse }\nctl.!default { type pulse }\npcm.kitchen { type pulse }\n",
        )
        .unwrap();
        let pulse = Self { folder, _alone: alone };
        let sink = sink();
        let server = ["-n", "--daemonize=yes", "--exit-idle-time=-1", "--realtime=no", "--high-priority=no", "--use-pid-file=no"];
        let status = pulse
            .command("pulseaudio")
            .args(server)
            .args(["-L", "module-native-protocol-unix", "-L", &sink])
            .stderr(Stdio::null())
            .status()
            .unwrap();
        assert!(status.success(), "pulseaudio does not start");
        let until = Instant::now() + Duration::from_secs(20);
        while !pulse.make_default() {
            assert!(Instant::now() < until, "pulseaudio does not answer");
            std::thread::sleep(Duration::from_millis(100));
        }
        Some(pulse)
    }

    fn make_default(&self) -> bool {
        self.pactl(&["set-default-source", "mic.monitor"])
    }

    /// What a process needs in its environment to see this server's microphone as the default one.
    pub fn environment(&self) -> Vec<(&'static str, String)> {
        let folder = self.folder.path().display().to_string();
        ["HOME", "XDG_RUNTIME_DIR", "PULSE_RUNTIME_PATH"].map(|name| (name, folder.clone())).to_vec()
    }

    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        command.envs(self.environment()).stdin(Stdio::null());
        command
    }

    fn pactl(&self, arguments: &[&str]) -> bool {
        self.command("pactl")
            .args(arguments)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
    }

    /// Plays a file into the microphone; returns when it has been played. The player keeps a second of sound ahead: a busy machine
    /// must not tear holes into what is played.
    pub fn play(&self, path: &Path) {
        let status = self.command("paplay").args(["--device=mic", "--latency-msec=1000"]).arg(path).status().unwrap();
        assert!(status.success(), "paplay fails");
    }

    /// Takes the microphone away.
    pub fn unload_sink(&self) {
        assert!(self.pactl(&["unload-module", "module-null-sink"]));
    }

    /// Brings the microphone back.
    pub fn load_sink(&self) {
        let sink = sink();
        let arguments: Vec<&str> = ["load-module"].into_iter().chain(sink.split(' ')).collect();
        assert!(self.pactl(&arguments) && self.make_default());
    }

    /// Kills the server without a word.
    pub fn kill(&self) {
        let this = self.folder.path().display().to_string();
        for entry in std::fs::read_dir("/proc").unwrap().flatten() {
            let environment = std::fs::read(entry.path().join("environ")).unwrap_or_default();
            let name = std::fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
            if name.trim() == "pulseaudio" && String::from_utf8_lossy(&environment).contains(&this) {
                let _ = Command::new("kill").args(["-9", &entry.file_name().to_string_lossy()]).status();
            }
        }
    }
}

impl Drop for Pulse {
    fn drop(&mut self) {
        self.kill();
    }
}
