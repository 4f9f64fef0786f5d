"""Writes a pack's model card from its figures: tables and plots on one page.

    python -m models.evaluate.card PACK

Reads docs/models/NAME/figures.json (models.evaluate) and, if present, heads.json (models.train.heads --write), docs/asr/NAME.json (models.evaluate.asr) and, for the
default pack, docs/keywords/figures.json (models.evaluate.keywords). Writes docs/models/NAME.md.
"""

import argparse
import json
import tomllib
from pathlib import Path

from models.train.paths import REPOSITORY

from . import targets
from .streams import SNRS
from .tables import number, percent, spread, table

DOCS = REPOSITORY / "docs"
DEFAULT = "daisy-tiny"  # the pack that docs/keywords/figures.json is about


def sentence(text):
    return text[0].upper() + text[1:] + "."


def falls(found):
    """Where depth falls although the noise rises: `−5 dB: −0.1`, with * if its interval excludes 0."""
    return ", ".join(f"{snr} dB: {change:.1f}{'*' * (high < 0)}" for snr, (change, _, high) in found.items()).replace("-", "−")


def depth(by_kind):
    rows = [
        [kind, *(number(by[str(snr)][0], 1) for snr in ("clean", *SNRS)), number(by["spearman"], 2), number(by["ratio at 0 dB"], 2), falls(by["falls"])]
        for kind, by in by_kind.items()
    ]
    return table(["noise", "clean", *(f"{snr} dB" for snr in SNRS), "Spearman", "0 dB / clean", "falls at"], rows)


def degraded(f):
    """Spearman and ratio of every version of the streams."""
    versions = f["depth under noise, degraded"]
    kinds = list(f["depth under noise"])
    rows = [[kind, *(f"{by[kind]['spearman']:.2f}, {by[kind]['ratio at 0 dB']:.2f}" for by in versions.values()), "; ".join(f"{name} {falls(by[kind]['falls'])}" for name, by in versions.items() if by[kind]["falls"])] for kind in kinds]
    return table(["noise", *versions, "falls at"], rows)


def what_depth_gives(f):
    half = lambda row: row["half depth"]
    rows = [
        [content, row["chunks"], *(number(row["first layer"]["quantiles"][q], 2) for q in ("10", "50", "90")), *(number(half(row)["quantiles"][q]) for q in ("10", "50", "90")), percent(half(row)["costs"], 0), *(number(row["predicted"][k], 2) for k in ("h0", "half depth"))]
        for content, row in f["what depth gives"].items()
    ]
    return table(["content", "chunks", "layer 1: 10 %", "50 %", "90 %", "half depth: 10 %", "50 %", "90 %", "half depth costs > 0.05", "predicted at h⁰", "at half depth"], rows)


def once(f):
    rows = []
    for stream, points in f["chosen once"].items():
        for point in points:
            less = spread([-point["gain minus once"][i] for i in (0, 2, 1)], sign="+")
            rows.append([stream, point["lambda"], percent(point["share"], 0), *(number(point[name][0]) for name in ("gain", "once", "best")), less])
    return table(["stream", "λ", "compute", "KL, `gain`", "KL, once", "KL, best", "reduction by `gain` (95 %)"], rows)


def content(f):
    found = f["compute by content"]
    rows = [[kind, *(percent(by["share"][kind], 0) for by in found.values())] for kind in next(iter(found.values()))["share"]]
    rows += [[f"device-like stream / clean speech, {name}", *(number(by["device / clean"][name], 2) for by in found.values())] for name in ("MACs", "time")]
    return table(["compute", *(f"`{policy}`" for policy in found)], rows)


def gain(f):
    rows = []
    for device, noisy in zip(f["device"]["gain"], f["noisy"]["gain"]):
        less = lambda point: spread([-point["kl minus fixed"][i] for i in (0, 2, 1)], sign="+")
        rows.append([device["policy"].split()[-1], f"{percent(device['share'], 0)} / {percent(noisy['share'], 0)}", number(device["kl"][0]), less(device), number(noisy["kl"][0]), less(noisy)])
    return table(["λ", "compute, device / speech", "KL, device stream", "reduction from fixed depth (95 %)", "KL, speech", "reduction from fixed depth (95 %)"], rows)


def others(f):
    rows = []
    for family in ("entropy", "change", "periodic"):
        for stream in ("device", "noisy"):
            points = f[stream][family]
            middle = min(points, key=lambda point: abs(point["share"] - 0.6))
            less = spread([-middle["kl minus fixed"][i] for i in (0, 2, 1)], sign="+")
            rows.append([family, stream, middle["policy"], percent(middle["share"], 0), number(middle["kl"][0]), less])
    return table(["policy", "stream", "settings", "compute", "KL", "reduction from fixed depth (95 %)"], rows)


def alone(f):
    policies = list(f["without speech"])
    kinds = list(f["without speech"][policies[0]])
    rows = [[kind, *(percent(f["without speech"][p][kind], 0) if kind == "share of full depth" else number(f["without speech"][p][kind], 1) for p in policies)] for kind in kinds]
    return table(["mean exit layer", *(f"`{policy}`" for policy in policies)], rows)


def phones(f):
    found = f["phones"]
    rows = [[f"layer {k}", percent(row["share"], 0), percent(row["all"]), percent(row["clean"]), number(found["pnmi"][k])] for k, row in found["layers"].items()]
    rows += [[f"`{policy}`", percent(row["share"], 0), percent(row["all"]), percent(row["clean"]), ""] for policy, row in found["policies"].items() if policy.startswith(("gain", "never"))]
    return table(["", "compute", "all conditions", "clean", "PNMI of the units"], rows)


def calibrated(f):
    rows = [[percent(float(target), 0), percent(row["pooled"][0]), percent(row["clean"][0]), number(row["depth"], 1)] for target, row in f["calibrated"].items()]
    return table(["target", "pooled, clean to −5 dB", "clean", "mean depth"], rows)


def letters(f):
    rows = [[f"`{name}`", *("{}, {} of {}".format(*row["right"], row["of"]) for row in by.values())] for name, by in f["letters"].items()]
    return table(["representation", *next(iter(f["letters"].values()))], rows)


def heads(rows):
    return table(
        ["mean depth", "joint: KL", "agreement", "cross-entropy with the units", "DAISY's: KL", "agreement", "cross-entropy with the units"],
        [[number(row["depth"], 1), *(number(row[kind][name]) for kind in ("joint", "daisy") for name in ("kl", "agreement", "units"))] for row in rows],
    )


PAGE = """# {name}

{description}: {layers} layers of {dim}, {heads} attention heads, {units} units, {millions:.2f} M parameters, {megabytes:.1f} MB as f16. Chunks of
160, 320 or 640 ms, {context:.2f} s of left context. Full depth takes {macs:.0f} M MACs per second of audio, without heads and
predictors.

{provenance}

All figures are measured with Bellis itself on speakers and noise that are held out from training
([packages.toml](../../models/train/packages.toml)). `python -m models.evaluate models/{name}` measures them
([figures.json]({name}/figures.json)); `python -m models.evaluate.card models/{name}` writes this page. KL is KL(full depth ‖ exit) in nats
per frame. Compute is the MACs of everything that ran (front end, layers, projections, heads, predictors) as a share of those of full
depth. Intervals are over clips.

Phone error rates by language, layer and policy are in [asr/{name}.md](../asr/{name}.md).

## Targets

Phone errors, letters and PNMI are at full depth, unless the row names a policy. Spearman correlations are over six SNRs: a single swap of neighbours gives −0.94.

{targets}
## Depth under noise

DAISY's rule at {tau:.2f} nats; mean exit layer, of {layers}. *Falls at* is where depth falls although the noise rises, with the change in layers (* if its 95 % interval excludes 0).
*public*, *music* and *events*, and *fillets* (music), are of packages whose audio training never uses:

{depth}
![depth under noise]({name}/depth.svg)

The same streams as narrow-band audio (3.4 kHz), with 8-bit linear quantisation, and as telephone audio (8 kHz, G.711); Spearman, 0 dB / clean:

{degraded}

## Policies at equal compute

`gain` against a fixed depth at equal compute, on the device-like stream (30 % speech, 40 % silence, 30 % noise) and on
speech, clean to −5 dB:

{gain}
Other policies, with the settings whose compute is closest to 60 %:

{others}
![equal compute, device]({name}/compute-device.svg)
![equal compute, speech]({name}/compute-noisy.svg)

## Depth chosen once

`gain` against a depth that is chosen once, from h⁰ ([input-conditioned early exit](https://arxiv.org/abs/2507.07954)), at equal compute. Both are simulated from runs of fixed depth with the pack's
predictors; the one of h⁰ predicts the KL of every layer. *Best* knows the KL of every layer:

{once}
## What depth gives

KL per chunk at the first layer and at half depth, by content: quantiles; the share of chunks where half depth costs more than 0.05 nats; and the rank correlation (Spearman) of the KL at half depth with
its prediction at h⁰ and at half depth:

{what_depth_gives}
## Without speech

{alone}
Compute by content, with and without the [gate](../policies.md):

{content}
## Phones

Frame error rate of a linear probe on the aligned phones of festvox-ru (one Russian speaker; half of the recordings train the probe, half test it):

{phones}
![phones]({name}/phones.svg)

## Letters and syllables across speakers

Number of one speaker's letters (English, klettres) or syllables (Mandarin, gcin-voice) whose nearest neighbour among the other speaker's, by
dynamic time warping of the exit heads' posteriors, is the same one; in both directions, one example each, without training.

{letters}
## Calibrated agreement

Agreement with full depth on held-out speech, with thresholds calibrated on other voices that are held out from training:

{calibrated}
## Exits and the cache

With the policy `gain` on the device-like stream, projected keys and values change the exit head by {kl:.4f} nats per frame compared with never exiting
(99th percentile {worst:.3f}). All compute figures include the {projections:.2f} projections per frame.

{more}## Data and licence

{data}; held out: {held_out}. Licence of the weights: {licence}.
"""


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pack", type=Path)
    parser.add_argument("--folder", type=Path, default=DOCS / "models", help="folder of NAME/figures.json and NAME.md (default: docs/models)")
    arguments = parser.parse_args()
    name = arguments.pack.name
    folder, page = arguments.folder / name, arguments.folder / f"{name}.md"
    read = lambda file, otherwise: json.loads(file.read_text()) if file.exists() else otherwise
    f, manifest = json.loads((folder / "figures.json").read_text()), tomllib.loads((arguments.pack / "pack.toml").read_text())
    rows = targets.rows(f, read(DOCS / "asr" / f"{name}.json", {}), read(DOCS / "keywords/figures.json", []) if name == DEFAULT else [])
    more = ""
    if found := read(folder / "heads.json", None):
        more += "## Joint heads and DAISY's\n\nDAISY trains its heads on the finished encoder, against the argmax of its own last head; here all heads are trained jointly with the encoder. DAISY's rule with\nboth, at the same mean depth, on held-out speech:\n\n" + heads(found) + "\n"
    encoder, provenance = manifest["encoder"], manifest["provenance"]
    page.write_text(PAGE.format(
        name=name, description=sentence(manifest["description"])[:-1], layers=encoder["layers"], dim=encoder["dim"], heads=encoder["heads"], units=encoder["units"],
        millions=f["parameters"] / 1e6, megabytes=sum(path.stat().st_size for path in arguments.pack.glob("*.onnx")) / 1e6,
        context=encoder["left_context"] * manifest["audio"]["hop"] / manifest["audio"]["sample_rate"],
        macs=f["MACs per second at full depth"] / 1e6, provenance=sentence(provenance["weights"]), tau=f["tau"],
        targets=targets.show(rows), depth=depth(f["depth under noise"]), degraded=degraded(f), gain=gain(f), others=others(f), once=once(f), what_depth_gives=what_depth_gives(f),
        alone=alone(f), content=content(f), phones=phones(f), letters=letters(f), calibrated=calibrated(f),
        kl=f["gap filling"]["kl"], worst=f["gap filling"]["worst percent"], projections=f["gap filling"]["projections"], more=more,
        data=provenance["data"], held_out=provenance["held_out"], licence=provenance["licence"],
    ))
    print(f"card: {page}")


if __name__ == "__main__":
    main()
