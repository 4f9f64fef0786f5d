"""Processor time of keyword search.

    python -m models.evaluate.keyword_cost [--pack PACK] [--write]      with --write, the tables of docs/keywords-figures.md

1 to 1,000 keywords: ten words of one speaker with three recordings each and ten phrases from text, at thresholds close to the lowest that enrolment sets, and copies of them under other
names. 30 keywords: phrases from text at the thresholds that enrolment sets, ten minutes of speech, the default policy and full depth in turns.
"""

import argparse
import json
import re
import shutil
import tempfile
from pathlib import Path

import numpy as np
import soundfile

from ..train.paths import RATE, REPOSITORY
from .keywords import COST_SECONDS, Bellis, background, same_speaker, write

PHRASES = json.loads((Path(__file__).parent / "near_phrases.json").read_text())
COUNTS = (1, 10, 100, 1000)
KEYWORDS, MINUTES, ROUNDS = 30, 10, 5


def phrases(count):
    """{name: (phrase, no tests)} of near_phrases.json, phrases before near-phrases."""
    known = [*PHRASES, *(near for own in PHRASES.values() for near in own)]
    return {phrase.replace(" ", "-").replace("'", ""): (phrase, []) for phrase in list(dict.fromkeys(known))[:count]}


def words(count):
    return same_speaker(count, np.random.default_rng(1), 1, least=4)


def sound(path, seconds):
    soundfile.write(path, background(seconds / 3600 + 0.001), RATE)
    return path


def many(program, pack, folder):
    """The cost of COUNTS keywords of either kind, and of that the search."""
    kinds = [(words(10), "0.3"), (phrases(10), "0.2")]
    path, columns = sound(folder / "sound.wav", COST_SECONDS), []
    for kind, (own, threshold) in enumerate(kinds):
        made = folder / f"made{kind}"
        made.mkdir()
        system = Bellis(program, pack, "", made)
        system.threshold = threshold
        system.enroll(own, set())
        files = sorted(made.glob("*.keyword.toml"))
        columns.append([])
        for count in COUNTS:
            system.folder = folder / "keywords"
            shutil.rmtree(system.folder, ignore_errors=True)
            system.folder.mkdir()
            for index in range(count):
                file = files[index % len(files)]
                (system.folder / f"{index}.keyword.toml").write_text(re.sub("^name = .*", f'name = "{index}"', file.read_text(), flags=re.M))
            whole, without = system.cost(path)
            columns[-1].append(f"{whole:.1f} | {whole - without:.2f}")
    lines = ["| keywords | of three examples | of that, keyword search | from text | of that, keyword search |", "|---|---|---|---|---|"]
    return "\n".join([*lines, *(f"| {count:,} | {recorded} | {text} |" for count, recorded, text in zip(COUNTS, *columns))])


def policies(program, pack, folder):
    """The cost of KEYWORDS phrases with the default policy and at full depth: medians of ROUNDS alternating runs, and of their ratio."""
    path = sound(folder / "sound.wav", 60 * MINUTES)
    (folder / "keywords").mkdir()
    systems = [Bellis(program, pack, policy, folder / "keywords") for policy in ("", "never")]
    own = phrases(KEYWORDS)
    systems[0].enroll(own, set(own))
    thresholds = systems[0].thresholds.values()
    consumer = ["--consumer", f"keyword:{folder / 'keywords'}"]
    begun = sound(folder / "begun.wav", 60)
    # Without loading, nor what a run begins with.
    cost = lambda system: 1e3 * (system.run(path, consumer)[1] - system.run(begun, consumer)[1]) / (60 * MINUTES - 60)
    costs = np.array([[cost(system) for system in systems] for _ in range(ROUNDS)])
    default, never = np.median(costs, 0)
    return (
        f"{len(thresholds)} phrases with thresholds of {min(thresholds):.2f} to {max(thresholds):.2f}: {default:.2f} ms per second with the default policy and {never:.2f} "
        f"at full depth, a ratio of {np.median(costs[:, 0] / costs[:, 1]):.2f} ({(costs[:, 0] / costs[:, 1]).min():.2f} to {(costs[:, 0] / costs[:, 1]).max():.2f})."
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", default=REPOSITORY / "target/release/bellis", type=Path)
    parser.add_argument("--pack", default="daisy-tiny")
    parser.add_argument("--only", choices=("many", "policies"))
    parser.add_argument("--write", action="store_true", help="write the tables of docs/keywords-figures.md")
    arguments = parser.parse_args()
    for measure in (many, policies):
        if arguments.only in (None, measure.__name__):
            with tempfile.TemporaryDirectory() as folder:
                text = measure(arguments.program, arguments.pack, Path(folder))
            print(text)
            if arguments.write:
                write(f"keyword_cost.py, {measure.__name__}", text)


if __name__ == "__main__":
    main()
