"""Phones for the CTC branches: the output of a pretrained recogniser for the clean audio.

    python -m models.train.phones [--hours H]

The recogniser is hama 1.7 (Apache-2.0): a small Conformer with CTC over IPA tokens, 50 frames a second.

targets/GROUP.tokens.npy   u8, the most probable token of each frame of prepared/GROUP (blank between phones); 255 if not transcribed
targets/GROUP.phones.npy   u8, the same in the vocabulary of targets/phones.json: the blank, then the tokens that are frequent
enough in training, by frequency; 255 if not transcribed
"""

import argparse
import json

import numpy as np

from .paths import HOP, PREPARED, RATE, TARGETS
from .voice import speech_groups

SHORTEST, LONGEST = 10, 1000  # frames per call of the recogniser
BLOCK = 64  # clips
NOTHING = 255
BLANK = "<blank>"
SAME = {"ɡ": "g"}  # tokens that mean the same phone
OFTEN = 5e-4  # share of all phones


def vocabulary():
    """The phones by number; 0 is the blank."""
    return json.loads((TARGETS / "phones.json").read_text())


def transcribe(group, hours):
    """Tokens of a group's clips until `hours` are transcribed; resumes after an interruption. Neighbours are transcribed together, because a
    crop trains phones only if all of it is transcribed, but their blocks are in random order."""
    from hama.asr import ASRModel

    model, path = ASRModel(), TARGETS / f"{group}.tokens.npy"
    index = json.loads((PREPARED / f"{group}.json").read_text())
    sound = np.load(PREPARED / f"{group}.npy", mmap_mode="r")
    transcribed = np.load(path) if path.exists() else np.full(len(sound) // HOP, NOTHING, np.uint8)
    budget = hours * 3600 * RATE / HOP - (transcribed != NOTHING).sum()
    blocks = np.array_split(np.arange(len(index)), -(-len(index) // BLOCK))
    order = np.concatenate([blocks[k] for k in np.random.default_rng(0).permutation(len(blocks))])
    for done, clip in enumerate(order, 1):
        start, left = index[clip]["start"], index[clip]["frames"]
        fresh = budget > 0 and (transcribed[start : start + left] == NOTHING).all()
        if fresh:
            transcribed[start : start + left] = model.blank_id
            budget -= left
        while fresh and left >= SHORTEST:
            frames = min(left, LONGEST)
            audio = np.asarray(sound[start * HOP : (start + frames) * HOP], np.float32) / 32768
            tokens = model.transcribe_waveform(audio, RATE).frame_token_ids[:frames]
            transcribed[start : start + len(tokens)] = tokens
            start, left = start + frames, left - frames
        if (fresh and done % 200 == 0) or done == len(index):
            np.save(path, transcribed)
            print(f"phones: {group} clip {done}/{len(index)}", flush=True)
    names = [BLANK if token == model.blank_id else name for token, name in enumerate(model.decoder_tokens)]
    return transcribed, [SAME.get(name, name) for name in names]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hours", type=float, default=100.0, help="maximum hours per group; a later call continues from there with the same vocabulary")
    arguments = parser.parse_args()
    for group in speech_groups():
        transcribed, names = transcribe(group, arguments.hours)
        if not (TARGETS / "phones.json").exists():
            counts = {}
            for token, count in enumerate(np.bincount(transcribed, minlength=NOTHING)[: len(names)]):
                if names[token] != BLANK:
                    counts[names[token]] = counts.get(names[token], 0) + int(count)
            kept = [name for name in counts if counts[name] > 0 and any(c.isalpha() for c in name) and counts[name] >= OFTEN * sum(counts.values())]
            kept = [BLANK, *sorted(kept, key=counts.get, reverse=True)]
            (TARGETS / "phones.json").write_text(json.dumps(kept, ensure_ascii=False))
        known = vocabulary()
        number = np.zeros(NOTHING + 1, np.uint8)
        number[NOTHING] = NOTHING
        for token, name in enumerate(names):
            number[token] = known.index(name) if name in known else 0
        np.save(TARGETS / f"{group}.phones.npy", number[transcribed])
        said = (number[transcribed] != 0) & (transcribed != NOTHING)
        print(f"phones: {group}: {said.sum()} frames of {len(known) - 1} phones", flush=True)


if __name__ == "__main__":
    main()
