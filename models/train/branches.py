"""Trains CTC branches in a second stage: frozen encoder, one branch on every layer's state (HuBERT-EE's two-stage training, arXiv 2204.06328).

    python -m models.train.branches CHECKPOINT [--steps N] [--threads N]

Each branch starts as a copy of the last one, the only one that a first stage trains. Writes runs/two-stage/NAME.pt, NAME being the folder of CHECKPOINT:
the same encoder and heads with the new branches. `models.train.check` compares it with CHECKPOINT, whose branches were trained jointly with the
encoder. The last layer is the control: its branch starts as the joint one, so what it loses or gains is due to this training, not to the stages.
"""

import argparse
import copy
from pathlib import Path

import torch

from .heads import train_heads
from .mixing import Crops
from .model import load, save
from .paths import RUNS
from .train import FRAMES, ctc_loss, shares


def second_stage(model, crops, steps):
    """Replaces the model's CTC branches by copies of the last one and trains them alone."""
    model.ctc = torch.nn.ModuleList(copy.deepcopy(model.ctc[-1]) for _ in model.ctc)
    train_heads(model, model.ctc, lambda states, phones: torch.stack([ctc_loss(one, phones) for one in model.phone_logits(states).log_softmax(-1)]), crops, steps)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    model, checkpoint = load(arguments.checkpoint)
    second_stage(model.eval(), Crops(FRAMES, shares(), seed=3_000_000), arguments.steps)
    path = RUNS / "two-stage" / f"{arguments.checkpoint.resolve().parent.name}.pt"
    path.parent.mkdir(parents=True, exist_ok=True)
    save(path, model, step=checkpoint.get("step", 0))
    print(f"branches: {path}", flush=True)


if __name__ == "__main__":
    main()
