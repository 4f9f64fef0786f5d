"""Keywords from text in running speech: phrases of an acted English game, by voices that no training uses.

    python -m models.evaluate.acted_phrases [--pack PACK] [--policy NAME] [--hours H] [--write]

The phrases are the forty most frequent sequences of one to three words with 7 to 16 phones in the sentences of speech.acted (models/train/queen.py), each
said at least three times. They are enrolled with `bellis enroll --say`. Recall counts the sentences that contain the phrase; false accepts are counted
in French and Dutch speech (speech.test), and in the sentences of the same game without the phrase. With --write, the table of
docs/keywords-figures.md.
"""

import argparse
import json
import re
import subprocess
import tempfile
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import soundfile

from ..train.inventory import spoken
from ..train.paths import HOP, PREPARED, RATE, REPOSITORY
from ..train.texts import text_of
from .keywords import write

COUNT, LEAST_SAID = 40, 3
PHONES = range(7, 17)
LEAST_SCORE = 0.02  # of a near miss
RATES = (0.5, 2, 5)  # false accepts per hour
MARGIN = 0.2  # seconds around a sentence in which a match may lie


def words_of(text):
    return re.sub(r"[^a-z' ]", " ", text.lower()).split()


def sequences(words):
    return {tuple(words[at : at + size]) for size in (1, 2, 3) for at in range(len(words) - size + 1)}


def chosen(sentences):
    counts = Counter(sequence for words, _ in sentences for sequence in sequences(words))
    fits = lambda sequence: sum(len(word) for word in spoken(" ".join(sequence), "en-us")) in PHONES
    often = [sequence for sequence, count in counts.most_common() if count >= LEAST_SAID]
    return [sequence for sequence in often if fits(sequence)][:COUNT]


def spot(program, arguments, audio, folder):
    """{keyword: [(time of its middle, score)]}"""
    command = [program, "run", audio, *arguments, "--quiet", "--near-misses", str(LEAST_SCORE), "--consumer", f"keyword:{folder}"]
    lines = subprocess.run(command, check=True, capture_output=True, text=True, cwd=REPOSITORY).stdout
    found = defaultdict(list)
    for hit in map(json.loads, lines.splitlines()):
        found[hit["keyword"]].append(((hit["start"] + hit["end"]) / 2, hit["score"]))
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", default=REPOSITORY / "target/release/bellis", type=Path)
    parser.add_argument("--pack", default="daisy-tiny")
    parser.add_argument("--policy", help="exit policy [default: the pack's]")
    parser.add_argument("--hours", type=float, default=1.2, help="of French and Dutch speech (default: %(default)s)")
    parser.add_argument("--write", action="store_true", help="write the table of docs/keywords-figures.md")
    arguments = parser.parse_args()
    index = json.loads((PREPARED / "speech.acted.json").read_text())
    sentences = [(words_of(text_of(entry)[0]), entry) for entry in index if text_of(entry)]
    phrases = {"-".join(phrase).replace("'", ""): phrase for phrase in chosen(sentences)}
    with tempfile.TemporaryDirectory() as folder:
        keywords, common = Path(folder) / "keywords", ["--pack", arguments.pack]
        for name, phrase in phrases.items():
            command = [arguments.program, "enroll", name, "--say", " ".join(phrase), "--folder", keywords, "--threshold", "0.9", *common]
            subprocess.run(command, check=True, cwd=REPOSITORY, stdout=subprocess.DEVNULL)
        found = {}
        for group, samples in (("speech.acted", None), ("speech.test", int(arguments.hours * 3600) * RATE)):
            audio = Path(folder) / "audio.wav"
            soundfile.write(audio, np.load(PREPARED / f"{group}.npy", mmap_mode="r")[:samples], RATE)
            policy = ["--policy", arguments.policy] if arguments.policy else []
            found[group] = spot(arguments.program, [*common, *policy], audio, keywords)
    recalls = {"speech.test": [], "speech.acted": []}
    for name, phrase in phrases.items():
        said, other = [], []
        for words, entry in sentences:
            start, end = entry["start"] * HOP / RATE - MARGIN, (entry["start"] + entry["frames"]) * HOP / RATE + MARGIN
            score = max((score for at, score in found["speech.acted"][name] if start <= at <= end), default=0)
            (said if phrase in sequences(words) else other).append(score)
        seconds = defaultdict(float)  # one false accept a second at most
        for at, score in found["speech.test"][name]:
            seconds[int(at)] = max(seconds[int(at)], score)
        hours = sum(entry["frames"] for _, entry in sentences) * HOP / RATE / 3600
        for group, false, length in (("speech.test", list(seconds.values()), arguments.hours), ("speech.acted", other, hours)):
            ranked = sorted(false, reverse=True) + [0] * (int(RATES[-1] * length) + 1)
            recalls[group].append([np.mean([score > ranked[int(rate * length)] for score in said]) for rate in RATES])
        print(f"{' '.join(phrase)}: said {len(said)} times, recall " + " ".join(f"{recall:.2f}" for recall in recalls["speech.test"][-1]), flush=True)
    rows = [f"| false accepts per hour | {' | '.join(map(str, RATES))} |", "|---|" + "---|" * len(RATES)]
    for group, title in (("speech.test", "of French and Dutch speech"), ("speech.acted", "of other sentences of the game")):
        rows.append(f"| {title} | " + " | ".join(f"{mean:.2f}" for mean in np.mean(recalls[group], 0)) + " |")
    print("\n".join(rows))
    if arguments.write:
        write("acted_phrases.py", "\n".join(rows))


if __name__ == "__main__":
    main()
