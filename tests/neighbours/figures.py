"""Amount of data against agreement with full depth, by topology, strategy and link, with processes."""

import argparse
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time

from nodes import BELLIS, Group, free_port, recording
from relay import ByteRelay

LINKS = {"50 Mbit/s, 2 ms": (50, 2), "10 Mbit/s, 2 ms": (10, 2), "1 Mbit/s, 20 ms": (1, 20)}
# A source with one to four workers. In a ring, a source has one next node, and chunks make one hop: the same as two nodes.
TOPOLOGIES = {"local": 0, "2 nodes, 3-node ring": 1, "3-node mesh": 2, "5-node mesh": 4}
STRATEGIES = {
    "no neighbours": ("gain", "never"),
    "auto": ("gain", "auto"),
    "always": ("gain", "always"),
    "no exit, auto": ("never", "auto"),
}


class Network:
    """Workers behind relays, with control groups for them and for the source."""

    def __init__(self, workers, share, pack, megabits, milliseconds, folder):
        self.source, self.groups, self.processes, self.connect = Group("source"), [], [], []
        self.source.share(share)
        for number in range(workers):
            group, port = Group(f"worker{number}"), free_port()
            command = [str(BELLIS), "worker", "--pack", pack, "--name", f"worker{number}", "--listen", f"tcp/127.0.0.1:{port}"]
            log = (folder / f"worker{number}.log").open("w")
            self.processes.append(subprocess.Popen(command, stderr=log))
            time.sleep(1)
            group.add(self.processes[-1].pid)
            group.share(share)
            self.groups.append(group)
            link = ByteRelay(port, delay=milliseconds / 1e3, bytes_per_second=megabits * 125e3)
            self.connect += ["--connect", f"tcp/127.0.0.1:{link.port}"]

    def run(self, input_file, folder, policy, mode, pack):
        """Starts the source."""
        report, lines = folder / "report.json", folder / "lines"
        command = [str(BELLIS), "run", str(input_file), "--pack", pack, "--policy", policy, "--with-units", "--report", str(report)]
        command += ["--consumer", f"jsonl:{lines}"]
        if self.connect and mode != "never":
            command += [*self.connect, "--neighbours", mode]
        log = (folder / "source.log").open("w")
        return subprocess.Popen(command, stderr=log, preexec_fn=self.source.enter)

    def end(self):
        for process in self.processes:
            process.kill()
            process.wait()
        for group in [*self.groups, self.source]:
            group.end()


def outcome(folder, full):
    report = json.loads((folder / "report.json").read_text())
    samples = report["samples"]
    assert samples["captured"] == samples["processed"] + samples["dropped"], samples
    units = [unit for line in (folder / "lines").read_text().splitlines() for unit in json.loads(line)["units"]]
    same = sum(a == b for a, b in zip(units, full)) / max(len(units), 1)
    rows = re.findall(r"neighbour \S+: (\d+) chunks sent = (\d+) returned", (folder / "source.log").read_text())
    return report, same, sum(int(sent) for sent, _ in rows)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--share", type=float, default=10, help="percent of a core that each node has")
    parser.add_argument("--seconds", type=float, default=60, help="audio")
    parser.add_argument("--pack", default="daisy-tiny")
    parser.add_argument("--link", choices=LINKS, help="only this one")
    options = parser.parse_args()
    folder = pathlib.Path(tempfile.mkdtemp())
    recording(folder / "speech.wav", options.seconds)
    reference = Network(0, 100, options.pack, 1, 1, folder)
    reference.run(folder / "speech.wav", folder, "never", "never", options.pack).wait()
    full = [unit for line in (folder / "lines").read_text().splitlines() for unit in json.loads(line)["units"]]
    reference.end()
    share = f"each node with {options.share:g} % of a core"
    for link, (megabits, milliseconds) in LINKS.items():
        if options.link not in (None, link):
            continue
        print(f"\n{options.pack}, a file, {link}, {share}: chunks per second, agreement, share of chunks sent\n")
        print(f"| | {' | '.join(STRATEGIES)} |\n|---|{'---|' * len(STRATEGIES)}")
        for topology, workers in TOPOLOGIES.items():
            cells = []
            for policy, mode in STRATEGIES.values():
                network = Network(workers, options.share, options.pack, megabits, milliseconds, folder)
                network.run(folder / "speech.wav", folder, policy, mode, options.pack).wait()
                network.end()
                report, same, sent = outcome(folder, full)
                rate, away = report["chunks"] / report["wall_seconds"], sent / report["chunks"]
                cells.append(f"{rate:.1f}, {100 * same:.1f} %, {100 * away:.0f} %")
            print(f"| {topology} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
    sys.stdout.flush()
    # The relays' threads do not end by themselves.
    os._exit(0)
