"""Quality of representations: distance from full depth, phones read by a linear probe, letters across speakers."""

from pathlib import Path

import numpy as np
import onnxruntime
import soundfile
import torch

from models.train.model import LEAD, RECEPTIVE_FIELD, Frontend, Shape
from models.train.paths import HOP
from models.train.teach import information, phones

from .runs import segments
from .streams import STREAMS

BLOCK = 2048  # frames processed at a time, which fit into the cache
SILENCE = ("pau", "SIL", "sil", "#", "ssil")


class Heads:
    """Log-posteriors of frames at their exit layers, by the pack's own heads."""

    def __init__(self, pack, layers):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        files = {k: Path(pack) / f"head_{k:02}.onnx" for k in range(layers + 1)}
        self.sessions = {k: onnxruntime.InferenceSession(path, options) for k, path in files.items() if path.exists()}

    @property
    def depths(self):
        """Possible exit layers: all layers, and 0 if h⁰ has a head."""
        return list(self.sessions)

    def __call__(self, run):
        out = None
        for k, session in self.sessions.items():
            here = np.flatnonzero(run.depth == k)
            for rows in (here[n : n + BLOCK] for n in range(0, len(here), BLOCK)):
                logits = session.run(None, {"f": run.states[rows][None].astype(np.float32)})[0][0]
                if out is None:
                    out = np.empty((len(run.depth), logits.shape[1]), np.float32)
                top = logits.max(1, keepdims=True)
                out[rows] = logits - top - np.log(np.exp(logits - top).sum(1, keepdims=True))
        return out


def divergence(full, found):
    """KL(p_L ‖ p_k) per frame, nats."""
    blocks = (slice(n, n + BLOCK) for n in range(0, len(full), BLOCK))
    return np.concatenate([(np.exp(full[rows]) * (full[rows] - found[rows])).sum(1) for rows in blocks])


def agreement(full, found):
    """Whether the most probable unit is that of full depth, per frame."""
    return full.argmax(1) == found.argmax(1)


def pool(values, stream_segments, chosen=lambda segment: True):
    """Means per segment, and their frames."""
    chosen = [s for s in stream_segments if chosen(s)]
    means = np.array([values[s["first"] : s["first"] + s["frames"]].mean() for s in chosen])
    return means, np.array([s["frames"] for s in chosen], float)


def clips(stream_segments):
    """Names of the segments' clips, as groups of `interval`; a segment without a clip is its own."""
    return np.array([s["clip"] or str(number) for number, s in enumerate(stream_segments)])


def interval(means, weights, groups=None, repeats=400, seed=0):
    """Mean and its 95 % interval, clips resampled (all conditions of a clip together where `groups` names them)."""
    rng = np.random.default_rng(seed)
    names, numbers = np.unique(groups if groups is not None else np.arange(len(means)), return_inverse=True)
    sums, total = np.bincount(numbers, means * weights), np.bincount(numbers, weights)
    draws = rng.integers(len(names), size=(repeats, len(names)))
    spread = sums[draws].sum(1) / total[draws].sum(1)
    return sums.sum() / total.sum(), *np.percentile(spread, [2.5, 97.5])


def ratio(parts, whole, clips, speakers, repeats=400, seed=0):
    """Σ parts / Σ whole and its 95 % interval: speakers are resampled, and the clips of each; all segments of a clip together.
    Clips without a speaker ("") are resampled among themselves."""
    rng = np.random.default_rng(seed)
    _, first, numbers = np.unique(clips, return_index=True, return_inverse=True)
    parts, whole, owners = np.bincount(numbers, parts), np.bincount(numbers, whole), np.array(speakers)[first]
    people = [name for name in np.unique(owners) if name]
    times = rng.multinomial(len(people), np.full(len(people), 1 / len(people)), size=repeats)
    above, below = np.zeros((2, repeats))
    for name, drawn in [*zip(people, times.T), ("", np.ones(repeats, int))]:
        mine = np.flatnonzero(owners == name)
        if len(mine):
            counts = rng.multinomial(drawn * len(mine), np.full(len(mine), 1 / len(mine)))
            above += counts @ parts[mine]
            below += counts @ whole[mine]
    return [float(x) for x in (parts.sum() / whole.sum(), *np.percentile(above / below, [2.5, 97.5]))]


def at_cost(cost, costs, values):
    """Values at `cost`, linear between those at the ascending `costs`: values [N, ...], one of [...]."""
    at = np.interp(cost, costs, np.arange(len(costs)))
    low, share = int(at), at - int(at)
    return values[low] * (1 - share) + values[min(low + 1, len(values) - 1)] * share


def log_mel(stream):
    """The front end's own log-mel features of a stream, [T, 4 · 80], standardised; a baseline without training."""
    audio, _ = soundfile.read(STREAMS / f"{stream}.wav", dtype="float32")
    frames = -(-len(audio) // HOP)
    padded = np.zeros(LEAD + frames * HOP + RECEPTIVE_FIELD, np.float32)
    padded[LEAD : LEAD + len(audio)] = audio
    with torch.no_grad():
        mel = Frontend(1, Shape.log_floor).features(torch.from_numpy(padded[: (frames - 1) * HOP + RECEPTIVE_FIELD])[None])
    rows = mel.unfold(1, 4, 2).flatten(2)[0].numpy()
    return (rows - rows.mean(0)) / (rows.std(0) + 1e-4)


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
        """Whether the probe of the exit layer misclassifies each frame; False for frames without a label."""
        wrong = np.zeros(len(found.depth), bool)
        for k, (weight, bias) in self.weights.items():
            here = found.depth == k
            wrong[here] = (found.states[here] @ weight.T + bias).argmax(1) != self.labels[here]
        return wrong & (self.labels >= 0)

    def error(self, found, conditions=None):
        """Frame error rate on the test frames."""
        mask = np.any([m for c, m in self.test.items() if conditions is None or c in conditions], axis=0)
        return self.errors(found)[mask].mean()


def purity(units, labels):
    """PNMI: mutual information of units and phones, as a share of the phones' entropy."""
    shared, entropy, _ = information(labels.astype(int), units.astype(int))
    return shared / entropy


def posterior_distance(a, b):
    """−ln Σ √(p q) of every pair of frames (Bhattacharyya), of log-posteriors [S, U] and [T, U]."""
    return -np.log(np.exp(a / 2) @ np.exp(b / 2).T + 1e-9)


def cosine_distance(a, b):
    """1 − cos of every pair of rows."""
    unit = lambda x: x / (np.linalg.norm(x, axis=1, keepdims=True) + 1e-9)
    return 1 - unit(a) @ unit(b).T


def warped_distances(local, lengths):
    """Dynamic time warping distances of one sequence to many, per step of the path: local [S, N, longest], lengths [N]."""
    steps, count, longest = local.shape
    total = np.full((count, longest + 1), np.inf)
    total[:, 0] = 0
    for i in range(steps):
        row = np.full((count, longest + 1), np.inf)
        for j in range(longest):
            row[:, j + 1] = local[i, :, j] + np.minimum(np.minimum(total[:, j + 1], row[:, j]), total[:, j])
        total = row
    return total[np.arange(count), lengths] / (steps + lengths)


def recognised(queries, templates, distance):
    """Number of queries whose nearest template has the same name. Both {name: [frames, features]}."""
    names = list(templates)
    lengths = np.array([len(templates[name]) for name in names])
    ends = np.cumsum(lengths)
    rows, right = np.concatenate([templates[name] for name in names]), 0
    for name, query in queries.items():
        every = distance(query, rows)
        local = np.full((len(query), len(names), lengths.max()), np.inf)
        for n, end in enumerate(ends):
            local[:, n, : lengths[n]] = every[:, end - lengths[n] : end]
        right += names[int(warped_distances(local, lengths).argmin())] == name
    return right
