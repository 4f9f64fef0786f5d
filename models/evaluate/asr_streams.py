"""Streams of held-out speech whose phones are known, for models.evaluate.asr.

`asr_conditions`   the same clips of every kind of speech in every one of CONDITIONS
`asr_device`       the device-like stream, of clips of every kind: 30 % speech (half of it in noise), 40 % silence and room tone, 30 % noise alone
`asr_languages`    every kind of recording, and the synthetic voices of every language, clean
`asr_noise`        recordings in English and French, in every kind of noise at SNRS
`asr_levels`       recordings in English at the active levels LEVELS; peaks beyond full scale are clipped

Segments have `phones` (the reference), `speaker`, and as their condition the kind of speech, except in `asr_device`.
"""

import hashlib
import json

import numpy as np

from models.train.check import KINDS, referenced
from models.train.paths import HOP, PREPARED, RATE

from .streams import KINDS as NOISES
from .streams import LEVEL, PAUSE, STREAMS, Pool, Stream, device

VERSION = 1  # of everything below that `settings` does not record
CONDITIONS = (("", None), ("babble", 10), ("public", 5), ("music", 5), ("white", 0))  # noise and SNR
SNRS = (10, 5, 0)
LEVELS = (-55, -50, -40, -30, -20, -10)  # dBFS
ACTIVE = 10**-1.59  # the margin of ITU-T P.56, 15.9 dB
IN_NOISE = ("read English", "acted English", "acted English, another game", "read French")
AT_LEVELS = ("read English", "acted English")
LANGUAGES = {
    "en": "English", "es": "Spanish", "fr": "French", "it": "Italian", "pt": "Portuguese", "hi": "Hindi", "ja": "Japanese", "zh": "Chinese",
    "de": "German", "nl": "Dutch", "pl": "Polish", "ru": "Russian", "sv": "Swedish", "cs": "Czech",
}


def clips(kinds, minutes, rng):
    """Yields (kind, samples, fields of the segment) of at most `minutes` of every kind of speech, {name: (group, which clips)}."""
    for kind, (group, wanted) in kinds.items():
        left = minutes * 60
        for entry, audio, phones in referenced(group, wanted, rng):
            if left <= 0:
                break
            left -= len(audio) / RATE
            yield kind, audio * LEVEL / (audio.std() + 1e-6), {"clip": f"{entry['package']}/{entry['clip']}", "speaker": entry["speaker"], "phones": " ".join(phones)}


def active_level(audio):
    """RMS of the frames of 20 ms that are less than 15.9 dB below that RMS."""
    power = np.mean(audio[: len(audio) // HOP * HOP].reshape(-1, HOP) ** 2, 1)
    level = power.mean()
    for _ in range(10):
        level = power[power > level * ACTIVE].mean()
    return np.sqrt(level)


def in_noise(pool, spoken, conditions):
    stream = Stream()
    for noise, snr in conditions:
        for kind, audio, fields in spoken:
            mixed = pool.in_noise(audio, noise, snr) if noise else audio
            stream.add(mixed / max(1, np.abs(mixed).max()), kind, noise, snr, **fields)
    return stream


def conditions_stream(minutes):
    pool = Pool(11)
    return in_noise(pool, list(clips(KINDS, minutes, pool.rng)), CONDITIONS)


def device_stream(minutes):
    pool = Pool(12)
    return device(pool, [(audio, fields) for _, audio, fields in clips(KINDS, minutes / 2, pool.rng)], PAUSE)


def languages_stream(minutes):
    recorded = {kind: which for kind, which in KINDS.items() if which[0] != "synthetic.test"}
    present = {entry["language"] for entry in json.loads((PREPARED / "synthetic.test.json").read_text())}
    voices = {f"{name}, synthetic voices": ("synthetic.test", lambda entry, code=code: entry["language"] == code) for code, name in LANGUAGES.items() if code in present}
    stream = Stream()
    for kind, audio, fields in clips(recorded | voices, 3 * minutes, np.random.default_rng(13)):
        stream.add(audio, kind, **fields)
    return stream


def noise_stream(minutes):
    pool = Pool(14)
    return in_noise(pool, list(clips({kind: KINDS[kind] for kind in IN_NOISE}, minutes, pool.rng)), [(noise, snr) for noise in NOISES for snr in SNRS])


def levels_stream(minutes):
    stream, spoken = Stream(), list(clips({kind: KINDS[kind] for kind in AT_LEVELS}, minutes, np.random.default_rng(15)))
    for level in LEVELS:
        for kind, audio, fields in spoken:
            stream.add(audio * 10 ** (level / 20) / active_level(audio), kind, level=level, **fields)
    return stream


MAKERS = {"asr_conditions": conditions_stream, "asr_device": device_stream, "asr_languages": languages_stream, "asr_noise": noise_stream, "asr_levels": levels_stream}


def settings(minutes):
    """What the streams depend on, recorded in their indices."""
    groups = sorted({group for group, _ in KINDS.values()} | {"speech.match", "noise.test"})
    data = {group: hashlib.sha256((PREPARED / f"{group}.json").read_bytes()).hexdigest()[:16] for group in groups if (PREPARED / f"{group}.json").exists()}
    found = {"version": VERSION, "minutes": minutes, "kinds": list(KINDS), "conditions": CONDITIONS, "in noise": IN_NOISE, "SNRs": SNRS, "at levels": AT_LEVELS, "levels": LEVELS, "data": data}
    return json.loads(json.dumps(found))


def ensure(name, minutes):
    """Creates a stream, unless it is there with these settings."""
    path, made = STREAMS / f"{name}.json", settings(minutes)
    if not path.exists() or json.loads(path.read_text())["made"] != made:
        MAKERS[name](minutes).write(name, made=made)
