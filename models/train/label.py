"""Labels recordings with a trained model: units, and the phones of their texts, aligned.

    python -m models.train.label MODEL [--groups GROUP ...] [--keep-units] [--threads N]

MODEL is a checkpoint or a pack. The model runs at full depth over the clean audio. Units are those of its last head: a student learns in noise
and at every depth what its predecessor says of clean audio. Phones of clips with a text (models/train/texts.py) are those that espeak-ng
reads, aligned by the CTC branch (Viterbi); clips whose sound does not fit their text are dropped, and clips without a text have no phones.

targets/GROUP.units.npy    u16, one unit per frame of prepared/GROUP
targets/GROUP.phones.npy   u8, the phone of the frames that the CTC branch assigns to it, 0 between them; 255 if unknown
targets/GROUP.frames.npy   u8, the phone that sounds in each frame, 0 in pauses; 255 if unknown (models with frame heads only)
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch

from . import export
from .inventory import BOUNDARY, VOCABULARY, spoken
from .mixing import UNKNOWN
from .model import LEAD, RECEPTIVE_FIELD, load
from .paths import HOP, PREPARED, TARGETS
from .texts import UNSURE, text_of

CHUNK, WINDOW, WARM_UP = 32, 1024, 256  # frames: a window's first ones only give context
WORST = 1.2  # nats per frame by which the text may be less likely than the model's own reading
WORST_UNSURE = 0.3  # the same for texts that are often not what is said
PAUSE = 5  # frames: a shorter one between phones may be none (docs/notes/training.md, "Accuracy of the alignment")


def model_of(path):
    """The model of a checkpoint or a pack."""
    model = export.read(path, VOCABULARY) if path.is_dir() else load(path)[0]
    return model.eval()


@torch.no_grad()
def outputs(model, sound):
    """Yields (first frame, log-probabilities of the last head [T, units], of the CTC branch [T, V], of the frame head [T, V] or None) over a group's sound."""
    frames = len(sound) // HOP
    for start in range(0, frames, WINDOW - WARM_UP):
        first = max(0, start - WARM_UP)
        count = -(-(min(frames, first + WINDOW) - first) // CHUNK) * CHUNK
        audio = np.zeros((count - 1) * HOP + RECEPTIVE_FIELD, np.float32)
        begin = first * HOP - LEAD
        part = np.asarray(sound[max(0, begin) : begin + len(audio)], np.float32) / 32768
        audio[max(0, -begin) :][: len(part)] = part
        state = model(torch.from_numpy(audio)[None], CHUNK)[-1][0]
        keep = slice(start - first, min(count, frames - first))
        units = model.heads[-1](state)[keep].log_softmax(-1).numpy()
        phones = model.ctc[-1](state)[keep].log_softmax(-1).numpy()
        sounding = model.frames[-1](state)[keep].log_softmax(-1).numpy() if model.frames else None
        yield start, units, phones, sounding


def viterbi(scores, jumps, ends):
    """The likeliest path through states with log-probabilities [T, S], and its sum. It begins in one of the first two states and ends in one of
    `ends`. A state follows itself, and the state j + 1 places before it where jumps[j] is true, [J, S]."""
    frames, count = scores.shape
    costs = np.where(jumps, 0.0, -np.inf)
    best = np.full(count, -np.inf)
    best[:2] = scores[0, :2]
    back = np.zeros((frames, count), np.int8)
    for t in range(1, frames):
        options = np.full((1 + len(jumps), count), -np.inf)
        options[0] = best
        for jump, cost in enumerate(costs, 1):
            options[jump, jump:] = best[:-jump] + cost[jump:]
        back[t] = options.argmax(0)
        best = options.max(0) + scores[t]
    at = max(ends, key=lambda end: best[end])
    total, path = best[at], np.zeros(frames, int)
    for t in range(frames - 1, -1, -1):
        path[t] = at
        at -= int(back[t, at])
    return path, total


def align(log_p, words, boundary=VOCABULARY.index(BOUNDARY)):
    """Viterbi path of words (tuples of phones) through [T, V]: the class of each frame, 0 for blanks, and its mean log-probability; None if too short.

    A word boundary may sound between words, like a blank; the same phone twice needs one of them in between.
    """
    states, optional = [0], [True]  # blank, phone, blank, …; a boundary after each word's last blank
    for word in words:
        for phone in word:
            states += [VOCABULARY.index(phone), 0]
            optional += [False, True]
        states += [boundary, 0]
        optional += [True, True]
    states, optional = np.array(states), np.array(optional)
    count, frames = len(states), len(log_p)
    if frames < (~optional).sum():
        return None
    # Over two or three optional states only between different phones.
    jumps = np.zeros((4, count), bool)
    for jump in (1, 2, 3, 4):
        for to in range(jump, count):
            jumps[jump - 1, to] = optional[to - jump + 1 : to].all() and not (jump > 1 and states[to] == states[to - jump])
    ends = [end for end in (count - 1, count - 2, count - 3, count - 4) if optional[end + 1 :].all()]
    path, total = viterbi(log_p[:, states], jumps, ends)
    return (states[path].astype(np.uint8), total / frames) if np.isfinite(total) else None


def sounding(log_p, path):
    """The phone that sounds in each frame, 0 in pauses: the frame head's own Viterbi path through the phones of `path` in order."""
    fresh = (path > 1) & (path != np.pad(path[:-1], (1, 0)))
    phones = path[fresh]
    states = np.zeros(2 * len(phones) + 1, int)
    states[1::2] = phones
    jumps = np.ones((2, len(states)), bool)
    jumps[1] = states != 0  # from phone to phone without a pause in between
    found, _ = viterbi(log_p[:, states], jumps, (len(states) - 2, len(states) - 1))
    return states[found].astype(np.uint8)


def without_short_pauses(row):
    """The same row of phones in which pauses of less than PAUSE frames between phones are UNKNOWN: a frame head puts them into phones, and labels by hand have none."""
    row, edges = row.copy(), np.flatnonzero(np.diff(row)) + 1
    for first, after in zip(edges, edges[1:]):
        if row[first] == 0 and after - first < PAUSE:
            row[first:after] = UNKNOWN
    return row


def aligned(log_p, text):
    """The path of a (text, voice), and the nats per frame by which it is less likely than the model's own reading; None if there is no path."""
    words = spoken(*text)
    found = align(log_p, words) if words else None
    return found and (found[0], log_p.max(1).mean() - found[1])


def worst(entry):
    """The most nats per frame of an alignment that is kept."""
    return WORST_UNSURE if entry["package"] in UNSURE else WORST


def whole(model, sound, name):
    """(units [T], log-probabilities of the CTC branch [T, V] and of the frame head [T, V] or None) of a group's audio."""
    frames = len(sound) // HOP
    units = np.zeros(frames, np.uint16)
    ctc = np.zeros((frames, len(VOCABULARY)), np.float16)
    heads = np.zeros((frames, len(VOCABULARY)), np.float16) if model.frames else None
    for start, unit, log_p, frame in outputs(model, sound):
        units[start : start + len(unit)] = unit.argmax(-1)
        ctc[start : start + len(unit)] = log_p
        if heads is not None:
            heads[start : start + len(unit)] = frame
        if start // (WINDOW - WARM_UP) % 100 == 0:
            print(f"label: {name} {100 * start / frames:.0f} %", flush=True)
    return units, ctc, heads


def label(model, group, keep_units):
    """Writes the targets of a group."""
    sound = np.load(PREPARED / f"{group}.npy", mmap_mode="r")
    index = json.loads((PREPARED / f"{group}.json").read_text())
    units, ctc, heads = whole(model, sound, group)
    if not keep_units:
        np.save(TARGETS / f"{group}.units.npy", units)
    if (TARGETS / f"{group}.exact").exists():  # the synthesiser's own phones
        return
    phones, sounds = np.full(len(units), UNKNOWN, np.uint8), np.full(len(units), UNKNOWN, np.uint8)
    kept = known = seconds = 0
    costs = []
    for entry in index:
        text = text_of(entry)
        if text is None:
            continue
        known += 1
        here = slice(entry["start"], entry["start"] + entry["frames"])
        log_p = ctc[here].astype(np.float32)
        found = aligned(log_p, text)
        if found is None:
            continue
        path, cost = found
        costs.append(cost)
        if cost > worst(entry):
            continue
        phones[here] = path
        if heads is not None:
            sounds[here] = without_short_pauses(sounding(heads[here].astype(np.float32), path))
        kept += 1
        seconds += entry["frames"] * HOP / 16_000
    np.save(TARGETS / f"{group}.phones.npy", phones)
    np.save(TARGETS / f"{group}.frames.npy", sounds)
    if costs:
        spread = [round(float(x), 2) for x in np.percentile(costs, (10, 50, 90))]
        print(f"label: {group}: {kept} of {known} clips fit their text ({seconds / 3600:.2f} h), nats per frame {spread}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--groups", nargs="+", default=["speech.train", "synthetic.train", "speech.calibrate", "speech.probe", "speech.test"])
    parser.add_argument("--keep-units", action="store_true", help="only write phones: the units are those of `teach`")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    TARGETS.mkdir(parents=True, exist_ok=True)
    model = model_of(arguments.model)
    for group in arguments.groups:
        if (PREPARED / f"{group}.json").exists():
            label(model, group, arguments.keep_units)


if __name__ == "__main__":
    main()
