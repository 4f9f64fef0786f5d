"""Evaluates a pack with Bellis and plots the results.

    python -m models.evaluate.streams
    python -m models.evaluate PACK [--out FOLDER] [--jobs N]

Writes figures.json and SVG plots into FOLDER (docs/models/NAME). Earlier runs are read from the cache in
$BELLIS_DATA/evaluate unless the pack, the stream or the program has changed. Streams that are made from others (models/evaluate/versions.py) are
updated first.

depth.py      how depth follows noise under DAISY's rule, also on degraded audio, and what depth gives by content
compute.py    quality at equal compute, and compute by content
simulate.py   `gain` against a depth that is chosen once
"""

import argparse
import json
from pathlib import Path

import numpy as np
import onnx

from models.train.paths import PREPARED, REPOSITORY

from . import depth, plots, versions
from .compute import by_content, equal_compute, without_speech
from .evaluation import Evaluation, sweep
from .measures import PhoneProbe, cosine_distance, divergence, interval, log_mel, pool, posterior_distance, purity, recognised
from .runs import segments
from .simulate import chosen_once


def calibrated(e):
    """Agreement of calibrated cascades on held-out audio, by target."""
    parts, out = segments("noisy"), {}
    for target in (0.9, 0.95, 0.98):
        policy = f"calibrated --agreement {target}"
        agrees, found = e.from_full("noisy", policy)[1], e.run("noisy", policy)
        pooled, clean = pool(agrees, parts), pool(agrees, parts, lambda s: s["condition"] == "clean")
        out[target] = {"pooled": interval(*pooled), "clean": interval(*clean), "depth": found.report["mean_exit_layer"]}
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
        purities[k] = purity(e.heads(found)[clean].argmax(1), probe.labels[clean])
    others = {}
    e.all("phones", policies)
    for policy in policies:
        found = e.run("phones", policy)
        found.states = found.states.astype(np.float32)
        others[policy] = row(found)
    return {"layers": layers, "policies": others, "pnmi": purities}


def gap_filling(e, policy):
    """Effect of projections compared with never exiting: KL of the same layer's head, per frame."""
    found = e.run("device", policy)
    posteriors = e.heads(found)
    kl = np.zeros(len(found.depth))
    for k in e.heads.depths:
        here = found.depth == k
        if here.any():
            kl[here] = divergence(e.heads(e.run("device", f"fixed --layer {k}"))[here], posteriors[here])
    return {"policy": policy, "kl": float(kl.mean()), "worst percent": float(np.percentile(kl, 99)), "projections": found.report["projections_per_frame"]}


def letters(e, policies):
    """Number of letters and syllables whose nearest neighbour among another speaker's, by dynamic time warping, is the same one."""
    parts, out = segments("letters"), {}
    spoken = lambda rows, condition: {s["clip"]: rows[s["first"] : s["first"] + s["frames"]] for s in parts if s["condition"] == condition}
    pairs = {}
    for condition in dict.fromkeys(s["condition"] for s in parts):
        pairs.setdefault(condition.split()[0], []).append(condition)
    sources = {policy: (e.heads(e.run("letters", policy)), posterior_distance) for policy in policies}
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
    versions.update()
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

    done("depth under noise", depth.under_noise(e, tau))
    done("depth under noise, degraded", {version: depth.under_noise(e, tau, version) for version in versions.VERSIONS})
    done("noisy", equal_compute(e, "noisy"))
    done("calibrated", calibrated(e))
    done("device", equal_compute(e, "device"))
    done("what depth gives", depth.gains(e))
    done("chosen once", {stream: chosen_once(e, stream) for stream in ("noisy", "device")})
    done("compute by content", by_content(e))
    done("without speech", without_speech(e, [f"threshold --threshold {tau}", "change", "gain"]))
    done("phones", phone_errors(e, policies["entropy"] + policies["change"] + policies["gain"] + ["never"]))
    done("gap filling", gap_filling(e, "gain"))
    done("letters", letters(e, ["never", "gain", f"threshold --threshold {tau}", *(f"fixed --layer {k}" for k in e.heads.depths)]))
    plots.draw(figures, out)


if __name__ == "__main__":
    main()
