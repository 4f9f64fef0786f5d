"""Profiles Bellis's processor time by thread and by class of operation (Linux, perf; no hardware counters needed):

    python benches/profile.py [--pack PACK] [--policy POLICY] [--seconds N] [--docs]
    python benches/profile.py --instructions      exact instruction counts, by callgrind (some minutes)

Streams the bundled speech repeatedly through `bellis run` under `perf record` and classifies the samples by symbol. The main thread
is excluded, because it only loads the pack. From the MACs that the run reports follows the speed of the matmuls, which is compared with
the peak of one core in large matmuls. Prints Markdown; --docs writes it to docs/performance.md.
"""

import argparse
import collections
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import soundfile

sys.path.insert(0, str(Path(__file__).resolve().parent))
import compare
import instructions as counting

RATE = 16_000
FREQUENCY = 1999
REST = "rest of tract and the engine: plans, shapes, element-wise operations"
BESIDE = "outside the engine: source, ring, resampler, chunker, evidence, policy, counters, consumer"
# The first match determines the class.
KERNELS = "vector kernels: f32 matmuls, attention, norms, GELU"
CLASSES = (
    (BESIDE, r"^bellis::(audio|stream|exit|runtime|consumer)|rubato|rustfft|realfft|hdrhistogram|crossbeam|ringbuf"),
    (KERNELS, r"rten_simd|rten_vecmath|^bellis::engine::kernels"),
    ("matmuls", r"mmm_|_mmm|gemm|gemv|matvec|dot_product|multiply|product"),
    ("packing and quantising their inputs", r"pack|quanti[sz]e"),
    ("GELU, softmax, norms, logarithm", r"erf|gelu|softmax|layer_?norm|rms|sigmoid|_max_f32|_sum_f32|tanh|logf"),
    ("copies", r"memmove|memcpy|memset|stack_tensors|broadcast|axes|axis|[cC]oncat|Slice"),
    ("allocator", r"malloc|calloc|realloc|_int_|^c?free|unlink_chunk|memalign|aligned_dt|drop_in_place"),
    (REST, r""),
)
KERNEL = "system calls and interrupts"


def samples(bellis, pack, policy, seconds, folder):
    """Counter of (thread, class), Counter of the inference thread's symbols, and the summary of the run."""
    clips = [soundfile.read(path, dtype="float32")[0] for path in sorted((compare.REPOSITORY / "models/bench/speech").glob("*.flac"))]
    pcm = (np.concatenate(clips) * 32767).astype("<i2")
    sound, data, report = folder / "sound.pcm", folder / "perf.data", folder / "report.json"
    np.tile(pcm, int(np.ceil(seconds * RATE / len(pcm))))[: int(seconds * RATE)].tofile(sound)
    command = ["perf", "record", "-q", "-F", str(FREQUENCY), "-e", "cpu-clock", "-o", str(data), "--", bellis, "run", "-", "--pack", str(pack),
               "--consumer", "null", "--quiet", "--report", str(report), *(["--policy", policy] if policy else [])]
    with open(sound) as stdin:
        subprocess.run(command, stdin=stdin, check=True, stdout=subprocess.DEVNULL)
    lines = subprocess.run(["perf", "script", "-i", str(data), "-F", "comm,ip,sym"], check=True, capture_output=True, text=True).stdout
    by_class, symbols = collections.Counter(), collections.Counter()
    for line in lines.splitlines():
        found = re.match(r"\s*(\S+)\s+([0-9a-f]+)\s*(.*)", line)
        if not found or found[1] == Path(bellis).name:
            continue
        thread, kernel, symbol = found[1], len(found[2]) == 16 and found[2].startswith("f"), found[3]
        kind = KERNEL if kernel else next(name for name, pattern in CLASSES if re.search(pattern, symbol))
        by_class[thread, BESIDE if thread != "inference" and not kernel else kind] += 1
        if thread == "inference" and not kernel:
            symbols[symbol] += 1
    return by_class, symbols, json.loads(report.read_text())


def instructions(bellis, pack, policy, folder):
    """Instructions of all threads except the main one, and the share of the stages, by callgrind on the bundled recording."""
    files, seconds = counting.callgrind(bellis, pack, policy, folder)
    everything, found = counting.total(files), collections.Counter()
    for path in files:
        text = subprocess.run(["callgrind_annotate", "--inclusive=yes", "--threshold=100", str(path)], check=True, capture_output=True, text=True).stdout
        for name in ("stage::Runner::run_program", "stage::Runner::run"):
            counts = [int(line.split()[0].replace(",", "")) for line in text.splitlines() if re.search(name + r"(\s|$)", line)]
            found[name] += max(counts, default=0)
    layers, stages = found["stage::Runner::run_program"], found["stage::Runner::run"]
    per_second = everything / seconds / 1e6
    return (f"`python benches/profile.py --instructions`: {per_second:.1f} M instructions per second of audio, without loading, with the kernels "
          f"that are selected under valgrind.\n\n| | share |\n|---|---|\n| stages in Bellis's executor | {100 * layers / everything:.1f} % |\n"
          f"| stages in tract | {100 * stages / everything:.1f} % |\n"
          f"| everything else: source, ring, resampler, chunker, evidence, policy, counters, consumer | {100 * (everything - layers - stages) / everything:.1f} % |\n")


def report(by_class, symbols, run, heaviest):
    total, seconds = sum(by_class.values()), run["audio_seconds"]
    share, threads = collections.Counter(), collections.Counter()
    for (thread, kind), count in by_class.items():
        share[kind] += count
        threads[thread] += count
    milliseconds = lambda count: 1e3 * count / FREQUENCY / seconds
    # The matmul's type decides which of the two computes it; the second has other work as well, so this is a lower bound.
    counted = share["matmuls"] + share[KERNELS]
    products = 2 * run["macs_per_second"] * seconds / (counted / FREQUENCY) / 1e9
    ceilings = ", ".join(f"{value:.0f} in {kind} ({100 * products / value:.0f} %)" for kind, value in compare.ceilings().items())
    lines = [
        f"`python benches/profile.py` on {compare.processor()}: {run['policy']}, {seconds:.0f} s of audio, {total} samples, "
        f"{milliseconds(total):.2f} ms of processor time per second of audio.",
        "", "| class | share | ms/s |", "|---|---|---|",
        *(f"| {kind} | {100 * count / total:.1f} % | {milliseconds(count):.3f} |" for kind, count in share.most_common()),
        "", f"All MACs over both kinds of kernels: {products:.0f} G operations per second; the peak of one core in large matmuls is {ceilings}.",
        "", "By thread: " + ", ".join(f"{thread} {100 * count / total:.1f} %" for thread, count in threads.most_common()) + ".",
        "", "| hottest symbols of the inference thread | share |", "|---|---|",
        *(f"| `{symbol[:90]}` | {100 * count / total:.1f} % |" for symbol, count in symbols.most_common(heaviest)),
    ]
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pack", type=Path, default=compare.REPOSITORY / "models/daisy-tiny")
    parser.add_argument("--policy", help="(default: the pack's own)")
    parser.add_argument("--seconds", type=float, default=300, help="seconds of audio (default: %(default)s)")
    parser.add_argument("--symbols", type=int, default=12, help="number of symbols to list (default: %(default)s)")
    parser.add_argument("--cpu", type=int, default=max(os.sched_getaffinity(0)))
    parser.add_argument("--bellis", default=str(compare.REPOSITORY / "target/release/bellis"))
    parser.add_argument("--docs", action="store_true", help="write the tables to docs/performance.md as well")
    parser.add_argument("--instructions", action="store_true", help="count instructions with valgrind instead of sampling")
    arguments = parser.parse_args()
    if arguments.instructions:
        with tempfile.TemporaryDirectory() as folder:
            text = instructions(arguments.bellis, arguments.pack, arguments.policy, Path(folder))
    else:
        os.sched_setaffinity(0, {arguments.cpu})
        with tempfile.TemporaryDirectory() as folder:
            text = report(*samples(arguments.bellis, arguments.pack, arguments.policy, arguments.seconds, Path(folder)), arguments.symbols)
    print(text)
    if arguments.docs:
        compare.into_docs("profile.py --instructions" if arguments.instructions else "profile.py", text)


if __name__ == "__main__":
    main()
