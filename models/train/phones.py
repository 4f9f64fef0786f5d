"""Phones for the CTC branches: what a pretrained recogniser hears in the clean sound.

    python -m models.train.phones

The recogniser is hama 1.7 (Apache-2.0): a small Conformer with CTC over IPA tokens, 50 frames a second.

targets/GROUP.phones.npy   u8, its likeliest token of each frame of prepared/GROUP (blank between phones); 255 where nothing was heard
targets/phones.json        the tokens, the blank first
"""

import argparse
import json

import numpy as np
from hama.asr import ASRModel

from .paths import HOP, PREPARED, RATE, TARGETS

GROUPS = ("speech.train", "speech.probe", "speech.test")
LONGEST = 1000  # frames that the recogniser hears at once
NOTHING = 255


def main():
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    model = ASRModel()
    blank = model.blank_id
    number = {token: token + 1 if token < blank else token for token in range(len(model.decoder_tokens))}
    number[blank] = 0
    (TARGETS / "phones.json").write_text(json.dumps(["<blank>"] + [t for i, t in enumerate(model.decoder_tokens) if i != blank], ensure_ascii=False))
    for group in GROUPS:
        index = json.loads((PREPARED / f"{group}.json").read_text())
        sound = np.load(PREPARED / f"{group}.npy", mmap_mode="r")
        path, done_path = TARGETS / f"{group}.phones.npy", TARGETS / f"{group}.phones.done"
        first = int(done_path.read_text()) if done_path.exists() else 0
        heard = np.load(path) if first else np.full(len(sound) // HOP, NOTHING, np.uint8)
        for clip in range(first, len(index)):
            start, left = index[clip]["start"], index[clip]["frames"]
            while left >= 10:
                frames = min(left, LONGEST)
                audio = np.asarray(sound[start * HOP : (start + frames) * HOP], np.float32) / 32768
                tokens = [number[token] for token in model.transcribe_waveform(audio, RATE).frame_token_ids[:frames]]
                heard[start : start + len(tokens)] = tokens
                start, left = start + frames, left - frames
            if clip % 200 == 199 or clip == len(index) - 1:
                np.save(path, heard)
                done_path.write_text(str(clip + 1))
                print(f"phones: {group} clip {clip + 1}/{len(index)}", flush=True)


if __name__ == "__main__":
    main()
