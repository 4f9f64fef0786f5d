"""Reads recordings, mixed to mono and resampled to the pack's rate."""

from pathlib import Path

import numpy as np

from .checkpoint import ConvertError

SUFFIXES = {".wav", ".flac", ".ogg", ".mp3", ".aiff", ".aif"}
# Below −80 dBFS, a recording is silence and is not used to measure the level.
SILENCE_RMS = 1e-4


def recordings(folder, rate, minutes=None, seed=0):
    """Yields (path, samples [S] f32 at `rate`) of the recordings under `folder` in a random but fixed order, up to `minutes` of them."""
    import soundfile

    paths = sorted(path for path in Path(folder).rglob("*") if path.suffix.lower() in SUFFIXES)
    if not paths:
        raise ConvertError(f"{folder} has no recordings ({', '.join(sorted(SUFFIXES))})")
    np.random.default_rng(seed).shuffle(paths)
    left = np.inf if minutes is None else minutes * 60 * rate
    for path in paths:
        if left <= 0:
            return
        try:
            samples, found = soundfile.read(path, dtype="float32", always_2d=True)
        except soundfile.LibsndfileError as error:
            print(f"skipped {path}: {error}")
            continue
        samples = samples.mean(1)
        if found != rate:
            from math import gcd

            from scipy.signal import resample_poly

            common = gcd(found, rate)
            samples = resample_poly(samples, rate // common, found // common).astype(np.float32)
        samples = samples[: int(min(left, len(samples)))]
        left -= len(samples)
        if len(samples):
            yield path, samples
