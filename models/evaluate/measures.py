"""Quality of representations: distance from full depth, what a linear probe reads of phones, letters across speakers."""

from pathlib import Path

import numpy as np
import onnxruntime
import torch

from models.train.teach import information, phones

from .runs import run, segments

SILENCE = ("pau", "SIL", "sil", "#", "ssil")


class Heads:
    """Log-posteriors of frames at their exit layers, by the pack's own heads."""

    def __init__(self, pack, layers):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.sessions = {k: onnxruntime.InferenceSession(Path(pack) / f"head_{k:02}.onnx", options) for k in range(1, layers + 1)}

    def __call__(self, run):
        out = None
        for k, session in self.sessions.items():
            here = run.depth == k
            if here.any():
                logits = session.run(None, {"f": run.states[here][None]})[0][0]
                if out is None:
                    out = np.empty((len(run.depth), logits.shape[1]), np.float32)
                top = logits.max(1, keepdims=True)
                out[here] = logits - top - np.log(np.exp(logits - top).sum(1, keepdims=True))
        return out


def divergence(full, found):
    """KL(p_L ‖ p_k) per frame, nats."""
    return (np.exp(full) * (full - found)).sum(1)


def agreement(full, found):
    """Whether the likeliest unit is full depth's, per frame."""
    return full.argmax(1) == found.argmax(1)


def pool(values, stream_segments, chosen=lambda segment: True):
    """Means per segment, and their frames."""
    chosen = [s for s in stream_segments if chosen(s)]
    means = np.array([values[s["first"] : s["first"] + s["frames"]].mean() for s in chosen])
    return means, np.array([s["frames"] for s in chosen], float)


def interval(means, weights, groups=None, repeats=400, seed=0):
    """Mean and its 95 % interval, clips resampled (all conditions of a clip together where `groups` names them)."""
    rng = np.random.default_rng(seed)
    names, numbers = np.unique(groups if groups is not None else np.arange(len(means)), return_inverse=True)
    sums, total = np.bincount(numbers, means * weights), np.bincount(numbers, weights)
    draws = rng.integers(len(names), size=(repeats, len(names)))
    spread = sums[draws].sum(1) / total[draws].sum(1)
    return sums.sum() / total.sum(), *np.percentile(spread, [2.5, 97.5])


class PhoneProbe:
    """A linear classifier of phones per exit layer, trained at full or fixed depth on one half of speech.probe."""

    def __init__(self, pack, index, by_layer):
        """by_layer: {layer: Run of `fixed` over the stream `phones`}."""
        self.segments = segments("phones")
        aligned, names = phones(index)
        by_clip = {index[number]["clip"]: rows for number, rows in aligned.items()}
        frames = len(next(iter(by_layer.values())).depth)
        self.labels = np.full(frames, -1)
        self.train, self.test = np.zeros(frames, bool), {}
        for s in self.segments:
            rows = by_clip.get(s["clip"])
            if rows is None:
                continue
            here = slice(s["first"], s["first"] + len(rows))
            self.labels[here] = rows
            split, condition = s["condition"].split(" ", 1)
            if split == "train":
                self.train[here] = True
            else:
                self.test.setdefault(condition, np.zeros(frames, bool))[here] = True
        self.count = len(names)
        self.weights = {k: self.fit(run.states) for k, run in by_layer.items()}

    def fit(self, states, epochs=12):
        """Multinomial logistic regression on standardised states."""
        torch.manual_seed(0)
        x, y = torch.from_numpy(states[self.train]), torch.from_numpy(self.labels[self.train])
        mean, scale = x.mean(0), x.std(0) + 1e-4
        x = (x - mean) / scale
        model = torch.nn.Linear(x.shape[1], self.count)
        optimiser = torch.optim.Adam(model.parameters(), lr=5e-3)
        for epoch in range(epochs):
            optimiser.param_groups[0]["lr"] = 5e-3 * (1 - epoch / epochs)
            for batch in torch.randperm(len(x)).split(2048):
                loss = torch.nn.functional.cross_entropy(model(x[batch]), y[batch])
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
        weight = model.weight.detach() / scale
        return weight.numpy(), (model.bias.detach() - weight @ mean).numpy()

    def errors(self, found):
        """Per frame: whether the probe of its exit layer misses its phone; frames without a label are False."""
        wrong = np.zeros(len(found.depth), bool)
        for k, (weight, bias) in self.weights.items():
            here = found.depth == k
            wrong[here] = (found.states[here] @ weight.T + bias).argmax(1) != self.labels[here]
        return wrong & (self.labels >= 0)

    def error(self, found, conditions=None):
        """Share of the test frames that are misread."""
        mask = np.any([m for c, m in self.test.items() if conditions is None or c in conditions], axis=0)
        return self.errors(found)[mask].mean()


def purity(units, labels):
    """PNMI: what the units tell of the phones, as a share of the phones' entropy."""
    shared, entropy, _ = information(labels.astype(int), units.astype(int))
    return shared / entropy


def warped_distance(a, b):
    """Dynamic time warping of two sequences of log-posteriors, by −ln Σ √(p q) per step of the path (Bhattacharyya)."""
    local = -np.log(np.exp(a / 2) @ np.exp(b / 2).T + 1e-9)
    total = np.full((len(a) + 1, len(b) + 1), np.inf)
    total[0, 0] = 0
    for i in range(len(a)):
        for j in range(len(b)):
            total[i + 1, j + 1] = local[i, j] + min(total[i, j + 1], total[i + 1, j], total[i, j])
    return total[-1, -1] / (len(a) + len(b))
