"""Runs Bellis over a stream, and reads what came out."""

import json
import os
import subprocess
import tempfile
import tomllib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from models.train.paths import REPOSITORY

from .streams import STREAMS

BELLIS = os.environ.get("BELLIS", REPOSITORY / "target/release/bellis")


@dataclass
class Run:
    """One policy over one stream."""

    states: np.ndarray  # [T, D], each frame's at its exit layer
    depth: np.ndarray  # [T], exit layers
    entropies: list  # per chunk, [[layer, nats], …]
    chunk_frames: int
    macs: float  # multiply-adds per second of sound: front end, layers, projections, heads that the policy ran
    report: dict

    @property
    def chunk_depth(self):
        return self.depth[:: self.chunk_frames]


class Cost:
    """Multiply-adds of a pack's stages per frame, counted from the graphs' products."""

    def __init__(self, pack, context_frames):
        manifest = tomllib.loads((Path(pack) / "pack.toml").read_text())
        self.layers = manifest["encoder"]["layers"]
        dim = manifest["encoder"]["dim"]
        stage = lambda name: products(onnx.load(Path(pack) / name["file"]))
        self.frontend = stage(manifest["stages"]["frontend"])
        self.layer = stage(manifest["stages"]["layer"]["1"]) + 2 * context_frames * dim
        self.head = stage(manifest["stages"]["head"]["1"])
        self.projection = 2 * dim * dim
        gain = manifest["stages"].get("gain", {}).get("1")
        self.gain = stage(gain) if gain else 0

    def full(self):
        """Of full depth without heads, per second of sound."""
        return 50 * (self.frontend + self.layers * self.layer)


def products(model):
    """Multiply-adds per output frame of a stage's constant-weight products and convolutions (two mel frames to a frame)."""
    weights = {w.name: list(w.dims) for w in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Cast" and node.input[0] in weights:
            weights[node.output[0]] = weights[node.input[0]]
    total = 0
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    for node in model.graph.node:
        shape = next((weights[name] for name in node.input if name in weights and len(weights[name]) >= 2), None)
        if shape and node.op_type in ("MatMul", "Conv", "Gemm"):
            # Whatever comes before the last convolution of a front end runs at twice the frame rate.
            twice = bool(convolutions) and node is not convolutions[-1] and list(model.graph.node).index(node) < list(model.graph.node).index(convolutions[-1])
            total += int(np.prod(shape)) * (2 if twice else 1)
    return total


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
    entropies = [chunk["entropy"] for chunk in chunks]
    cost = Cost(pack, 64 + chunk_frames)
    frames = len(depth)
    heads = sum(len(found) * chunk["frames"] for found, chunk in zip(entropies, chunks)) / frames
    gains = report["mean_exit_layer"] if "gain" in policy else 0
    macs = 50 * (
        cost.frontend + cost.layer * report["layer_passes_per_frame"] + cost.projection * report["projections_per_frame"] + cost.head * heads + cost.gain * gains
    )
    return Run(states, depth, entropies, chunk_frames, macs, report)


def segments(stream):
    return json.loads((STREAMS / f"{stream}.json").read_text())["segments"]
