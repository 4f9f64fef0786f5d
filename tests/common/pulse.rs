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
    intact: std::cell::Cell<bool>,
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
        let pulse = Self { folder, intact: std::cell::Cell::new(true), _alone: alone };
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

    /// Plays a WAV file of 16-bit samples at [`RATE`] into the microphone; returns when it has been played. The player buffers a second of
    /// audio. PulseAudio's own recorder captures it as well: [`intact`](Self::intact) is false from the first time that samples were missing
    /// there.
    pub fn play(&self, path: &Path) {
        let reference = self.folder.path().join("reference.raw");
        let mut recorder = self
            .command("parec")
            .args(["--device=mic.monitor", "--format=s16le", "--channels=1", "--latency-msec=20", &format!("--rate={RATE}")])
            .stdout(std::fs::File::create(&reference).unwrap())
            .spawn()
            .unwrap();
        let recorded = || std::fs::metadata(&reference).map_or(0, |file| file.len());
        let until = Instant::now() + Duration::from_secs(20);
        while recorded() == 0 {
            assert!(Instant::now() < until, "parec records nothing");
            std::thread::sleep(Duration::from_millis(20));
        }
        let status = self.command("paplay").args(["--device=mic", "--latency-msec=1000"]).arg(path).status().unwrap();
        assert!(status.success(), "paplay fails");
        std::thread::sleep(Duration::from_millis(300));
        recorder.kill().unwrap();
        recorder.wait().unwrap();
        let played: Vec<i16> = hound::WavReader::open(path).unwrap().samples().map(Result::unwrap).collect();
        let recorded: Vec<i16> =
            std::fs::read(&reference).unwrap().chunks_exact(2).map(|bytes| i16::from_le_bytes([bytes[0], bytes[1]])).collect();
        // Before the recording, the monitor is silent.
        let audible = |samples: &[i16]| {
            let first = samples.iter().position(|sample| *sample != 0).unwrap_or(samples.len());
            let last = samples.iter().rposition(|sample| *sample != 0).map_or(first, |last| last + 1);
            samples[first..last.max(first)].to_vec()
        };
        if audible(&played) != audible(&recorded) {
            self.intact.set(false);
        }
    }

    /// Whether the server has delivered everything that was played since the last call, sample by sample.
    pub fn intact(&self) -> bool {
        self.intact.replace(true)
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
