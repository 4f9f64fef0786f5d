"""A source and three workers as processes: 1,000 faults in one run; nothing is lost uncounted, order holds, memory is constant."""

import argparse
import collections
import json
import os
import pathlib
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback

from nodes import BELLIS, Group, free_port, recording
from relay import ByteRelay, MessageRelay

# What has to end with this process.
ENDS = []
SKEW_SECONDS = (3, 3_600, 86_400)


class Worker:
    """A worker process in a control group of its own."""

    def __init__(self, name, folder):
        self.name, self.port, self.folder = name, free_port(), folder
        self.pack, self.process, self.group = "daisy-tiny", None, Group(name)
        self.start()

    def start(self, pack="daisy-tiny", skew=0):
        self.kill()
        self.pack = pack
        command = [str(BELLIS), "worker", "--pack", pack, "--name", self.name, "--listen", f"tcp/127.0.0.1:{self.port}"]
        if skew:
            # Its clocks are ahead of those of the source by so much.
            command = ["unshare", "-T", "--fork", "--kill-child", "--monotonic", str(skew), "--boottime", str(skew), *command]
        log = (self.folder / f"{self.name}.log").open("a")
        self.process = subprocess.Popen(command, stderr=log, start_new_session=True)
        self.group.add(self.process.pid)

    def kill(self):
        if self.process:
            self.signal(signal.SIGKILL)
            self.process.wait()

    def signal(self, number):
        if self.process.poll() is None:
            os.killpg(self.process.pid, number)

    def end(self):
        self.kill()
        self.group.end()


def resident_kib(pid):
    return int(re.search(r"VmRSS:\s+(\d+)", pathlib.Path(f"/proc/{pid}/status").read_text())[1])


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--events", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--deadline", type=int, default=250, help="milliseconds")
    parser.add_argument("--every", type=float, default=0.3, help="seconds from one event to the next")
    options = parser.parse_args()
    draw = random.Random(options.seed)
    folder = pathlib.Path(tempfile.mkdtemp())
    recording(folder / "speech.wav", options.events * options.every * 1.3 + 30)
    workers = [Worker(name, folder) for name in ("kitchen", "hall", "far")]
    ENDS.extend(worker.end for worker in workers)
    kitchen, hall, far = workers
    time.sleep(2)
    link = ByteRelay(kitchen.port)
    relayed = free_port()
    messages = MessageRelay(relayed, far.port, "far", "relayed", options.seed)
    endpoints = [f"tcp/127.0.0.1:{port}" for port in (link.port, hall.port, relayed)]
    command = [str(BELLIS), "run", str(folder / "speech.wav"), "--realtime", "--neighbours", "always", "--policy", "never"]
    command += ["--deadline", str(options.deadline), "--report", str(folder / "report.json")]
    command += ["--consumer", f"jsonl:{folder / 'lines'}", *(word for one in endpoints for word in ("--connect", one))]
    source = subprocess.Popen(command, stderr=(folder / "source.log").open("w"))
    ENDS.append(source.kill)
    time.sleep(4)

    undo, counts, memory, began = [], collections.Counter(), [], time.monotonic()

    def later(seconds, action):
        undo.append((time.monotonic() + seconds, action))

    def restart(worker, **how):
        worker.kill()
        later(draw.uniform(0.0, 0.5), lambda: worker.start(**how))

    def freeze(worker):
        worker.signal(signal.SIGSTOP)
        process = worker.process
        # By then, it may have been killed.
        later(draw.uniform(0.1, 1.0), lambda: worker.process is process and worker.signal(signal.SIGCONT))

    def slow(worker):
        worker.group.share(10)
        later(draw.uniform(0.3, 2.0), lambda: worker.group.share(100))

    def hold():
        link.held = True
        later(draw.uniform(0.05, 1.0), lambda: setattr(link, "held", False))

    def refuse():
        link.refused = True
        link.cut()
        later(draw.uniform(0.1, 1.5), lambda: setattr(link, "refused", False))

    def delay():
        link.delay = draw.choice([0.005, 0.02, 0.1, 0.3])
        later(draw.uniform(0.3, 2.0), lambda: setattr(link, "delay", 0.0))

    def narrow():
        link.bytes_per_second = draw.choice([12_500, 125_000])
        later(draw.uniform(0.3, 2.0), lambda: setattr(link, "bytes_per_second", None))

    events = {
        "killed": lambda: restart(draw.choice(workers)),
        "another pack": lambda: restart(draw.choice(workers), pack="daisy-nano"),
        "clock skew": lambda: restart(draw.choice(workers), skew=draw.choice(SKEW_SECONDS)),
        "frozen": lambda: freeze(draw.choice(workers)),
        "slowed tenfold": lambda: slow(draw.choice(workers)),
        "disconnected": link.cut,
        "unreachable": refuse,
        "held": hold,
        "delayed": delay,
        "narrow": narrow,
    }
    # Message faults are cheap, and act on one message each.
    kinds = list(events) * 2 + [f"message: {fault}" for fault in MessageRelay.FAULTS for _ in range(2)]
    while sum(counts.values()) < options.events and source.poll() is None:
        due = [item for item in undo if item[0] <= time.monotonic()]
        for item in due:
            undo.remove(item)
            item[1]()
        kind = draw.choice(kinds)
        counts[kind] += 1
        if kind.startswith("message: "):
            messages.inject(kind.removeprefix("message: "))
        else:
            events[kind]()
        # A worker with another pack stays useless only for a while.
        for worker in workers:
            if worker.pack != "daisy-tiny" and draw.random() < 0.2:
                restart(worker)
        if sum(counts.values()) % 20 == 0:
            memory.append(resident_kib(source.pid))
        time.sleep(options.every)
    for _, action in undo:
        action()
    lasted = time.monotonic() - began
    injected = sum(counts.values())
    alive = source.poll() is None
    for worker in workers:
        if worker.pack != "daisy-tiny":
            worker.start()
        worker.group.share(100)
    source.wait()

    report = json.loads((folder / "report.json").read_text())
    chunks = [json.loads(line) for line in (folder / "lines").read_text().splitlines()]
    summary = (folder / "source.log").read_text()
    samples = report["samples"]
    rows = re.findall(r"neighbour (\S+): (\d+) chunks sent = (\d+) returned \+ (\d+) late \+ (\d+) refused", summary)
    sent = {name: tuple(map(int, row)) for name, *row in rows}
    total = [sum(row[column] for row in sent.values()) for column in range(4)]
    delays = re.search(r"delay .*", summary)
    quarter = max(len(memory) // 4, 1)
    early, late = max(memory[:quarter]), max(memory[-quarter:])
    print(f"{injected} events in {lasted:.0f} s: " + ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items())))
    print(f"message faults that met a task: {messages.counts}")
    print(f"{len(chunks)} chunks; " + "; ".join(f"{name}: {row[0]} sent = {row[1]} returned + {row[2]} late + {row[3]} refused" for name, row in sent.items()))
    print(f"mean exit layer {report['mean_exit_layer']:.2f}; {delays[0] if delays else ''} (deadline {options.deadline} ms)")
    print(f"resident memory of the source: {early} KiB at most in the first quarter, {late} KiB in the last")
    checks = {
        "the source lived to the last event": alive and injected == options.events,
        "captured = processed, nothing dropped": samples["captured"] == samples["processed"] and samples["dropped"] == 0,
        "sent = returned + late + refused": all(row[0] == row[1] + row[2] + row[3] for row in sent.values()) and total[1] > 0,
        "every fault of a kind occurred": all(counts[kind] > 0 for kind in set(kinds)),
        "order and positions": [chunk["chunk"] for chunk in chunks] == list(range(len(chunks)))
        and all(a["sample"] + a["samples"] == b["sample"] for a, b in zip(chunks, chunks[1:])),
        "memory grew by less than 8 MiB": late - early < 8192,
        "no panic": "panicked" not in summary,
    }
    for what, holds in checks.items():
        print(f"{'ok  ' if holds else 'FAIL'} {what}")
    print(f"logs: {folder}" if not all(checks.values()) else "all checks passed")
    if all(checks.values()):
        shutil.rmtree(folder)
    return 0 if all(checks.values()) else 1


if __name__ == "__main__":
    code = 1
    try:
        code = main()
    except Exception:
        traceback.print_exc()
    for end in ENDS:
        end()
    sys.stdout.flush()
    # Threads of Zenoh do not end by themselves.
    os._exit(code)
