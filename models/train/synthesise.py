"""Speaks a corpus with Kokoro (models/kokoro.py), in shards of ten minutes, with the time of every phone.

    python -m models.train.synthesise [--hours H] [--first N] [--step M]

Shards are $BELLIS_DATA/synthetic/NNN.opus (16 kHz) and NNN.jsonl, one utterance a line: start and end in samples, language, kind, voice,
speed, text, and phones [phone, start, end]. A shard depends on its number alone, and those that exist are skipped, so several processes
share the work with --first 0, 1, … and --step. The shards 000 to 026 are in the synthesiser's languages, the others in languages that it was not
trained on, whose phones its voices know from their own, and in Chinese. Shards 000, 001 and 027 are for tests: voices and sentences that no
other shard has. In the others, two fifths of the audio are sentences that several speakers say. Takes half a second of one core per second of speech.
"""

import argparse
import itertools
import json
import random
import re
import time

import numpy as np
import soundfile

from ..kokoro import Kokoro
from .paths import RATE
from .sentences import BORROWED, OWN, Sentences
from .synthetic import SHARDS, TEST_SHARDS

SECONDS = 600  # of a shard
FIRST_BORROWED = 27
ESPEAK = {"fr": "fr-fr", "pt": "pt-br", "zh": "cmn"}  # where it differs
VOICES = {
    "en": "af_alloy af_aoede af_bella af_heart af_jessica af_kore af_nicole af_river af_sarah am_adam am_echo am_fenrir am_liam am_michael "
    "am_onyx am_santa bf_alice bf_emma bf_isabella bm_fable bm_george bm_lewis",
    "es": "ef_dora em_alex", "fr": "ff_siwis", "it": "if_sara im_nicola", "pt": "pf_dora pm_alex", "hi": "hf_alpha hf_beta hm_omega",
    "zh": "zf_xiaoni zf_xiaoxiao zf_xiaoyi zm_yunjian zm_yunxi zm_yunxia",
}
TEST_VOICES = {"en": "af_nova af_sky am_eric am_puck bf_lily bm_daniel", "es": "em_santa", "pt": "pm_santa", "hi": "hm_psi", "zh": "zf_xiaobei zm_yunyang"}
# Of these, Whisper understands German and Polish best; American voices speak with a strong accent.
BORROWERS = "ef_dora ff_siwis if_sara pf_dora bf_isabella em_alex im_nicola pm_alex bm_george bm_lewis"
TEST_BORROWERS = "em_santa pm_santa bm_daniel"
SPEEDS = (0.8, 1.25)
SEVERAL = 0.4  # of the audio is of sentences that up to five speakers say
SPEAKERS, TEST_SPEAKERS = 5, 3
QUALITY = 0.896  # libsndfile's compression level: about 28 kbit/s
WRITE = 10 * RATE  # samples per call of libsndfile, whose stack one large call overflows


def speaker(language, rng, test):
    """A voice, a mixture of a female and a male one, or one's timbre with another's prosody."""
    voices = (TEST_VOICES if test else VOICES).get(language, TEST_BORROWERS if test else BORROWERS).split()
    women, men = ([v for v in voices if v[1] == sex] for sex in "fm")
    how = rng.random()
    if language == "fr":  # its only voice; an American's share is too small for an accent
        men = [v for v in VOICES["en"].split() if v.startswith("am")]
    if test or how < 0.5 or not (women and men):
        return rng.choice(women if language == "fr" else voices)
    if how < 0.85 or language == "fr":
        share = round(rng.uniform(0.6, 0.75) if language == "fr" else rng.uniform(0.3, 0.7), 2)
        return f"{share}*{rng.choice(women)}+{round(1 - share, 2)}*{rng.choice(men)}"
    if language in BORROWED and language not in VOICES:  # what it says with another's prosody is not understood
        return rng.choice(voices)
    one, other = rng.sample(voices, 2)
    return f"timbre:{one},prosody:{other}"


def accent(name):
    """British voices speak British English."""
    return "en-gb" if re.search(r"b[fm]_", name.split("prosody:")[-1].split("+")[0]) else "en-us"


def shard(number, engine, sentences, rng, test):
    """(sound, lines) of a shard."""
    languages = OWN if number < FIRST_BORROWED else BORROWED
    if test and languages is OWN:
        languages = {k: v for k, v in OWN.items() if k in TEST_VOICES}
    sound, lines, length = [], [], 0
    while length < SECONDS * RATE:
        language = rng.choices(list(languages), languages.values())[0]
        kind, text = sentences.pick(language, rng, test)
        several = rng.random() < SEVERAL / (SEVERAL + (1 - SEVERAL) * (SPEAKERS - 1))
        count = TEST_SPEAKERS if test else SPEAKERS if several else 1
        for name in dict.fromkeys(speaker(language, rng, test) for _ in range(count)):
            speed = round(rng.uniform(*SPEEDS), 2)
            audio, phones = engine.say_aligned(text, accent(name) if language == "en" else ESPEAK.get(language, language), name, speed)
            if len(phones) < 2:
                continue
            begin = max(0, int((phones[0][1] - rng.uniform(0.05, 0.25)) * RATE))
            end = min(len(audio), int((phones[-1][2] + rng.uniform(0.1, 0.3)) * RATE))
            at = lambda seconds: length + round(seconds * RATE) - begin
            lines.append({"start": length, "end": length + end - begin, "language": language, "kind": kind, "voice": name, "speed": speed, "text": text, "phones": [[p, at(a), at(b)] for p, a, b in phones]})
            sound.append(audio[begin:end])
            length += end - begin
    return np.clip(np.concatenate(sound), -1, 1).astype(np.float32), lines


def write(path, sound, lines):
    """The shard's files; the .jsonl last, since it marks a shard as complete."""
    with soundfile.SoundFile(path.with_suffix(".opus"), "w", RATE, 1, format="OGG", subtype="OPUS", compression_level=QUALITY) as file:
        for start in range(0, len(sound), WRITE):
            file.write(sound[start : start + WRITE])
    part = path.with_suffix(".part")
    part.write_text("".join(json.dumps(line, ensure_ascii=False, separators=(",", ":")) + "\n" for line in lines), encoding="utf8")
    part.rename(path.with_suffix(".jsonl"))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hours", type=float, default=20, help="hours of speech in all shards, tests included (default: %(default)s)")
    parser.add_argument("--first", type=int, default=0, help="number of the first shard (default: %(default)s)")
    parser.add_argument("--step", type=int, default=1, help="distance to the next shard (default: %(default)s)")
    arguments = parser.parse_args()
    SHARDS.mkdir(parents=True, exist_ok=True)
    count = max(3, round(arguments.hours * 3600 / SECONDS))
    missing = [n for n in itertools.takewhile(lambda n: n < count, itertools.count(arguments.first, arguments.step)) if not (SHARDS / f"{n:03}.jsonl").exists()]
    if not missing:
        return
    engine, sentences, began = Kokoro(), Sentences(), time.time()
    for done, number in enumerate(missing):
        sound, lines = shard(number, engine, sentences, random.Random(f"shard {number}"), number in TEST_SHARDS)
        write(SHARDS / f"{number:03}", sound, lines)
        left = (time.time() - began) / (done + 1) * (len(missing) - done - 1) / 60
        print(f"synthesise: shard {number}, {len(lines)} utterances; {len(missing) - done - 1} shards left, about {left:.0f} minutes", flush=True)


if __name__ == "__main__":
    main()
