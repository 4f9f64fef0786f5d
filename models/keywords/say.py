"""Takes of a phrase in the voices of a neural synthesiser (models/kokoro.py), for `bellis enroll --from`:

    python -m models.keywords.say "turn on the lamp" takes/ [--language en] [--takes 8] [--seed 0]

Voices are those of the language and mixtures of them, so every take has another speaker. `bellis enroll --say` alone uses the
distribution's synthesiser and needs none of this.
"""

import argparse
import random
from pathlib import Path

import soundfile

from ..kokoro import Kokoro
from ..train.paths import RATE
from ..train.synthesise import ESPEAK, SPEEDS, VOICES, accent, speaker

MOST = 16  # recordings of a keyword
PADDING = 0.3  # seconds of silence on either side


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("phrase")
    parser.add_argument("out", type=Path, help="folder of the WAV files")
    parser.add_argument("--language", default="en", choices=list(VOICES))
    parser.add_argument("--takes", type=int, default=8, help=f"number of takes, at most {MOST} (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    if not 1 <= arguments.takes <= MOST:
        parser.error(f"--takes must be between 1 and {MOST}")
    kokoro, rng = Kokoro(), random.Random(arguments.seed)
    arguments.out.mkdir(parents=True, exist_ok=True)
    names = dict.fromkeys(speaker(arguments.language, rng, False) for _ in range(10 * arguments.takes))
    for number, name in enumerate(list(names)[: arguments.takes], 1):
        audio = kokoro.say(arguments.phrase, ESPEAK.get(arguments.language) or accent(name), name, rng.uniform(*SPEEDS))
        silence = [0.0] * int(PADDING * RATE)
        path = arguments.out / f"{number:02}.wav"
        soundfile.write(path, [*silence, *audio, *silence], RATE)
        print(f"{path}: {name}")
    print(f'bellis enroll NAME --say "{arguments.phrase}" --from {arguments.out}/*.wav')


if __name__ == "__main__":
    main()
