"""Counts the instructions of whole runs with callgrind, and compares them with a baseline file (Linux, valgrind; no other requirements):

    python benches/instructions.py                compare with benches/instructions.json; exit code 1 beyond 2 % more
    python benches/instructions.py --update       measure a new baseline

Streams the bundled recording through `bellis run` and counts the instructions of all threads except the main one, which only loads the
pack. Unlike time, the counts do not depend on what else the machine does. Under valgrind, Bellis selects its AVX2 kernels.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
import wave
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
RECORDING = REPOSITORY / "models/sample.wav"
CASES = [("daisy-tiny", "gain"), ("daisy-nano", "never")]
TOLERANCE = 0.02


def callgrind(bellis, pack, policy, folder, more=(), longest=None):
    """Output files of the threads other than the main one, and the length of the recording in seconds, at most `longest`; `more` flags of
    `bellis run`."""
    with wave.open(str(RECORDING)) as recording:
        frames = recording.getnframes()
        if longest:
            frames = min(frames, int(longest * recording.getframerate()))
        seconds = frames / recording.getframerate()
        pcm = folder / "recording.pcm"
        pcm.write_bytes(recording.readframes(frames))
    command = ["valgrind", "--quiet", "--tool=callgrind", "--separate-threads=yes", f"--callgrind-out-file={folder / 'counts'}", bellis, "run", "-",
               "--pack", str(pack), "--consumer", "null", "--quiet", *(["--policy", policy] if policy else []), *more]
    with open(pcm) as stdin:
        run = subprocess.run(command, stdin=stdin, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    if run.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{run.stderr}")
    return sorted(folder.glob("counts-*"))[1:], seconds


def total(files):
    """Instructions in callgrind output files."""
    return sum(int(re.search(r"^totals: (\d+)", path.read_text(), re.M)[1]) for path in files)


def count(bellis, pack, policy):
    """Instructions per second of audio."""
    with tempfile.TemporaryDirectory() as folder:
        files, seconds = callgrind(bellis, REPOSITORY / "models" / pack, policy, Path(folder))
        return round(total(files) / seconds)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bellis", default=str(REPOSITORY / "target/release/bellis"))
    parser.add_argument("--baseline", type=Path, default=REPOSITORY / "benches/instructions.json")
    parser.add_argument("--update", action="store_true", help="write the baseline instead of comparing with it")
    arguments = parser.parse_args()
    if not arguments.update and not arguments.baseline.exists():
        sys.exit(f"{arguments.baseline} does not exist; --update creates it")
    baseline = {} if arguments.update else json.loads(arguments.baseline.read_text())
    counts, regressions = {}, []
    print(f"{'M instructions per second of audio':<36}{'baseline':>10}{'now':>10}{'ratio':>8}", flush=True)
    for pack, policy in CASES:
        name = f"{pack} {policy}"
        counts[name] = count(arguments.bellis, pack, policy)
        before = baseline.get(name)
        ratio = counts[name] / before if before else None
        print(f"{name:<36}{before / 1e6 if before else 0:>10.2f}{counts[name] / 1e6:>10.2f}{ratio or 1:>8.3f}", flush=True)
        if ratio and ratio > 1 + TOLERANCE:
            regressions.append(name)
        elif ratio and ratio < 1 - TOLERANCE:
            print(f"  {name} has become cheaper: --update records it")
    if arguments.update:
        arguments.baseline.write_text(json.dumps(counts, indent=2) + "\n")
    if regressions:
        sys.exit(f"more than {100 * TOLERANCE:.0f} % more instructions than the baseline: {', '.join(regressions)}")


if __name__ == "__main__":
    main()
