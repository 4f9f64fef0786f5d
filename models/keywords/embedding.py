"""Fits what keywords are matched in, and puts it into a pack:

    python -m models.keywords.embedding models/daisy-tiny      minutes; the last step of models.train

The log-posteriors of a frame tell more than its likeliest units: they are a linear picture of the state that the head read. Those of the
last head, centred and a little more than whitened, are the frame's vector: what all speech shares stops to count, what seldom differs counts most, and
the cosine of two vectors says how much of the rest the frames share. Every layer has a branch that makes of its state what it can of that
vector, the least squares over training speech, as it is and in noise. So chunks compare wherever they stopped.

embedding_kk.onnx   the state [T, dim] behind layer k to vectors [T, width], whose cosines are compared (src/keyword)
"""

import argparse
import hashlib
import re
import tomllib
from pathlib import Path

import numpy as np
import torch

from ..train.export import Graph
from ..train.mixing import scale_to
from ..train.paths import PREPARED, RATE, REPOSITORY
from .train import Mixer, Program

MINUTES, PIECE = 40, 20  # seconds of a piece
SNR_DB = (0, 20)
WIDTH = 190
EXPONENT = 0.6  # of a direction's variance, by which it is divided: 0.5 whitens. docs/keywords.md has what was tried
FLAT = 1e-6  # of the largest variance: a direction of less has none, and the state fewer numbers than there are units
RIDGE = 1e-3  # of the inputs' mean variance


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


def decorrelation(rows):
    """Mean [units] and projection [units, width] of log-posteriors [frames, units] whose rows have mean 0; the mean variance of a vector's numbers is 1."""
    mean, covariance = rows.mean(0), np.cov(rows.T)
    values, directions = np.linalg.eigh(covariance)
    width = min(WIDTH, np.count_nonzero(values > FLAT * values[-1]))
    values, directions = values[-width:], directions[:, -width:]
    variances = values ** (1 - 2 * EXPONENT)
    return mean, (directions / values**EXPONENT / np.sqrt(variances.mean())).astype(np.float32)


def normalised(states):
    """As the branch's layer norm makes them."""
    return torch.nn.functional.layer_norm(torch.from_numpy(states), states.shape[1:]).numpy()


class Fit:
    """Least squares of vectors from states, as they come."""

    def __init__(self, dim, width):
        self.square, self.product = np.zeros((dim + 1, dim + 1)), np.zeros((dim + 1, width))

    def add(self, states, vectors):
        x = np.c_[normalised(states), np.ones(len(states), np.float32)]
        self.square += x.T @ x
        self.product += x.T @ vectors

    def solve(self):
        """Weights [dim, width], bias [width]."""
        ridge = np.full(len(self.square), RIDGE * np.trace(self.square) / len(self.square))
        ridge[-1] = 0
        solution = np.linalg.solve(self.square + np.diag(ridge), self.product).astype(np.float32)
        return solution[:-1], solution[-1]


def write(path, weights, bias):
    dim, width = weights.shape
    graph = Graph(half=True)
    normed = graph.norm("f", torch.nn.LayerNorm(dim))
    graph.op("Add", graph.op("MatMul", normed, graph.weight(weights)), graph.weight(bias), out="vectors")
    graph.write(path, [("f", [1, "T", dim])], [("vectors", [1, "T", width])])


def enter(manifest, paths, width):
    """Names the graphs, by layer, in the pack's manifest."""
    text = re.sub(r"^embedding\..*\n|^\[embedding\]\n.*\n\n", "", manifest.read_text(), flags=re.M)
    text = text.replace("[provenance]\n", f"[embedding]\nwidth = {width}\n\n[provenance]\n", 1).rstrip() + "\n"
    for layer, path in paths.items():
        text += f'embedding.{layer} = {{ file = "{path.name}", sha256 = "{hashlib.sha256(path.read_bytes()).hexdigest()}" }}\n'
    manifest.write_text(text)


def fit(program, sound, manifest):
    """{layer: (weights, bias)}: every depth where a chunk may stop, of all chunks at that depth, and of those that the pack's own policy stops there."""
    last, shallowest = manifest["encoder"]["layers"], 0 if "0" in manifest["stages"]["head"] else 1
    whole = [arrays for _, arrays in program.chunks(["vectors", "posteriors"], sound, "--policy", "never")]
    rows = np.concatenate([log_posteriors - log_posteriors.mean(1, keepdims=True) for _, log_posteriors in whole])
    mean, projection = decorrelation(rows)
    targets = (rows - mean) @ projection
    fits = {layer: Fit(manifest["encoder"]["dim"], targets.shape[1]) for layer in range(shallowest, last + 1)}
    fits[last].add(np.concatenate([states for states, _ in whole]), targets)
    for policy in [(), *(("--policy", "fixed", "--layer", str(layer)) for layer in range(shallowest, last))]:
        layers, states = [], []
        for layer, (own,) in program.chunks(["vectors"], sound, *policy):
            layers += [layer] * len(own)
            states.append(own)
        layers, states = np.array(layers), np.concatenate(states)
        for layer in np.unique(layers):
            fits[layer].add(states[layers == layer], targets[layers == layer])
    return {layer: own.solve() for layer, own in fits.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pack", type=Path)
    parser.add_argument("--minutes", type=float, default=MINUTES, help="of training speech; it is heard once with the pack's policy, and once for every depth")
    parser.add_argument("--program", default=REPOSITORY / "target/release/bellis", type=Path)
    arguments = parser.parse_args()
    manifest = arguments.pack / "pack.toml"
    program, sound = Program(arguments.program, arguments.pack), mixed(arguments.minutes, np.random.default_rng(0))
    paths = {}
    for layer, (weights, bias) in fit(program, sound, tomllib.loads(manifest.read_text())).items():
        paths[layer] = arguments.pack / f"embedding_{layer:02}.onnx"
        write(paths[layer], weights, bias)
        print(f"{paths[layer]}: of {arguments.minutes:g} minutes")
    enter(manifest, paths, len(bias))


if __name__ == "__main__":
    main()
