"""Trains a student on units and phones: all heads jointly, over several chunk sizes, with early exits in the loop.

Phones are trained twice: by the CTC branches of the pack, and by heads for the phone that sounds in each frame, which only training and
alignment use. The loss of layer k of L counts (k/L)^GROWTH, so that deep layers learn what shallow ones cannot.

    python -m models.train.train daisy-tiny [--minutes M] [--steps N] [--threads N] [--resume CHECKPOINT|PACK]

The learning rate is constant after a warm-up and falls to zero over the last part of the run (--decay). A longer training continues
from runs/NAME/stable.pt; runs/NAME/final.pt is exported. The same command resumes an interrupted run from runs/NAME/latest.pt, with what is left
of its minutes or steps.
"""

import argparse
import time
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from . import export
from .inventory import VOCABULARY
from .mixing import NONE, UNKNOWN, Crops
from .model import SHAPES, Student, load, save
from .paths import PREPARED, RUNS

CHUNKS = (8, 16, 32)  # frames: 160, 320 and 640 ms
FRAMES = 384  # of a crop: 7.68 s
WARM_UP = 200
UNIT, DISTILL = 0.6, 0.3  # weights of the units' cross-entropy and of KL(last head ‖ head k)
CTC, SOUNDING = 0.4, 1.0  # weights of the CTC branches' loss, nats per phone, and of the frame heads', nats per frame
GROWTH, SHALLOWEST = 1.0, 0.05  # of the layers' weights; that of h⁰
SHARES = {"speech.train": 0.5, "synthetic.train": 0.5}  # of the crops, of the groups that are prepared
FEW = 8  # minimum number of phones that a sequence counts as


def sample_exits(batch, chunks, layers):
    """Half of the crops never exit; in the others, the exit layers of the chunks are a lazy random walk."""
    exits = torch.full((batch, chunks), layers)
    for row in exits[: batch // 2]:
        depth = int(torch.randint(0, layers + 1, ()))
        for chunk in range(chunks):
            if torch.rand(()) < 0.5:
                depth = int(torch.randint(0, layers + 1, ()))
            row[chunk] = depth
    return exits


def spoken(phones):
    """Converts the phones of the frames [B, T] to one concatenated sequence and counts [B]: repeats are merged, 0 is removed."""
    fresh = (phones != 0) & (phones != F.pad(phones[:, :-1], (1, 0)))
    return phones[fresh], fresh.sum(1)


def ctc_loss(log_p, phones):
    """CTC of log-probabilities [B, T, V] to the phones of the frames [B, T], nats per phone, mean over the crops with phones."""
    known = ~(phones == UNKNOWN).any(1)
    if not known.any():
        return log_p.sum() * 0
    log_p, phones = log_p[known], phones[known]
    targets, counts = spoken(phones)
    lengths = torch.full_like(counts, log_p.shape[1])
    nats = F.ctc_loss(log_p.transpose(0, 1), targets, lengths, counts, reduction="none", zero_infinity=True)
    return (nats / counts.clamp(min=FEW)).sum() / max(1, len(nats))


def frame_losses(model, states, sounding, depth):
    """Cross-entropy of the frame heads to the phone that sounds, [L + 1], over the frames that reach the layer."""
    known, out = sounding != UNKNOWN, []
    targets = torch.where(known, sounding, 0).long().flatten()
    for k, logits in enumerate(model.frame_logits(states).float()):
        reached = (depth >= k) & known
        nats = F.cross_entropy(logits.flatten(0, 1), targets, reduction="none").view_as(reached)
        out.append((nats * reached).sum() / reached.sum().clamp(min=1))
    return torch.stack(out)


def losses(model, audio, units, phones, sounding, chunk):
    """Cross-entropy to the units [L + 1], distance from the last head [L], both over the frames that reach the layer, CTC [L + 1] and the
    mean of the crops with exits, and the frame heads' [L + 1]."""
    layers = model.shape.layers
    exits = sample_exits(len(audio), units.shape[1] // chunk, layers).to(audio.device)
    states = model(audio, chunk, exits)
    logits = model.logits(states).float().log_softmax(-1)
    known = units != NONE
    targets = units.clamp(max=model.shape.units - 1)
    depth = exits.repeat_interleave(chunk, 1)
    full = (exits == layers).all(1)[:, None]
    last = logits[-1].detach()
    cross, distance = [], []
    for k, log_p in enumerate(logits):
        reached = (depth >= k) & known
        cross.append((F.nll_loss(log_p.flatten(0, 1), targets.flatten(), reduction="none").view_as(units) * reached).sum() / reached.sum().clamp(min=1))
        kl = (last.exp() * (last - log_p)).sum(-1)
        distance.append((kl * full).sum() / (full.sum() * units.shape[1]).clamp(min=1))
    log_p = model.phone_logits(states).float().log_softmax(-1)
    whole = (exits == layers).all(1)
    every = torch.stack([ctc_loss(one[whole], phones[whole]) for one in log_p])
    # With exits, each chunk's phones are read at its exit layer.
    mixed = log_p.gather(0, depth[None, ..., None].expand(1, *log_p.shape[1:]))[0]
    ctc = torch.cat([every, ctc_loss(mixed[~whole], phones[~whole])[None]])
    return torch.stack(cross), torch.stack(distance[:-1]), ctc, frame_losses(model, states, sounding, depth)


def weights(layers):
    """Weights of the layers' losses, [L + 1], which sum to 1."""
    by_depth = torch.cat([torch.tensor([SHALLOWEST]), (torch.arange(1, layers + 1) / layers) ** GROWTH])
    return by_depth / by_depth.sum()


def shares():
    """SHARES of the groups that are prepared."""
    return {group: share for group, share in SHARES.items() if (PREPARED / f"{group}.json").exists()}


class Lessons(IterableDataset):
    """Batches of training crops without end; each worker has its own."""

    def __init__(self, batch, seed):
        self.batch, self.seed = batch, seed

    def __iter__(self):
        worker = get_worker_info()
        crops = Crops(FRAMES, shares(), seed=(*self.seed, worker.id if worker else 0))
        while True:
            yield tuple(torch.from_numpy(array) for array in crops.batch(self.batch))


class Optimisers:
    """Muon for the layers' matrices, AdamW for the other parameters."""

    def __init__(self, model, rate):
        matrices = [p for p in model.layers.parameters() if p.ndim == 2]
        chosen = {id(p) for p in matrices}
        others = [p for p in model.parameters() if id(p) not in chosen]
        self.all = [
            torch.optim.Muon(matrices, lr=1.6 * rate, momentum=0.95, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(others, lr=rate, betas=(0.9, 0.98), weight_decay=0.02),
        ]
        self.rates = [optimiser.param_groups[0]["lr"] for optimiser in self.all]

    def step(self, share):
        """One step at `share` of the full rate."""
        for optimiser, rate in zip(self.all, self.rates):
            optimiser.param_groups[0]["lr"] = rate * share
            optimiser.step()
            optimiser.zero_grad()

    def state_dict(self):
        return [optimiser.state_dict() for optimiser in self.all]

    def load_state_dict(self, states):
        for optimiser, state in zip(self.all, states):
            optimiser.load_state_dict(state)


def options(given=None):
    """The options of a run, of the command line or of `given`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=SHAPES)
    parser.add_argument("--minutes", type=float, default=600)
    parser.add_argument("--steps", type=int, default=10**9)
    parser.add_argument("--batch", type=int, default=6)
    parser.add_argument("--rate", type=float, default=1.2e-3)
    parser.add_argument("--decay", type=float, default=0.2, help="final share of the run with a decaying learning rate")
    parser.add_argument("--device", default="cpu", help="cpu or cuda; checkpoints resume on either (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=1, help="processes that prepare crops; a GPU needs one per core (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--bf16", action=argparse.BooleanOptionalAction, help="matmuls in bfloat16 (default: if the device supports it)")
    parser.add_argument("--seed", type=int, default=0, help="of the weights and the crops (default: %(default)s)")
    parser.add_argument("--resume", help="checkpoint or pack to resume from; a pack has no optimiser state")
    return parser.parse_args(given)


def run(arguments, folder):
    """Trains to folder/final.pt, or to the end of an interrupted run from folder/latest.pt."""
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(arguments.seed)
    device = torch.device(arguments.device)
    bf16 = arguments.bf16 if arguments.bf16 is not None else device.type == "cuda" or torch.cpu._is_avx512_bf16_supported()
    folder.mkdir(parents=True, exist_ok=True)
    latest, resume, before = folder / "latest.pt", arguments.resume, {}
    interrupted = load(latest) if latest.exists() else None
    if interrupted and interrupted[1].get("resumed") == resume:
        model, checkpoint = interrupted
        before = checkpoint
    elif resume and Path(resume).is_dir():
        model, checkpoint = export.read(Path(resume), VOCABULARY, framewise=True), {}
    else:
        model, checkpoint = load(resume) if resume else (Student(replace(SHAPES[arguments.name], phones=len(VOCABULARY), framewise=True)), {})
    model.to(device)
    optimisers = Optimisers(model, arguments.rate)
    if "optimiser" in checkpoint:
        optimisers.load_state_dict(checkpoint["optimiser"])
    step, warm = checkpoint.get("step", 0), checkpoint.get("step", 0) if "optimiser" in checkpoint else 0
    batches = iter(DataLoader(Lessons(arguments.batch, seed=(arguments.seed, step)), batch_size=None, num_workers=arguments.workers, pin_memory=device.type == "cuda"))
    print(f"train: {sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters, from step {step}", flush=True)
    began, first, stable = time.time() - before.get("seconds", 0), before.get("first", step), before.get("stable", False)
    mean, share = None, weights(model.shape.layers).to(device)
    shown = lambda row: [round(x, 2) for x in row[::2].tolist()]
    while True:
        gone = max((time.time() - began) / 60 / arguments.minutes, (step - first) / arguments.steps)
        if gone >= 1:
            break
        if gone > 1 - arguments.decay and not stable:
            save(folder / "stable.pt", model, step=step, optimiser=optimisers.state_dict())
            stable = True
        audio, units, phones, sounding = (column.to(device, non_blocking=True) for column in next(batches))
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            cross, distance, ctc, frames = losses(model, audio, units, phones, sounding, CHUNKS[step % len(CHUNKS)])
        loss = UNIT * share @ cross + DISTILL * share[:-1] @ distance + CTC * (share @ ctc[:-1] + 0.3 * ctc[-1]) + SOUNDING * share @ frames
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        warm += 1
        optimisers.step(min(1, warm / WARM_UP) * min(1, (1 - gone) / arguments.decay))
        step += 1
        found = torch.stack([cross.detach(), ctc[:-1].detach(), frames.detach()])
        mean = found if mean is None else 0.95 * mean + 0.05 * found
        if step % 20 == 0:
            seconds = (time.time() - began) / (step - first)
            print(f"train: step {step} ({100 * gone:.0f} %), {seconds:.2f} s per step, nats of every other layer, units {shown(mean[0])} phones {shown(mean[1])} frames {shown(mean[2])}", flush=True)
        if step % 100 == 0:
            save(latest, model, step=step, optimiser=optimisers.state_dict(), resumed=arguments.resume, first=first, stable=stable, seconds=time.time() - began)
    save(folder / "final.pt", model, step=step)
    latest.unlink(missing_ok=True)
    print(f"train: {folder / 'final.pt'} at step {step}", flush=True)


def main():
    arguments = options()
    run(arguments, RUNS / arguments.name)


if __name__ == "__main__":
    main()
