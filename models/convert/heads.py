"""DAISY's exit heads (arXiv 2406.05464, section 3.1): the encoder is frozen, and every layer gets a linear classifier of the units
predicted at full depth. Trained and calibrated without labels, on the windows that the runtime uses."""

import time
from dataclasses import dataclass

import numpy as np

from . import stages
from .audio import recordings
from .checkpoint import ConvertError
from .reference import entropy

# Recordings are streamed in pieces, so that a few long ones can be split like many short ones.
PIECE_SECONDS = 15
AGREEMENTS = (0.90, 0.95, 0.98)
# Minimum number of calibration chunks below a threshold: an agreement of fewer chunks is not reliable.
MIN_CHUNKS = 10


@dataclass
class States:
    """States of the recordings; the frames of a chunk are contiguous."""

    features: list       # per layer: [frames, D] f16, the input of its head
    outputs: np.ndarray  # [frames, D] f16, the output of the layer whose states are clustered into units
    chunk: np.ndarray    # [frames] number of the chunk
    piece: np.ndarray    # [frames] number of the piece


@dataclass
class Linear:
    """An exit head: weight [U, D], bias [U]."""

    weight: np.ndarray
    bias: np.ndarray

    def logits(self, features):
        """[frames, D] -> [frames, U]"""
        return features.astype(np.float32) @ self.weight.T + self.bias

    def save(self, path, dim, f16=False):
        stages.head(path, dim, self.weight, self.bias, f16)


def collect(pack, folder, minutes, units_layer):
    """Streams the recordings through the pack; returns States."""
    rate, layers = pack.audio["sample_rate"], pack.encoder["layers"]
    features, outputs, chunks, pieces = [[] for _ in range(layers)], [], [], []
    number, started, seconds, reported = 0, time.monotonic(), 0.0, 0.0
    for _, samples in recordings(folder, rate, minutes):
        for first in range(0, len(samples), PIECE_SECONDS * rate):
            piece = samples[first : first + PIECE_SECONDS * rate]
            for chunk in pack.stream(piece):
                for kept, f in zip(features, chunk["h"][1:]):
                    kept.append(f.astype(np.float16))
                outputs.append(chunk["y"][units_layer - 1].astype(np.float16))
                chunks.append(np.full(len(outputs[-1]), len(chunks)))
                pieces.append(np.full(len(outputs[-1]), number))
            number, seconds = number + 1, seconds + len(piece) / rate
            if (now := time.monotonic()) - reported > 10:
                reported = now
                print(f"  {seconds / 60:.1f} of at most {minutes:g} minutes streamed, {(now - started) / seconds:.2f} s per second of audio", flush=True)
    if number < 4:
        raise ConvertError(f"{folder} has only {seconds:.0f} s of audio in {number} pieces; heads need several minutes, and at least four pieces of up to {PIECE_SECONDS} s")
    return States([np.concatenate(f) for f in features], np.concatenate(outputs), np.concatenate(chunks), np.concatenate(pieces))


def split(states, seed):
    """Masks of frames: train (70 %), calibrate (20 %), check (10 %), by piece."""
    numbers = np.random.default_rng(seed).permutation(np.unique(states.piece))
    check = max(1, len(numbers) // 10)
    within = lambda some: np.isin(states.piece, some)
    return within(numbers[3 * check :]), within(numbers[check : 3 * check]), within(numbers[:check])


def train(x, labels, units, seed, epochs=20, batch=256, rate=4e-3):
    """One head by Adam (arXiv 1412.6980) on the cross-entropy. Features are standardised for training only; the head applies to raw features."""
    random, x = np.random.default_rng(seed), x.astype(np.float32)
    mean, deviation = x.mean(0), x.std(0) + 1e-6
    parameters = [np.zeros((x.shape[1], units), np.float32), np.zeros(units, np.float32)]
    moments = [(np.zeros_like(p), np.zeros_like(p)) for p in parameters]
    batch = min(batch, len(x))
    steps, step = epochs * (len(x) // batch), 0
    for _ in range(epochs):
        order = random.permutation(len(x))
        for start in range(0, len(x) - batch + 1, batch):
            rows = order[start : start + batch]
            inputs, step = (x[rows] - mean) / deviation, step + 1
            p = softmax(inputs @ parameters[0] + parameters[1])
            p[np.arange(batch), labels[rows]] -= 1
            now = rate * 0.5 * (1 + np.cos(np.pi * step / steps))
            for value, (first, second), gradient in zip(parameters, moments, (inputs.T @ p / batch, p.mean(0))):
                first += 0.1 * (gradient - first)
                second += 0.001 * (gradient**2 - second)
                value -= now * (first / (1 - 0.9**step)) / (np.sqrt(second / (1 - 0.999**step)) + 1e-8)
    weight = parameters[0] / deviation[:, None]
    return Linear(weight.T, parameters[1] - mean @ weight)


def softmax(z):
    p = np.exp(z - z.max(1, keepdims=True))
    return p / p.sum(1, keepdims=True)


def evidence(heads, states, frames):
    """Over the frames of a mask: mean entropy and agreement with the last head, both [L, chunks], and the chunks' sizes [chunks]."""
    _, chunk, sizes = np.unique(states.chunk[frames], return_inverse=True, return_counts=True)
    mean = lambda values: np.bincount(chunk, values) / sizes
    entropies, agreement, last = [], [], None
    for head, features in zip(reversed(heads), reversed(states.features)):
        logits = head.logits(features[frames])
        last = logits.argmax(1) if last is None else last
        entropies.insert(0, mean(entropy(logits)))
        agreement.insert(0, mean(logits.argmax(1) == last))
    return np.stack(entropies), np.stack(agreement), sizes


def calibrate(entropies, agreement, frames, target):
    """Thresholds of layers 1 … L−1, nats: at each layer the largest whose exits agree with full depth on `target` of their frames,
    among the chunks that did not exit earlier. Negative: never."""
    alive, thresholds = np.ones(entropies.shape[1], bool), []
    for h, agreed in zip(entropies[:-1], agreement[:-1]):
        order = np.flatnonzero(alive)[np.argsort(h[alive])]
        share = np.cumsum((agreed * frames)[order]) / np.cumsum(frames[order])
        kept = np.flatnonzero(share >= target)
        enough = len(kept) > 0 and kept[-1] + 1 >= MIN_CHUNKS
        thresholds.append(float(np.ceil(h[order[kept[-1]]] * 1e4) / 1e4) if enough else -1.0)
        alive &= h > thresholds[-1]
    return thresholds


def cascade(entropies, agreement, frames, thresholds):
    """(agreement with full depth, mean exit layer) of the cascade that exits at the first entropy below its threshold."""
    stop = np.vstack([entropies[:-1] <= np.array(thresholds)[:, None], np.ones((1, len(frames)), bool)])
    layer = stop.argmax(0)
    share = (agreement[layer, np.arange(len(frames))] * frames).sum() / frames.sum()
    return share, ((layer + 1) * frames).sum() / frames.sum()
