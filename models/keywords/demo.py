"""Makes the demo recording of README.md and docs/keywords.md: several synthetic voices say a command and phrases that resemble it.

    python -m models.keywords.demo

models/keywords/demo/lamp.opus   the command in six voices, and similar phrases, with pauses, in quiet room noise
models/keywords/demo/lamp.json   [[phrase, voice, start, end]] in seconds
"""

import argparse
import json

import numpy as np
import soundfile

from ..train.paths import RATE, REPOSITORY
from ..kokoro import Kokoro

OUT = REPOSITORY / "models/keywords/demo"
COMMAND = "turn on the lamp"
SCRIPT = [
    (COMMAND, "af_heart"),
    ("turn off the lamp", "af_heart"),
    (COMMAND, "am_michael"),
    ("turn on the lights", "am_michael"),
    ("what a lovely evening", "bf_emma"),
    (COMMAND, "bf_emma"),
    ("turn on the radio", "bm_george"),
    (COMMAND, "bm_george"),
    ("turn off the lamp", "am_michael"),
    (COMMAND, "af_nova"),
    ("the lamp is on the table", "af_nova"),
    ("turn it off again", "am_puck"),
    (COMMAND, "am_puck"),
    ("turn off the lamp", "bf_emma"),
]
PAUSE = 0.7  # seconds
LEVEL = 0.08  # RMS of each utterance
NOISE = 0.0008  # RMS of the room noise, about 40 dB below the speech


def main():
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    kokoro, random = Kokoro(), np.random.default_rng(0)
    parts, truth, at = [np.zeros(int(PAUSE * RATE), np.float32)], [], PAUSE
    for phrase, voice in SCRIPT:
        audio = kokoro.say(phrase, "en-us" if voice[0] == "a" else "en-gb", voice)
        loud = np.flatnonzero(np.abs(audio) > 0.02 * np.abs(audio).max())
        audio = audio[loud[0] : loud[-1] + 1]
        audio = audio * LEVEL / np.sqrt(np.mean(audio**2))
        truth.append([phrase, voice, round(at, 2), round(at + len(audio) / RATE, 2)])
        parts += [audio, np.zeros(int(PAUSE * RATE), np.float32)]
        at += len(audio) / RATE + PAUSE
    speech = np.concatenate(parts)
    speech = np.clip(speech + NOISE * random.standard_normal(len(speech)), -1, 1).astype(np.float32)
    OUT.mkdir(parents=True, exist_ok=True)
    with soundfile.SoundFile(OUT / "lamp.opus", "w", RATE, 1, format="OGG", subtype="OPUS") as out:
        for start in range(0, len(speech), RATE):  # one large write overflows libsndfile's stack
            out.write(speech[start : start + RATE])
    lines = ",\n".join(f" {json.dumps(row)}" for row in truth)
    (OUT / "lamp.json").write_text(f"[\n{lines}\n]\n")


if __name__ == "__main__":
    main()
