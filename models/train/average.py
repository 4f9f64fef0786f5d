"""Averages the weights of a checkpoint and of a model that its training started from, or that shares its start.

    python -m models.train.average CHECKPOINT MODEL OUT [--share S]

A continuation on other data learns it and forgets some of the old data; the models in between are often better than both (Wortsman et al.,
arXiv 2109.01903, 2203.05482). MODEL, a checkpoint or a pack, counts with `share`. Frame heads, which packs do not have, are those of CHECKPOINT.
Fit the first head and calibrate OUT, not CHECKPOINT: silence and thresholds depend on the weights.
"""

import argparse
from pathlib import Path

from .label import model_of
from .model import load, save


def average(model, other, share):
    """Moves the weights of `model` to (1 − share) × its own + share × those of `other`."""
    state, others = model.state_dict(), other.state_dict()
    for name, weight in state.items():
        if not name.startswith("frames."):
            weight.lerp_(others[name].to(weight.dtype), share)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("model", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--share", type=float, default=0.25, help="of MODEL in each weight, from 0 to 1 (default: %(default)s)")
    arguments = parser.parse_args()
    model, checkpoint = load(arguments.checkpoint)
    other = model_of(arguments.model)
    sizes = lambda one: {name: tuple(weight.shape) for name, weight in one.state_dict().items() if not name.startswith("frames.")}
    if sizes(model) != sizes(other):
        raise SystemExit(f"average: {arguments.model} is not of the shape of {arguments.checkpoint}")
    average(model, other, arguments.share)
    save(arguments.out, model, step=checkpoint.get("step", 0), averaged=True)
    print(f"average: {arguments.out}: {1 - arguments.share:.2f} × {arguments.checkpoint.name} + {arguments.share:.2f} × {arguments.model.name}", flush=True)


if __name__ == "__main__":
    main()
