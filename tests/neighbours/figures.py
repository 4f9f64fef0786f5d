"""Amount of data and accuracy by strategy, with processes: all strategies of a cell run at the same time, each on nodes of its own, so that what
else the machine does meets them alike. Prints Markdown; --docs writes the last results of all cells, and the figure, into docs/."""

import argparse
import json
import os
import pathlib
import random
import shutil
import statistics
import sys
import tempfile
import time

import overhead
from drawing import COLOURS, draw
from nodes import REPOSITORY
from strategies import Cell, Network, full_depth

DAISY, HUBERT = "daisy-tiny", "HuBERT-base size"
CELLS = [
    Cell("2 nodes", DAISY, ["Pi 4"] * 2, (10, 2, 0.0), exits=True),
    Cell("2 nodes, 1 % loss", DAISY, ["Pi 4"] * 2, (10, 2, 0.01)),
    Cell("2 nodes, slow link", DAISY, ["Pi 4"] * 2, (1, 20, 0.0)),
    Cell("fast neighbour", DAISY, ["Zero 2 W", "Pi 5"], (10, 2, 0.0), exits=True),
    Cell("fast neighbour, fast link", DAISY, ["Zero 2 W", "Pi 5"], (50, 2, 0.0), seconds=8000),
    Cell("5-node mesh", DAISY, ["Pi 4"] * 5, (10, 2, 0.0)),
    Cell("3-node mesh", HUBERT, ["Pi 5"] * 3, (10, 2, 0.0), policy="never", window=30),
    Cell("16 microphones", DAISY, ["Pi 4"] * 2, (10, 2, 0.0), microphones=16, seconds=200),
    Cell("1 microphone", DAISY, ["Zero 2 W", "Pi 5"], (10, 2, 0.0), microphones=1, seconds=200),
]

# What was measured last of every cell.
RESULTS = REPOSITORY / "target/neighbours-figures.json"
# Audio whose units at full depth are known, for the agreement.
REFERENCE_SECONDS = 600


def interval(ratios, draws=2000):
    """Median, and its 95 % interval by the bootstrap."""
    choose = random.Random(1)
    medians = sorted(statistics.median(choose.choices(ratios, k=len(ratios))) for _ in range(draws))
    return statistics.median(ratios), medians[draws // 40], medians[-draws // 40 - 1]


def measure(cell, packs, full, folder, rounds, windows, strategies):
    """Chunks per second by strategy and window, over `rounds` starts, and what became of each run."""
    folder.mkdir()
    rates, ends = {name: [] for name in strategies}, {name: [] for name in strategies}
    for start in range(rounds):
        networks = {}
        try:
            for name in strategies:
                networks[name] = Network(cell, name, packs[cell.pack], folder / f"{start}-{name.replace(' ', '-')}")
            for network in networks.values():
                network.start()
            while not all(network.chunks() >= 3 * max(cell.microphones, 1) for network in networks.values()):
                time.sleep(0.1)
            for network in networks.values():
                network.limit()
            before = {name: network.chunks() for name, network in networks.items()}
            at = time.monotonic()
            for _ in range(windows):
                time.sleep(cell.window)
                seconds = time.monotonic() - at
                at += seconds
                for name, network in networks.items():
                    now = network.chunks()
                    rates[name].append((now - before[name]) / seconds)
                    before[name] = now
            for name, network in networks.items():
                ends[name].append(network.outcome(full))
        finally:
            for network in networks.values():
                network.end()
    return rates, ends


def ratio(rates, name):
    """Chunks per second of the first strategy, `auto`, divided by those of `name`, in the same windows."""
    first = next(iter(rates.values()))
    return interval([a / b for a, b in zip(first, rates[name]) if b > 0])


def lines(cell, rates, ends):
    """Rows of a cell: rate, ratio of auto to it, accuracy, share of chunks sent, processor time per chunk."""
    rows, first = [], next(iter(rates), None)
    for name, own in rates.items():
        divided = "" if name == first else "{:.2f} ({:.2f} to {:.2f})".format(*ratio(rates, name))
        mean = lambda what: statistics.fmean(end[what] for end in ends[name])
        same = "" if ends[name][0]["agreement"] is None else f"{100 * mean('agreement'):.1f} %"
        layer, sent = f"{mean('layer'):.2f}", f"{100 * min(mean('sent'), 1):.0f} %"
        lost = f"{100 * mean('lost'):.1f} %" if cell.microphones else ""
        rows.append((name, f"{statistics.median(own):.3g}", divided, same, layer, lost, sent, f"{1e3 * mean('here'):.2f}", f"{1e3 * mean('there'):.2f}"))
    return rows


HEAD = ("", "chunks per second", "auto divided by it", "agreement", "mean exit layer", "dropped", "sent", "ms of processor per chunk here", "there")


def section(cell, results):
    return f"{cell}\n\n{table(HEAD, lines(cell, *results[str(cell)]))}\n"


def table(head, rows):
    return "\n".join(["| " + " | ".join(head) + " |", "|---|" + "---:|" * (len(head) - 1), *("| " + " | ".join(row) + " |" for row in rows)])


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="starts of every cell (default: %(default)s)")
    parser.add_argument("--windows", type=int, default=6, help="windows of each (default: %(default)s)")
    parser.add_argument("--cells", help="numbers of cells, from 1, separated by commas (default: all)")
    parser.add_argument("--strategies", help="separated by semicolons, the reference first (default: those of the cell)")
    parser.add_argument("--base", type=pathlib.Path, help="pack of HuBERT-base's size (python -m models.convert.golden --base OUT); without it, its cells are left out")
    parser.add_argument("--without", type=pathlib.Path, help="a build without the feature: also count instructions")
    parser.add_argument("--overhead", action="store_true", help="only count instructions; exit code 1 if there is an overhead")
    parser.add_argument("--docs", action="store_true", help="write the last results of all cells, and the figure, into docs/")
    options = parser.parse_args()
    packs = {DAISY: DAISY} | ({HUBERT: options.base} if options.base else {})
    chosen = [CELLS[int(number) - 1] for number in options.cells.split(",")] if options.cells else CELLS
    folder, full = pathlib.Path(tempfile.mkdtemp()), []
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    if options.without:
        results["overhead"] = overhead.report(options.without)
        print(results["overhead"], flush=True)
        RESULTS.write_text(json.dumps(results))
    for number, cell in enumerate([] if options.overhead else chosen):
        if cell.pack not in packs:
            continue
        if cell.pack == DAISY and not full:
            full = full_depth(packs[DAISY], REFERENCE_SECONDS, folder)
        strategies = options.strategies.split(";") if options.strategies else cell.strategies()
        reference = full if cell.pack == DAISY else None
        results[str(cell)] = measure(cell, packs, reference, folder / str(number), options.rounds, options.windows, strategies)
        print(section(cell, results), flush=True)
        RESULTS.write_text(json.dumps(results))
    shutil.rmtree(folder)
    if options.docs:
        measured = [cell for cell in CELLS if str(cell) in results]
        path = REPOSITORY / "docs/notes/neighbours.md"
        begin, end = "<!-- figures.py: begin -->", "<!-- figures.py: end -->"
        before, rest = path.read_text().split(begin)
        sections = [results.get("overhead", ""), *(section(cell, results) for cell in measured)]
        path.write_text(f"{before}{begin}\n" + "\n".join(sections).strip() + f"\n{end}{rest.split(end, 1)[1]}")
        points = [(cell, name, *ratio(results[str(cell)][0], name)) for cell in measured for name in results[str(cell)][0] if name in COLOURS]
        (REPOSITORY / "docs/figures/neighbours.svg").write_text(draw(points))


if __name__ == "__main__":
    main()
    sys.stdout.flush()
    # The relays' threads do not end by themselves.
    os._exit(0)
