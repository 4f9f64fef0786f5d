"""Runs Bellis on a stream and reads the results."""

import json
import os
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from models.train.paths import REPOSITORY

from .streams import STREAMS

BELLIS = os.environ.get("BELLIS", REPOSITORY / "target/release/bellis")


@dataclass
class Run:
    """One policy on one stream."""

    states: np.ndarray  # [T, D], each frame's at its exit layer
    depth: np.ndarray  # [T], exit layers
    chunk_frames: int
    report: dict

    @property
    def macs(self):
        """MACs per second of audio of all stages that ran: front end, layers, projections, heads, predictors."""
        return self.report["macs_per_second"]

    @property
    def chunk_depth(self):
        return self.depth[:: self.chunk_frames]


def run(pack, stream, policy, *more, chunk_frames=16):
    """Streams `stream` through `pack`. `policy` and `more` are flags of `bellis run`."""
    wav = stream if str(stream).endswith(".wav") else STREAMS / f"{stream}.wav"
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        command = [BELLIS, "run", wav, "--pack", pack, "--chunk", str(chunk_frames * 20), "--quiet", "--policy", *policy.split(), *more]
        command += ["--consumer", f"npy:{folder}/states.npy", "--report", folder / "report.json"]
        subprocess.run([str(part) for part in command], check=True)
        states = np.load(folder / "states.npy")
        chunks = [json.loads(line) for line in (folder / "states.chunks.jsonl").open()]
        report = json.loads((folder / "report.json").read_text())
    depth = np.concatenate([np.full(chunk["frames"], chunk["layer"]) for chunk in chunks])
    return Run(states, depth, chunk_frames, report)


def segments(stream):
    return json.loads((STREAMS / f"{stream}.json").read_text())["segments"]
