"""Instructions of `bellis run` on the bundled recording: a build without the feature against one with it that sends nothing."""

import concurrent.futures
import pathlib
import sys
import tempfile

from nodes import BELLIS, REPOSITORY, free_port

sys.path.insert(0, str(REPOSITORY / "benches"))
import instructions

# Audio; valgrind takes minutes for more.
SECONDS = 3.2
# More than this is an overhead.
TOLERANCE = 0.005


def inference(bellis, more):
    """Instructions of the inference thread per second of audio: it runs the most. Zenoh's threads depend on time, not on audio."""
    with tempfile.TemporaryDirectory() as folder:
        files, seconds = instructions.callgrind(str(bellis), REPOSITORY / "models/daisy-tiny", None, pathlib.Path(folder), more, SECONDS)
        return max(instructions.total([file]) for file in files) / seconds


def report(without):
    """Markdown; ends the program if the overhead is measurable."""
    runs = {
        "a build without the feature": (without, []),
        "`--neighbours never`": (BELLIS, ["--neighbours", "never"]),
        "`auto`, nothing configured": (BELLIS, []),
        "`auto`, a neighbour configured, none there": (BELLIS, ["--connect", f"tcp/127.0.0.1:{free_port()}"]),
    }
    with concurrent.futures.ThreadPoolExecutor() as pool:
        counts = dict(zip(runs, pool.map(lambda how: inference(*how), runs.values())))
    first = counts["a build without the feature"]
    rows = [f"| {name} | {count / 1e6:.3f} | {count / first:.4f} |" for name, count in counts.items()]
    if max(counts.values()) > first * (1 + TOLERANCE):
        print("\n".join(rows))
        sys.exit(f"more than {100 * TOLERANCE:g} % more instructions than without the feature")
    return "\n".join(["| `bellis run`, daisy-tiny | M instructions per second of audio | ratio |", "|---|---:|---:|", *rows]) + "\n"
