"""Fits what keywords are matched in, and puts it into a pack:

    python -m models.keywords.matching models/daisy-tiny      minutes; the last step of models.train

The log-posteriors of a frame tell more than its likeliest units: they are a linear picture of the state that the head read. Centred and
whitened (their covariance made the identity over the directions that have one), what all speech shares stops to count, and the cosine of two frames
says how much of the rest they share, whichever head they come from. Mean and covariance are those of training speech, as it is and in
noise, through the pack's own exits and at full depth.

matching.onnx   log_posteriors [T, units] to vectors [T, width], whose cosines are compared (src/keyword)
"""

import argparse
import hashlib
import re
from pathlib import Path

import numpy as np

from ..train.export import Graph
from ..train.mixing import scale_to
from ..train.paths import PREPARED, RATE, REPOSITORY
from .train import Mixer, Program

MINUTES, PIECE = 40, 20  # seconds of a piece
SNR_DB = (0, 20)
POLICIES = ((), ("--policy", "never"))
WIDTH = 160


def mixed(minutes, random):
    """Pieces of training speech: a third as they are, a third in recorded noise, a third in babble."""
    speech, noise = (np.load(PREPARED / f"{group}.npy", mmap_mode="r") for group in ("speech.train", "noise.train"))
    length = PIECE * RATE
    piece = lambda sound: np.asarray(sound[(at := random.integers(0, len(sound) - length)) : at + length], np.float32) / 32768
    mixer = Mixer(speech, random)
    out = []
    for number in range(int(minutes * 60 / PIECE)):
        audio = piece(speech)
        if number % 3:
            other = piece(noise) if number % 3 == 1 else mixer.babble(length).astype(np.float32) / 32768
            audio = audio + scale_to(other, np.mean(audio**2), random.uniform(*SNR_DB))
        out.append(audio / max(1.0, np.abs(audio).max()))
    return np.concatenate(out)


def whitening(rows, width):
    """Mean [units] and projection [units, width] of log-posteriors [frames, units]; each row less its own mean."""
    rows = rows - rows.mean(1, keepdims=True)
    mean, covariance = rows.mean(0), np.cov(rows.T)
    values, directions = np.linalg.eigh(covariance)
    return mean, directions[:, -width:] / np.sqrt(values[-width:])


def write(path, mean, projection):
    # The centring of a row is part of the matrix: x − mean(x)·1 = (I − 11ᵀ/n) x.
    matrix = projection - projection.mean(0)
    graph = Graph(half=False)
    product = graph.op("MatMul", "log_posteriors", graph.weight(matrix.astype(np.float32)))
    graph.op("Add", product, graph.weight((-mean @ projection).astype(np.float32)), out="vectors")
    graph.write(path, [("log_posteriors", [1, "T", len(matrix)])], [("vectors", [1, "T", matrix.shape[1]])])


def enter(manifest, path, width):
    """Names the graph in the pack's manifest."""
    entry = f'matching = {{ file = "{path.name}", sha256 = "{hashlib.sha256(path.read_bytes()).hexdigest()}" }}\n'
    text = re.sub(r"^matching = .*\n|^\[matching\]\n.*\n\n", "", manifest.read_text(), flags=re.M)
    manifest.write_text(text.replace("[provenance]\n", f"[matching]\nwidth = {width}\n\n[provenance]\n", 1).rstrip() + "\n" + entry)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pack", type=Path)
    parser.add_argument("--minutes", type=float, default=MINUTES, help="of training speech; it is heard once with the pack's policy and once at full depth")
    parser.add_argument("--program", default=REPOSITORY / "target/release/bellis", type=Path)
    arguments = parser.parse_args()
    program, sound = Program(arguments.program, arguments.pack), mixed(arguments.minutes, np.random.default_rng(0))
    rows = np.concatenate([program.array("posteriors", sound, *policy) for policy in POLICIES])
    path = arguments.pack / "matching.onnx"
    width = min(WIDTH, rows.shape[1] - 1)
    write(path, *whitening(rows, width))
    enter(arguments.pack / "pack.toml", path, width)
    print(f"{path}: of {len(rows) / 50 / 60:.0f} minutes of frames")


if __name__ == "__main__":
    main()
