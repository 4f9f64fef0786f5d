"""A soak test: hours of audio at an accelerated clock through `bellis serve`, with faults. scripts/soak runs it.

The microphone is an ALSA device (microphone.c) that delivers audio as fast as it is written to a FIFO. Between two scrapes of the metrics, a
random fault happens: the device is unplugged or stalls, audio arrives faster than it can be computed, a disk is full, a reader is slow or
closes, a file is rotated, the configuration changes or is malformed, HTTP clients misbehave. At every scrape, the samples must balance.
"""

import argparse
import ast
import collections
import fcntl
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
import wave
from array import array
from pathlib import Path

import report

ROOT = Path(__file__).resolve().parents[2]
BELLIS = Path(os.environ.get("BELLIS", ROOT / "target/release/bellis"))
RATE = 16_000
# Frames per callback of the daemon at its default buffer of 20 ms. Audio that does not fill a callback stays in the device.
CALLBACK = 320
RING_SECONDS = 2
# A scrape, or a wait for an effect, that takes longer is a failure; --patience.
PATIENCE = 30


class Failure(Exception):
    """A guarantee that does not hold."""


def check(holds, *what):
    if not holds:
        raise Failure(" ".join(map(str, what)))


class Microphone(threading.Thread):
    """Writes audio into the FIFO, and counts it."""

    def __init__(self, path, audio, speed):
        super().__init__(daemon=True)
        self.path, self.audio, self.speed, self.base_speed = path, audio, speed, speed
        self.written = 0
        self.fifo = None
        self.stalled = False
        self.lock = threading.Lock()
        self.at = 0

    def plug(self):
        with self.lock:
            os.mkfifo(self.path)
            self.fifo = os.open(self.path, os.O_RDWR | os.O_NONBLOCK)

    def unplug(self):
        """Closes the device, once everything written to it has been captured."""
        self.stalled = True
        until = time.monotonic() + PATIENCE
        while self.waiting() and time.monotonic() < until:
            time.sleep(0.01)
        with self.lock:
            lost = self.waiting()
            os.unlink(self.path)
            os.close(self.fifo)
            self.fifo = None
        self.stalled = False
        check(lost == 0, "the daemon has left", lost, "bytes in the device for", PATIENCE, "s")

    def waiting(self):
        """Bytes in the FIFO."""
        count = array("i", [0])
        fcntl.ioctl(self.fifo, 0x541B, count)  # FIONREAD
        return count[0]

    def run(self):
        frame, block = 4, CALLBACK * 5
        next_at = time.monotonic()
        while True:
            next_at = max(next_at + block / RATE / self.speed, time.monotonic() - 0.05)
            time.sleep(max(0, next_at - time.monotonic()))
            with self.lock:
                if self.fifo is None or self.stalled:
                    continue
                end = self.at + block * frame
                part = self.audio[self.at : end]
                try:
                    # Atomic: a FIFO has room for at least one page, and the rest of the block follows.
                    sent = os.write(self.fifo, part)
                except BlockingIOError:
                    continue
                while sent < len(part):
                    try:
                        sent += os.write(self.fifo, part[sent:])
                    except BlockingIOError:
                        time.sleep(0.0005)
                self.written += block
                self.at = end if end + block * frame <= len(self.audio) else 0


class Reader(threading.Thread):
    """Reads the binary stream from a Unix socket, sometimes slowly, and sometimes hangs up."""

    def __init__(self, path):
        super().__init__(daemon=True)
        self.server = socket.socket(socket.AF_UNIX)
        self.server.bind(str(path))
        self.server.listen(4)
        self.pause = 0.0
        self.hang_up = False

    def run(self):
        while True:
            peer, _ = self.server.accept()
            with peer:
                while peer.recv(65536):
                    time.sleep(self.pause)
                    if self.hang_up:
                        self.hang_up = False
                        break


class Soak:
    def __init__(self, options, folder):
        self.options, self.folder, self.small = options, folder, folder / "small"
        self.random = random.Random(options.seed)
        self.events = collections.Counter()
        self.rows = []
        self.began = time.monotonic()
        self.base = f"http://127.0.0.1:{free_port()}"
        self.before = {}
        self.signals = 0
        self.slowest = 0.0

    # ---- the daemon

    def configuration(self, consumers, policy=()):
        lines = [
            'pack = "daisy-nano"',
            'device = "soak"',
            f'metrics = "{self.base.removeprefix("http://")}"',
            f"ring = {RING_SECONDS}.0",
            f'keywords = "{self.folder / "keywords"}"',
            f"consumer = {json.dumps(consumers)}",
            *policy,
        ]
        return "\n".join(lines) + "\n"

    def consumers(self):
        return {
            "null": "null",
            "lines": f"jsonl:{self.folder / 'chunks.jsonl'}",
            "stream": f"stream:unix:{self.folder / 'stream'}",
            "keyword": "keyword",
            "phones": f"phones:{self.folder / 'phones.jsonl'}",
            "wav": f"wav:{self.small / 'audio.wav'}",
            "npy": f"npy:{self.small / 'vectors.npy'}",
            "small lines": f"jsonl:{self.small / 'chunks.jsonl'}",
        }

    def baseline(self):
        """What runs whenever threads, descriptors and memory are compared."""
        named = self.consumers()
        return self.configuration([named["lines"], named["stream"], named["keyword"]])

    def start(self):
        self.config = self.folder / "bellis.toml"
        self.config.write_text(self.baseline())
        self.log = (self.folder / "log").open("w")
        environment = {**os.environ, "ALSA_CONFIG_PATH": str(self.folder / "asound.conf"), "RUST_LOG": "off,bellis=info"}
        unit = (ROOT / "targets/systemd/bellis.service").read_text()
        environment |= dict(re.findall(r"^Environment=(\w+)=(\S+)$", unit, re.M))
        command = [BELLIS, "serve", "--config", self.config, "mic"]
        self.daemon = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=self.log, stderr=subprocess.STDOUT)

    def scrape(self):
        """The metrics; their sums are checked."""
        asked = time.monotonic()
        check(self.daemon.poll() is None, "the daemon has ended with", self.daemon.returncode)
        with urllib.request.urlopen(f"{self.base}/metrics", timeout=PATIENCE) as response:
            text = response.read().decode()
        took = time.monotonic() - asked
        fed = self.microphone.written
        found = dict(re.findall(r"^([a-z_]+(?:\{[^}]*\})?) ([0-9.e+-]+)$", text, re.M))
        one = {name: float(value) for name, value in found.items()}
        captured, processed, dropped, left = (
            one[f"bellis_{name}"]
            for name in ("samples_captured_total", "samples_processed_total", "samples_dropped_total", "ring_samples")
        )
        check(captured == processed + dropped + left, f"{captured} captured, {processed} processed, {dropped} dropped, {left} left")
        check(captured <= fed + CALLBACK * 5, captured, "samples captured of", fed)
        check(left <= RING_SECONDS * RATE, left, "samples in the ring")
        for name, value in one.items():
            if name.split("{")[0].endswith("_total") and "consumer" not in name:
                check(value >= self.before.get(name, 0), name, "has decreased to", value)
        self.before = one
        self.slowest = max(self.slowest, took)
        return one, took

    def settled(self, holds, what):
        """Scrapes until `holds`."""
        until = time.monotonic() + PATIENCE
        while True:
            one, _ = self.scrape()
            if holds(one):
                return one
            check(time.monotonic() < until, what, "after", PATIENCE, "s")
            time.sleep(0.05)

    def reload(self, text):
        before = self.before.get("bellis_reloads_total", 0) + self.before.get("bellis_reloads_rejected_total", 0)
        if text is None:
            self.config.unlink(missing_ok=True)
        else:
            self.config.write_bytes(text)
        self.daemon.send_signal(signal.SIGHUP)
        self.settled(lambda one: one["bellis_reloads_total"] + one["bellis_reloads_rejected_total"] > before, "no reload")

    def is_running(self, one):
        return one['bellis_state{state="running"}'] == 1

    # ---- faults

    def unplug(self):
        self.microphone.unplug()
        # A device that is lost as soon as it was opened is connected first.
        self.settled(
            lambda one: one["bellis_samples_captured_total"] == self.microphone.written
            and one["bellis_ring_samples"] == 0
            and not self.is_running(one),
            "what was written to the device is not captured, or its loss is not noticed",
        )
        time.sleep(self.random.uniform(0, 0.7))
        self.microphone.plug()

    def stall(self):
        """Longer than the daemon waits, or shorter."""
        self.microphone.stalled = True
        time.sleep(self.random.choice([0.3, 0.3, 1, 2.5, 6]))
        self.microphone.stalled = False

    def burst(self):
        self.microphone.speed *= 8
        time.sleep(0.5)
        self.microphone.speed = self.microphone.base_speed

    def other_consumers(self):
        named = self.consumers()
        # `null` never fails: the daemon ends when no consumer is left.
        some = ["null", *self.random.sample(sorted(set(named) - {"null"}), self.random.randint(0, 4))]
        policy = self.random.choice([
            ['policy = "fixed"', f"layer = {self.random.randint(1, 8)}"], ['policy = "never"'], ["gate = 0.7"], ["deadline = 200"], [],
        ])
        if "phones" in some:
            policy = []
        self.reload(self.configuration([named[name] for name in some], policy).encode())

    def malformed(self):
        text = bytearray(self.baseline().encode())
        kind = self.random.randrange(5)
        if kind == 0:
            del text[self.random.randrange(len(text)) :]
        elif kind == 1:
            for _ in range(4):
                text[self.random.randrange(len(text))] = self.random.randrange(256)
        elif kind == 2:
            text += self.random.choice([b'consumer = 5\n', b'[mqtt]\n', b'threshold = [nan]\n', b'colour = "red"\n', b'"\n'])
        elif kind == 3:
            text = bytearray(self.random.randbytes(self.random.randrange(4096)))
        self.reload(None if kind == 4 else bytes(text))

    def full_disk(self):
        """Consumers on a small disk fail, and leave files that can be read."""
        named = self.consumers()
        small = [named["wav"], named["npy"], named["small lines"]]
        self.reload(self.configuration([*small, named["null"]]).encode())
        self.settled(
            lambda one: all(one.get(f'bellis_consumer_failed{{consumer="{label}"}}') for label in small), "the disk is not full"
        )
        self.files_are_whole()
        for path in self.small.iterdir():
            path.unlink()

    def files_are_whole(self):
        """What a failed consumer has written can be read up to its end."""
        for path in self.small.glob("*.wav"):
            if path.stat().st_size:
                with wave.open(str(path)) as recording:
                    length = recording.getnframes()
                    check(len(recording.readframes(length)) == 2 * length, path.name, "is shorter than its header")
        for path in self.small.glob("*.npy"):
            if path.stat().st_size:
                found = path.read_bytes()
                check(found[:6] == b"\x93NUMPY", path.name, "has no header")
                begin = 10 + int.from_bytes(found[8:10], "little")
                rows, dim = ast.literal_eval(found[10:begin].decode())["shape"]
                check(len(found) >= begin + 4 * rows * dim, path.name, "is shorter than its header")
        for path in self.small.glob("*.jsonl"):
            for line in path.read_text().splitlines():
                json.loads(line)

    def rotate(self):
        lines = self.folder / "chunks.jsonl"
        if lines.exists():
            lines.rename(self.folder / "rotated.jsonl")
        self.reload(self.config.read_bytes() if self.config.exists() else self.baseline().encode())

    def slow_reader(self):
        self.reader.pause = 0.2
        time.sleep(self.random.uniform(0.5, 2))
        self.reader.pause = 0.0

    def reader_hangs_up(self):
        self.reader.hang_up = True

    def hostile_clients(self):
        port = int(self.base.rsplit(":", 1)[1])
        clients = [socket.create_connection(("127.0.0.1", port)) for _ in range(300)]
        for client in clients:
            try:
                client.send(self.random.choice([b"GET /metrics HTTP/1.1\r\n", b"\x16\x03\x01", self.random.randbytes(200), b""]))
            except OSError:
                pass
        self.scrape()
        for client in clients:
            client.close()

    # ---- the test

    def measure(self):
        """Returns to the baseline, and records threads, descriptors and memory."""
        self.reader.hang_up = False
        self.reload(self.baseline().encode())
        self.settled(self.is_running, "no audio arrives")
        if any(value for name, value in self.before.items() if name.startswith("bellis_consumer_failed")):
            # The reader of the stream had hung up.
            self.reload(self.baseline().encode())
        self.settled(
            lambda one: self.is_running(one) and not any(v for n, v in one.items() if n.startswith("bellis_consumer_failed")),
            "the daemon does not return to its baseline",
        )
        time.sleep(0.3)
        self.settled(lambda one: one["process_open_fds"] <= self.most_descriptors, "descriptors remain open")
        one, took = self.scrape()
        self.rows.append({
            "wall": time.monotonic() - self.began,
            "hours": one["bellis_samples_captured_total"] / RATE / 3600,
            "captured": one["bellis_samples_captured_total"],
            "processed": one["bellis_samples_processed_total"],
            "dropped": one["bellis_samples_dropped_total"],
            "chunks": one["bellis_chunks_total"],
            "rss": one["process_resident_memory_bytes"],
            "threads": one["process_threads"],
            "descriptors": one["process_open_fds"],
            "scrape": took,
        })
        if len(self.rows) == 1:
            self.most_descriptors = one["process_open_fds"]
        row, first = self.rows[-1], self.rows[0]
        for name in ("threads", "descriptors"):
            check(row[name] == first[name], row[name], name, "instead of", first[name])
        print(
            f"{row['hours']:6.2f} h of audio in {row['wall']:5.0f} s, {row['rss'] / 2**20:6.2f} MiB, {row['threads']:.0f} threads, "
            f"{row['descriptors']:.0f} descriptors, {row['dropped'] / row['captured']:.2%} dropped, {sum(self.events.values())} faults",
            flush=True,
        )

    def run(self):
        self.microphone = Microphone(self.folder / "mic", prepare_audio(self.folder), self.options.speed)
        self.reader = Reader(self.folder / "stream")
        self.reader.start()
        self.microphone.plug()
        self.microphone.start()
        self.start()
        self.most_descriptors = 1e9
        until = time.monotonic() + PATIENCE
        while True:
            try:
                if self.is_running(self.scrape()[0]):
                    break
            except OSError:
                pass
            check(time.monotonic() < until, "the daemon does not start")
            time.sleep(0.1)
        faults = [
            self.unplug, self.unplug, self.stall, self.burst, self.other_consumers, self.other_consumers, self.malformed, self.malformed,
            self.full_disk, self.rotate, self.slow_reader, self.reader_hangs_up, self.hostile_clients,
        ]
        if self.options.only is not None:
            faults = [fault for fault in faults if fault.__name__ in self.options.only.split(",")] or [lambda: None]
        # All consumers and every fault once before the first measurement: the code and buffers that they need are in memory then.
        self.reload(self.configuration(list(self.consumers().values())).encode())
        order = list(dict.fromkeys(faults))
        self.measure_at = self.options.hours / 200
        while (
            self.before["bellis_samples_captured_total"] < self.options.hours * 3600 * RATE
            and time.monotonic() - self.began < self.options.minutes * 60
        ):
            fault = order.pop() if order else self.random.choice(faults)
            self.events[fault.__name__] += 1
            try:
                fault()
            except Failure as failure:
                raise Failure(f"{fault.__name__}: {failure}") from None
            self.scrape()
            time.sleep(self.random.uniform(0, 3))
            hours = self.before["bellis_samples_captured_total"] / RATE / 3600
            if not order and hours >= self.measure_at:
                self.measure()
                self.measure_at = hours + self.options.hours / 200
        return self.stop()

    def stop(self):
        self.microphone.unplug()
        self.settled(lambda one: one["bellis_ring_samples"] == 0, "audio is left")
        last, _ = self.scrape()
        self.daemon.send_signal(signal.SIGTERM)
        code = self.daemon.wait(timeout=PATIENCE)
        check(code == 0, "the daemon has ended with", code)
        fed = self.microphone.written
        captured, processed, dropped = (last[f"bellis_samples_{name}_total"] for name in ("captured", "processed", "dropped"))
        check(captured == fed and captured == processed + dropped, f"{fed} fed, {captured} = {processed} + {dropped}")
        growth = report.growth([row["rss"] for row in self.rows])
        result = {
            "hours": captured / RATE / 3600,
            "wall_seconds": time.monotonic() - self.began,
            "seed": self.options.seed,
            "captured": captured, "processed": processed, "dropped": dropped, "fed": fed,
            "chunks": last["bellis_chunks_total"],
            "faults": dict(self.events),
            "reloads": last["bellis_reloads_total"], "rejected": last["bellis_reloads_rejected_total"],
            "sources_lost": last["bellis_source_lost_total"],
            "slowest_scrape_seconds": self.slowest,
            "rss_growth": growth,
            "log_lines": sum(1 for _ in (self.folder / "log").open()),
            "rows": self.rows,
        }
        return result


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def prepare_audio(folder):
    """The bundled speech as 32-bit floats, a whole number of callbacks."""
    samples = array("h")
    for name in ("models/keywords/demo/long.flac", "models/sample.wav"):
        out = folder / "audio.wav"
        command = [BELLIS, "run", "--quiet", "--pack", "daisy-nano", name, "--consumer", f"wav:{out}"]
        subprocess.run(command, cwd=ROOT, check=True)
        with wave.open(str(out)) as recording:
            samples.frombytes(recording.readframes(recording.getnframes()))
        out.unlink()
    del samples[len(samples) // CALLBACK * CALLBACK :]
    return array("f", (sample / 32768 for sample in samples)).tobytes()


def main():
    global PATIENCE
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path, help="empty folder; its subfolder `small` is on a small disk")
    parser.add_argument("--hours", type=float, default=24, help="hours of audio [24]")
    parser.add_argument("--minutes", type=float, default=1e9, help="ends after this time, even with less audio")
    parser.add_argument("--speed", type=float, default=150, help="times real time [150]")
    parser.add_argument("--patience", type=float, default=PATIENCE, help="seconds after which a wait is a failure [30]; a busy machine needs more")
    parser.add_argument("--only", help="only these faults, separated by commas; an empty list for none")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--docs", action="store_true", help="update docs/reliability.md and docs/figures/soak.svg")
    options = parser.parse_args()
    PATIENCE = options.patience
    soak = Soak(options, options.folder)
    try:
        result = soak.run()
    except Failure as failure:
        print(f"FAILED after {time.monotonic() - soak.began:.0f} s: {failure}", file=sys.stderr)
        soak.daemon.kill()
        raise SystemExit(1) from None
    Path(options.folder, "report.json").write_text(json.dumps(result))
    print(report.text(result))
    if options.docs:
        report.write(result, ROOT / "docs")
    if result["rss_growth"] >= 0.01:
        raise SystemExit(f"FAILED: resident memory has grown by {result['rss_growth']:.2%}")


main()
