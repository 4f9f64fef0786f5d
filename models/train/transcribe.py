"""Transcribes recordings whose packages have no texts, with Moonshine tiny (English): PACKAGE/transcripts.json, {clip: text}.

    python -m models.train.transcribe

`label` aligns the transcripts and drops those that do not fit the sound.
"""

import json

import numpy as np

from examples.recogniser.moonshine import Moonshine

from .paths import HOP, PACKAGES, PREPARED
from .texts import TRANSCRIBED, TRANSCRIPTS

WEIGHTS = PACKAGES / "moonshine-voice/moonshine_voice/assets/tiny-en"


def main():
    index = json.loads((PREPARED / "speech.train.json").read_text())
    sound = np.load(PREPARED / "speech.train.npy", mmap_mode="r")
    for package in sorted(TRANSCRIBED):
        path, clips = PACKAGES / package / TRANSCRIPTS, [entry for entry in index if entry["package"] == package]
        if path.exists() or not clips:
            continue
        moonshine, texts = Moonshine(WEIGHTS), {}
        for done, entry in enumerate(clips):
            audio = np.asarray(sound[entry["start"] * HOP : (entry["start"] + entry["frames"]) * HOP], np.float32) / 32768
            texts[entry["clip"]] = moonshine.transcribe(audio)
            if done % 500 == 0:
                print(f"transcribe: {package} {done}/{len(clips)}", flush=True)
        path.write_text(json.dumps(texts, indent=0))


if __name__ == "__main__":
    main()
