"""Tests the installed package in a virtual machine with systemd: targets/boot prepares the disk image and calls this.

The microphone is the kernel's loopback card (snd-aloop). Commands run in a root shell on a virtual serial port; the console and the
journal are kept in the log folder. Every check prints a line; the first one that fails ends the run with a non-zero exit code.
"""

import argparse
import ast
import json
import os
import re
import shlex
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tarfile
import time
import wave
from pathlib import Path

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parent
PHRASE = "turn on the lamp"
DEVICE = "hw:CARD=Loopback,DEV=1"
# The threshold that enrolment sets for this phrase; measuring it on background speech would take an hour under emulation.
THRESHOLD = "0.18"
STARTED = time.monotonic()

# Limits in seconds of this machine, which may be busy; a second of the guest takes several of them while it computes.
BOOT_LIMIT = 1800
COMMAND_LIMIT = 600
LONG_LIMIT = 3000
STATE_LIMIT = 600
WATCHDOG_LIMIT = 900


class Failure(Exception):
    pass


def say(text):
    print(f"{time.monotonic() - STARTED:7.1f} s  {text}", flush=True)


def check(holds, text):
    if not holds:
        raise Failure(text)
    say(f"ok  {text}")


class Guest:
    """A virtual machine with a root shell."""

    def __init__(self, options, disk, inputs, folder):
        self.options, self.folder = options, folder
        self.socket_path = folder / "shell.socket"
        boot = Path(f"{options.image}.boot")
        machine = {
            "amd64": ["qemu-system-x86_64", "-machine", "q35"],
            "arm64": ["qemu-system-aarch64", "-machine", "virt"],
        }[options.architecture]
        console = {"amd64": "ttyS0", "arm64": "ttyAMA0"}[options.architecture]
        disk_of = lambda path, more="": f"file={path},format=raw,if=virtio,{more}"
        self.command = [
            # The guest's clock counts instructions, one per nanosecond, about the rate of a Pi 4's core. So the guest is real-time
            # capable however slow this machine is, and does not wait when it is idle.
            *machine, "-accel", "tcg", "-icount", "shift=0,sleep=off", "-cpu", options.cpu, "-smp", "1", "-m", "1024",
            "-kernel", boot / "kernel", "-initrd", boot / "ram-disk",
            "-append", f"root=/dev/vda rw console={console} systemd.show_status=yes net.ifnames=0",
            "-drive", disk_of(disk, "cache=writeback"), "-drive", disk_of(inputs, "readonly=on"),
            "-nodefaults", "-display", "none", "-serial", f"file:{folder / 'console.log'}",
            "-device", "virtio-serial-pci", "-chardev", f"socket,id=shell,path={self.socket_path},server=on,wait=off",
            "-device", "virtserialport,chardev=shell,name=shell",
            # A second card, removed through the PCI bus. Its microphone delivers silence.
            "-audiodev", "none,id=silence", "-device", "ich9-intel-hda,id=hda", "-device", "hda-duplex,audiodev=silence",
        ]
        self.process = None

    def start(self):
        console = self.folder / "console.log"
        if console.exists():
            console.rename(self.folder / f"console.{len(list(self.folder.glob('console.*')))}.log")
        self.socket_path.unlink(missing_ok=True)
        errors = open(self.folder / "qemu.log", "a")
        self.process = subprocess.Popen([str(word) for word in self.command], stdin=subprocess.DEVNULL, stdout=errors, stderr=errors)
        self.await_shell()

    def await_shell(self, previous_boot=None):
        """Waits until the shell of a new boot answers."""
        begun = time.monotonic()
        while True:
            if self.process.poll() is not None:
                raise Failure(f"QEMU ended with {self.process.returncode}; see {self.folder}/qemu.log")
            if time.monotonic() - begun > BOOT_LIMIT:
                raise Failure(f"the system did not boot within {BOOT_LIMIT} s; see {self.folder}/console.log")
            try:
                self.connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
                self.connection.connect(str(self.socket_path))
                self.boot = self.run("cat /proc/sys/kernel/random/boot_id", limit=10)
                if self.boot != previous_boot:
                    break
                self.connection.close()
                time.sleep(1)
            except (OSError, TimeoutError):
                self.connection.close()
                time.sleep(1)
        self.run(f"timeout {BOOT_LIMIT} systemctl is-system-running --wait || true", limit=BOOT_LIMIT)
        say(f"booted in {time.monotonic() - begun:.0f} s")

    def run(self, command, limit=None, ok=True):
        """Runs a command and returns its output; fails unless it succeeds."""
        mark = f"END-{time.monotonic_ns()}"
        self.connection.settimeout(limit or COMMAND_LIMIT)
        self.connection.sendall(f"sh -c {shlex.quote(command)} </dev/null 2>&1; echo {mark} $?\n".encode())
        out = b""
        while not (end := re.search(mark.encode() + rb" (\d+)\n", out)):
            piece = self.connection.recv(65536)
            if not piece:
                raise OSError("the shell closed")
            out += piece
        text = out[: end.start()].decode(errors="replace")
        if ok and end[1] != b"0":
            raise Failure(f"`{command}` ended with {end[1].decode()}: {text[-2000:].strip()}")
        return text.rstrip("\n")

    def reboot(self):
        self.run("systemctl reboot --no-block")
        self.connection.close()
        self.await_shell(self.boot)

    def power_off(self):
        self.run("systemctl poweroff --no-block")
        self.connection.close()
        self.process.wait(timeout=BOOT_LIMIT)

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.connection.close()


def accounts(metrics):
    """Samples captured; and processed, dropped, waiting."""
    samples = lambda name: int(metrics[f"bellis_samples_{name}_total"])
    return samples("captured"), (samples("processed"), samples("dropped"), int(metrics["bellis_ring_samples"]))


class Daemon:
    """bellis.service in the guest."""

    def __init__(self, guest):
        self.guest = guest

    def property(self, name):
        return self.guest.run(f"systemctl show -P {name} bellis")

    def metrics(self):
        text = self.guest.run("curl -fsS --max-time 30 http://127.0.0.1:9475/metrics")
        found = {}
        for line in text.splitlines():
            if not line.startswith("#") and " " in line:
                name, value = line.rsplit(" ", 1)
                found[name] = float(value)
        return found

    def state(self):
        return next(name.split('"')[1] for name, value in self.metrics().items() if name.startswith("bellis_state{") and value == 1)

    def await_state(self, state, limit=None):
        until = time.monotonic() + (limit or STATE_LIMIT)
        while (found := self.state()) != state:
            if time.monotonic() > until:
                raise Failure(f"the daemon is {found}, not {state}; journal: {self.journal()[-3000:]}")
            time.sleep(0.1)

    def journal(self, since=""):
        return self.guest.run(f"journalctl --no-pager -o cat -u bellis -b {since}")

    def check_accounts(self, when):
        found = self.metrics()
        captured, (processed, dropped, waiting) = accounts(found)
        check(
            captured == processed + dropped + waiting,
            f"{when}: captured {captured} = processed {processed} + dropped {dropped} + waiting {waiting}",
        )
        return found


def install(guest, options):
    guest.run("tar xf /dev/vdb -C /root")
    say("kernel " + guest.run("uname -sr") + ", " + guest.run("systemctl --version | head -1"))
    guest.run("apt-get install -y --no-install-recommends /root/bellis.deb", limit=LONG_LIMIT)
    check(guest.run("systemctl is-enabled bellis || true") == "disabled", "installed with apt; the service is not enabled")
    check(guest.run("systemctl is-active bellis || true") == "inactive", "the service is not started")
    settings = {
        "device": f'"{DEVICE}"',
        "pack": f'"{options.pack}"',
        "consumer": '["keyword", "jsonl:talk.jsonl", "npy:talk.npy", "wav:talk.wav"]',
    }
    edits = "; ".join(f"s|^(# )?{name} = .*||" for name in settings)
    lines = "\n".join(f"{name} = {value}" for name, value in settings.items())
    # Keys of the table [mqtt] are commented out, so the end of the file is outside a table.
    guest.run(f"sed -E -i {shlex.quote(edits)} /etc/bellis/bellis.toml && echo {shlex.quote(lines)} >>/etc/bellis/bellis.toml")
    listed = re.findall(r"alsa:(\S+)", guest.run("bellis devices", limit=LONG_LIMIT))
    check(DEVICE in listed, f"microphones: {', '.join(listed)}")
    begun = time.monotonic()
    guest.run(
        f"cd /var/lib/bellis && setpriv --reuid=bellis --regid=bellis --init-groups bellis enroll lamp --say {shlex.quote(PHRASE)} --threshold {THRESHOLD} "
        f"--pack {options.pack} --folder /var/lib/bellis/keywords",
        limit=LONG_LIMIT,
    )
    say(f"enrolled \"{PHRASE}\" from text in {time.monotonic() - begun:.0f} s")
    guest.run("systemctl enable bellis")


def service(guest, daemon):
    """What only systemd can show: readiness, priority, hardening, the watchdog."""
    check(daemon.property("ActiveState") == "active", "after a reboot the service is active (Type=notify)")
    daemon.await_state("running")
    pid = daemon.property("MainPID")
    check(daemon.property("StatusText") != "", f"status: {daemon.property('StatusText')}")
    user = guest.run(f"ps -o user=,group=,supgrp= -p {pid}")
    check(user.split()[0] == "bellis" and "audio" in user, f"user, group, groups: {' '.join(user.split())}")
    threads = [line.split() for line in guest.run(f"ps -L -o cls=,rtprio=,comm= -p {pid}").splitlines()]
    real_time = {row[2]: row[1] for row in threads if row[0] == "FF"}
    inference = int(real_time.pop("inference", 0))
    check(
        inference and real_time and all(int(priority) > inference for priority in real_time.values()),
        f"SCHED_FIFO priorities (LimitRTPRIO): inference {inference}, capture {real_time}",
    )
    exposure = re.search(r"exposure level for bellis.service: (.*)", guest.run("systemd-analyze --no-pager security bellis | cat"))
    check(exposure is not None, f"systemd-analyze security: {exposure and exposure[1]}")
    card = guest.run("ls -l /dev/snd/pcmC0D1c")
    check("root audio" in card, f"udev: {card}")
    written = guest.run(f"nsenter -t {pid} -m sh -c 'touch /etc/x /usr/x; ls /etc/x /usr/x' 2>/dev/null || true")
    check(written == "", "the service's view of /etc and /usr is read-only")
    daemon.check_accounts("at rest")


def hear(guest, daemon, options):
    """Plays the demo recording into the card."""
    before = daemon.metrics()
    with wave.open(str(options.logs / "lamp.wav")) as file:
        seconds = file.getnframes() / file.getframerate()
    spoken = json.loads((REPOSITORY / "models/keywords/demo/lamp.json").read_text())
    said = [start for phrase, _, start, _ in spoken if phrase == PHRASE]
    guest.run(f"aplay -q -D plughw:CARD=Loopback,DEV=0 /root/lamp.wav", limit=LONG_LIMIT)
    guest.run("sleep 3")
    after = daemon.check_accounts(f"after {seconds:.0f} s of audio")
    events = [json.loads(line) for line in daemon.journal().splitlines() if line.startswith('{"event":"keyword"')]
    # Where the recording begins is unknown: it is where most detections agree.
    found = [event["start"] for event in events]
    matches = lambda offset: sum(any(abs(start + offset - event) < 0.4 for event in found) for start in said)
    hits = max((matches(event - start) for event in found for start in said), default=0)
    check(hits >= len(said) - 1, f"the journal has {hits} of {len(said)} utterances of \"{PHRASE}\", and {len(found) - hits} of other phrases")
    spent = {name: after[name] - before[name] for name in
             ("bellis_audio_seconds_total", "bellis_compute_seconds_total", "bellis_samples_dropped_total", "bellis_xruns_total",
              "bellis_chunks_shed_total")}
    say(
        f"real-time factor {spent['bellis_compute_seconds_total'] / max(spent['bellis_audio_seconds_total'], 1e-9):.3f}, "
        f"{spent['bellis_samples_dropped_total']:.0f} samples dropped, {spent['bellis_xruns_total']:.0f} overruns, "
        f"{spent['bellis_chunks_shed_total']:.0f} chunks shed; input peak {after['bellis_input_peak_dbfs']:.0f} dBFS"
    )


def watchdog(guest, daemon, options):
    """A process that no longer runs is replaced by systemd."""
    pid = daemon.property("MainPID")
    guest.run(f"kill -STOP {pid}")
    until = time.monotonic() + WATCHDOG_LIMIT
    while daemon.property("MainPID") in (pid, "0") or daemon.property("ActiveState") != "active":
        if time.monotonic() > until:
            raise Failure("the watchdog did not restart the stopped process")
        time.sleep(1)
    check("Watchdog timeout" in daemon.journal(), f"the watchdog restarted a stopped process, restarts: {daemon.property('NRestarts')}")
    daemon.await_state("running")


def remove_card(guest, daemon, options):
    """Removes and returns the sound card while it is in use."""
    driver = "/sys/bus/platform/drivers/snd_aloop"
    pid = daemon.property("MainPID")
    usage = {}
    start = daemon.metrics()
    lost = int(start["bellis_source_lost_total"])
    for count in range(1, options.removals + 1):
        guest.run(f"echo snd_aloop.0 >{driver}/unbind")
        daemon.await_state("reconnecting")
        guest.run(f"echo snd_aloop.0 >{driver}/bind")
        daemon.await_state("running")
        found = daemon.metrics()
        captured, accounted = accounts(found)
        if captured != sum(accounted):
            raise Failure(f"removal {count}: captured {captured} is not processed + dropped + waiting {accounted}")
        if count % 20 == 0 or count in (min(10, options.removals), options.removals):
            usage[count] = {name: int(found[f"process_{name}"]) for name in ("threads", "open_fds", "resident_memory_bytes")}
            say(f"{count} removals: {usage[count]}")
    found = daemon.check_accounts(f"after {options.removals} removals of the card")
    check(daemon.property("MainPID") == pid, "in the same process")
    check(int(found["bellis_source_lost_total"]) - lost == options.removals, f"{options.removals} losses counted")
    first, last = usage[min(10, options.removals)], usage[options.removals]
    constant = all(first[name] == last[name] for name in ("threads", "open_fds"))
    check(constant, f"threads and descriptors constant: {last['threads']}, {last['open_fds']}")
    growth = last["resident_memory_bytes"] - first["resident_memory_bytes"]
    check(growth < 2_000_000, f"resident memory grew by {growth / 1e6:.2f} MB")
    absent = found["bellis_source_absent_seconds_total"] - start["bellis_source_absent_seconds_total"]
    say(f"{absent / options.removals:.2f} s without audio per removal, mean")


def remove_pci_card(guest, daemon, options):
    """The same with a card on the PCI bus (Intel HDA), removed through sysfs."""
    cards = guest.run("cat /proc/asound/cards")
    name = re.search(r"\[(\w+) *\]: HDA", cards)
    check(name is not None, "the PCI sound card is present")
    guest.run(f"sed -i 's|^device = .*|device = \"plughw:CARD={name[1]}\"|' /etc/bellis/bellis.toml && systemctl restart bellis", limit=LONG_LIMIT)
    daemon.await_state("running")
    slot = guest.run(f"basename $(readlink -f /sys/class/sound/card[0-9]*/device | grep /pci | grep -v virtio | head -1)")
    for _ in range(options.pci_removals):
        guest.run(f"echo 1 >/sys/bus/pci/devices/{slot}/remove")
        daemon.await_state("reconnecting")
        guest.run("echo 1 >/sys/bus/pci/rescan")
        daemon.await_state("running")
    found = daemon.check_accounts(f"after {options.pci_removals} removals of the PCI card {slot}")
    check(int(found["bellis_source_lost_total"]) == options.pci_removals, "every loss counted")
    guest.run(f"sed -i 's|^device = .*|device = \"{DEVICE}\"|' /etc/bellis/bellis.toml && systemctl restart bellis", limit=LONG_LIMIT)
    daemon.await_state("running")


def cut_power(guest, daemon, options):
    """Kills the machine while the daemon writes, and boots again."""
    # By now, part of what was written is on the disk, and the rest is in the kernel's cache.
    guest.run("(aplay -q -D plughw:CARD=Loopback,DEV=0 /root/lamp.wav &) ; sleep 45", limit=LONG_LIMIT)
    count = daemon.metrics()["bellis_chunks_total"]
    guest.kill()
    say(f"killed QEMU after {count:.0f} chunks")
    guest.start()
    check(daemon.property("ActiveState") == "active", "after a power loss the service is active")
    daemon.await_state("running")
    for line in daemon.journal().splitlines():
        if "repaired" in line:
            say(line)
    bad = guest.run("journalctl -b -k -p err --no-pager -o cat | grep -i ext4 || true")
    check(bad == "", f"no file-system errors {bad}")


def opens(path):
    """Opens an output as its usual readers do; returns its length as text."""
    if path.suffix == ".wav":
        with wave.open(str(path)) as file:
            frames = file.getnframes()
            found = len(file.readframes(frames)) // file.getsampwidth()
        if found != frames:
            raise Failure(f"{path.name}: the header has {frames} samples, the file {found}")
        return f"{frames} samples"
    if path.suffix == ".npy":
        data = path.read_bytes()
        if data[:8] != b"\x93NUMPY\x01\x00":
            raise Failure(f"{path.name}: not an NPY file: {data[:16]!r}")
        (length,) = struct.unpack("<H", data[8:10])
        rows, dim = ast.literal_eval(data[10 : 10 + length].decode())["shape"]
        # NumPy ignores what follows the array, and rejects a file that is shorter.
        if len(data) < 10 + length + 4 * rows * dim:
            raise Failure(f"{path.name}: the header has {rows} rows, the file {(len(data) - 10 - length) / 4 / dim:.1f}")
        return f"{rows} rows"
    lines = path.read_text().splitlines(keepends=True)
    for number, line in enumerate(lines, 1):
        if not line.endswith("\n"):
            raise Failure(f"{path.name}: line {number} is incomplete: {line[-60:]!r}")
        json.loads(line)
    return f"{len(lines)} lines"


def files(disk, options):
    """Every output of every process, read from the disk of the stopped machine."""
    folder = options.logs / "files"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    subprocess.run(["debugfs", "-R", f"rdump /var/lib/bellis {folder}", disk], check=True, capture_output=True)
    found = sorted(path for path in (folder / "bellis").iterdir() if path.suffix in (".wav", ".npy", ".jsonl"))
    check(len(found) >= 8, f"{len(found)} output files")
    for path in found:
        check(True, f"{path.name}: {opens(path)}")


def prepare(options):
    """Copies the disk; packs the package and the recording into an archive, the second disk."""
    disk = options.logs / "disk.raw"
    subprocess.run(["cp", "--sparse=always", options.image, disk], check=True)
    recording = options.logs / "lamp.wav"
    program = options.logs / "program"
    shutil.rmtree(program, ignore_errors=True)
    # Decoded by the package's own program, if it runs here.
    subprocess.run(["dpkg-deb", "-x", options.package, program], check=True)
    binary = program / "usr/bin/bellis"
    emulator = [] if options.architecture == "amd64" else ["qemu-aarch64"]
    recording.unlink(missing_ok=True)
    subprocess.run(
        [*emulator, binary, "run", REPOSITORY / "models/keywords/demo/lamp.opus", "--quiet", "--pack", program / "usr/share/bellis/models/daisy-nano",
         "--policy", "fixed", "--layer", "1", "--consumer", f"wav:{recording}"],
        check=True, cwd=options.logs,
    )
    inputs = options.logs / "inputs.tar"
    with tarfile.open(inputs, "w") as archive:
        archive.add(options.package, "bellis.deb")
        archive.add(recording, "lamp.wav")
    # A disk's size is a multiple of its sector.
    os.truncate(inputs, -(-inputs.stat().st_size // 4096) * 4096)
    shutil.rmtree(program)
    return disk, inputs


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("architecture", choices=["amd64", "arm64"])
    parser.add_argument("--image", required=True)
    parser.add_argument("--package", required=True, type=Path)
    parser.add_argument("--cpu", help="emulated core; default: cortex-a72, max")
    parser.add_argument("--pack", default="daisy-nano")
    parser.add_argument("--removals", type=int, default=100, help="removals of the loopback card")
    parser.add_argument("--pci-removals", type=int, default=10, help="removals of the PCI card")
    parser.add_argument("--limit", type=float, default=90, help="minutes until the run is ended as failed")
    parser.add_argument("--logs", type=Path, help="default: target/boot-ARCHITECTURE")
    options = parser.parse_args()
    options.cpu = options.cpu or {"amd64": "max", "arm64": "cortex-a72"}[options.architecture]
    options.logs = (options.logs or REPOSITORY / f"target/boot-{options.architecture}").absolute()
    shutil.rmtree(options.logs, ignore_errors=True)
    options.logs.mkdir(parents=True)

    def expired(*_):
        raise Failure(f"not finished within {options.limit:.0f} minutes")

    signal.signal(signal.SIGALRM, expired)
    signal.alarm(int(options.limit * 60))
    guest = None
    say(f"{options.package.name} on {options.architecture}, {options.cpu}, {options.pack}")
    try:
        disk, inputs = prepare(options)
        guest = Guest(options, disk, inputs, options.logs)
        daemon = Daemon(guest)
        guest.start()
        install(guest, options)
        guest.reboot()
        service(guest, daemon)
        hear(guest, daemon, options)
        remove_card(guest, daemon, options)
        remove_pci_card(guest, daemon, options)
        watchdog(guest, daemon, options)
        cut_power(guest, daemon, options)
        failed = guest.run("systemctl --failed --plain --no-legend")
        check(failed == "", f"no failed units {failed}")
        (options.logs / "journal.log").write_text(guest.run("journalctl --no-pager -u bellis"))
        guest.power_off()
        files(disk, options)
    except (Failure, OSError, subprocess.SubprocessError) as error:
        say(f"FAILED: {error}")
        if guest and guest.process and guest.process.poll() is None:
            try:
                (options.logs / "journal.log").write_text(guest.run("journalctl --no-pager", limit=120, ok=False))
            except (Failure, OSError):
                pass
            guest.process.kill()
        print(f"targets/boot {options.architecture}: failed; logs in {options.logs}")
        return 1
    finally:
        if guest and guest.process and guest.process.poll() is None:
            guest.process.kill()
    disk.unlink()
    print(f"targets/boot {options.architecture}: passed in {(time.monotonic() - STARTED) / 60:.0f} minutes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
