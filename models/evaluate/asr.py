"""Measures phone error rates of the CTC branches on held-out speech whose phones are known: by exit layer and policy, by language, in noise,
by level, and of adaptive exits against fixed depths of equal compute.

    python -m models.evaluate.asr PACK [--minutes M] [--policies LIST] [--out FOLDER]

Speech of test voices and packages (models.evaluate.asr_streams) runs through `bellis run --consumer phones`. The reference is what the
synthesiser was given, and for recordings what espeak-ng reads in their texts: people say some phones otherwise, so an error of zero cannot be
reached there. All phones are folded to one inventory (models/train/inventory.py). Intervals resample speakers, and the clips of each;
where there is one speaker, clips alone.

Utterances are measured on the stream `device` of models.evaluate.streams: the share of speech, silence and noise in them.

Writes FOLDER/NAME.json, FOLDER/NAME.md and plots in FOLDER/NAME (default: docs/asr). The streams are cached in $BELLIS_DATA.
"""

import argparse
import json
import subprocess
import tempfile
import tomllib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from models.train.check import KINDS, distance
from models.train.inventory import BOUNDARY, fold
from models.train.paths import HOP, RATE, REPOSITORY

from . import plots
from .asr_page import name_of, page
from .asr_streams import AT_LEVELS, CONDITIONS, IN_NOISE, LEVELS, SNRS, ensure
from .measures import at_cost, pool, ratio
from .runs import BELLIS, segments
from .streams import PAUSE, STREAMS

CTC_ENTROPIES = (0.1, 0.15, 0.2, 0.3, 0.45, 0.7)
GAINS = (0.001, 0.003, 0.01, 0.02, 0.03, 0.07, 0.1, 0.17, 0.3, 0.5)
BEAM = 8
LEVEL = -30  # dBFS, which others are compared with


@dataclass
class Run:
    """Phones that Bellis recognised in one stream with one policy, compared with the references."""

    wrong: np.ndarray  # edit distance of every segment
    layers: np.ndarray  # exit layer of every frame
    report: dict

    @property
    def macs(self):
        """MACs per second of audio of everything that ran."""
        return self.report["macs_per_second"]


def run(pack, stream, policy):
    """Runs one stream through Bellis. `policy` is a value of --policy, with further flags."""
    parts = segments(stream)
    with tempfile.TemporaryDirectory() as folder:
        command = [BELLIS, "run", STREAMS / f"{stream}.wav", "--pack", pack, "--quiet", "--policy", *policy.split()]
        command += ["--consumer", f"phones:{folder}/phones.jsonl", "--consumer", f"jsonl:{folder}/chunks.jsonl", "--report", f"{folder}/report.json"]
        subprocess.run([str(part) for part in command], check=True)
        phones, chunks = ([json.loads(line) for line in Path(folder, f"{name}.jsonl").open()] for name in ("phones", "chunks"))
        report = json.loads(Path(folder, "report.json").read_text())
    # Phones belong to a segment up to the middle of the pause after it.
    ends = np.array([(s["first"] + s["frames"] + PAUSE / 2) * HOP for s in parts])
    found = [[] for _ in parts]
    for line in phones:
        if line["phone"] != BOUNDARY:
            found[min(len(parts) - 1, int(np.searchsorted(ends, line["sample"])))] += fold(line["phone"])
    wrong = np.array([distance(ours, reference(s)) for ours, s in zip(found, parts)], float)
    print(f"asr: {stream}: {policy}: depth {report['mean_exit_layer']:.2f}, {report['macs_per_second'] / 1e6:.0f} M MACs per second", flush=True)
    return Run(wrong, np.repeat([c["layer"] for c in chunks], [c["frames"] for c in chunks]), report)


def reference(segment):
    return segment.get("phones", "").split()


def error(parts, wrong, chosen=lambda segment: True):
    """[wrong phones / phones of the references, low, high] of the chosen segments."""
    some = [number for number, s in enumerate(parts) if chosen(s)]
    names = [parts[number]["clip"] or str(number) for number in some]
    return ratio(wrong[some], [len(reference(parts[number])) for number in some], names, [parts[number].get("speaker", "") for number in some])


def errors(stream, found):
    """{kind: {condition: [error, low, high]}}"""
    parts, out = segments(stream), {}
    for kind in dict.fromkeys(s["condition"] for s in parts):
        out[kind] = {name_of(*one): error(parts, found.wrong, lambda s: (s["condition"], s["kind"], s["snr"]) == (kind, *one)) for one in CONDITIONS}
    return out


def seconds(stream, chosen):
    return sum(s["frames"] for s in segments(stream) if chosen(s)) * HOP / RATE


def languages(pack):
    """{kind: [error, low, high, seconds]} at full depth, clean."""
    parts, found = segments("asr_languages"), run(pack, "asr_languages", "never")
    of = lambda kind: lambda s: s["condition"] == kind
    return {kind: [*error(parts, found.wrong, of(kind)), seconds("asr_languages", of(kind))] for kind in dict.fromkeys(s["condition"] for s in parts)}


def noise(pack, policies):
    """{kind: {policy: {SNR: [error, low, high]}}}, over all kinds of noise; and the seconds of speech per kind and condition."""
    parts, out = segments("asr_noise"), {kind: {} for kind in IN_NOISE}
    for policy in policies:
        found = run(pack, "asr_noise", policy)
        for kind in IN_NOISE:
            out[kind][policy] = {snr: error(parts, found.wrong, lambda s: (s["condition"], s["snr"]) == (kind, snr)) for snr in SNRS}
    return out, {kind: seconds("asr_noise", lambda s: (s["condition"], s["kind"], s["snr"]) == (kind, "white", SNRS[0])) for kind in IN_NOISE}


def levels(pack, default):
    """{dBFS: {"ratio": {kind: error relative to that at LEVEL, full depth}, "raised": the same with automatic gain, "depth": mean exit layer of the default policy}}"""
    parts, full, exits = segments("asr_levels"), run(pack, "asr_levels", "never"), run(pack, "asr_levels", default)
    raised = run(pack, "asr_levels", "never --gain-db auto")
    at = lambda found, kind, level: error(parts, found.wrong, lambda s: (s["condition"], s["level"]) == (kind, level))[0]
    ratios = lambda found, level: {kind: at(found, kind, level) / at(full, kind, LEVEL) for kind in AT_LEVELS}
    out = {}
    for level in LEVELS:
        depths, frames = pool(exits.layers, parts, lambda s: s["level"] == level)
        out[level] = {"ratio": ratios(full, level), "raised": ratios(raised, level), "depth": float(np.average(depths, weights=frames))}
    return out


def equal_compute(stream, runs):
    """Fixed depths, and adaptive policies compared with the fixed depth of the same compute, interpolated between layers."""
    parts, full = segments(stream), runs["never"]

    def row(policy):
        one = runs[policy]
        return {"policy": policy, "share": one.macs / full.macs, "error": error(parts, one.wrong)[0], "of full depth": float(one.wrong.sum() / full.wrong.sum())}

    fixed = [policy for policy in runs if policy.startswith("fixed")] + ["never"]
    costs, wrong = [runs[policy].macs for policy in fixed], np.array([runs[policy].wrong for policy in fixed])
    adaptive = [policy for policy in runs if policy.startswith(("gain", "ctc"))]
    less = {policy: error(parts, runs[policy].wrong - at_cost(runs[policy].macs, costs, wrong)) for policy in adaptive}
    return [row(policy) for policy in fixed], [row(policy) | {"minus fixed": less[policy]} for policy in adaptive]


def utterances(pack):
    """Share of the frames of the stream `device` that are in an utterance, by content; without padding."""
    command = [BELLIS, "run", STREAMS / "device.wav", "--pack", pack, "--quiet", "--consumer", "segments", "--pad", "0"]
    lines = [json.loads(line) for line in subprocess.run([str(part) for part in command], check=True, capture_output=True).stdout.splitlines()]
    parts, inside = segments("device"), np.zeros(max(s["first"] + s["frames"] for s in segments("device")), bool)
    for line in lines:
        inside[line["sample"] // HOP : (line["sample"] + line["samples"]) // HOP] = True
    found = {}
    for s in parts:
        name = "speech, clean" if s["condition"] == "speech" and not s["kind"] else "speech in noise" if s["condition"] == "speech" else f"{s['condition']}: {s['kind']}"
        found.setdefault(name, []).append(inside[s["first"] : s["first"] + s["frames"]])
    return {name: float(np.concatenate(masks).mean()) for name, masks in sorted(found.items())} | {"utterances": len(lines)}


def policies(manifest):
    """Policies to compare, as flags of `bellis run`."""
    stages, layers = manifest["stages"], manifest["encoder"]["layers"]
    branches = sorted(int(k) for k in stages["ctc"] if int(k) > 0 or "0" in stages.get("head", {}))
    out = [f"fixed --layer {k}" for k in branches if k < layers] + [manifest["exit"]["policy"]]
    if "gain" in stages:
        out += [f"gain --threshold {value}" for value in GAINS]
    return out + [f"ctc --threshold {value}" for value in CTC_ENTROPIES]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pack", type=Path)
    parser.add_argument("--minutes", type=float, default=2, help="minutes of each kind of speech and condition (default: %(default)s)")
    parser.add_argument("--policies", help="values of --policy with further flags, separated by commas; only the tables by kind of speech (default: all policies and tables)")
    parser.add_argument("--out", type=Path, default=REPOSITORY / "docs/asr")
    arguments = parser.parse_args()
    manifest = tomllib.loads((arguments.pack / "pack.toml").read_text())
    if "ctc" not in manifest:
        raise SystemExit(f"asr: {arguments.pack} has no CTC branches, which phones require")
    if arguments.policies and arguments.out == REPOSITORY / "docs/asr":
        parser.error("--policies needs --out: docs/asr has all policies")
    path = arguments.pack.resolve()
    path = path.relative_to(REPOSITORY) if path.is_relative_to(REPOSITORY) else arguments.pack.name
    figures = {"pack": manifest["name"], "path": str(path), "layers": manifest["encoder"]["layers"], "default": manifest["exit"]["policy"]}

    def runs(stream, chosen):
        ensure(stream, arguments.minutes)
        return {policy: run(arguments.pack, stream, policy) for policy in dict.fromkeys(["never", *chosen])}

    chosen = arguments.policies.split(",") if arguments.policies else policies(manifest)
    found = runs("asr_conditions", [*chosen, f"never --beam {BEAM}"])
    figures["runs"] = {
        policy: {"depth": one.report["mean_exit_layer"], "macs": one.macs, "errors": errors("asr_conditions", one), "share": one.macs / found["never"].macs} for policy, one in found.items()
    }
    if not arguments.policies:
        for stream in ("asr_languages", "asr_noise", "asr_levels"):
            ensure(stream, arguments.minutes)
        fixed, adaptive = zip(equal_compute("asr_conditions", found), equal_compute("asr_device", runs("asr_device", chosen)))
        figures["fixed depths"], figures["equal compute"] = (dict(zip(("pooled", "device"), rows)) for rows in (fixed, adaptive))
        figures["languages"] = languages(arguments.pack)
        figures["noise"], figures["noise seconds"] = noise(arguments.pack, ["never", f"fixed --layer {figures['layers'] // 2}", figures["default"]])
        figures["level"] = levels(arguments.pack, figures["default"])
        figures["utterances"] = utterances(arguments.pack)
    arguments.out.mkdir(parents=True, exist_ok=True)
    written = json.dumps(figures, indent=1, ensure_ascii=False)
    (arguments.out / f"{manifest['name']}.json").write_text(written + "\n")
    figures = json.loads(written)
    (arguments.out / f"{manifest['name']}.md").write_text(page(figures))
    if not arguments.policies:
        plots.phones_at_equal_compute(figures, arguments.out / manifest["name"])
    print(page(figures))


if __name__ == "__main__":
    main()
