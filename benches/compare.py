"""Compares Bellis with onnxruntime, unmodified tract and alternative encoders on this machine, in one interleaved run:

    pip install -r benches/requirements.txt
    python benches/compare.py [--pack PACK] [--rounds N] [--cpu N] [--out FOLDER] [--docs]

Everything runs on one thread, pinned to one core, one candidate after another in each round. The result is the best
round, in milliseconds of processor time per second of audio. For Bellis it covers the whole runtime (threads, ring, policy,
consumer), for the others only the calls of their models. Their models are downloaded once into $BELLIS_DATA/baselines.

Writes compare.json and compare.md into the folder (default: $BELLIS_DATA/compare), and with --docs the tables into docs/performance.md.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import numpy as np
import onnx
import soundfile

sys.path.insert(0, str(Path(__file__).resolve().parent))
import baselines

REPOSITORY = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("BELLIS_DATA", REPOSITORY / "data"))
HOP = 0.32  # seconds, of the streaming comparisons
CONTEXT = 1.3  # seconds of context for an encoder without a cache


def log(text):
    print(f"compare: {text}", file=sys.stderr, flush=True)


class Candidates:
    """examples/compare.rs: loads a pack once and runs the requested configurations."""

    def __init__(self, program, pack, sound, seconds=None):
        command = [program, str(pack), str(sound), *([str(seconds)] if seconds else [])]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def candidate(self, name):
        process = self.process

        class One:
            def run(self):
                process.stdin.write(name + "\n")
                process.stdin.flush()
                answer = json.loads(process.stdout.readline())
                if "error" in answer:
                    raise SystemExit(f"{name}: {answer['error']}")
                return answer["cpu"], answer["seconds"]

        return One()

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def rounds(candidates, count):
    """{name: milliseconds of processor time per second of audio}, the best of `count` interleaved rounds after a warm-up round."""
    best, spread = {}, {}
    for number in range(count + 1):
        for name, candidate in candidates.items():
            cpu, seconds = candidate.run()
            if number:
                spread.setdefault(name, []).append(1e3 * cpu / seconds)
    for name, values in spread.items():
        best[name] = dict(ms=min(values), median=float(np.median(values)))
    return best


def read_pack(folder):
    manifest = tomllib.loads((Path(folder) / "pack.toml").read_text())
    return dict(folder=Path(folder), **{key: manifest[key] for key in ("audio", "encoder", "stages", "exit") if key in manifest})


def ceilings():
    """Peak of this core in large matmuls: GFLOP/s f32 and GOP/s int8 (a MAC is two operations)."""
    size = 1024
    a, b = (np.random.default_rng(seed).standard_normal((size, size)).astype(np.float32) for seed in (1, 2))
    made = lambda name, kind: onnx.helper.make_tensor_value_info(name, kind, [size, size])
    kinds = onnx.TensorProto
    graphs = {
        "f32": onnx.helper.make_graph([onnx.helper.make_node("MatMul", ["a", "b"], ["y"])], "g", [made("a", kinds.FLOAT)],
                                      [made("y", kinds.FLOAT)], [onnx.numpy_helper.from_array(b, "b")]),
        "int8": onnx.helper.make_graph([onnx.helper.make_node("MatMulInteger", ["a", "b"], ["y"])], "g", [made("a", kinds.UINT8)],
                                       [made("y", kinds.INT32)], [onnx.numpy_helper.from_array((b * 30).astype(np.int8), "b")]),
    }
    inputs, found = {"f32": a, "int8": np.abs(a * 30).astype(np.uint8)}, {}
    for name, graph in graphs.items():
        model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=9)
        session, times = baselines.session(model.SerializeToString()), []
        for _ in range(12):
            began = time.process_time()
            session.run(None, {"a": inputs[name]})
            times.append(time.process_time() - began)
        found[name] = 2 * size**3 / min(times) / 1e9
    return found


def run_and_wait(command, feed):
    """Runs `command` with `feed` (chunks of bytes) on its standard input: (processor seconds, peak resident bytes)."""
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
    for block in feed:
        process.stdin.write(block)
    process.stdin.flush()
    # Not from `wait4` below: a child's peak there starts with its parent's memory at the fork.
    status = Path(f"/proc/{process.pid}/status").read_text()
    peak = next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM:"))
    process.stdin.close()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = status
    if status:
        raise SystemExit(f"{command} failed")
    return usage.ru_utime + usage.ru_stime, peak


def ages(bellis, pack, audio, lengths):
    """Processor time, without start-up, and peak memory of streams of several lengths; the audio is repeated through a pipe."""
    pcm = (np.clip(audio, -1, 1) * 32767).astype("<i2").tobytes()
    command = [bellis, "run", "-", "--pack", str(pack), "--consumer", "null", "--quiet"]

    def feed(seconds):
        left = int(seconds * baselines.RATE) * 2
        while left > 0:
            yield pcm[:left]
            left -= min(left, len(pcm))

    start = min(run_and_wait(command, feed(HOP))[0] for _ in range(5))
    found = []
    for seconds in lengths:
        cpu, memory = min(run_and_wait(command, feed(seconds)) for _ in range(5 if seconds <= 10 else 2 if seconds <= 100 else 1))
        found.append(dict(seconds=seconds, ms=1e3 * (cpu - start) / (seconds - HOP), peak_mb=memory / 1e6))
    return dict(start_seconds=start, pack_mb=sum(path.stat().st_size for path in Path(pack).iterdir()) / 1e6, streams=found)


def device(bellis, pack, cache):
    path = cache / "device.json"
    command = [bellis, "bench", "--pack", str(pack), "--snr", "clean", "--rate", str(baselines.RATE), "--json", str(path)]
    policy = read_pack(pack)["exit"].get("policy", "never")
    found = []
    for _ in range(3):
        subprocess.run([*command, "--policy", policy], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        cells = {cell["condition"]: cell for cell in json.loads(path.read_text())["cells"] if cell["policy"] == policy}
        found.append({name: cell["cpu_seconds_per_second"] * 1e3 for name, cell in cells.items()})
    best = {name: min(one[name] for one in found) for name in found[0]}
    adds = {name: cell["macs_per_second"] for name, cell in cells.items()}
    return dict(policy=policy, clean_ms=best["clean"], device_ms=best["device-like"], cpu_ratio=best["device-like"] / best["clean"],
                mac_ratio=adds["device-like"] / adds["clean"], macs_clean=adds["clean"])


def targets(result):
    """(description, ratio, limit) of every target."""
    policy, streams = result["policy"], result["ages"]["streams"]
    for name, group in result["same"].items():
        for kind in ("f32", "int8"):
            reference = group[f"onnxruntime {kind}"]["ms"]
            yield f"{name}, full depth, {kind} / onnxruntime {kind}", group[f"Bellis {kind}, never"]["ms"] / reference, 0.9
            kept = group.get(f"Bellis {kind}, never, front-end frames cached")
            if kept:
                yield f"{name}, full depth, {kind}, front-end frames cached (`--norm folded`) / onnxruntime {kind}", kept["ms"] / reference, 0.9
    for name, one in result["instead"].items():
        most = 0.1 if name.startswith("the same") or "every 0.32 s" in name else 0.5 if "openWakeWord" in name else 1
        yield f"{policy}, clean speech / {name}", result["own"] / one["ms"], most
    yield f"{policy}, device-like stream / clean speech", result["device"]["cpu_ratio"], 0.5
    yield "peak memory / (1.5 × pack + 12 MB)", streams[-1]["peak_mb"] / (1.5 * result["ages"]["pack_mb"] + 12), 1
    yield f"time per second, stream of {streams[-1]['seconds']:g} s / stream of {streams[0]['seconds']:g} s", streams[-1]["ms"] / streams[0]["ms"], 1.05


def markdown(result):
    own, lines = result["own"], []
    row = lambda *cells: lines.append("| " + " | ".join(str(cell) for cell in cells) + " |")

    def table(heading, names, rows):
        lines.extend(["", f"### {heading}", ""])
        row(*names)
        row(*["---"] * len(names))
        for cells in rows:
            row(*cells)

    lines.append(f"`python benches/compare.py` on {result['machine']}, {result['date']}: best of {result['rounds']} interleaved rounds, one thread, "
                 f"one core; milliseconds of processor time per second of audio. Pack: {result['pack']}.")
    table("Targets", ("ratio", "measured", "at most", ""),
          [(what, f"{figure:.3f}", f"{most:g}", "met" if figure <= most else "**missed**") for what, figure, most in targets(result)])
    for name, group in result["same"].items():
        reference = group["onnxruntime f32"]["ms"]
        table(f"Same pack, same windows: {name}", ("", "ms/s", "median", "relative to onnxruntime f32"),
              [(who, f"{one['ms']:.2f}", f"{one['median']:.2f}", f"{one['ms'] / reference:.2f}") for who, one in group.items()])
    table("Alternatives", ("", "ms/s", "Bellis / alternative"),
          [(who, f"{one['ms']:.2f}", f"{own / one['ms']:.3f}") for who, one in result["instead"].items()])
    found = result["device"]
    table("Device-like stream", ("", "ms/s"), [("clean speech", f"{found['clean_ms']:.2f}"), ("30 % speech, 40 % silence, 30 % noise", f"{found['device_ms']:.2f}"),
          ("ratio", f"{found['cpu_ratio']:.2f}"), ("ratio of MACs", f"{found['mac_ratio']:.2f}")])
    found = result["ages"]
    table(f"Stream length and memory (pack {found['pack_mb']:.1f} MB on disk; start-up {found['start_seconds']:.2f} s)", ("stream", "ms/s", "peak resident MB"),
          [(f"{one['seconds']:g} s", f"{one['ms']:.2f}", f"{one['peak_mb']:.1f}") for one in found["streams"]])
    table("Peak of one core, large matmuls", ("type", "G operations per second"), [(kind, f"{value:.0f}") for kind, value in result["ceilings"].items()])
    return "\n".join(lines) + "\n"


def into_docs(name, text):
    """Replaces the section between the markers `name` in docs/performance.md."""
    path = REPOSITORY / "docs/performance.md"
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    before, rest = path.read_text().split(begin)
    path.write_text(f"{before}{begin}\n{text.strip()}\n{end}{rest.split(end, 1)[1]}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pack", type=Path, default=REPOSITORY / "models/daisy-tiny")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cpu", type=int, default=max(os.sched_getaffinity(0)), help="core to run on (default: the last)")
    parser.add_argument("--ages", default="10,100,1000", help="stream lengths, seconds (default: %(default)s)")
    parser.add_argument("--no-hubert", action="store_true", help="skip HuBERT-base with random weights (380 MB, the slowest part)")
    parser.add_argument("--no-build", action="store_true", help="use the existing programs in target/release")
    parser.add_argument("--docs", action="store_true", help="write the tables to docs/performance.md as well")
    parser.add_argument("--out", type=Path, default=DATA / "compare")
    arguments = parser.parse_args()
    if not arguments.no_build:
        log("building")
        subprocess.run(["cargo", "build", "--release", "--quiet", "--bin", "bellis", "--example", "compare"], cwd=REPOSITORY, check=True)
    os.sched_setaffinity(0, {arguments.cpu})
    cache, packages = DATA / "baselines", DATA / "packages"
    for folder in (cache, arguments.out):
        folder.mkdir(parents=True, exist_ok=True)
    release = Path(os.environ.get("CARGO_TARGET_DIR", REPOSITORY / "target")) / "release"
    bellis, program = str(release / "bellis"), str(release / "examples/compare")

    clips = [soundfile.read(path, dtype="float32")[0] for path in sorted((REPOSITORY / "models/bench/speech").glob("*.flac"))]
    audio = np.concatenate(clips)
    sound = cache / "clean.wav"
    soundfile.write(sound, audio, baselines.RATE, subtype="PCM_16")

    log("the same pack with other runtimes")
    pack = read_pack(arguments.pack)
    policy = pack["exit"].get("policy", "never")
    programs = Candidates(program, arguments.pack, sound)
    stages = baselines.Stages(pack, cache)
    ours = {f"Bellis {kind}, never": programs.candidate(f"{kind}:never") for kind in ("f32", "int8")}
    ours[f"Bellis, {policy}"] = programs.candidate(f"auto:{policy}")
    same = {arguments.pack.name: rounds({
        "onnxruntime f32": baselines.CachedStream(stages, audio),
        "onnxruntime int8": baselines.CachedStream(baselines.Stages(pack, cache, int8=True), audio),
        "unmodified tract": programs.candidate("tract"),
        **ours,
    }, arguments.rounds)}
    own = same[arguments.pack.name][f"Bellis, {policy}"]["ms"]

    log("alternatives")
    instead = {
        f"the same encoder, onnxruntime f32, {pack['encoder']['left_context'] * 0.02:.2f} s of context recomputed":
            baselines.RecomputedStream(baselines.Stages(pack, cache, any_context=True), audio),
        "openWakeWord's front end, every 80 ms": baselines.wake_word(cache, packages, audio),
        f"Moonshine tiny-en's encoder, {CONTEXT} s every {HOP} s": baselines.moonshine(cache, packages, audio, CONTEXT, HOP),
        "Moonshine tiny-en's encoder, batches of 5 s": baselines.moonshine(cache, packages, audio, 5, 5),
        f"Whisper tiny.en's encoder f32, 30 s every {HOP} s": baselines.whisper(cache, packages, "float32", HOP),
        "Whisper tiny.en's encoder f32, batches of 30 s": baselines.whisper(cache, packages, "float32", 30),
        "Whisper tiny.en's encoder int8, batches of 30 s": baselines.whisper(cache, packages, "int8", 30),
    }
    instead = {f"Bellis, {policy}": ours[f"Bellis, {policy}"], **instead}
    instead = rounds(instead, arguments.rounds)
    own = instead.pop(f"Bellis, {policy}")["ms"]
    programs.close()

    packs = None if arguments.no_hubert else baselines.hubert_packs(cache, REPOSITORY)
    if packs:
        log("windowed packs with the shapes of HuBERT-base")
        hubert, folded = packs
        shape = read_pack(hubert)
        programs, kept = (Candidates(program, one, sound, 1.92) for one in (hubert, folded))
        same["HuBERT-base, random weights, windowed"] = rounds({
            "onnxruntime f32": baselines.WindowedStream(baselines.Stages(shape, cache), audio),
            "onnxruntime int8": baselines.WindowedStream(baselines.Stages(shape, cache, int8=True), audio),
            "unmodified tract": programs.candidate("tract"),
            **{f"Bellis {kind}, never": programs.candidate(f"{kind}:never") for kind in ("f32", "int8")},
            **{f"Bellis {kind}, never, front-end frames cached": kept.candidate(f"{kind}:never") for kind in ("f32", "int8")},
        }, max(2, arguments.rounds // 2))
        programs.close()
        kept.close()
        instead["HuBERT-base windowed, onnxruntime f32, every 0.32 s"] = same["HuBERT-base, random weights, windowed"]["onnxruntime f32"]

    log("device-like stream, stream length, memory, peak")
    result = dict(
        machine=f"{processor()}, {platform.machine()}", date=time.strftime("%Y-%m-%d"), rounds=arguments.rounds, pack=arguments.pack.name, own=own,
        policy=policy, same=same, instead=instead, device=device(bellis, arguments.pack, cache),
        ages=ages(bellis, arguments.pack, audio, [float(one) for one in arguments.ages.split(",")]), ceilings=ceilings(),
    )
    (arguments.out / "compare.json").write_text(json.dumps(result, indent=1) + "\n")
    text = markdown(result)
    (arguments.out / "compare.md").write_text(text)
    print(text)
    if arguments.docs:
        into_docs("compare.py", text)
    log(f"wrote {arguments.out}/compare.json and compare.md")


def processor():
    names = [line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")]
    return names[0] if names else platform.processor()


if __name__ == "__main__":
    main()
