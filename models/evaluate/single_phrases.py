"""Keywords from text, said alone: names of objects by one natural voice per language, and Mandarin commands by synthetic voices.

    python -m models.evaluate.single_phrases [--pack PACK] [--write]      with --write, the table of docs/keywords-figures.md

The objects are those of ktuberling, whose voices no encoder is trained on (they calibrate exit policies). single_phrases.json has their names, and the commands with
their phones by misaki 0.9.4, since Kokoro reads Mandarin in its phones. Names are short: 5 to 15 phones. Other speech is that of models/evaluate/phrases.py.
"""

import argparse
import itertools
import json
import subprocess
import tempfile
import tomllib
from pathlib import Path

import numpy as np
import soundfile

from ..keywords.bundle import cut, group
from ..train.paths import DATA, HOP, RATE, REPOSITORY
from .keywords import write
from .near_phrases import LEVEL
from .phrases import GROUPS, LEAST_SCORE, scores, sequences, spot, unreached, words_of
from .spoken import kept, kokoro
from .tables import numbers

KINDS = json.loads((Path(__file__).parent / "single_phrases.json").read_text())
VOICES = ("zf_xiaobei", "zm_yunyang")  # that no training uses
SPEEDS = (0.8, 1.0, 1.2)
FOLDER = DATA / "single_phrases"
PAUSE = 1.0  # seconds
ACCEPTS = 0.5  # per hour


def objects(kind):
    """(phrase, audio) of each recording."""
    index, sound = group("speech.calibrate")
    own = {Path(entry["clip"]).stem: entry for entry in index if entry["speaker"] == f"ktuberling-data/{kind['folder']}"}
    return [(phrase, cut(own[name], sound)) for name, phrase in kind["names"].items()]


def commands(kind):
    out = []
    for phrase, phones in kind["phones"].items():
        for voice, speed in itertools.product(VOICES, SPEEDS):
            path = FOLDER / f"{phrase}@{voice}@{speed}.wav"
            out.append((phrase, kept(path, lambda: kokoro().say(phones, "phones", voice, speed))))
    return out


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", default=REPOSITORY / "target/release/bellis", type=Path)
    parser.add_argument("--pack", default="daisy-tiny")
    parser.add_argument("--write", action="store_true", help="write the table of docs/keywords-figures.md")
    arguments = parser.parse_args()
    keywords, parts, places, at = {}, [], [], 0
    with tempfile.TemporaryDirectory() as folder:
        folder, common = Path(folder), ["--pack", arguments.pack]
        for title, kind in KINDS.items():
            for phrase, audio in objects(kind) if "names" in kind else commands(kind):
                audio = audio * LEVEL / np.sqrt(np.mean(audio**2))
                places.append((title, phrase, at / RATE, (at + len(audio)) / RATE))
                parts += [audio, np.zeros(int(PAUSE * RATE), np.float32)]
                at += len(audio) + len(parts[-1])
                name = f"{title} {phrase}"
                if name not in keywords:
                    command = [arguments.program, "enroll", name, "--say", phrase, "--language", kind["voice"], "--folder", folder / "keywords", *common]
                    subprocess.run(command, check=True, cwd=REPOSITORY, capture_output=True)
                    keywords[name] = tomllib.loads((folder / f"keywords/{name}.keyword.toml").read_text())
                    unreached(arguments.program, name, folder / "keywords")
        soundfile.write(folder / "audio.wav", np.concatenate(parts).clip(-1, 1), RATE)
        said = spot(arguments.program, common, folder / "audio.wav", folder / "keywords")
        highest, words, hours = {name: [] for name in keywords}, [], 0
        for group_name in GROUPS:
            index, sound = group(group_name)
            soundfile.write(folder / "audio.wav", sound, RATE)
            hits = spot(arguments.program, common, folder / "audio.wav", folder / "keywords")
            for name in keywords:
                highest[name].append(scores(hits[name], index))
            words += map(words_of, index)
            hours += sum(entry["frames"] for entry in index) * HOP / RATE / 3600
    rows = [["language", "voices", "phrases", "searched by", f"recall at {ACCEPTS}/h", "at enrolled thresholds", "false accepts per hour"]]
    for title, kind in KINDS.items():
        own, best, enrolled, accepts = list(dict.fromkeys(phrase for of, phrase, *_ in places if of == title)), [], [], []
        for phrase in own:
            name = f"{title} {phrase}"
            others = np.concatenate(highest[name])[[tuple(phrase.lower().split()) not in sequences(each) for each in words]]
            limit, threshold = max(LEAST_SCORE, np.sort(others)[::-1][int(ACCEPTS * hours)]), keywords[name]["threshold"]
            found = [max((score for at, score in said[name] if start - 0.2 <= at <= end + 0.2), default=0) for of, what, start, end in places if (of, what) == (title, phrase)]
            best.append(np.mean(np.array(found) > limit))
            enrolled.append(np.mean(np.array(found) >= threshold))
            accepts.append(np.sum(others >= threshold) / hours)
        phones = sum("phones" in keywords[f"{title} {phrase}"] for phrase in own)
        by = "phones" if phones == len(own) else "takes by `espeak-ng`" if not phones else f"phones: {phones}"
        voices = f"{len(VOICES)}, synthetic" if "phones" in kind else "1, natural"
        rows.append([title, voices, len(own), by, f"{np.mean(best):.2f}", f"{np.mean(enrolled):.2f}", f"{np.mean(accepts):.2f}"])
    text = f"{hours:.1f} hours of other speech.\n\n{numbers(rows)}"
    print(text)
    if arguments.write:
        write("single_phrases.py", text)


if __name__ == "__main__":
    main()
