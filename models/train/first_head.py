"""Fits the head of h⁰ to the finished front end, so that silence can exit before the first layer.

    python -m models.train.first_head CHECKPOINT [--batches N] [--steps N] [--threads N]

Joint training gives shallow layers a small weight, and the first head lags behind a front end that learns for the deep layers. It is one linear
layer, so it is fitted afterwards, to the same targets, with everything else frozen. Rewrites the checkpoint.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from .mixing import NONE, QUIET, Crops
from .model import load, save
from .train import FRAMES, shares

BATCH, AT_ONCE, RATE = 8, 3, 1e-2


def fit(model, crops, batches, steps):
    """Trains heads[0] on the states of `batches` batches of crops."""
    head, known = model.heads[0], []
    with torch.no_grad():
        for _ in range(batches):
            audio, units, *_ = (torch.from_numpy(array) for array in crops.batch(BATCH))
            kept = units != NONE
            known.append((model.frontend(audio)[kept], units[kept].clamp(max=model.shape.units - 1)))
    optimiser = torch.optim.AdamW(head.parameters(), lr=RATE, betas=(0.9, 0.98), weight_decay=1e-3)
    for step in range(steps):
        states, units = (torch.cat(column) for column in zip(*(known[int(k)] for k in torch.randint(len(known), (AT_ONCE,)))))
        loss = F.cross_entropy(head(states), units)
        optimiser.param_groups[0]["lr"] = RATE * (1 - step / steps)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()


@torch.no_grad()
def quiet(model, audio):
    """Mean probability of silence after h⁰ in audio [B, S]."""
    return float(model.heads[0](model.frontend(torch.from_numpy(audio).float())).softmax(-1)[..., QUIET].mean())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--batches", type=int, default=120)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    model, checkpoint = load(arguments.checkpoint)
    model.eval()
    crops = Crops(FRAMES, shares(), seed=77)
    silences = np.stack([crops.silent() for _ in range(8)])
    before = quiet(model, silences)
    fit(model, crops, arguments.batches, arguments.steps)
    save(arguments.checkpoint, model, **{key: value for key, value in checkpoint.items() if key not in ("shape", "model", "optimiser")})
    print(f"first_head: probability of silence in silence {before:.3f} -> {quiet(model, silences):.3f}", flush=True)


if __name__ == "__main__":
    main()
