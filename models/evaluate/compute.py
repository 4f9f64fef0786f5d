"""What policies cost: quality at equal compute, and compute by content."""

import json
import subprocess
import tempfile
from pathlib import Path

import numpy as np

from .evaluation import sweep
from .measures import at_cost, clips, interval, pool
from .runs import BELLIS, segments
from .streams import KINDS, STREAMS
from .versions import ALONE

GATE = 0.7  # the value that docs/policies.md recommends


def equal_compute(e, stream):
    """Every policy: compute, depth, KL and agreement with full depth, with intervals over clips; and all minus fixed."""
    parts, curves, per_clip = segments(stream), {}, {}
    groups = clips(parts)
    for family, members in sweep(e.heads.depths).items():
        e.all(stream, members)
        curves[family] = []
        for policy in members:
            found = e.run(stream, policy)
            (kl, frames), (agree, _) = (pool(values, parts) for values in e.from_full(stream, policy))
            curves[family].append({
                "policy": policy, "macs": found.macs, "share": e.share(stream, found), "depth": found.report["mean_exit_layer"],
                "kl": interval(kl, frames, groups), "agreement": interval(agree, frames, groups),
            })
            per_clip[policy] = kl
    # Difference from a fixed depth with the same compute, per clip.
    costs, values = np.array([c["macs"] for c in curves["fixed"]]), np.array([per_clip[c["policy"]] for c in curves["fixed"]])
    for family in ("periodic", "entropy", "change", "gain"):
        for point in curves[family]:
            point["kl minus fixed"] = interval(per_clip[point["policy"]] - at_cost(point["macs"], costs, values), frames, groups)
    return curves


def without_speech(e, policies):
    """Depth on silence and on noise alone, and the compute of all of it."""
    parts, out = segments("alone"), {}
    for policy in policies:
        found = e.run("alone", policy)
        out[policy] = {f"{s['condition']} {s['kind']}": float(found.depth[s["first"] : s["first"] + s["frames"]].mean()) for s in parts}
        out[policy]["share of full depth"] = e.share("alone", found)
    return out


def milliseconds(e, stream, more, repeats=3):
    """Computing time per second of audio: of each chunk the shortest of several runs, which other processes disturb least."""
    times = []
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(repeats):
            command = [BELLIS, "run", STREAMS / f"{stream}.wav", "--pack", e.pack, "--chunk", 320, "--quiet", *more, "--consumer", f"jsonl:{folder}/chunks.jsonl"]
            subprocess.run([str(part) for part in command], check=True)
            chunks = [json.loads(line) for line in Path(folder, "chunks.jsonl").open()]
            Path(folder, "chunks.jsonl").unlink()
            times.append([chunk["compute_ms"] for chunk in chunks])
    return float(np.min(times, axis=0).sum() / sum(chunk["seconds"] for chunk in chunks))


def by_content(e):
    """The pack's policy without and with the gate: share of full depth's MACs by content, and the device-like stream relative to clean speech."""
    streams = {"clean speech": "clean", "device-like stream": "device", **{f"{'noise' if kind in KINDS else 'silence'}: {kind}": f"alone-{kind}" for kind in ALONE}}
    out = {}
    for name, more in ((e.policy, ()), (f"{e.policy} --gate {GATE}", ("--gate", str(GATE)))):
        runs = {content: e.run(stream, e.policy, *more) for content, stream in streams.items()}
        clean, device = runs["clean speech"].macs, runs["device-like stream"].macs
        full = e.full_macs("device")
        out[name] = {
            "share": {content: found.macs / full for content, found in runs.items()},
            "device / clean": {"MACs": device / clean, "time": milliseconds(e, "device", more) / milliseconds(e, "clean", more)},
        }
    return out
