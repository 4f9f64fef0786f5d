"""A microphone, captured by ALSA's arecord: the package links no sound library, and works where there is none."""

from __future__ import annotations

import os
import queue
import subprocess
import threading

import numpy as np

from ._bellis import BellisError

_PROGRAM = "arecord"
_BLOCK_SECONDS = 0.02
_QUEUE_SECONDS = 10


class Microphone:
    """Results of a stream on a microphone, as an iterator and a context manager.

    Audio waits in a queue of ten seconds. If the loop is slower for longer than that, the newest audio is dropped and counted in `dropped`
    (samples), which later positions leave out; `overruns` counts the times that the device's own buffer overflowed.
    """

    def __init__(self, begin, rate, device=None):
        self._begin, self._rate, self._device = begin, rate, device
        self._process = None
        self._closed = False
        self._results = iter(())
        self.dropped = self.overruns = 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def __iter__(self):
        return self

    def __next__(self):
        while True:
            for result in self._results:
                return result
            if self._closed:
                raise StopIteration
            if self._process is None:
                self._open()
            samples = self._blocks.get()
            if samples is None and self._closed:
                raise StopIteration
            if samples is None:
                self.close()
                name, reason = self._device or "default", self._error or "the device is gone"
                raise BellisError(f"the microphone `{name}` stopped: {reason}; `arecord --list-pcms` lists microphones")
            self._taken += len(samples)
            self._results = iter(self._stream.accept(samples))

    def close(self):
        """Closes the device; the iteration ends."""
        self._closed = True
        self._results = iter(())
        if self._process is not None and self._process.returncode is None:
            self._process.terminate()
            self._process.wait()
            self._reader.join()
            self._log.join()
            self._process.stdout.close()
            self._process.stderr.close()

    def _open(self):
        self._stream = self._begin()
        command = [_PROGRAM, "--quiet", "--file-type=raw", "--format=S16_LE", "--channels=1", f"--rate={self._rate}", "--buffer-time=500000"]
        if self._device is not None:
            command.append(f"--device={self._device}")
        # Its messages are parsed.
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "bufsize": 0, "env": {**os.environ, "LC_ALL": "C"}}
        try:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, **options)
        except FileNotFoundError:
            self._closed = True
            raise BellisError(f"{_PROGRAM} was not found, and microphones need it; install it: sudo apt install alsa-utils") from None
        block = max(int(_BLOCK_SECONDS * self._rate), 1)
        # The reader limits what waits, so that it never waits, not even to report the end.
        self._blocks, self._taken = queue.SimpleQueue(), 0
        self._error = ""
        self._log = threading.Thread(target=self._read_log, daemon=True)
        self._reader = threading.Thread(target=self._read, args=(block,), daemon=True)
        self._log.start()
        self._reader.start()

    def _read(self, block):
        rest, added = b"", 0
        while data := self._process.stdout.read(2 * block):
            data = rest + data
            whole = len(data) // 2 * 2
            rest = data[whole:]
            if added - self._taken < _QUEUE_SECONDS * self._rate:
                self._blocks.put(np.frombuffer(data[:whole], "<i2"))
                added += whole // 2
            else:
                self.dropped += whole // 2
        self._log.join()
        self._blocks.put(None)

    def _read_log(self):
        for line in self._process.stderr:
            text = line.decode(errors="replace").strip()
            if text.startswith("overrun"):
                self.overruns += 1
            elif text:
                self._error = text
