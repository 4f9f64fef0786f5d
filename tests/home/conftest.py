"""Bellis as a child process of the tests, with keywords enrolled from the bundled recordings."""

import queue
import re
import shutil
import subprocess
import threading
import time
import wave
from pathlib import Path

import numpy
import pytest

ROOT = Path(__file__).resolve().parents[2]
BELLIS = ROOT / "target/release/bellis"
DEMO = ROOT / "models/keywords/demo"
# Generous: a loaded machine may take its time.
PATIENCE = 90


def run(*arguments, **options):
    return subprocess.run(
        [BELLIS, *map(str, arguments)], cwd=ROOT, check=True, capture_output=True, text=True, timeout=PATIENCE, **options
    )


class Bellis:
    """A running `bellis serve`."""

    def __init__(self, *arguments, environment=None, feed=False):
        self.process = subprocess.Popen(
            [BELLIS, "serve", *map(str, arguments)],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE if feed else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.log = []
        self.lines = queue.Queue()
        threading.Thread(target=self._read, args=[self.process.stderr, self.log], daemon=True).start()
        threading.Thread(target=self._read, args=[self.process.stdout, self.lines], daemon=True).start()

    @staticmethod
    def _read(stream, to):
        for line in stream:
            to.put(line) if isinstance(to, queue.Queue) else to.append(line)

    def logged(self, pattern, count=1):
        """Waits for the `count`-th line of the log with `pattern`, and returns the match."""
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            found = [match for match in (re.search(pattern, line) for line in list(self.log)) if match]
            if len(found) >= count:
                return found[count - 1]
            assert self.process.poll() is None, f"it ended with {self.process.returncode}: {''.join(self.log)}"
            time.sleep(0.02)
        raise AssertionError(f"`{pattern}` is not in the log: {''.join(self.log)}")

    def hear(self, samples):
        """Sends int16 samples to its standard input."""
        self.process.stdin.buffer.write(samples.tobytes())
        self.process.stdin.buffer.flush()

    def memory(self):
        """Resident memory in bytes."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) * 1024

    def threads(self):
        return len(list(Path(f"/proc/{self.process.pid}/task").iterdir()))

    def stop(self):
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                self.process.kill()
        text = "".join(self.log)
        assert "panicked" not in text, text
        return self.process.returncode


@pytest.fixture(scope="session")
def several(tmp_path_factory):
    """A folder with the keyword `several`, enrolled from the bundled recordings with a fixed threshold."""
    folder = tmp_path_factory.mktemp("several")
    takes = sorted(DEMO.glob("take-*.wav"))
    run("enroll", "several", "--threshold", "0.3", "--folder", folder, "--from", *takes)
    return folder


@pytest.fixture
def keywords(several, tmp_path):
    """The same in a folder of the test's own."""
    return Path(shutil.copytree(several, tmp_path / "keywords"))


@pytest.fixture
def bellis():
    """Starts daemons, and ends them after the test."""
    running = []

    def start(*arguments, **options):
        running.append(Bellis(*arguments, **options))
        return running[-1]

    yield start
    codes = [one.stop() for one in running]
    assert all(code == 0 for code in codes), codes


@pytest.fixture(scope="session")
def long_recording(tmp_path_factory):
    """The first 45 s of the bundled recording that contains the keyword at 1.02, 17.78 and 39.49 s: 16 kHz, mono, int16."""
    path = tmp_path_factory.mktemp("long") / "long.wav"
    run("run", DEMO / "long.flac", "--consumer", f"wav:{path}", "--quiet")
    with wave.open(str(path)) as file:
        assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (16000, 1, 2)
        return numpy.frombuffer(file.readframes(45 * 16000), dtype="<i2")
