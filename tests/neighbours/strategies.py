"""The strategies that figures.py compares, each as processes: sources, workers, links."""

import dataclasses
import json
import re
import socket
import statistics
import subprocess
import threading
import time

from nodes import BELLIS, Group, free_port, processor_seconds, recording
from relay import ByteRelay

HOP = 320
# Share of a core, in %, that computes as fast as one of the board: the real-time factor of `gain` on the machine of docs/performance.md, 0.0009,
# divided by the board's in docs/boards.md.
BOARDS = {"Zero 2 W": 1.6, "Pi 4": 3.6, "Pi 5": 15}
# strategy -> (policy, or None for that of the cell; --neighbours)
MODES = {"auto": (None, "auto"), "never": (None, "never"), "always": (None, "always"), "auto, no exit": ("never", "auto")}
SEND_AUDIO = "send the audio"
# Of PCM at 16 kHz and 16 bits that is sent ahead of its computation.
BLOCK_BYTES = 32_000


@dataclasses.dataclass
class Cell:
    """An experiment: boards, first that of the source, and (Mbit/s, ms one way, share of lost segments) of every link; `exits`: also without early
    exit."""

    topology: str
    pack: str
    boards: list
    link: tuple
    policy: str = "gain"
    microphones: int = 0
    exits: bool = False
    window: float = 8.0
    seconds: float = 2400.0

    @property
    def shares(self):
        return [BOARDS[board] for board in self.boards]

    def strategies(self):
        more = [] if self.microphones else [SEND_AUDIO]
        return ["auto", "never", "always", *more, *(["auto, no exit"] if self.exits else [])]

    def __str__(self):
        megabits, milliseconds, loss = self.link
        workers = f"{len(self.boards) - 1} workers" if len(self.boards) > 2 else "a worker"
        nodes = f"a {self.boards[0]} ({self.shares[0]:g} % of a core) with {workers} of a {self.boards[1]} ({self.shares[1]:g} %)"
        lost = f", {100 * loss:g} % loss" if loss else ""
        what = f"{self.microphones} live source{'s' * (self.microphones > 1)}" if self.microphones else "a file"
        return f"**{self.topology}**: {self.pack}, {what}, `--policy {self.policy}`; {nodes}; {megabits} Mbit/s, {milliseconds} ms{lost}"


def read(path):
    """The lines that are complete."""
    text = path.read_text() if path.exists() else ""
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


def full_depth(pack, seconds, folder):
    """The unit of every frame of the recording at full depth."""
    recording(folder / "full.wav", seconds)
    lines = folder / "full.jsonl"
    command = [BELLIS, "run", folder / "full.wav", "--pack", pack, "--policy", "never", "--with-units", "--consumer", f"jsonl:{lines}", "--quiet"]
    subprocess.run([str(word) for word in command], check=True)
    return [unit for line in read(lines) for unit in line["units"]]


class Network:
    """One strategy: its workers and links run from the beginning, its sources from `start` on."""

    def __init__(self, cell, strategy, pack, folder):
        folder.mkdir()
        self.cell, self.strategy, self.pack, self.folder = cell, strategy, str(pack), folder
        self.policy, self.mode = MODES.get(strategy, (None, None))
        self.policy = self.policy or cell.policy
        self.groups, self.workers, self.sources, self.outputs, self.counted = [], [], [], [], {}
        self.connect, self.links = [], []
        # Many programs start at once; no board has to do that.
        self.home = self.group("source", 100 if cell.microphones else cell.shares[0])
        for number, share in enumerate(cell.shares[1:] if self.mode not in (None, "never") else []):
            port = free_port()
            command = [BELLIS, "worker", "--pack", pack, "--name", f"worker{number}", "--listen", f"tcp/127.0.0.1:{port}"]
            # From the beginning: what a worker measures of itself is what a board of this speed would.
            self.workers.append(self.process(command, self.group(f"worker{number}", share), f"worker{number}.log"))
            self.connect += ["--connect", f"tcp/127.0.0.1:{self.link(port)}"]
        for number in range(len(self.workers)):
            while "worker " not in (folder / f"worker{number}.log").read_text():
                time.sleep(0.05)

    def group(self, name, share):
        group = Group(f"{self.folder.name}-{name}")
        group.share(share)
        self.groups.append(group)
        return group

    def process(self, command, group, log, **more):
        return subprocess.Popen([str(word) for word in command], stderr=(self.folder / log).open("w"), preexec_fn=group.enter, **more)

    def link(self, port):
        megabits, milliseconds, loss = self.cell.link
        self.links.append(ByteRelay(port, delay=milliseconds / 1e3, bytes_per_second=megabits * 125e3, loss=loss))
        return self.links[-1].port

    def start(self):
        live = ["--realtime"] if self.cell.microphones else []
        wav = self.folder.parent / f"{self.cell.seconds:g}.wav"
        if not wav.exists():
            recording(wav, self.cell.seconds)
        for number in range(max(self.cell.microphones, 1)):
            output = self.folder / f"{number}.jsonl"
            self.outputs.append(output)
            command = [BELLIS, "run", "-" if self.strategy == SEND_AUDIO else wav, "--pack", self.pack, "--policy", self.policy, "--with-units"]
            command += ["--consumer", f"jsonl:{output}"]
            if self.strategy == SEND_AUDIO:
                self.send_audio(wav, command)
                continue
            command += [*live, *self.connect, *(["--neighbours", self.mode] if self.connect else [])]
            self.sources.append(self.process(command, self.home, f"{number}.log"))

    def send_audio(self, wav, command):
        """PCM over the link to a program that runs everything on the worker; the source's work, which is to read and send it, is not counted."""
        listener = socket.create_server(("127.0.0.1", 0))
        port = self.link(listener.getsockname()[1])
        there = self.group("there", self.cell.shares[1])

        def send():
            with socket.create_connection(("127.0.0.1", port)) as connection, wav.open("rb") as file:
                file.seek(44)
                try:
                    while block := file.read(BLOCK_BYTES):
                        connection.sendall(block)
                except OSError:
                    pass

        threading.Thread(target=send, daemon=True).start()
        arrived, _ = listener.accept()
        self.workers.append(self.process(command, there, "there.log", stdin=arrived.fileno()))
        arrived.close()

    def limit(self):
        """Gives the source its share, once all of it runs."""
        self.home.share(self.cell.shares[0])

    def chunks(self):
        """Chunks that have been written."""
        for output in self.outputs:
            place, count = self.counted.get(output, (0, 0))
            if output.exists():
                with output.open("rb") as file:
                    file.seek(place)
                    text = file.read()
                self.counted[output] = (place + len(text), count + text.count(b"\n"))
        return sum(count for _, count in self.counted.values())

    def outcome(self, full):
        """What became of the chunks so far. Ends the sources as Ctrl-C does, for their summary."""
        here = sum(processor_seconds(process.pid) for process in self.sources)
        there = sum(processor_seconds(process.pid) for process in self.workers)
        chunks = [chunk for output in self.outputs for chunk in read(output)]
        for process in self.sources:
            process.terminate()
        for process in self.sources:
            process.wait()
        logs = "".join((self.folder / f"{number}.log").read_text() for number in range(len(self.sources)))
        sent = sum(int(count) for count in re.findall(r"neighbour \S+: (\d+) chunks sent", logs))
        agreement = None
        if full:
            pairs = [(unit, chunk["sample"] // HOP + number) for chunk in chunks for number, unit in enumerate(chunk["units"])]
            agreement = statistics.fmean(unit == full[frame] for unit, frame in pairs if frame < len(full))
        layer = statistics.fmean(chunk["layer"] for chunk in chunks)
        audio = sum(chunk["samples"] for chunk in chunks)
        lost = sum(chunk.get("lost_samples", 0) for chunk in chunks)
        return {
            "agreement": agreement, "layer": layer, "sent": sent / len(chunks), "lost": lost / (audio + lost),
            "here": here / len(chunks), "there": there / len(chunks),
        }

    def end(self):
        for process in [*self.sources, *self.workers]:
            process.kill()
            process.wait()
        for group in self.groups:
            group.end()
