"""Plots of the figures (SVG)."""

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt

from .streams import SNRS

COLOURS = {"fixed": "#444444", "periodic": "#999999", "entropy": "#c1563b", "change": "#4a7fb5", "gain": "#2f9e62", "ctc": "#8a5fb0"}
plt.rcParams.update({"figure.figsize": (6.4, 4), "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.3, "legend.frameon": False, "svg.hashsalt": "bellis"})


def finish(path, title, x, y):
    plt.title(title)
    plt.xlabel(x)
    plt.ylabel(y)
    plt.legend()
    plt.tight_layout()
    plt.savefig(path, metadata={"Date": None})
    plt.close()


def depth_under_noise(figures, out):
    for kind, by_snr in figures["depth under noise"].items():
        points = [by_snr[snr] for snr in ("clean", *SNRS)]
        plt.errorbar(range(len(points)), [p[0] for p in points], [[p[0] - p[1] for p in points], [p[2] - p[0] for p in points]], label=kind, capsize=2)
    plt.xticks(range(6), ["clean", *[f"{snr} dB" for snr in SNRS]])
    finish(out / "depth.svg", f"Depth under noise: DAISY's rule at {figures['tau']:.2f} nats", "SNR", "mean exit layer")


def equal_compute(figures, stream, out):
    for family, points in figures[stream].items():
        points = sorted(points, key=lambda point: point["share"])
        x, y = [100 * p["share"] for p in points], [p["kl"][0] for p in points]
        plt.plot(x, y, marker="o", markersize=3.5, label=family, color=COLOURS[family])
        plt.fill_between(x, [p["kl"][1] for p in points], [p["kl"][2] for p in points], color=COLOURS[family], alpha=0.12, linewidth=0)
    what = {"noisy": "speech, clean and in noise", "device": "device-like stream (speech, silence, noise)"}[stream]
    finish(out / f"compute-{stream}.svg", f"Equal compute: {what}", "MACs, % of full depth", "KL(full depth ‖ exit), nats (lower is better)")


def phones(figures, out):
    found = figures["phones"]
    families = {"fixed": list(found["layers"].values())}
    for policy, row in found["policies"].items():
        name = {"threshold": "entropy"}.get(policy.split()[0], policy.split()[0])
        families.setdefault(name, []).append(row)
    for family, rows in families.items():
        if family in COLOURS:
            rows = sorted(rows, key=lambda row: row["share"])
            plt.plot([100 * r["share"] for r in rows], [100 * r["all"] for r in rows], marker="o", markersize=3.5, label=family, color=COLOURS[family])
    finish(out / "phones.svg", "Linear probe on phones, held-out speaker", "MACs, % of full depth", "frame error rate, %")


def phones_at_equal_compute(figures, out):
    """Plots of models.evaluate.asr."""
    out.mkdir(parents=True, exist_ok=True)
    for stream, what in (("pooled", "speech, clean and in noise"), ("device", "device-like stream")):
        families = {"fixed": figures["fixed depths"][stream]}
        for row in figures["equal compute"][stream]:
            families.setdefault(row["policy"].split()[0], []).append(row)
        for family, rows in families.items():
            rows = sorted(rows, key=lambda row: row["share"])
            plt.plot([100 * r["share"] for r in rows], [100 * r["error"] for r in rows], marker="o", markersize=3.5, label=family, color=COLOURS[family])
        finish(out / f"compute-{stream}.svg", f"Phones at equal compute: {what}", "MACs, % of full depth", "phone error, %")


def draw(figures, out):
    depth_under_noise(figures, out)
    equal_compute(figures, "noisy", out)
    equal_compute(figures, "device", out)
    phones(figures, out)
