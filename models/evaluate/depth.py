"""Depth: how it follows noise under DAISY's rule, and what it gives by content."""

import numpy as np
from scipy.stats import spearmanr

from .measures import interval, pool
from .runs import segments
from .simulate import Predictors, by_chunk
from .streams import KINDS, SNRS
from .versions import OTHERS

WORTH = 0.05  # nats: half depth of a chunk that is further from full depth than this costs something
QUANTILES = (10, 25, 50, 75, 90)


def series(means, frames):
    """Mean depth by SNR, how it follows the noise, and where it falls although the noise rises: {"clean" or SNR: means per clip, [clips]}."""
    table = {snr: interval(rows, frames) for snr, rows in means.items()}
    depths = [table[snr][0] for snr in ("clean", *SNRS)]
    falls = {}
    for quieter, snr in zip(("clean", *SNRS), SNRS):
        change = interval(means[snr] - means[quieter], frames)
        if change[0] < 0:
            falls[snr] = change
    return {**table, "spearman": float(spearmanr([30, *SNRS], depths).statistic), "ratio at 0 dB": table[0][0] / table["clean"][0], "falls": falls}


def under_noise(e, tau, version=""):
    """DAISY's rule over the SNRs, by kind of noise, on a version of the streams (models/evaluate/versions.py)."""
    def means(stream, condition):
        name = f"{stream}-{version}" if version else stream
        return pool(e.run(name, f"threshold --threshold {tau}").depth, segments(name), lambda s: s["condition"] == condition)

    clean, frames = means("noisy", "clean")
    sources = {**dict.fromkeys(KINDS, "noisy"), **{kind: kind for kind in OTHERS}}
    return {kind: series({"clean": clean, **{snr: means(stream, f"{kind} {snr}")[0] for snr in SNRS}}, frames) for kind, stream in sources.items()}


def content(segment):
    """What a segment of `alone` or `noisy` contains."""
    if segment["condition"] in ("silence", "noise"):
        return f"{segment['condition']}: {segment['kind']}"
    return "speech: clean" if segment["condition"] == "clean" else f"speech: {segment['snr']} dB"


def inside(segment, chunk_frames):
    """Numbers of the chunks that lie within a segment."""
    return np.arange(-(-segment["first"] // chunk_frames), (segment["first"] + segment["frames"]) // chunk_frames)


def spread(kl):
    """Of a distribution of KL per chunk: mean, quantiles, and the share that costs something."""
    return {"mean": float(kl.mean()), "quantiles": dict(zip(QUANTILES, np.percentile(kl, QUANTILES))), "costs": float((kl > WORTH).mean())}


def gains(e):
    """KL(full depth ‖ layer) of chunks at the first layer and at half depth, by content, and how well the pack predicts that of half depth."""
    half, predictors = e.layers // 2, Predictors(e.pack, e.layers)
    chunks = {}
    for stream in ("alone", "noisy"):
        at = {k: e.run(stream, f"fixed --layer {k}") for k in (0, half)}
        size = at[0].chunk_frames
        rows = np.stack([
            by_chunk(e.kl(stream, "fixed --layer 1"), size), by_chunk(e.kl(stream, f"fixed --layer {half}"), size),
            predictors(0, at[0])[:, half], predictors(half, at[half])[:, 0],
        ])
        for s in segments(stream):
            chunks.setdefault(content(s), []).append(rows[:, inside(s, size)])
    chunks = {name: np.concatenate(parts, 1) for name, parts in chunks.items()}
    everything = {name: np.concatenate([rows for content, rows in chunks.items() if content.startswith(name)], 1) for name in ("speech", "")}
    chunks |= {"all speech": everything["speech"], "everything": everything[""]}
    rank = lambda a, b: float(spearmanr(a, b).statistic)
    return {
        name: {"chunks": rows.shape[1], "first layer": spread(rows[0]), "half depth": spread(rows[1]), "predicted": {"h0": rank(rows[2], rows[1]), "half depth": rank(rows[3], rows[1])}}
        for name, rows in chunks.items()
    }
