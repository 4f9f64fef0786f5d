"""Keywords from text: recall, and the near-phrases that are accepted, at the thresholds that `bellis enroll` sets.

    python -m models.evaluate.near_phrases [--snr DB] [--write]      with --write, the table of docs/keywords-figures.md

near_phrases.json has twelve English phrases, and for each one phrases that differ in one word: opposites, rhymes, similar words. Six
synthetic voices (models/kokoro.py) that no training uses say all of them, in quiet or in recorded noise of public places (--snr). Every phrase is enrolled with `--say` from espeak-ng's voices.
"""

import argparse
import json
import subprocess
import tempfile
from collections import defaultdict
from pathlib import Path

import numpy as np
import soundfile

from ..train.mixing import scale_to
from ..train.paths import DATA, RATE, REPOSITORY
from ..train.synthesise import TEST_VOICES
from .keywords import write
from .spoken import kept, kokoro
from .streams import Pool

PHRASES = json.loads((Path(__file__).parent / "near_phrases.json").read_text())
VOICES = TEST_VOICES["en"].split()
FOLDER = DATA / "near_phrases"
PAUSE = 1.0  # seconds between utterances
LEVEL = 0.08  # RMS


def utterance(phrase, voice):
    say = lambda: kokoro().say(phrase, "en-us" if voice[0] == "a" else "en-gb", voice)
    audio = kept(FOLDER / f"{phrase.replace(' ', '-')}@{voice}.wav", say)
    return audio * LEVEL / np.sqrt(np.mean(audio**2))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", default=REPOSITORY / "target/release/bellis", type=Path)
    parser.add_argument("--pack", default="daisy-tiny")
    parser.add_argument("--snr", type=int, help="dB, in noise of public places (default: in quiet)")
    parser.add_argument("--threshold", help="fixed threshold of all phrases [default: as enrolled]")
    parser.add_argument("--write", action="store_true", help="write the table of docs/keywords-figures.md")
    arguments = parser.parse_args()
    threshold = ["--threshold", arguments.threshold] if arguments.threshold else []
    spoken = sorted({*PHRASES, *(near for own in PHRASES.values() for near in own)})
    silence, parts, places, at = np.zeros(int(PAUSE * RATE), np.float32), [], [], 0
    for phrase in spoken:
        for voice in VOICES:
            audio = utterance(phrase, voice)
            places.append((phrase, voice, at / RATE, (at + len(audio)) / RATE))
            parts += [audio, silence]
            at += len(audio) + len(silence)
    sound = np.concatenate(parts)
    if arguments.snr is not None:
        sound = sound + scale_to(Pool(0).noise("public", len(sound)), LEVEL**2, arguments.snr)
    with tempfile.TemporaryDirectory() as folder:
        audio, keywords = Path(folder) / "audio.wav", Path(folder) / "keywords"
        soundfile.write(audio, sound / max(1, np.abs(sound).max()), RATE)
        for phrase in PHRASES:
            command = [arguments.program, "enroll", phrase, "--say", phrase, "--folder", keywords, "--pack", arguments.pack, *threshold]
            subprocess.run(command, check=True, cwd=REPOSITORY, stdout=subprocess.DEVNULL)
        command = [arguments.program, "run", audio, "--consumer", f"keyword:{keywords}", "--pack", arguments.pack, "--quiet"]
        lines = subprocess.run(command, check=True, cwd=REPOSITORY, capture_output=True, text=True).stdout
    detected = defaultdict(set)
    for line in map(json.loads, lines.splitlines()):
        middle = (line["start"] + line["end"]) / 2
        for phrase, voice, start, end in places:
            if start - 0.2 <= middle <= end + 0.2:
                detected[line["keyword"], phrase].add(voice)
    share = lambda keyword, phrase: len(detected[keyword, phrase]) / len(VOICES)
    rows = ["| phrase | recall | near-phrases accepted |", "|---|---|---|"]
    for phrase, near in PHRASES.items():
        rows.append(f"| {phrase} | {share(phrase, phrase):.2f} | " + ", ".join(f"{other} {share(phrase, other):.2f}" for other in near) + " |")
    recall = np.mean([share(phrase, phrase) for phrase in PHRASES])
    accepted = np.mean([share(phrase, other) for phrase, near in PHRASES.items() for other in near])
    others = [(phrase, other) for phrase, near in PHRASES.items() for other in spoken if other != phrase and other not in near]
    rows += [f"| mean | {recall:.2f} | {accepted:.2f}; other phrases {np.mean([share(*pair) for pair in others]):.3f} |"]
    print("\n".join(rows))
    if arguments.write:
        write("near_phrases.py", "\n".join(rows))


if __name__ == "__main__":
    main()
