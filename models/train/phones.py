"""Phones for the CTC branches: what a pretrained recogniser hears in the clean sound.

    python -m models.train.phones

The recogniser is hama 1.7 (Apache-2.0): a small Conformer with CTC over IPA tokens, 50 frames a second.

targets/GROUP.tokens.npy   u8, its likeliest token of each frame of prepared/GROUP (blank between phones); 255 where nothing was heard
targets/GROUP.phones.npy   u8, the same in the vocabulary of targets/phones.json: the blank, then the tokens that training holds often
                           enough to be learnt, the frequent ones first
"""

import argparse
import json

import numpy as np

from .paths import HOP, PREPARED, RATE, TARGETS
from .voice import speech_groups

LONGEST = 1000  # frames that the recogniser hears at once
NOTHING = 255
BLANK, WORD_BOUNDARY = "<blank>", "<wb>"
SAME = {"ɡ": "g"}  # tokens that mean the same phone
OFTEN = 5e-4  # share of all heard phones


def vocabulary():
    """The phones by number; 0 is the blank."""
    return json.loads((TARGETS / "phones.json").read_text())


def hear(group):
    """Tokens of all clips of a group, resumable."""
    from hama.asr import ASRModel

    model = ASRModel()
    path, done_path = TARGETS / f"{group}.tokens.npy", TARGETS / f"{group}.tokens.done"
    index = json.loads((PREPARED / f"{group}.json").read_text())
    sound = np.load(PREPARED / f"{group}.npy", mmap_mode="r")
    first = int(done_path.read_text()) if done_path.exists() else 0
    heard = np.load(path) if first else np.full(len(sound) // HOP, NOTHING, np.uint8)
    for clip in range(first, len(index)):
        start, left = index[clip]["start"], index[clip]["frames"]
        while left >= 10:
            frames = min(left, LONGEST)
            audio = np.asarray(sound[start * HOP : (start + frames) * HOP], np.float32) / 32768
            tokens = model.transcribe_waveform(audio, RATE).frame_token_ids[:frames]
            heard[start : start + len(tokens)] = tokens
            start, left = start + frames, left - frames
        if clip % 200 == 199 or clip == len(index) - 1:
            np.save(path, heard)
            done_path.write_text(str(clip + 1))
            print(f"phones: {group} clip {clip + 1}/{len(index)}", flush=True)
    names = [BLANK if token == model.blank_id else name for token, name in enumerate(model.decoder_tokens)]
    return heard, [SAME.get(name, name) for name in names]


def main():
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    for group in speech_groups():
        heard, names = hear(group)
        if group == "speech.train":
            counts = {}
            for token, count in enumerate(np.bincount(heard, minlength=NOTHING)[: len(names)]):
                if names[token] != BLANK:
                    counts[names[token]] = counts.get(names[token], 0) + int(count)
            kept = [name for name in counts if counts[name] > 0 and any(c.isalpha() for c in name) and counts[name] >= OFTEN * sum(counts.values())]
            kept = [BLANK, *sorted(kept, key=counts.get, reverse=True)]
            (TARGETS / "phones.json").write_text(json.dumps(kept, ensure_ascii=False))
        known = vocabulary()
        number = np.zeros(NOTHING + 1, np.uint8)
        for token, name in enumerate(names):
            number[token] = known.index(name) if name in known else 0
        np.save(TARGETS / f"{group}.phones.npy", number[heard])
        print(f"phones: {group}: {(number[heard] != 0).sum()} frames of {len(known) - 1} phones", flush=True)


if __name__ == "__main__":
    main()
