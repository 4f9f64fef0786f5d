"""Wake words of openWakeWord and microWakeWord, against the same words enrolled from text.

    pip install pyopen-wakeword==1.1.0 pymicro-wakeword==2.5.0
    python -m models.evaluate.wake_words [--hours 2] [--write]      half an hour of processor time; with --write, the table of docs/keywords-figures.md

Both have models for four common words, trained on synthetic speech by another synthesiser. Here, synthetic voices that no pack's training uses say the
words at three speeds, in quiet and in recorded noise of public places. Other speech is what the evaluation by phrases uses: acted English and
Dutch, read French and Russian, a random part of each. Recall is measured at each system's own threshold, and at the threshold of each word for a rate of false accepts.
"""

import argparse
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import soundfile

from ..keywords.bundle import cut, group
from ..train.mixing import scale_to
from ..train.paths import DATA, RATE, REPOSITORY
from .keywords import write
from .near_phrases import VOICES
from .phrases import KINDS, spot, unreached
from .spoken import kept, kokoro
from .streams import Pool
from .tables import numbers

WORDS = {"hey_jarvis": "hey jarvis", "alexa": "alexa", "hey_mycroft": "hey mycroft", "okay_nabu": "okay nabu"}
SPEEDS = (0.9, 1.0, 1.15)
CONDITIONS = (None, 10, 5, 0)  # dB, in noise of public places
OTHERS = ("English, acted", "Dutch, acted", "French, read", "Russian, read")
FOLDER = DATA / "wake_words"
PAUSE = 1.5
LEVEL = 0.08  # RMS
RATE_WANTED = 0.5  # false accepts per hour
DEAD_TIME = 1.0  # seconds in which a word counts once
CHUNK = 1280  # samples


def utterance(word, voice, speed):
    say = lambda: kokoro().say(WORDS[word], "en-us" if voice[0] == "a" else "en-gb", voice, speed=speed)
    audio = kept(FOLDER / f"{word}@{voice}@{speed}.wav", say)
    return audio * LEVEL / np.sqrt(np.mean(audio**2))


def spoken():
    """All utterances with pauses, and [(word, start, end)] in seconds."""
    parts, places, at = [], [], 0
    for word in WORDS:
        for voice in VOICES:
            for speed in SPEEDS:
                audio = np.r_[np.zeros(int(PAUSE * RATE), np.float32), utterance(word, voice, speed)]
                places.append((word, (at + PAUSE * RATE) / RATE, (at + len(audio)) / RATE))
                parts.append(audio)
                at += len(audio)
    return np.concatenate([*parts, np.zeros(int(PAUSE * RATE), np.float32)]), places


def other_speech(hours):
    """Sentences in random order, an equal share of each kind."""
    rng, parts = np.random.default_rng(0), []
    for kind in OTHERS:
        _, name, wanted, _ = KINDS[kind]
        (index, sound), left = group(name), hours * 3600 * RATE / len(OTHERS)
        clips = [entry for entry in index if wanted(entry)]
        for at in rng.permutation(len(clips)):
            clip = cut(clips[at], sound)
            parts.append(np.r_[clip * (LEVEL / (clip.std() + 1e-6)), np.zeros(int(0.3 * RATE), np.float32)])
            left -= len(clip)
            if left <= 0:
                break
    return np.concatenate([parts[at] for at in rng.permutation(len(parts))]).clip(-1, 1)


def pcm(audio):
    samples = (audio * 32767).astype("<i2")
    for at in range(0, len(samples) - CHUNK + 1, CHUNK):
        yield at + CHUNK, samples[at : at + CHUNK].tobytes()


def open_wake_word(audio):
    """{word: [(seconds, score)]}"""
    from pyopen_wakeword import Model, OpenWakeWord, OpenWakeWordFeatures

    features, words = OpenWakeWordFeatures.from_builtin(), {word: OpenWakeWord.from_builtin(Model(word)) for word in WORDS}
    found = {word: [] for word in WORDS}
    for at, chunk in pcm(audio):
        for embedding in features.process_streaming(chunk):
            for word, model in words.items():
                found[word] += [(at / RATE, score) for score in model.process_streaming(embedding)]
    return found, {word: 0.5 for word in WORDS}


def micro_wake_word(audio):
    from pymicro_wakeword import MicroWakeWord, MicroWakeWordFeatures, Model

    features, words = MicroWakeWordFeatures(), {word: MicroWakeWord.from_builtin(Model(word)) for word in WORDS}
    found = {word: [] for word in WORDS}
    for at, chunk in pcm(audio):
        for row in features.process_streaming(chunk):
            for word, model in words.items():
                found[word].append((at / RATE, model.process_streaming_prob(row) or 0.0))
    return found, {word: model.probability_cutoff for word, model in words.items()}


class Bellis:
    """`bellis enroll --say` and `bellis run`."""

    def __init__(self, program, pack, folder):
        self.program, self.common, self.folder = program, ["--pack", pack], Path(folder)
        self.thresholds = {}
        for word, phrase in WORDS.items():
            command = [program, "enroll", word, "--say", phrase, "--folder", self.folder / "keywords", *self.common]
            report = subprocess.run(command, check=True, cwd=REPOSITORY, capture_output=True, text=True).stdout
            self.thresholds[word] = float(report.split("threshold")[1].split()[0])
            unreached(program, word, self.folder / "keywords")

    def __call__(self, audio):
        path = self.folder / "audio.wav"
        soundfile.write(path, audio, RATE)
        return spot(self.program, self.common, path, self.folder / "keywords"), self.thresholds


def accepted(hits, threshold):
    """Detections above `threshold`, one per dead time."""
    count, last = 0, -np.inf
    for at, score in sorted(hits):
        if score > threshold and at - last > DEAD_TIME:
            count, last = count + 1, at
    return count


def threshold_for(hits, hours):
    """The least threshold at which `hits` are no more than RATE_WANTED an hour."""
    candidates = sorted({score for _, score in hits} | {0.0}, reverse=True)
    low, high = 0, len(candidates)  # the first candidates are accepted by none, the last by most
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if accepted(hits, candidates[middle]) <= RATE_WANTED * hours else (low, middle)
    return candidates[low]


def recall(hits, places, word, threshold):
    own = [(start, end) for of, start, end in places if of == word]
    return np.mean([any(score > threshold and start <= at <= end + 1.0 for at, score in hits) for start, end in own])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", default=REPOSITORY / "target/release/bellis", type=Path)
    parser.add_argument("--pack", default="daisy-tiny")
    parser.add_argument("--hours", type=float, default=2, help="of other speech")
    parser.add_argument("--write", action="store_true", help="write the table of docs/keywords-figures.md")
    arguments = parser.parse_args()
    said, places = spoken()
    if RATE_WANTED * arguments.hours < 1:
        parser.error(f"--hours must be {1 / RATE_WANTED:g} or more: {RATE_WANTED:g} false accepts per hour are none in less")
    other = other_speech(arguments.hours)
    hours, noise = len(other) / RATE / 3600, Pool(0).noise("public", len(said))
    conditions = [said if snr is None else said + scale_to(noise, LEVEL**2, snr) for snr in CONDITIONS]
    rows = [["system", "false accepts per hour, own threshold", *(f"{'clean' if snr is None else f'{snr} dB'}: own, {RATE_WANTED}/h" for snr in CONDITIONS)]]
    with tempfile.TemporaryDirectory() as folder:
        systems = {"Bellis, from text": Bellis(arguments.program, arguments.pack, folder), "openWakeWord": open_wake_word, "microWakeWord": micro_wake_word}
        for name, system in systems.items():
            hits, own = system(other)
            best = {word: threshold_for(hits[word], hours) for word in WORDS}
            rate = np.mean([accepted(hits[word], own[word]) for word in WORDS]) / hours
            row = [name, f"{rate:.2f}"]
            for audio in conditions:
                found, _ = system(np.clip(audio, -1, 1))
                both = ([recall(found[word], places, word, limits[word]) for word in WORDS] for limits in (own, best))
                row.append(", ".join(f"{np.mean(recalls):.2f}" for recalls in both))
            rows.append(row)
            print(" | ".join(row), flush=True)
    text = f"{hours:.1f} hours of other speech; {len(places) // len(WORDS)} utterances of each word.\n\n{numbers(rows)}"
    print(text)
    if arguments.write:
        write("wake_words.py", text)


if __name__ == "__main__":
    main()
