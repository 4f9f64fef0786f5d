"""Keywords from text in running speech, by language and in noise.

    python -m models.evaluate.phrases [--pack PACK] [--policy NAME] [--kinds KIND ...] [--noise GROUP --snr DB] [--write]

The phrases of a language are the twenty most frequent sequences of one to three words with 7 to 16 phones in sentences by voices that no training uses,
enrolled with `bellis enroll --say`. Recall counts the sentences that contain the phrase. False accepts are counted in all sentences of all
languages that do not contain it, one per sentence at most. Recall is measured at the threshold of each phrase for a rate on that speech, and at
the threshold that enrolment sets for it. With --write, the tables of docs/keywords-figures.md.
"""

import argparse
import json
import re
import subprocess
import tempfile
import tomllib
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import soundfile

from ..train.inventory import spoken
from ..train.mixing import scale_to
from ..train.paths import HOP, PREPARED, RATE, REPOSITORY
from ..train.texts import text_of
from .keywords import write
from .streams import KINDS as NOISES, Pool
from .tables import numbers

COUNT = 20
PHONES = range(7, 17)
KINDS = {  # of speech: voice of espeak-ng, group, condition of its entries, least number of sentences with a phrase
    "English, acted": ("en-us", "speech.acted", lambda entry: True, 3),
    "French, read": ("fr-fr", "speech.test", lambda entry: entry["package"] == "asterisk-core-sounds-fr-g722", 3),
    "Dutch, acted": ("nl", "speech.test", lambda entry: entry["package"] == "fillets-ng-data-nl", 3),
    "Spanish, acted": ("es", "speech.casts", lambda entry: entry["package"] == "drascula-spanish", 2),
    "Russian, read": ("ru", "speech.probe", lambda entry: True, 3),
    "English, synthetic": ("en-us", "synthetic.test", lambda entry: entry["language"] == "en", 3),
    "Spanish, synthetic": ("es", "synthetic.test", lambda entry: entry["language"] == "es", 1),
    "Portuguese, synthetic": ("pt-br", "synthetic.test", lambda entry: entry["language"] == "pt", 1),
    "German, synthetic": ("de", "synthetic.test", lambda entry: entry["language"] == "de", 1),
    "Dutch, synthetic": ("nl", "synthetic.test", lambda entry: entry["language"] == "nl", 1),
    "Polish, synthetic": ("pl", "synthetic.test", lambda entry: entry["language"] == "pl", 1),
}
GROUPS = sorted({group for _, group, _, _ in KINDS.values()})
LEAST_SCORE = 0.15  # no threshold of a keyword from text is lower
UNREACHED = "0.99"  # threshold during the search: a detection would hide a higher near miss within the refractory time
RATES = (0.5, 2, 5)  # false accepts per hour
REQUESTED = (0.1, 0.5)  # of the thresholds that enrolment sets
MARGIN = 0.2  # seconds around a sentence in which a match may lie


def words_of(entry):
    """The words of a clip, or none if its text is not known."""
    text = entry.get("text") or (text_of(entry) or ("",))[0]
    return re.sub(r"[^\w' ]", " ", text.lower()).split()


def sequences(words):
    return {tuple(words[at : at + size]) for size in (1, 2, 3) for at in range(len(words) - size + 1)}


def chosen(sentences, voice, least, suits=lambda sequence: True):
    """The COUNT most frequent sequences with PHONES phones that `least` sentences contain."""
    counts = Counter(sequence for words in sentences for sequence in sequences(words))
    fits = lambda sequence: suits(sequence) and sum(len(word) for word in spoken(" ".join(sequence), voice)) in PHONES
    often = sorted((sequence for sequence, count in counts.items() if count >= least), key=lambda sequence: (-counts[sequence], sequence))
    found = []
    for sequence in often:
        # Not two phrases of which one contains the other.
        if fits(sequence) and not any(sequence in sequences(other) or other in sequences(sequence) for other in found):
            found.append(sequence)
        if len(found) == COUNT:
            break
    return found


def spot(program, arguments, audio, folder, least=LEAST_SCORE):
    """{keyword: [(time of its middle, score)]}"""
    command = [program, "run", audio, *arguments, "--quiet", "--near-misses", str(least), "--consumer", f"keyword:{folder}"]
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


def unreached(program, name, keywords):
    """Sets a threshold that no score reaches: figures come from near misses."""
    subprocess.run([program, "keywords", "set", name, "--threshold", UNREACHED, "--folder", keywords], check=True, cwd=REPOSITORY, stdout=subprocess.DEVNULL)


def enrolled(program, kinds, said, entries, keywords, common):
    """Enrolls the phrases of each kind in the folder `keywords`: {name: (kind, phrase, {requested rate: threshold})}."""
    phrases = {}
    for kind in kinds:
        voice, group, wanted, least = KINDS[kind]
        own = [words for words, (of, entry) in zip(said, entries) if of == group and wanted(entry)]
        for number, phrase in enumerate(chosen(own, voice, least)):
            name, thresholds = f"{kind} {number}", {}
            for rate in REQUESTED:
                if not thresholds:
                    command = ["enroll", name, "--say", " ".join(phrase), "--language", voice, *common]
                else:
                    command = ["keywords", "set", name]
                command = [program, *command, "--false-accepts", str(rate), "--folder", keywords]
                subprocess.run(command, check=True, cwd=REPOSITORY, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
                thresholds[rate] = tomllib.loads((keywords / f"{name}.keyword.toml").read_text())["threshold"]
            unreached(program, name, keywords)
            phrases[name] = (kind, phrase, thresholds)
        print(f"phrases: {kind} enrolled", flush=True)
    return phrases


def noisy(sound, entries, kind, snr):
    """A group's audio with noise at `snr` dB below each sentence."""
    noise, pool = np.zeros(len(sound), np.float32), Pool(0)
    own = pool.noise(kind, len(sound))
    for entry in entries:
        at = slice(entry["start"] * HOP, (entry["start"] + entry["frames"]) * HOP)
        noise[at] = scale_to(own[at], np.mean((sound[at].astype(np.float32) / 32768) ** 2), snr)
    mixed = sound.astype(np.float32) / 32768 + noise
    return mixed / max(1.0, np.abs(mixed).max())


class Trial:
    """The highest score of each phrase in each sentence."""

    def __init__(self, phrases, entries, said, highest):
        self.phrases, self.entries, self.said, self.highest = phrases, entries, said, highest
        self.hours = sum(entry["frames"] for _, entry in entries) * HOP / RATE / 3600

    def without(self, kind, phrase):
        """The sentences that do not contain the phrase: those of its own kind whose text is not known may."""
        _, group, wanted, _ = KINDS[kind]
        may = lambda of, entry, words: not words and of == group and wanted(entry)
        return np.array([not (phrase in sequences(words) or may(of, entry, words)) for (of, entry), words in zip(self.entries, self.said)])

    def recalls(self, kind):
        """[phrases, len(RATES) + len(REQUESTED)] recall at the best thresholds for RATES, and at the enrolled ones; number of sentences."""
        rows, sentences = [], 0
        for name, (of, phrase, thresholds) in self.phrases.items():
            if of != kind:
                continue
            _, group, wanted, _ = KINDS[kind]
            own = np.array([of == group and wanted(entry) and phrase in sequences(words) for (of, entry), words in zip(self.entries, self.said)])
            ranked = np.sort(self.highest[name][self.without(kind, phrase)])[::-1]
            best = [np.mean(self.highest[name][own] > max(LEAST_SCORE, ranked[int(rate * self.hours)])) for rate in RATES]
            rows.append(best + [np.mean(self.highest[name][own] >= thresholds[rate]) for rate in REQUESTED])
            sentences += int(own.sum())
            print(f"{kind}: {' '.join(phrase)}: {own.sum()} sentences, recall " + " ".join(f"{recall:.2f}" for recall in rows[-1]), flush=True)
        return np.array(rows), sentences

    def false_accepts(self, other):
        """Per hour of the speech `other` and phrase, at the enrolled thresholds for REQUESTED; the hours of `other`."""
        _, group, wanted, _ = KINDS[other]
        those = np.array([of == group and wanted(entry) for of, entry in self.entries])
        hours = sum(entry["frames"] for (_, entry), one in zip(self.entries, those) if one) * HOP / RATE / 3600
        counts = []
        for name, (kind, phrase, thresholds) in self.phrases.items():
            where = those & self.without(kind, phrase)
            counts.append([np.sum(self.highest[name][where] >= thresholds[rate]) for rate in REQUESTED])
        return np.mean(counts, 0) / hours, hours


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", default=REPOSITORY / "target/release/bellis", type=Path)
    parser.add_argument("--pack", default="daisy-tiny")
    parser.add_argument("--policy", help="exit policy [default: the pack's]")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS), help="default: all")
    parser.add_argument("--noise", nargs="*", choices=NOISES, default=[], help="also with these kinds of noise")
    parser.add_argument("--snr", nargs="+", type=int, default=[10, 5, 0], help="dB")
    parser.add_argument("--write", action="store_true", help="write the tables of docs/keywords-figures.md")
    arguments = parser.parse_args()
    entries = [(group, entry) for group in GROUPS for entry in json.loads((PREPARED / f"{group}.json").read_text())]
    said = [words_of(entry) for _, entry in entries]
    policy = ["--policy", arguments.policy] if arguments.policy else []
    trials = {}
    with tempfile.TemporaryDirectory() as folder:
        keywords, common = Path(folder) / "keywords", ["--pack", arguments.pack]
        phrases = enrolled(arguments.program, arguments.kinds, said, entries, keywords, common)
        for condition in [None, *((noise, snr) for noise in arguments.noise for snr in arguments.snr)]:
            highest = {name: [] for name in phrases}
            for group in GROUPS:
                audio, own = Path(folder) / "audio.wav", [entry for of, entry in entries if of == group]
                sound = np.load(PREPARED / f"{group}.npy", mmap_mode="r")
                soundfile.write(audio, sound if condition is None else noisy(sound, own, *condition), RATE)
                hits = spot(arguments.program, [*common, *policy], audio, keywords)
                for name in phrases:
                    highest[name].append(scores(hits[name], own))
            trials[condition] = Trial(phrases, entries, said, {name: np.concatenate(own) for name, own in highest.items()})
            print(f"phrases: {condition or 'clean'}", flush=True)
    clean = trials[None]
    text = f"{clean.hours:.1f} hours of speech in all.\n\n"
    rows = [["language", "phrases", "sentences with one", *(f"{rate}/h" for rate in RATES), *(f"enrolled for {rate}/h" for rate in REQUESTED)]]
    for kind in arguments.kinds:
        recalls, sentences = clean.recalls(kind)
        rows.append([kind, len(recalls), sentences, *(f"{mean:.2f}" for mean in recalls.mean(0))])
    text += numbers(rows)
    rows = [["false accepts per hour and phrase in", "hours", *(f"enrolled for {rate}/h" for rate in REQUESTED)]]
    for kind in KINDS:
        rate, hours = clean.false_accepts(kind)
        rows.append([kind, f"{hours:.2f}", *(f"{each:.2f}" for each in rate)])
    text += f"\n{numbers(rows)}"
    if arguments.noise:
        at = RATES.index(REQUESTED[-1]), len(RATES) + len(REQUESTED) - 1
        named = lambda condition: "clean" if condition is None else f"{condition[0]}, {condition[1]} dB"
        rows = [["recall, best / enrolled thresholds", *arguments.kinds, "false accepts per hour"]]
        for condition, trial in trials.items():
            means = [trial.recalls(kind)[0].mean(0) for kind in arguments.kinds]
            rates = [trial.false_accepts(kind) for kind in KINDS]
            accepted = sum(rate[-1] * hours for rate, hours in rates) / sum(hours for _, hours in rates)
            rows.append([named(condition), *(f"{mean[at[0]]:.2f} / {mean[at[1]]:.2f}" for mean in means), f"{accepted:.2f}"])
        text += f"\n{numbers(rows)}"
    print(text)
    if arguments.write:
        write("phrases.py", text)


if __name__ == "__main__":
    main()
