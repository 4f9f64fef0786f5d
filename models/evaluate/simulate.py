"""`gain` compared with a depth that is chosen once, from h⁰ (input-conditioned early exit, arXiv 2507.07954), at equal compute.

Both are simulated from runs of fixed depth and the pack's predictors: `gain` asks the predictor of every layer that a chunk reaches, the
other policy only that of h⁰, which predicts KL from full depth for every layer. Both count projected keys and values as compute, and neither
their effect on the states. `best` knows the KL of every layer and shows what prediction could still win.
"""

import numpy as np
import onnxruntime
import torch

from models.train.calibrate import stops

from .evaluation import LAMBDAS
from .measures import at_cost, clips, interval, pool
from .runs import segments

PRICES = (0.0, *np.geomspace(1e-3, 1, 19))  # λ of the curves to compare with, nats per layer


class Predictors:
    """The pack's predictors of KL(full depth ‖ layer)."""

    def __init__(self, pack, layers):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.sessions = [onnxruntime.InferenceSession(pack / f"gain_{k:02}.onnx", options) for k in range(layers)]

    def __call__(self, k, run):
        """Predicted KL of layers k to L - 1, [chunks, L - k], from the states of `fixed --layer k`."""
        states = run.states.astype(np.float32)
        starts = range(0, len(states) // run.chunk_frames * run.chunk_frames, run.chunk_frames)
        return np.exp([self.sessions[k].run(None, {"f": states[None, n : n + run.chunk_frames]})[0][0, 0] for n in starts])


def by_chunk(values, chunk_frames):
    """Means over whole chunks: values [..., frames]."""
    whole = values.shape[-1] // chunk_frames * chunk_frames
    return values[..., :whole].reshape(*values.shape[:-1], -1, chunk_frames).mean(-1)


def cheapest(kl, price):
    """The depth with the least KL plus price per layer, by chunk: kl [chunks, L] of the layers below full depth, where it is 0."""
    return (np.pad(kl, ((0, 0), (0, 1))) + price * np.arange(kl.shape[1] + 1)).argmin(1)


def projected(depth, layers, context):
    """Number of projections of a chunk's keys and values: by each layer above its exit, if one of the `context` chunks after it reaches that layer first."""
    total, number = 0, np.arange(len(depth))
    for k in range(1, layers + 1):
        reached = np.flatnonzero(depth >= k)
        after = np.searchsorted(reached, number[depth < k])
        known = after < len(reached)
        total += int((reached[after[known]] - number[depth < k][known] <= context).sum())
    return total


def extra_costs(e, stream, frontend, layer):
    """MACs per second of one projection and of one predictor, each per frame: what runs of `gain` cost beyond front end and layers."""
    used, rest = [], []
    for value in LAMBDAS:
        found = e.run(stream, f"gain --threshold {value}")
        evaluations = np.minimum(found.depth + 1, e.layers).mean()
        used.append((found.report["projections_per_frame"], evaluations))
        rest.append(found.macs - frontend - layer * found.report["layer_passes_per_frame"])
    return np.linalg.lstsq(np.array(used), np.array(rest), rcond=None)[0]


class Simulation:
    """One stream at every depth: KL per frame and chunk, predictions, and the cost of exits."""

    def __init__(self, e, stream):
        predictors, self.layers = Predictors(e.pack, e.layers), e.layers
        self.predicted, macs = [], []
        for k in range(e.layers + 1):
            found = e.run(stream, f"fixed --layer {k}")
            macs.append(found.macs)
            if k < e.layers:
                self.predicted.append(predictors(k, found))
        self.chunk_frames = found.chunk_frames
        self.context = e.manifest["encoder"]["left_context"] // self.chunk_frames
        # Frames after the last whole chunk are left out.
        self.kl = np.stack([e.kl(stream, f"fixed --layer {k}") for k in range(e.layers + 1)])[:, : len(self.predicted[0]) * self.chunk_frames]
        self.frontend, self.layer, self.full = macs[0], macs[1] - macs[0], macs[-1]
        self.projection, self.predictor = extra_costs(e, stream, self.frontend, self.layer)

    def depths(self, rule, price):
        """Exit layer of every chunk."""
        if rule == "gain":
            return stops([torch.from_numpy(rows) for rows in self.predicted], price).numpy()
        return cheapest({"once": self.predicted[0], "best": by_chunk(self.kl[:-1], self.chunk_frames).T}[rule], price)

    def share(self, depth, predictors):
        """Compute as a share of full depth's, with the number of predictors that run, by chunk."""
        macs = self.frontend + self.layer * depth.mean() + self.projection * projected(depth, self.layers, self.context) / len(depth) + self.predictor * predictors.mean()
        return float(macs / self.full)

    def point(self, rule, price):
        """Share of full depth's MACs, and KL per frame."""
        depth = self.depths(rule, price)
        predictors = {"gain": np.minimum(depth + 1, self.layers), "once": np.ones(len(depth)), "best": np.zeros(len(depth))}[rule]
        frames = np.repeat(depth, self.chunk_frames)
        return self.share(depth, predictors), self.kl[frames, np.arange(len(frames))]


def chosen_once(e, stream):
    """By λ of `gain`: its compute, KL, that of the depth chosen once at the same compute, and their difference with an interval over clips."""
    simulation, parts = Simulation(e, stream), segments(stream)
    parts = [s for s in parts if s["first"] + s["frames"] <= simulation.kl.shape[1]]
    groups = clips(parts)
    curves = {}
    for rule in ("once", "best"):
        points = sorted((simulation.point(rule, price) for price in PRICES), key=lambda point: point[0])
        curves[rule] = np.array([share for share, _ in points]), np.array([pool(kl, parts)[0] for _, kl in points])
    rows = []
    for value in LAMBDAS:
        share, kl = simulation.point("gain", value)
        kl, frames = pool(kl, parts)
        once, best = (at_cost(share, *curves[rule]) for rule in ("once", "best"))
        row = {"lambda": value, "share": share, "measured share": e.share(stream, e.run(stream, f"gain --threshold {value}"))}
        row |= {name: interval(one, frames, groups) for name, one in (("gain", kl), ("once", once), ("best", best), ("gain minus once", kl - once))}
        rows.append(row)
    return rows
