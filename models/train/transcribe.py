"""Transcribes recordings whose packages have no texts, with Moonshine tiny (English): PACKAGE/transcripts.json, {clip: text}.

    python -m models.train.transcribe

`label` aligns the transcripts and drops those that do not fit the sound.
"""

import argparse
import json

import numpy as np

from examples.recogniser.moonshine import Moonshine

from .paths import HOP, PACKAGES, PREPARED
from .texts import TRANSCRIBED, TRANSCRIPTS

WEIGHTS = PACKAGES / "moonshine-voice/moonshine_voice/assets/tiny-en"


def write(path, texts):
    """Atomically: a killed run keeps what is done."""
    part = path.with_suffix(".part")
    part.write_text(json.dumps(texts, indent=0))
    part.rename(path)


def main():
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    index = json.loads((PREPARED / "speech.train.json").read_text())
    sound = np.load(PREPARED / "speech.train.npy", mmap_mode="r")
    for package in sorted(TRANSCRIBED):
        path, clips = PACKAGES / package / TRANSCRIPTS, [entry for entry in index if entry["package"] == package]
        texts = json.loads(path.read_text()) if path.exists() else {}
        clips = [entry for entry in clips if entry["clip"] not in texts]
        if not clips:
            continue
        moonshine = Moonshine(WEIGHTS)
        for done, entry in enumerate(clips):
            audio = np.asarray(sound[entry["start"] * HOP : (entry["start"] + entry["frames"]) * HOP], np.float32) / 32768
            texts[entry["clip"]] = moonshine.transcribe(audio)
            if done % 500 == 0:
                print(f"transcribe: {package} {done}/{len(clips)}", flush=True)
                write(path, texts)
        write(path, texts)


if __name__ == "__main__":
    main()
