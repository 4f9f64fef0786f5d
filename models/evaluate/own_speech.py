"""How often a keyword from recordings accepts other speech of its own speaker, with and without such speech at enrolment.

    python -m models.evaluate.own_speech [--write]      half an hour; --write writes the table of docs/keywords-figures.md

The words of one speaker of models.evaluate.keywords, each enrolled from three recordings and searched for alone in the sentences that it is tested on and in
those of all other words. All of its utterances there are known. The own speech at enrolment is of sentences that are not tested and do not contain the word or
another of the same stem.
"""

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
import soundfile

from ..train.paths import RATE, REPOSITORY
from ..train.texts import text_of
from .keywords import PAUSE, Bellis, Sentences, babble, chosen_words, noise_at, spoken_words, write
from .tables import table

PACK = "daisy-tiny"
WORDS, TESTS = 25, 12
SECONDS = (0, 60, 120)  # of own speech
SNRS = ("clean", 10)
STEM = 4  # letters
TOLERANCE = 0.3  # seconds


def stream(sentences, tested, snr, random):
    """Samples of the tested sentences, and {utterance: start} in seconds."""
    noise, parts, places, at = babble(), [], {}, 0
    for utterance in tested:
        places[utterance] = at / RATE
        parts.append(noise_at(np.pad(sentences.audio(utterance), (0, int(PAUSE * RATE))), snr, noise, random))
        at += len(parts[-1])
    return np.concatenate(parts), places


def own_speech(sentences, word, unused, seconds, random):
    """Samples of sentences without the word."""
    pool = [u for u in unused if word[:STEM] not in text_of(sentences.clips[u])[0].lower()]
    parts, total = [], 0
    for at in random.permutation(len(pool)):
        if total >= seconds * RATE:
            break
        parts += [sentences.audio(pool[at]), np.zeros(int(PAUSE * RATE), np.float32)]
        total += len(parts[-2]) + len(parts[-1])
    return np.concatenate(parts)


def counted(system, path, utterances):
    """The share of the utterances [(start, end)] that are detected, and the number of other detections."""
    lines, _ = system.run(path, ["--consumer", f"keyword:{system.folder}"])
    middles = np.array([(hit["start"] + hit["end"]) / 2 for hit in map(json.loads, lines.splitlines())])
    within = np.array([(middles >= start - TOLERANCE) & (middles <= end + TOLERANCE) for start, end in utterances])
    return within.any(1).mean() if len(middles) else 0.0, int((~within.any(0)).sum()) if len(middles) else 0


def measure(program, words, snrs, seconds):
    """{(SNR, seconds): rows of (threshold, recall, false accepts per hour)}"""
    sentences, all_places = Sentences(), spoken_words()
    chosen = chosen_words(words, np.random.default_rng(1), TESTS)
    tested = sorted({u for _, places in chosen.values() for u, _, _ in places})
    enrolled = {u for own, _ in chosen.values() for u, _, _ in own}
    unused = sorted(set(sentences.clips) - set(tested) - enrolled)
    found = {(snr, length): [] for snr in snrs for length in seconds}
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        streams = {}
        for snr in snrs:
            audio, places = stream(sentences, tested, snr, np.random.default_rng(2))
            soundfile.write(folder / f"{snr}.wav", audio / max(1.0, np.abs(audio).max() / 0.99), RATE)
            streams[snr] = places, len(audio) / RATE / 3600
        for number, (word, (own, _)) in enumerate(chosen.items()):
            for length in seconds:
                keywords = folder / f"{number}-{length}"
                keywords.mkdir()
                system = Bellis(program, PACK, "", keywords)
                flags = []
                if length:
                    soundfile.write(folder / "own.wav", own_speech(sentences, word, unused, length, np.random.default_rng(number)), RATE)
                    flags = ["--own-speech", folder / "own.wav"]
                system.enroll({word: ([sentences.cut(*place) for place in own], None)}, {word}, *flags)
                for snr, (places, hours) in streams.items():
                    utterances = [(places[u] + s, places[u] + e) for u, s, e in all_places[word] if u in places]
                    recall, wrong = counted(system, folder / f"{snr}.wav", utterances)
                    found[snr, length].append((system.thresholds[word], recall, wrong / hours))
            print(f"own speech: {number + 1} of {len(chosen)} words", flush=True)
    return found, streams[snrs[0]][1]


def page(found, hours):
    rows = []
    for (snr, length), one in found.items():
        threshold, recall, wrong = np.array(one).T
        rows.append([snr if snr == "clean" else f"{snr} dB", f"{length} s", f"{threshold.mean():.2f}", f"{recall.mean():.2f}", f"{wrong.mean():.1f}", f"{np.median(wrong):.1f}"])
    return f"{len(one)} words, {60 * hours:.0f} minutes of sentences.\n\n" + table(["noise", "own speech at enrolment", "mean threshold", "recall", "false accepts per hour, mean", "median"], rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", default=REPOSITORY / "target/release/bellis", type=Path)
    parser.add_argument("--words", type=int, default=WORDS)
    parser.add_argument("--write", action="store_true", help="write the table of docs/keywords-figures.md")
    arguments = parser.parse_args()
    found, hours = measure(arguments.program, arguments.words, SNRS, SECONDS)
    print(page(found, hours))
    if arguments.write:
        write("own_speech.py", page(found, hours))


if __name__ == "__main__":
    main()
