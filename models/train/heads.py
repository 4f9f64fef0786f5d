"""Trains DAISY's exit heads for comparison with the jointly trained ones: frozen encoder, one linear layer on every layer's state,
cross-entropy with the last head's most probable unit (arXiv 2406.05464).

    python -m models.train.heads CHECKPOINT [--steps N] [--threads N]

Writes heads.pt next to the checkpoint and compares both kinds at the same mean depth on held-out speech in noise:
KL of the exit's head from the last joint head, agreement with it, and cross-entropy to the teacher's units.
"""

import argparse
import json
from pathlib import Path

import torch
import torch.nn.functional as F

from .calibrate import at, bisect, first_at_most
from .mixing import NONE, Crops
from .model import load
from .paths import REPOSITORY
from .train import FRAMES

CHUNK, BATCH, RATE = 16, 4, 3e-3


def train_heads(model, heads, losses, crops, steps):
    """Trains `heads`, one for h⁰ and one for every layer, on the states of the frozen encoder. `losses(states, phones)` returns theirs, [L + 1]."""
    optimiser = torch.optim.AdamW(heads.parameters(), lr=RATE, weight_decay=1e-2)
    for step in range(steps):
        audio, _, phones, _ = (torch.from_numpy(array) for array in crops.batch(BATCH))
        with torch.no_grad():
            states = model(audio, CHUNK)
        found = losses(states, phones)
        optimiser.param_groups[0]["lr"] = RATE * (1 - step / steps)
        optimiser.zero_grad()
        found.sum().backward()
        optimiser.step()
        if step % 50 == 0:
            print(f"heads: step {step}/{steps}, nats by layer {[round(loss, 2) for loss in found.tolist()]}", flush=True)


def linear_heads(model, crops, steps):
    """One linear head for h⁰ and every layer, trained on the last joint head's most probable units."""
    shape = model.shape
    heads = torch.nn.ModuleList(torch.nn.Linear(shape.dim, shape.units) for _ in range(shape.layers + 1))

    def losses(states, _):
        with torch.no_grad():
            target = model.heads[-1](states[-1]).argmax(-1).flatten()
        return torch.stack([F.cross_entropy(head(state).flatten(0, 1), target) for head, state in zip(heads, states)])

    train_heads(model, heads, losses, crops, steps)
    return heads


@torch.no_grad()
def judge(model, heads, crops, count):
    """{kind: entropy, kl, agreement, units: [L + 1, chunks]} of joint and frozen heads on the same speech."""
    found = {kind: {"entropy": [], "kl": [], "agreement": [], "units": []} for kind in ("joint", "daisy")}
    for _ in range(count):
        audio, units, *_ = (torch.from_numpy(array)[None] for array in crops.crop())
        states = model(audio, CHUNK)
        joint = model.logits(states).log_softmax(-1)[:, 0]
        frozen = torch.stack([head(state) for head, state in zip(heads, states)]).log_softmax(-1)[:, 0]
        known = units[0] != NONE
        mean = lambda x: x.unflatten(1, (-1, CHUNK)).mean(-1)
        for kind, log_p in (("joint", joint), ("daisy", frozen)):
            p = log_p.exp()
            nll = -log_p.gather(-1, units.clamp(max=model.shape.units - 1)[0][None, :, None].expand(len(log_p), -1, 1))[..., 0]
            found[kind]["entropy"].append(mean(-(p * log_p).sum(-1)))
            found[kind]["kl"].append(mean((joint[-1].exp() * (joint[-1] - log_p)).sum(-1)))
            found[kind]["agreement"].append(mean((log_p.argmax(-1) == joint[-1].argmax(-1)).float()))
            found[kind]["units"].append(mean(torch.where(known, nll, torch.nan)))
    return {kind: {name: torch.cat(values, 1) for name, values in rows.items()} for kind, rows in found.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--crops", type=int, default=150, help="number of held-out crops for the comparison (default: %(default)s)")
    parser.add_argument("--write", metavar="NAME", help="write the comparison for the model card of this pack, docs/models/NAME/heads.json (default: next to the checkpoint)")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    model, _ = load(arguments.checkpoint)
    model.eval()
    heads = linear_heads(model, Crops(FRAMES, seed=2_000_000), arguments.steps)
    torch.save(heads.state_dict(), arguments.checkpoint.parent / "heads.pt")
    found = judge(model, heads, Crops(FRAMES, "speech.test", "noise.test", seed=3), arguments.crops)
    table = []
    for share in (0.3, 0.45, 0.6, 0.75):
        table.append({"depth": share * model.shape.layers})
        for kind, rows in found.items():
            mean = lambda bound: float(first_at_most(rows["entropy"], bound).float().mean())
            depth = first_at_most(rows["entropy"], bisect(0.0, 6.0, lambda bound: mean(bound) < share * model.shape.layers))
            table[-1][kind] = {name: float(at(rows[name], depth).nanmean()) for name in ("kl", "agreement", "units")}
        print(f"heads: {table[-1]}", flush=True)
    folder = REPOSITORY / "docs/models" / arguments.write if arguments.write else arguments.checkpoint.parent
    (folder / "heads.json").write_text(json.dumps(table, indent=1))


if __name__ == "__main__":
    main()
