"""Processes with a share of a processor, and recordings for them."""

import os
import pathlib
import socket
import time
import wave

BELLIS = pathlib.Path(os.environ.get("BELLIS", "target/release/bellis")).resolve()
REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
CGROUPS = pathlib.Path("/sys/fs/cgroup")
# Version 1 has a hierarchy per controller.
OLD = (CGROUPS / "cpu/cpu.cfs_quota_us").exists()
SHORTEST_QUOTA_MICROSECONDS = 1_000
TICKS = os.sysconf("SC_CLK_TCK")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def recording(path, seconds):
    """Writes the bundled sample as often as it takes."""
    with wave.open("models/sample.wav") as sample:
        parameters, frames = sample.getparams(), sample.readframes(sample.getnframes())
    with wave.open(str(path), "wb") as out:
        out.setparams(parameters)
        out.writeframes(frames * (1 + int(seconds * parameters.framerate) // parameters.nframes))


def processor_seconds(pid):
    """Processor time of a process so far."""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


class Group:
    """A control group with a share of one core."""

    def __init__(self, name):
        self.path = (CGROUPS / "cpu" if OLD else CGROUPS) / f"bellis-{os.getpid()}-{name}"
        self.path.mkdir()

    def add(self, pid):
        (self.path / "cgroup.procs").write_text(str(pid))

    def enter(self):
        """Adds the calling process, before it starts another program."""
        self.add(os.getpid())

    def share(self, percent):
        """Limits the processor time; 100 is no limit."""
        period = max(10_000, int(100 * SHORTEST_QUOTA_MICROSECONDS / percent))
        quota = max(int(period * percent / 100), SHORTEST_QUOTA_MICROSECONDS)
        if OLD:
            (self.path / "cpu.cfs_quota_us").write_text("-1")
            (self.path / "cpu.cfs_period_us").write_text(str(period))
            (self.path / "cpu.cfs_quota_us").write_text("-1" if percent >= 100 else str(quota))
        else:
            (self.path / "cpu.max").write_text(f"{'max' if percent >= 100 else quota} {period}")

    def end(self):
        for _ in range(50):
            try:
                return self.path.rmdir()
            except OSError:
                time.sleep(0.05)
