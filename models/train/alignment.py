"""Measures the alignment of texts (models/train/label.py) on festvox-ru's own phone labels.

    python -m models.train.alignment MODEL [--clips N] [--threads N]

The texts of speech.probe are read and aligned as `label` does it. Phones of the labels and of the inventory are folded to the same classes (CLASSES);
the accepted clips' phones are matched with the labels in order, by class and not by time (difflib), and the centres of matched phones compared. Frames
count as correct if the class of the label at their middle is that of the alignment: those to which the CTC branch assigns a phone, and for the frame head,
which packs lack, all frames.
"""

import argparse
import json
from difflib import SequenceMatcher
from pathlib import Path

import numpy as np
import torch

from .check import phones_of
from .inventory import VOCABULARY
from .label import aligned, model_of, sounding, whole, worst
from .paths import HOP, PREPARED, RATE
from .texts import labels, text_of

GROUP, PAUSE = "speech.probe", "pau"
WITHIN = (20, 40, 60)  # ms
# Classes: the labels' phones and the inventory's. Stress, softness and the degree of a vowel's reduction are not distinguished.
CLASSES = {
    "a": ("a aa ay oo", "a ɑ ʌ ə o ɔ"), "i": ("i ii y yy e ee ae", "i ɪ ɨ y e ɛ"), "u": ("u uu ur", "u ʊ"),
    "t͡s": ("c", "t͡s"), "ʃ": ("sh sch", "ʃ"), "t͡ʃ": ("ch", "t͡ʃ d͡ʒ"), "ʒ": ("zh", "ʒ"), "x": ("h hh", "x"), "n": ("n nn", "n ŋ"),
}  # fmt: skip
OF_LABEL = {name: one for one, (names, _) in CLASSES.items() for name in names.split()}
OF_PHONE = {phone: one for one, (_, phones) in CLASSES.items() for phone in phones.split()}


def label_class(name):
    """The class of a phone of the labels; a doubled letter is a soft consonant."""
    return OF_LABEL.get(name) or name[0]


def phone_class(phone):
    """The class of a phone of the inventory."""
    return OF_PHONE.get(phone, phone)


def offsets(labelled, found):
    """Distances of the centres of matched phones, seconds; both are [(class, start, end)] in order."""
    matched = SequenceMatcher(None, [row[0] for row in labelled], [row[0] for row in found], autojunk=False)
    pairs = [(labelled[a + k], found[b + k]) for a, b, size in matched.get_matching_blocks() for k in range(size)]
    return [(later[1] + later[2] - early[1] - early[2]) / 2 for early, later in pairs]


def compare(labelled, row):
    """(offsets, number of labelled phones, whether each frame agrees [T]) of labels [(phone, start, end)] and the aligned phones of frames [T]; 0 is a pause."""
    middles = (np.arange(len(row)) + 0.5) * HOP / RATE
    here = np.searchsorted([end for *_, end in labelled], middles, side="right")
    names = ["" if name == PAUSE else label_class(name) for name, *_ in labelled] + [""]  # after the last label: a pause
    classes = ["" if phone < 2 else phone_class(VOCABULARY[phone]) for phone in range(len(VOCABULARY))]
    found = [(classes[phone], first * HOP / RATE, after * HOP / RATE) for phone, first, after in phones_of(row.astype(int))]
    spoken = [(name, start, end) for name, (_, start, end) in zip(names, labelled) if name]
    return offsets(spoken, found), len(spoken), np.array([names[at] == classes[phone] for at, phone in zip(here, row)])


def report(name, results):
    """Prints the figures of [(offsets, labelled phones, agreement of the frames that count)]."""
    ms = 1000 * np.concatenate([found for found, *_ in results])
    agree, error = np.concatenate([frames for *_, frames in results]), np.abs(ms)
    within = ", ".join(f"{100 * (error <= limit).mean():.1f} %" for limit in WITHIN)
    print(
        f"alignment: {name}: {100 * len(ms) / sum(count for _, count, _ in results):.1f} % of the labelled phones matched; centres differ by {np.median(error):.0f} ms (median), "
        f"{np.percentile(error, 90):.0f} ms (90th percentile), {np.median(ms):+.0f} ms (median with sign); within {', '.join(map(str, WITHIN))} ms: {within}; "
        f"{100 * agree.mean():.1f} % of {len(agree)} frames agree",
        flush=True,
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="checkpoint or pack")
    parser.add_argument("--clips", type=int, help="number of clips, the first ones (default: all)")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    index = json.loads((PREPARED / f"{GROUP}.json").read_text())[: arguments.clips]
    sound = np.load(PREPARED / f"{GROUP}.npy", mmap_mode="r")[: (index[-1]["start"] + index[-1]["frames"]) * HOP]
    _, ctc, heads = whole(model_of(arguments.model), sound, GROUP)
    known, branch, frames = 0, [], []
    for entry in index:
        labelled, text = labels(entry["clip"]), text_of(entry)
        if not labelled or not text:
            continue
        known += 1
        here = slice(entry["start"], entry["start"] + entry["frames"])
        found = aligned(ctc[here].astype(np.float32), text)
        if found is None or found[1] > worst(entry):
            continue
        path = found[0]
        shifts, count, agree = compare(labelled, path)
        branch.append((shifts, count, agree[path > 1]))
        if heads is not None:
            frames.append(compare(labelled, sounding(heads[here].astype(np.float32), path)))
    print(f"alignment: {len(branch)} of {known} clips with labels accepted", flush=True)
    report("CTC branch", branch)
    if frames:
        report("frame head", frames)


if __name__ == "__main__":
    main()
