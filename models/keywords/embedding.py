"""Fits the keyword embeddings of a pack, and adds them to it:

    python -m models.keywords.embedding models/daisy-tiny      minutes, after the export

The log-posteriors of the last head contain more than the likeliest units: they are a linear function of the state that the head reads. Centred
and a little more than whitened, they are the frame's embedding: what all speech shares does not count, what seldom differs counts most, and the
cosine of two embeddings measures how much of the rest two frames share. Every layer has a branch that estimates that embedding from its state, by least
squares over training speech, clean and in noise. So chunks are comparable at any exit layer.

embedding_kk.onnx   the state [T, dim] after layer k to embeddings [T, width], whose cosines are compared (src/keyword)
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
from .program import Mixer, Program

MINUTES, PIECE = 40, 20  # PIECE in seconds
SNR_DB = (0, 20)
WIDTH = 190
EXPONENT = 0.6  # of the variance that each direction is divided by; 0.5 whitens. docs/notes/keywords.md compares values
FLAT = 1e-6  # share of the largest variance below which a direction has none: a state has fewer dimensions than there are units
RIDGE = 1e-3  # share of the inputs' mean variance


def mixed(minutes, random):
    """Pieces of training speech: a third clean, a third in recorded noise, a third in babble."""
    speech, noise = (np.load(PREPARED / f"{group}.npy", mmap_mode="r") for group in ("speech.train", "noise.train"))
    length = PIECE * RATE
    piece = lambda audio: np.asarray(audio[(at := random.integers(0, len(audio) - length)) : at + length], np.float32) / 32768
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
    """Mean [units] and projection [units, width] of log-posteriors [frames, units] whose rows have mean 0; the mean variance of an embedding's dimensions is 1."""
    mean, covariance = rows.mean(0), np.cov(rows.T)
    values, directions = np.linalg.eigh(covariance)
    width = min(WIDTH, np.count_nonzero(values > FLAT * values[-1]))
    values, directions = values[-width:], directions[:, -width:]
    variances = values ** (1 - 2 * EXPONENT)
    return mean, (directions / values**EXPONENT / np.sqrt(variances.mean())).astype(np.float32)


def normalised(states):
    """States after the branch's layer norm."""
    return torch.nn.functional.layer_norm(torch.from_numpy(states), states.shape[1:]).numpy()


class Fit:
    """Incremental least squares of embeddings from states."""

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
    """Adds the graphs, by layer, to the pack's manifest."""
    text = re.sub(r"^embedding\..*\n|^\[embedding\]\n.*\n\n", "", manifest.read_text(), flags=re.M)
    text = text.replace("[provenance]\n", f"[embedding]\nwidth = {width}\n\n[provenance]\n", 1).rstrip() + "\n"
    for layer, path in paths.items():
        text += f'embedding.{layer} = {{ file = "{path.name}", sha256 = "{hashlib.sha256(path.read_bytes()).hexdigest()}" }}\n'
    manifest.write_text(text)


def fit(program, audio, manifest):
    """{layer: (weights, bias)} for every exit layer, fitted to all chunks at that depth and to those that exit there with the pack's own policy."""
    last, shallowest = manifest["encoder"]["layers"], 0 if "0" in manifest["stages"]["head"] else 1
    whole = [arrays for _, arrays in program.chunks(["vectors", "posteriors"], audio, "--policy", "never")]
    rows = np.concatenate([log_posteriors - log_posteriors.mean(1, keepdims=True) for _, log_posteriors in whole])
    mean, projection = decorrelation(rows)
    targets = (rows - mean) @ projection
    fits = {layer: Fit(manifest["encoder"]["dim"], targets.shape[1]) for layer in range(shallowest, last + 1)}
    fits[last].add(np.concatenate([states for states, _ in whole]), targets)
    for policy in [(), *(("--policy", "fixed", "--layer", str(layer)) for layer in range(shallowest, last))]:
        layers, states = [], []
        for layer, (own,) in program.chunks(["vectors"], audio, *policy):
            layers += [layer] * len(own)
            states.append(own)
        layers, states = np.array(layers), np.concatenate(states)
        for layer in np.unique(layers):
            fits[layer].add(states[layers == layer], targets[layers == layer])
    return {layer: own.solve() for layer, own in fits.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pack", type=Path)
    parser.add_argument("--minutes", type=float, default=MINUTES, help="minutes of training speech; it is processed once with the pack's policy, and once at every depth")
    parser.add_argument("--program", default=REPOSITORY / "target/release/bellis", type=Path)
    arguments = parser.parse_args()
    manifest = arguments.pack / "pack.toml"
    program, audio = Program(arguments.program, arguments.pack), mixed(arguments.minutes, np.random.default_rng(0))
    paths = {}
    for layer, (weights, bias) in fit(program, audio, tomllib.loads(manifest.read_text())).items():
        paths[layer] = arguments.pack / f"embedding_{layer:02}.onnx"
        write(paths[layer], weights, bias)
        print(f"{paths[layer]}: fitted to {arguments.minutes:g} minutes")
    enter(manifest, paths, len(bias))


if __name__ == "__main__":
    main()
