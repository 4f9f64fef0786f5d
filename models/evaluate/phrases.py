"""Keywords from text in running speech, by language.

    python -m models.evaluate.phrases [--pack PACK] [--policy NAME] [--kinds KIND ...] [--write]

The phrases of a language are the twenty most frequent sequences of one to three words with 7 to 16 phones in sentences by voices that no training uses,
enrolled with `bellis enroll --say`. Recall counts the sentences that contain the phrase. False accepts are counted in all sentences of all
languages that do not contain it, one per sentence at most, and every phrase has the threshold for the rate. With --write, the table of
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

COUNT = 20
PHONES = range(7, 17)
KINDS = {  # of speech: voice of espeak-ng, group, condition of its entries, least number of sentences with a phrase
    "English, acted": ("en-us", "speech.acted", lambda entry: True, 3),
    "French, read": ("fr-fr", "speech.test", lambda entry: entry["package"] == "asterisk-core-sounds-fr-g722", 3),
    "Dutch, acted": ("nl", "speech.test", lambda entry: entry["package"] == "fillets-ng-data-nl", 3),
    "Russian, read": ("ru", "speech.probe", lambda entry: True, 3),
    "English, synthetic": ("en-us", "synthetic.test", lambda entry: entry["language"] == "en", 3),
    "Spanish, synthetic": ("es", "synthetic.test", lambda entry: entry["language"] == "es", 1),
    "Portuguese, synthetic": ("pt-br", "synthetic.test", lambda entry: entry["language"] == "pt", 1),
}
GROUPS = sorted({group for _, group, _, _ in KINDS.values()})
LEAST_SCORE = 0.05  # of a near miss
RATES = (0.5, 2, 5)  # false accepts per hour
MARGIN = 0.2  # seconds around a sentence in which a match may lie


def words_of(entry):
    """The words of a clip, or none if its text is not known."""
    text = entry.get("text") or (text_of(entry) or ("",))[0]
    return re.sub(r"[^\w' ]", " ", text.lower()).split()


def sequences(words):
    return {tuple(words[at : at + size]) for size in (1, 2, 3) for at in range(len(words) - size + 1)}


def chosen(sentences, voice, least):
    counts = Counter(sequence for words in sentences for sequence in sequences(words))
    fits = lambda sequence: sum(len(word) for word in spoken(" ".join(sequence), voice)) in PHONES
    often = sorted((sequence for sequence, count in counts.items() if count >= least), key=lambda sequence: (-counts[sequence], sequence))
    found = []
    for sequence in often:
        # Not two phrases of which one contains the other.
        if fits(sequence) and not any(sequence in sequences(other) or other in sequences(sequence) for other in found):
            found.append(sequence)
        if len(found) == COUNT:
            break
    return found


def spot(program, arguments, audio, folder):
    """{keyword: [(time of its middle, score)]}"""
    command = [program, "run", audio, *arguments, "--quiet", "--near-misses", str(LEAST_SCORE), "--consumer", f"keyword:{folder}"]
    lines = subprocess.run(command, check=True, capture_output=True, text=True, cwd=REPOSITORY).stdout
    found = defaultdict(list)
    for hit in map(json.loads, lines.splitlines()):
        found[hit["keyword"]].append(((hit["start"] + hit["end"]) / 2, hit["score"]))
    return found


def scores(hits, entries):
    """The highest score in each sentence."""
    starts = np.array([entry["start"] for entry in entries]) * HOP / RATE - MARGIN
    ends = np.array([entry["start"] + entry["frames"] for entry in entries]) * HOP / RATE + MARGIN
    highest = np.zeros(len(entries))
    for at, score in hits:
        inside = (starts <= at) & (at <= ends)
        highest[inside] = np.maximum(highest[inside], score)
    return highest


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", default=REPOSITORY / "target/release/bellis", type=Path)
    parser.add_argument("--pack", default="daisy-tiny")
    parser.add_argument("--policy", help="exit policy [default: the pack's]")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS), help="default: all")
    parser.add_argument("--write", action="store_true", help="write the table of docs/keywords-figures.md")
    arguments = parser.parse_args()
    entries = [(group, entry) for group in GROUPS for entry in json.loads((PREPARED / f"{group}.json").read_text())]
    said = [words_of(entry) for _, entry in entries]
    hours = sum(entry["frames"] for _, entry in entries) * HOP / RATE / 3600
    rows = [["language", "phrases", "sentences with one", *(f"{rate}/h" for rate in RATES)]]
    phrases = {}
    with tempfile.TemporaryDirectory() as folder:
        keywords, common = Path(folder) / "keywords", ["--pack", arguments.pack]
        for kind in arguments.kinds:
            voice, group, wanted, least = KINDS[kind]
            own = [words for words, (of, entry) in zip(said, entries) if of == group and wanted(entry)]
            for number, phrase in enumerate(chosen(own, voice, least)):
                name, text = f"{kind} {number}", " ".join(phrase)
                command = [arguments.program, "enroll", name, "--say", text, "--language", voice, "--folder", keywords, "--threshold", "1", *common]
                subprocess.run(command, check=True, cwd=REPOSITORY, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
                phrases[name] = (kind, phrase)
        found = defaultdict(list)
        for group in GROUPS:
            audio = Path(folder) / "audio.wav"
            soundfile.write(audio, np.load(PREPARED / f"{group}.npy", mmap_mode="r"), RATE)
            policy = ["--policy", arguments.policy] if arguments.policy else []
            hits = spot(arguments.program, [*common, *policy], audio, keywords)
            for name in phrases:
                found[name].append(scores(hits[name], [entry for of, entry in entries if of == group]))
            print(f"phrases: {group}", flush=True)
    recalls, utterances = defaultdict(list), Counter()
    for name, (kind, phrase) in phrases.items():
        _, group, wanted, _ = KINDS[kind]
        own, highest = np.array([of == group and wanted(entry) for of, entry in entries]), np.concatenate(found[name])
        with_phrase = np.array([one and phrase in sequences(words) for one, words in zip(own, said)])
        # Sentences whose text is not known may contain a phrase of their language.
        without = ~(own & np.array([not words or phrase in sequences(words) for words in said]))
        ranked = np.sort(highest[without])[::-1]
        recalls[kind].append([np.mean(highest[with_phrase] > ranked[int(rate * hours)]) for rate in RATES])
        utterances[kind] += int(with_phrase.sum())
        print(f"{kind}: {' '.join(phrase)}: {with_phrase.sum()} sentences, recall " + " ".join(f"{recall:.2f}" for recall in recalls[kind][-1]), flush=True)
    for kind, own in recalls.items():
        rows.append([kind, len(own), utterances[kind], *(f"{mean:.2f}" for mean in np.mean(own, 0))])
    rows.insert(1, ["---"] * len(rows[0]))
    text = "\n".join("| " + " | ".join(map(str, row)) + " |" for row in rows)
    print(f"{hours:.1f} hours\n{text}")
    if arguments.write:
        write("phrases.py", f"{hours:.1f} hours of speech in all.\n\n{text}")


if __name__ == "__main__":
    main()
