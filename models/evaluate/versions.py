"""Streams made from those of models.evaluate.streams, as soon as one is missing or older than its source.

`fillets`           the clips of `noisy` in the music of another game (noise.fillets), a package whose audio training never uses
`NAME-VERSION`      `noisy` and `fillets` as narrow-band, 8-bit and telephone audio
`alone-KIND`        each kind of silence and noise of `alone`
`clean`             the clean speech of `noisy`
"""

import io

import numpy as np
import soundfile
from scipy.signal import firwin, oaconvolve, resample_poly

from models.train.paths import HOP, RATE

from .runs import segments
from .streams import KINDS, SNRS, STREAMS, Pool, Stream, save

NARROW_HERTZ, TAPS = 3400, 255
OTHERS = ("fillets",)  # kinds of noise with a stream of their own
ALONE = ("digital", "room", *KINDS)


def narrow_band(audio):
    """A low-pass at 3.4 kHz, and a rate of 8 kHz in between."""
    low = oaconvolve(audio, firwin(TAPS, NARROW_HERTZ, fs=RATE).astype(np.float32), mode="same")
    return resample_poly(low[::2], 2, 1)[: len(audio)]


def eight_bit(audio):
    """Linear quantisation to 8 bits, without dither."""
    return np.clip(np.round(audio * 128), -128, 127) / np.float32(128)


def telephone(audio):
    """8 kHz, companded by G.711's A-law."""
    file = io.BytesIO()
    soundfile.write(file, np.clip(resample_poly(audio, 1, 2), -1, 1), RATE // 2, format="WAV", subtype="ALAW")
    file.seek(0)
    return resample_poly(soundfile.read(file, dtype="float32")[0], 2, 1)[: len(audio)]


VERSIONS = {"narrow-band": narrow_band, "8-bit": eight_bit, "telephone": telephone}


def read(stream):
    return soundfile.read(STREAMS / f"{stream}.wav", dtype="float32")[0]


def in_noise(kind, seed=6):
    """The clean clips of `noisy`, at its SNRs, in another kind of noise."""
    pool, stream, audio = Pool(seed), Stream(), read("noisy")
    clips = [(s["clip"], audio[s["first"] * HOP : (s["first"] + s["frames"]) * HOP]) for s in segments("noisy") if s["condition"] == "clean"]
    for snr in SNRS:
        for clip, speech in clips:
            mixed = pool.in_noise(speech, kind, snr)
            stream.add(mixed / max(1, np.abs(mixed).max()), f"{kind} {snr}", kind, snr, clip)
    stream.write(kind)


def cut(name, source, chosen):
    """The segments of `source` that are `chosen`, which follow each other, without what is around them."""
    parts = [s for s in segments(source) if chosen(s)]
    first, last = parts[0]["first"], parts[-1]["first"] + parts[-1]["frames"]
    save(name, read(source)[first * HOP : last * HOP], [{**s, "first": s["first"] - first} for s in parts])


def update():
    def outdated(name, source):
        wav = STREAMS / f"{name}.wav"
        return not wav.exists() or wav.stat().st_mtime < (STREAMS / f"{source}.wav").stat().st_mtime

    for kind in OTHERS:
        if outdated(kind, "noisy"):
            in_noise(kind)
    for source in ("noisy", *OTHERS):
        for version, made in VERSIONS.items():
            if outdated(name := f"{source}-{version}", source):
                save(name, made(read(source)), segments(source))
    for kind in ALONE:
        if outdated(name := f"alone-{kind}", "alone"):
            cut(name, "alone", lambda s: s["kind"] == kind)
    if outdated("clean", "noisy"):
        cut("clean", "noisy", lambda s: s["condition"] == "clean")
