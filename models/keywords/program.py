"""The Bellis program as a feature extractor, and mixtures of speech with babble."""

import io
import subprocess
import sys

import numpy as np

from ..train.paths import RATE, REPOSITORY

sys.path.insert(0, str(REPOSITORY / "examples"))
from read_stream import messages  # noqa: E402

VOICES = 6  # of babble


class Program:
    """The program `path` with one pack."""

    def __init__(self, path, pack):
        self.path, self.pack = path, ["--pack", str(pack)]

    def chunks(self, names, audio, *arguments):
        """Each chunk's exit layer and its arrays `names`, [frames, dimensions]; by default with the pack's own policy."""
        pcm = (np.clip(audio / max(1.0, np.abs(audio).max()), -1, 1) * 32767).astype("<i2").tobytes()
        command = [self.path, "run", "-", "--rate", str(RATE), "--format", "s16le", "--quiet", *self.pack, *arguments]
        done = subprocess.run([*command, "--consumer", "stream:-", "--arrays", ",".join(names)], input=pcm, capture_output=True)
        if done.returncode:
            raise SystemExit(done.stderr.decode())
        return [(header["layer"], [arrays[name] for name in names]) for header, arrays in messages(io.BytesIO(done.stdout)) if header["type"] == "chunk"]


class Mixer:
    """Random pieces of speech, and babble of them."""

    def __init__(self, speech, random):
        self.speech, self.random = speech, random

    def piece(self, count):
        at = self.random.integers(0, max(1, len(self.speech) - count))
        return self.speech[at : at + count]

    def babble(self, count):
        return sum(np.resize(self.piece(count), count).astype(np.float32) for _ in range(VOICES))
