"""Small trainings from nothing that differ in one choice of `train`: what each choice is worth.

    python -m models.train.ablate [CHOICE ...] [--steps N] [--clips N] [--threads N]

Each choice trains daisy-nano on the prepared data for as many steps. Measured is the surprise of the CTC branches at the known phones of held-out speech (the clips of
`check`), in nats per phone, at half and full depth: phone errors mean little after so few steps. "nothing" is trained with two seeds: differences below that of the two
are noise. Finished trainings are kept in runs/ablations and not repeated; at the end, all of them are a table.

The units "averaged over voices" are those of the mean posterior of all voices that say a sentence, frames matched within each phone by its exact times.
"""

import argparse
import json
from collections import defaultdict
from contextlib import ExitStack
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
import torch.nn.functional as F

from . import check, mixing, train
from .inventory import VOCABULARY
from .label import model_of, outputs
from .paths import HOP, PREPARED, REPOSITORY, RUNS, TARGETS
from .teach import information

ABLATIONS = RUNS / "ablations"
AVERAGED = ABLATIONS / "targets"  # as TARGETS, with units averaged over voices
CHOICES = {
    "nothing": [],
    "another seed": [],
    "no synthetic speech": [(train, "SHARES", {"speech.train": 1.0})],
    "no recordings": [(train, "SHARES", {"synthetic.train": 1.0})],
    "no speaker perturbation": [(mixing, "PERTURBED", 0.0)],
    "no units": [(train, "UNIT", 0.0), (train, "DISTILL", 0.0)],
    "units averaged over voices": [(mixing, "TARGETS", AVERAGED)],
    "no phones of frames": [(train, "SOUNDING", 0.0)],
    "layers of equal weight": [(train, "GROWTH", 0.0), (train, "SHALLOWEST", 1.0)],
    "weights by the square of depth": [(train, "GROWTH", 2.0)],
    "only the last layer": [(train, "GROWTH", np.inf), (train, "SHALLOWEST", 0.0), (train, "sample_exits", lambda batch, chunks, layers: torch.full((batch, chunks), layers))],
}
SPEECH = ("English, synthetic voices", "read English", "acted English", "read Russian")


def posteriors(model, group):
    """Log-probabilities of the last head over a group's clean sound, [frames, units] f16."""
    sound = np.load(PREPARED / f"{group}.npy", mmap_mode="r")
    out = np.zeros((len(sound) // HOP, model.shape.units), np.float16)
    for number, (start, log_p, _, _) in enumerate(outputs(model, sound)):
        out[start : start + len(log_p)] = log_p
        if number % 100 == 0:
            print(f"ablate: posteriors {100 * start / len(out):.0f} %", flush=True)
    return out


def average_over_voices(model, group="synthetic.train"):
    """Makes AVERAGED: the group's units are those of the mean posterior of all voices that say a sentence with the same phones."""
    index, phones = json.loads((PREPARED / f"{group}.json").read_text()), np.load(TARGETS / f"{group}.phones.npy")
    plain = np.load(TARGETS / f"{group}.units.npy")
    averaged, log_p, said = plain.copy(), posteriors(model, group), defaultdict(list)
    for entry in index:
        clip = slice(entry["start"], entry["start"] + entry["frames"])
        found = check.phones_of(phones[clip])
        said[entry["language"], tuple(phone for phone, _, _ in found)].append([(clip.start + first, clip.start + after) for _, first, after in found])
    for clips in said.values():
        for one in clips if len(clips) > 1 else ():
            for k, (first, after) in enumerate(one):
                middles = (np.arange(after - first) + 0.5) / (after - first)
                rows = [low + (middles * (high - low)).astype(int) for low, high in (clip[k] for clip in clips)]
                averaged[first:after] = sum(np.exp(log_p[row].astype(np.float32)) for row in rows).argmax(1)
    averaged[plain == mixing.QUIET] = mixing.QUIET
    part = AVERAGED.with_suffix(".part")
    part.mkdir(parents=True, exist_ok=True)
    for path in TARGETS.glob("*.npy"):
        if path.name != f"{group}.units.npy" and not (part / path.name).exists():
            (part / path.name).symlink_to(path.resolve())
    np.save(part / f"{group}.units.npy", averaged)
    part.rename(AVERAGED)
    speech = ~np.isin(phones, check.SILENT)
    for name, units in (("plain", plain), ("averaged", averaged)):
        shared, entropy, _ = information(phones[speech].astype(int), units[speech].astype(int))
        print(f"ablate: {name} units: PNMI {shared / entropy:.3f}; {100 * (units != plain).mean():.0f} % of the frames changed", flush=True)


def learn(choice, steps, threads):
    """Trains with one choice changed; returns the checkpoint's path."""
    folder = ABLATIONS / f"{choice.replace(' ', '-')}-{steps}"
    final = folder / "final.pt"
    if not final.exists():
        print(f"ablate: {choice}", flush=True)
        given = ["daisy-nano", "--steps", str(steps), "--decay", "0.4", "--threads", str(threads), "--workers", "0", "--seed", str(int(choice == "another seed"))]
        with ExitStack() as changed:
            for module, name, value in CHOICES[choice]:
                changed.enter_context(patch.object(module, name, value))
            train.run(train.options(given), folder)
    return final


def surprise(model, pairs, snr, rng):
    """Nats per phone of every layer's CTC branch, [L + 1]."""
    nats, total = torch.zeros(model.shape.layers + 1), 0
    for logits, reference in check.heard(model, pairs, snr, rng):
        phones = torch.tensor([VOCABULARY.index(phone) for phone in reference])
        if len(phones) > 0.8 * logits.shape[1]:
            continue  # spoken faster than the text can be aligned
        targets, count = phones.repeat(len(logits), 1), torch.full((len(logits),), len(phones))
        found = F.ctc_loss(without_boundaries(logits).transpose(0, 1), targets, torch.full((len(logits),), logits.shape[1]), count, reduction="none")
        nats, total = nats + found, total + len(phones)
    return nats / max(1, total)


def without_boundaries(logits):
    """Log-probabilities in which the word boundary, which references lack, is a blank."""
    log_p = logits.float().log_softmax(-1).clone()
    blank, boundary = check.SILENT
    log_p[..., blank] = torch.logaddexp(log_p[..., blank], log_p[..., boundary])
    log_p[..., boundary] = -30
    return log_p


def measure(model, clips):
    """{speech: {SNR: [nats per phone at half depth, at full depth]}}."""
    found = {}
    for speech in SPEECH:
        for snr in (None, 5):
            rng = np.random.default_rng(1)
            nats = surprise(model, check.some(speech, rng, clips), snr, rng)
            found.setdefault(speech, {})["clean" if snr is None else f"{snr} dB"] = [float(nats[len(nats) // 2]), float(nats[-1])]
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("choices", nargs="*", help=f"{', '.join(CHOICES)} (default: all)")
    parser.add_argument("--steps", type=int, default=1200, help="(default: %(default)s)")
    parser.add_argument("--clips", type=int, default=60, help="maximum number of clips of each kind of speech (default: %(default)s)")
    parser.add_argument("--pack", type=Path, default=REPOSITORY / "models/daisy-tiny", help="whose posteriors are averaged over voices (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    unknown = set(arguments.choices) - set(CHOICES)
    if unknown:
        parser.error(f"unknown: {', '.join(unknown)}; known: {', '.join(CHOICES)}")
    torch.set_num_threads(arguments.threads)
    figures = ABLATIONS / f"figures-{arguments.steps}-{arguments.clips}.json"
    for choice in arguments.choices or CHOICES:
        found = json.loads(figures.read_text()) if figures.exists() else {}
        if choice in found:
            continue
        if (mixing, "TARGETS", AVERAGED) in CHOICES[choice] and not AVERAGED.exists():
            average_over_voices(model_of(arguments.pack))
        found[choice] = measure(model_of(learn(choice, arguments.steps, arguments.threads)), arguments.clips)
        figures.write_text(json.dumps(found, indent=1))
        print(f"ablate: {choice}: {json.dumps(found[choice])}", flush=True)
    print("| changed | " + " | ".join(f"{speech}: clean, 5 dB, half to full" for speech in SPEECH) + " |\n|" + "---|" * (len(SPEECH) + 1))
    for choice, speeches in found.items():
        cells = [f"{by['clean'][1]:.2f}, {by['5 dB'][1]:.2f}, {100 * (1 - by['clean'][1] / by['clean'][0]):.0f} %" for by in speeches.values()]
        print(f"| {choice} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
