"""Measures phone error rates of the CTC branches by exit layer and policy, on held-out speech whose phones are known.

    python -m models.evaluate.asr PACK [--minutes M] [--policies LIST] [--out FOLDER]

Speech of test voices and packages, clean and in noise, runs through `bellis run --consumer phones`. The reference is what the synthesiser
was given, and for recordings what espeak-ng reads in their texts: people say some phones otherwise, so an error of zero cannot be
reached there. All phones are folded to one inventory (models/train/inventory.py). Intervals are over clips.

Utterances are measured on the stream `device` of models.evaluate.streams: the share of speech, silence and noise in them.

Writes FOLDER/NAME.json and FOLDER/NAME.md (default: docs/asr). The stream is cached in $BELLIS_DATA.
"""

import argparse
import json
import subprocess
import tempfile
import tomllib
from pathlib import Path

import numpy as np

from models.train.check import KINDS, distance, referenced
from models.train.inventory import BOUNDARY, fold
from models.train.mixing import scale_to
from models.train.paths import HOP, RATE, REPOSITORY

from .measures import interval
from .runs import BELLIS, segments
from .streams import LEVEL, PAUSE, STREAMS, Pool, Stream

CONDITIONS = (("", None), ("babble", 10), ("public", 5), ("music", 5), ("white", 0))
CTC_ENTROPIES = (0.1, 0.15, 0.2, 0.3, 0.45, 0.7)
GAINS = (0.01, 0.03, 0.07)
BEAM = 8


def name_of(noise, snr):
    return f"{noise} {snr} dB" if noise else "clean"


def make_stream(minutes):
    """The stream `asr`: the same clips of every kind in every condition; a segment's clip is its reference."""
    pool, stream = Pool(11), Stream()
    for kind, (group, wanted) in KINDS.items():
        clips, left = [], minutes * 60
        for audio, phones in referenced(group, wanted, pool.rng):
            if left <= 0:
                break
            clips.append((audio * LEVEL / (audio.std() + 1e-6), " ".join(phones)))
            left -= len(audio) / RATE
        for noise, snr in CONDITIONS:
            for audio, phones in clips:
                mixed = audio + scale_to(pool.noise(noise, len(audio)), np.mean(audio**2), snr) if noise else audio
                stream.add(mixed / max(1, np.abs(mixed).max()), f"{kind} | {name_of(noise, snr)}", noise, snr, phones)
    stream.write("asr")


def run(pack, policy):
    """Phones of every segment as recognised by Bellis, and the report of the run."""
    parts = segments("asr")
    with tempfile.TemporaryDirectory() as folder:
        command = [BELLIS, "run", STREAMS / "asr.wav", "--pack", pack, "--quiet", "--policy", *policy.split()]
        command += ["--consumer", f"phones:{folder}/phones.jsonl", "--report", f"{folder}/report.json"]
        subprocess.run([str(part) for part in command], check=True)
        lines = [json.loads(line) for line in Path(folder, "phones.jsonl").open()]
        report = json.loads(Path(folder, "report.json").read_text())
    # Phones belong to a segment up to the middle of the pause after it.
    ends = np.array([(s["first"] + s["frames"] + PAUSE / 2) * HOP for s in parts])
    found = [[] for _ in parts]
    for line in lines:
        if line["phone"] != BOUNDARY:
            found[min(len(parts) - 1, int(np.searchsorted(ends, line["sample"])))] += fold(line["phone"])
    print(f"asr: {policy}: depth {report['mean_exit_layer']:.2f}, {report['macs_per_second'] / 1e6:.0f} M MACs per second", flush=True)
    return found, report


def errors(found):
    """{kind: {condition: [error, low, high]}}"""
    parts, by_condition = segments("asr"), {}
    for s, phones in zip(parts, found):
        expected = s["clip"].split()
        by_condition.setdefault(s["condition"], []).append((distance(phones, expected), len(expected)))
    out = {kind: {} for kind in KINDS}
    for condition, pairs in by_condition.items():
        kind, name = condition.split(" | ")
        wrong, counts = np.array(pairs, float).T
        out[kind][name] = [float(x) for x in interval(wrong / counts, counts, np.arange(len(counts)))]
    return {kind: rows for kind, rows in out.items() if rows}


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
    out = [f"fixed --layer {k}" for k in branches if k < layers] + ["never"]
    if "gain" in stages:
        out += ["gain"] + [f"gain --threshold {value}" for value in GAINS]
    return out + [f"ctc --threshold {value}" for value in CTC_ENTROPIES]


def show(rows):
    return "\n".join("| " + " | ".join(map(str, row)) + " |" for row in [rows[0], ["---"] * len(rows[0]), *rows[1:]])


def table(figures):
    """Markdown."""
    names = [name_of(*condition) for condition in CONDITIONS]
    runs, sections = figures["runs"], []
    for kind in runs["never"]["errors"]:
        rows = [["", "depth", "of full compute", *names]]
        for policy, one in runs.items():
            rows.append([f"`{policy}`", f"{one['depth']:.2f}", f"{one['share']:.2f}", *(f"{100 * one['errors'][kind][name][0]:.1f}" for name in names)])
        half = f"fixed --layer {figures['layers'] // 2}"
        if half in runs:
            less = lambda name: 1 - runs["never"]["errors"][kind][name][0] / max(1e-9, runs[half]["errors"][kind][name][0])
            rows.append(["errors that the second half of the layers removes, %", "", "", *(f"{100 * less(name):.0f}" for name in names)])
        _, low, high = runs["never"]["errors"][kind]["clean"]
        sections.append(f"## {kind[0].upper()}{kind[1:]}\n\nFull depth, clean: {100 * low:.1f} to {100 * high:.1f} (95 %).\n\n{show(rows)}\n")
    return f"""# Phone error rates of {figures["pack"]}

Measured by `python -m models.evaluate.asr {figures["path"]}`; {figures["pack"]}.json has all figures with 95 % intervals. Phone error rate
in %: edit distance divided by the number of phones in the reference, which is what the synthesiser was given, or what espeak-ng reads in a
recording's text. None of these voices and noise recordings was used in training. `never` is full depth; *of full compute* refers
to the MACs of everything that ran.

{chr(10).join(sections)}
## Utterances

Share of 20 minutes of the device-like stream that is in an utterance, by content; the pack's own policy, without padding.

{show([["content", "%"], *([name, f"{100 * value:.1f}"] for name, value in figures["utterances"].items() if name != "utterances")])}
"""


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pack", type=Path)
    parser.add_argument("--minutes", type=float, default=2, help="minutes of each kind of speech and condition, when the stream is created (default: %(default)s)")
    parser.add_argument("--policies", help="values of --policy with further flags, separated by commas (default: every layer and a sweep of thresholds)")
    parser.add_argument("--out", type=Path, default=REPOSITORY / "docs/asr")
    arguments = parser.parse_args()
    manifest = tomllib.loads((arguments.pack / "pack.toml").read_text())
    if "ctc" not in manifest:
        raise SystemExit(f"asr: {arguments.pack} has no CTC branches, which phones require")
    if arguments.policies and arguments.out == REPOSITORY / "docs/asr":
        parser.error("--policies needs --out: docs/asr has all policies")
    if not (STREAMS / "asr.json").exists() or {s["condition"].split(" | ")[0] for s in segments("asr")} - set(KINDS):
        make_stream(arguments.minutes)
    path = arguments.pack.resolve()
    path = path.relative_to(REPOSITORY) if path.is_relative_to(REPOSITORY) else arguments.pack.name
    figures = {"pack": manifest["name"], "path": str(path), "layers": manifest["encoder"]["layers"], "runs": {}}
    requested = arguments.policies.split(",") if arguments.policies else policies(manifest)
    for policy in dict.fromkeys(["never", *requested, f"never --beam {BEAM}"]):
        found, report = run(arguments.pack, policy)
        figures["runs"][policy] = {"depth": report["mean_exit_layer"], "macs": report["macs_per_second"], "errors": errors(found)}
    for one in figures["runs"].values():
        one["share"] = one["macs"] / figures["runs"]["never"]["macs"]
    figures["utterances"] = utterances(arguments.pack)
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / f"{manifest['name']}.json").write_text(json.dumps(figures, indent=1, ensure_ascii=False) + "\n")
    (arguments.out / f"{manifest['name']}.md").write_text(table(figures))
    print(table(figures))


if __name__ == "__main__":
    main()
