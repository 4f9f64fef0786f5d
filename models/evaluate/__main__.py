"""Evaluates a pack with Bellis and plots the results.

    python -m models.evaluate.streams
    python -m models.evaluate PACK [--out FOLDER] [--jobs N]

Writes figures.json and SVG plots into FOLDER (docs/models/NAME). Earlier runs are read from the cache in
$BELLIS_DATA/evaluate unless the pack or the stream has changed.
"""

import argparse
import hashlib
import json
import pickle
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
from scipy.stats import spearmanr

from models.train.paths import DATA, PREPARED, REPOSITORY

from . import plots
from .measures import Heads, PhoneProbe, agreement, at_cost, cosine_distance, divergence, interval, log_mel, pool, posterior_distance, purity, recognised
from .runs import BELLIS, run, segments
from .streams import KINDS, SNRS, STREAMS

TAUS = (0.8, 1.2, 1.6, 2.0, 2.5, 3.0)
DELTAS = (0.02, 0.05, 0.1, 0.2)
LAMBDAS = (0.005, 0.01, 0.02, 0.035, 0.06, 0.1, 0.17)


class Evaluation:
    """Cached runs of one pack."""

    def __init__(self, pack, jobs):
        self.pack, self.jobs = Path(pack), jobs
        self.key = hashlib.sha256((self.pack / "pack.toml").read_bytes()).hexdigest()[:16]
        self.manifest = tomllib.loads((self.pack / "pack.toml").read_text())
        self.layers = self.manifest["encoder"]["layers"]
        self.heads = Heads(pack, self.layers)

    def run(self, stream, policy, *more):
        # Of the audio and the program, size and time stand for the content.
        made = [(file.stat().st_size, file.stat().st_mtime_ns) for file in (STREAMS / f"{stream}.wav", Path(BELLIS))]
        name = hashlib.sha256(repr((self.key, stream, made, (STREAMS / f"{stream}.json").read_bytes(), policy, more)).encode()).hexdigest()[:24]
        path = DATA / "evaluate" / f"{name}.pickle"
        if path.exists():
            return pickle.loads(path.read_bytes())
        found = run(self.pack, stream, policy, *more)
        found.states = found.states.astype(np.float16)
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        part.write_bytes(pickle.dumps(found))
        part.rename(path)
        print(f"evaluate: {stream}, {policy}: depth {found.report['mean_exit_layer']:.2f}, {found.macs / 1e6:.0f} M MACs per second", flush=True)
        return found

    def all(self, stream, policies):
        with ThreadPoolExecutor(self.jobs) as workers:
            return dict(zip(policies, workers.map(lambda policy: self.run(stream, policy), policies)))

    def share(self, stream, found):
        """Share of full depth's MACs."""
        return found.macs / self.run(stream, "never").macs

    def posteriors(self, found):
        found.states = found.states.astype(np.float32)
        return self.heads(found)


def sweep(depths):
    layers = depths[-1]
    return {
        "fixed": [f"fixed --layer {k}" for k in depths],
        "periodic": [f"periodic --layer {k} --period 5" for k in range(1, layers, 3)],
        "entropy": [f"threshold --threshold {tau}" for tau in TAUS],
        "change": [f"change --threshold {delta}" for delta in DELTAS],
        "gain": [f"gain --threshold {value}" for value in LAMBDAS],
    }


def depth_under_noise(e, tau):
    """DAISY's rule over the SNRs."""
    found, parts = e.run("noisy", f"threshold --threshold {tau}"), segments("noisy")
    table = {}
    for kind in KINDS:
        table[kind] = {}
        for snr in ("clean", *SNRS):
            condition = "clean" if snr == "clean" else f"{kind} {snr}"
            means, frames = pool(found.depth, parts, lambda s: s["condition"] == condition)
            table[kind][snr] = interval(means, frames)
        series = [table[kind][snr][0] for snr in ("clean", *SNRS)]
        table[kind]["spearman"] = float(spearmanr([30, *SNRS], series).statistic)
        table[kind]["ratio at 0 dB"] = series[4] / series[0]
    return table


def equal_compute(e, stream):
    """Every policy: compute, depth, KL and agreement with full depth, with intervals over clips; and all minus fixed."""
    parts, policies = segments(stream), sweep(e.heads.depths)
    full = e.posteriors(e.run(stream, "never"))
    curves, per_clip = {}, {}
    for family, members in policies.items():
        curves[family] = []
        for policy, found in e.all(stream, members).items():
            posteriors = e.posteriors(found)
            kl, frames = pool(divergence(full, posteriors), parts)
            agree, _ = pool(agreement(full, posteriors), parts)
            groups = np.array([s["clip"] or str(n) for n, s in enumerate(parts)])
            curves[family].append({
                "policy": policy, "macs": found.macs, "share": e.share(stream, found), "depth": found.report["mean_exit_layer"],
                "kl": interval(kl, frames, groups), "agreement": interval(agree, frames, groups),
            })
            per_clip[policy] = kl
    # Difference from a fixed depth with the same compute, per clip.
    fixed = [(c["macs"], per_clip[c["policy"]]) for c in curves["fixed"]]
    costs, values = np.array([c for c, _ in fixed]), np.array([v for _, v in fixed])
    for family in ("periodic", "entropy", "change", "gain"):
        for point in curves[family]:
            point["kl minus fixed"] = interval(per_clip[point["policy"]] - at_cost(point["macs"], costs, values), frames, groups)
    return curves


def calibrated(e):
    """Agreement of calibrated cascades on held-out audio, by target."""
    parts, out = segments("noisy"), {}
    full = e.posteriors(e.run("noisy", "never"))
    for target in (0.9, 0.95, 0.98):
        found = e.run("noisy", f"calibrated --agreement {target}")
        agree, frames = pool(agreement(full, e.posteriors(found)), parts)
        clean, clean_frames = pool(agreement(full, e.posteriors(found)), parts, lambda s: s["condition"] == "clean")
        out[target] = {"pooled": interval(agree, frames), "clean": interval(clean, clean_frames), "depth": found.report["mean_exit_layer"]}
    return out


def without_speech(e, policies):
    """Depth and compute on silence and on noise alone."""
    parts, out = segments("alone"), {}
    for policy in policies:
        found = e.run("alone", policy)
        out[policy] = {f"{s['condition']} {s['kind']}": float(found.depth[s["first"] : s["first"] + s["frames"]].mean()) for s in parts}
        out[policy]["share of full depth"] = e.share("alone", found)
    return out


def phone_errors(e, policies):
    """Linear probes on speech.probe by exit layer and policy."""
    index = json.loads((PREPARED / "speech.probe.json").read_text())
    fixed = e.all("phones", [f"fixed --layer {k}" for k in e.heads.depths])
    by_layer = {int(policy.split()[-1]): found for policy, found in fixed.items()}
    for found in by_layer.values():
        found.states = found.states.astype(np.float32)
    probe = PhoneProbe(e.pack, index, by_layer)
    row = lambda found: {
        "share": e.share("phones", found), "depth": found.report["mean_exit_layer"], "all": float(probe.error(found)),
        **{condition: float(probe.error(found, [condition])) for condition in probe.test},
    }
    layers, purities = {}, {}
    clean = probe.test["clean"] & (probe.labels >= 0)
    for k, found in by_layer.items():
        layers[k] = row(found)
        purities[k] = purity(e.posteriors(found)[clean].argmax(1), probe.labels[clean])
    others = {}
    for policy, found in e.all("phones", policies).items():
        found.states = found.states.astype(np.float32)
        others[policy] = row(found)
    return {"layers": layers, "policies": others, "pnmi": purities}


def gap_filling(e, policy):
    """Effect of projections compared with never exiting: KL of the same layer's head, per frame."""
    found = e.run("device", policy)
    posteriors = e.posteriors(found)
    kl = np.zeros(len(found.depth))
    for k in e.heads.depths:
        here = found.depth == k
        if here.any():
            kl[here] = divergence(e.posteriors(e.run("device", f"fixed --layer {k}"))[here], posteriors[here])
    return {"policy": policy, "kl": float(kl.mean()), "worst percent": float(np.percentile(kl, 99)), "projections": found.report["projections_per_frame"]}


def letters(e, policies):
    """Number of letters and syllables whose nearest neighbour among another speaker's, by dynamic time warping, is the same one."""
    parts, out = segments("letters"), {}
    spoken = lambda rows, condition: {s["clip"]: rows[s["first"] : s["first"] + s["frames"]] for s in parts if s["condition"] == condition}
    pairs = {}
    for condition in dict.fromkeys(s["condition"] for s in parts):
        pairs.setdefault(condition.split()[0], []).append(condition)
    sources = {policy: (e.posteriors(e.run("letters", policy)), posterior_distance) for policy in policies}
    sources["log-mel"] = (log_mel("letters"), cosine_distance)
    for name, (rows, distance) in sources.items():
        out[name] = {}
        for language, (a, b) in pairs.items():
            one, other = spoken(rows, a), spoken(rows, b)
            out[name][language] = {"right": [recognised(one, other, distance), recognised(other, one, distance)], "of": len(one)}
    return out


def parameters(pack):
    """Number of parameters of all stages, keyword embeddings included, as in `bellis inspect`."""
    found = (weight for path in pack.glob("*.onnx") for weight in onnx.load(path).graph.initializer)
    return sum(int(np.prod(weight.dims)) for weight in found if weight.data_type in (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pack", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--jobs", type=int, default=2, help="number of parallel runs")
    parser.add_argument("--tau", type=float, help="threshold of DAISY's rule, nats (default: the pack's)")
    arguments = parser.parse_args()
    e = Evaluation(arguments.pack, arguments.jobs)
    out = arguments.out or REPOSITORY / "docs" / "models" / arguments.pack.name
    out.mkdir(parents=True, exist_ok=True)
    tau = arguments.tau or e.manifest["exit"]["threshold"]
    policies = sweep(e.heads.depths)
    figures = {"pack": arguments.pack.name, "tau": tau, "MACs per second at full depth": e.run("alone", "never").macs, "parameters": parameters(arguments.pack)}

    def done(name, value):
        figures[name] = value
        (out / "figures.json").write_text(json.dumps(figures, indent=1, default=float))
        print(f"evaluate: {name} done", flush=True)

    done("depth under noise", depth_under_noise(e, tau))
    done("noisy", equal_compute(e, "noisy"))
    done("device", equal_compute(e, "device"))
    done("calibrated", calibrated(e))
    done("without speech", without_speech(e, [f"threshold --threshold {tau}", "change", "gain"]))
    done("phones", phone_errors(e, policies["entropy"] + policies["change"] + policies["gain"] + ["never"]))
    done("gap filling", gap_filling(e, "gain"))
    done("letters", letters(e, ["never", "gain", f"threshold --threshold {tau}", *(f"fixed --layer {k}" for k in e.heads.depths)]))
    plots.draw(figures, out)


if __name__ == "__main__":
    main()
