"""Writes a pack's model card from its figures: tables and plots on one page.

    python -m models.evaluate.card PACK

Reads docs/models/NAME/figures.json (models.evaluate) and, if present, heads.json (models.train.heads --write), and writes docs/models/NAME.md.
"""

import argparse
import json
import tomllib
from pathlib import Path

from models.train.paths import REPOSITORY

from .streams import SNRS


def table(head, rows):
    line = lambda cells: "| " + " | ".join(str(cell) for cell in cells) + " |"
    return "\n".join([line(head), line(["---"] * len(head)), *(line(row) for row in rows)]) + "\n"


def percent(value, digits=1):
    return f"{100 * value:.{digits}f} %"


def sentence(text):
    return text[0].upper() + text[1:] + "."


def number(value, digits=3):
    return f"{value:.{digits}f}"


def depth(f):
    rows = [
        [kind, *(number(by[str(snr)][0], 1) for snr in ("clean", *SNRS)), number(by["spearman"], 2), number(by["ratio at 0 dB"], 2)]
        for kind, by in f["depth under noise"].items()
    ]
    return table(["noise", "clean", *(f"{snr} dB" for snr in SNRS), "Spearman", "0 dB / clean"], rows)


def spread(triple, digits=3, sign=""):
    value, low, high = triple
    return f"{value:{sign}.{digits}f} ({low:{sign}.{digits}f} to {high:{sign}.{digits}f})"


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

## Depth under noise

DAISY's rule at {tau:.2f} nats; mean exit layer, of {layers}:

{depth}
![depth under noise]({name}/depth.svg)

## Policies at equal compute

`gain` against a fixed depth at equal compute, on the device-like stream (30 % speech, 40 % silence, 30 % noise) and on
speech, clean to −5 dB:

{gain}
Other policies, with the settings whose compute is closest to 60 %:

{others}
![equal compute, device]({name}/compute-device.svg)
![equal compute, speech]({name}/compute-noisy.svg)

## Without speech

{alone}
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
    arguments = parser.parse_args()
    name = arguments.pack.name
    folder = REPOSITORY / "docs" / "models" / name
    read = lambda file: json.loads((folder / file).read_text()) if (folder / file).exists() else None
    f, manifest = read("figures.json"), tomllib.loads((arguments.pack / "pack.toml").read_text())
    more = ""
    if found := read("heads.json"):
        more += "## Joint heads and DAISY's\n\nDAISY trains its heads on the finished encoder, against the argmax of its own last head; here all heads are trained jointly with the encoder. DAISY's rule with\nboth, at the same mean depth, on held-out speech:\n\n" + heads(found) + "\n"
    encoder, provenance = manifest["encoder"], manifest["provenance"]
    page = PAGE.format(
        name=name, description=sentence(manifest["description"])[:-1], layers=encoder["layers"], dim=encoder["dim"], heads=encoder["heads"], units=encoder["units"],
        millions=f["parameters"] / 1e6, megabytes=sum(path.stat().st_size for path in arguments.pack.glob("*.onnx")) / 1e6,
        context=encoder["left_context"] * manifest["audio"]["hop"] / manifest["audio"]["sample_rate"],
        macs=f["MACs per second at full depth"] / 1e6, provenance=sentence(provenance["weights"]), tau=f["tau"],
        depth=depth(f), gain=gain(f), others=others(f), alone=alone(f), phones=phones(f), letters=letters(f), calibrated=calibrated(f),
        kl=f["gap filling"]["kl"], worst=f["gap filling"]["worst percent"], projections=f["gap filling"]["projections"], more=more,
        data=provenance["data"], held_out=provenance["held_out"], licence=provenance["licence"],
    )
    (folder.parent / f"{name}.md").write_text(page)
    print(f"card: {folder.parent / f'{name}.md'}")


if __name__ == "__main__":
    main()
