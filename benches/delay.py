"""Compares the delay and the wake-ups of two `bellis` binaries, which process the same live audio at the same time.

    python benches/delay.py pipe SECONDS BEFORE AFTER    16 kHz PCM, written to both every 20 ms
    python benches/delay.py mic SECONDS BEFORE AFTER     clicks in a virtual microphone (PulseAudio)

On a pipe, the delay of a chunk is the time from writing its last sample to its line of JSON. At the microphone, the capture time is unknown, but
both binaries receive the same clicks: the difference of their delays is exact, and so is the spread above the shortest delay of both.
Wake-ups are voluntary context switches, per thread. Needs numpy.
"""
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import tomllib
import wave

import numpy as np

PACK = "models/daisy-tiny/pack.toml"


class Lines(threading.Thread):
    """The lines of a process, with their arrival times."""

    def __init__(self, process):
        super().__init__(daemon=True)
        self.process, self.lines = process, []
        self.start()

    def run(self):
        for line in self.process.stdout:
            self.lines.append((time.monotonic(), json.loads(line)))


def switches(pid):
    counts = {}
    for task in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{task}/comm") as name, open(f"/proc/{pid}/task/{task}/status") as status:
            count = next(int(line.split()[1]) for line in status if line.startswith("voluntary"))
            counts[name.read().strip()] = count
    return counts


def wake_ups(before, after, seconds):
    rates = {thread: (count - before.get(thread, 0)) / seconds for thread, count in after.items()}
    listed = ", ".join(f"{thread} {rate:.1f}" for thread, rate in sorted(rates.items()) if rate >= 0.1)
    return f"wake-ups per second {sum(rates.values()):.1f} ({listed})"


def ms(values, quantile):
    return float(np.percentile(np.asarray(values) * 1e3, quantile))


def start(binary, arguments, **options):
    process = subprocess.Popen([binary, "run", *arguments, "--quiet"], stdout=subprocess.PIPE, **options)
    return process, Lines(process)


def pipe(seconds, binaries):
    with open(PACK, "rb") as file:
        audio = tomllib.load(file)["audio"]
    rate = audio["sample_rate"]
    # A chunk needs the rest of the receptive field of its last frame.
    beyond = audio["receptive_field"] - audio["hop"] - audio["lead"]
    pcm = wave.open("models/sample.wav").readframes(1 << 30)
    block = rate // 50
    runs = {name: start(path, ["-", "--rate", str(rate), "--format", "s16le"], stdin=subprocess.PIPE) for name, path in binaries.items()}
    time.sleep(2)
    written, began = [], time.monotonic()
    for index in range(int(seconds * 50)):
        time.sleep(max(0, began + (index + 1) / 50 - time.monotonic()))
        at = index * 2 * block % (len(pcm) - 2 * block) // 2 * 2
        written.append(time.monotonic())
        for process, _ in runs.values():
            process.stdin.write(pcm[at:at + 2 * block])
            process.stdin.flush()
        if index == 100:
            first, counts = time.monotonic(), {name: switches(process.pid) for name, (process, _) in runs.items()}
    time.sleep(1)
    for name, (process, lines) in runs.items():
        text = wake_ups(counts[name], switches(process.pid), time.monotonic() - first)
        ends = [(at, -(-(line["sample"] + line["samples"] + beyond) // block) - 1) for at, line in lines.lines[3:]]
        delays = [at - written[end] for at, end in ends if end < len(written)]
        print(f"{name:6} {len(delays)} chunks: delay p50 {ms(delays, 50):.2f}, p99 {ms(delays, 99):.2f}, max {ms(delays, 100):.2f} ms; {text}")
        process.stdin.close()
        process.wait()


def mic(seconds, binaries):
    rate = 48_000
    with tempfile.TemporaryDirectory() as home:
        with open(f"{home}/.asoundrc", "w") as file:
            file.write("pcm.!default { type pulse }\nctl.!default { type pulse }\n")
        env = os.environ | dict(HOME=home, XDG_RUNTIME_DIR=home, PULSE_RUNTIME_PATH=home)
        sink = f"module-null-sink sink_name=mic rate={rate} channels=1 format=s16le norewinds=1"
        server = subprocess.Popen(["pulseaudio", "-n", "--exit-idle-time=-1", "--realtime=no", "--high-priority=no", "--use-pid-file=no",
                                   "-L", "module-native-protocol-unix", "-L", sink], env=env, stderr=subprocess.DEVNULL)
        try:
            while subprocess.run(["pactl", "set-default-source", "mic.monitor"], env=env, stderr=subprocess.DEVNULL).returncode:
                time.sleep(0.1)
            random = np.random.default_rng(1)
            sound = (random.normal(size=int(seconds * rate)) * 30).astype(np.int16)
            clicks = np.cumsum(random.uniform(0.4, 0.7, int(seconds))) + 1
            clicks = (clicks[clicks < seconds - 1] * rate).astype(int)
            sound[clicks] = 30_000
            with wave.open(f"{home}/play.wav", "wb") as file:
                file.setparams((1, 2, rate, 0, "NONE", ""))
                file.writeframes(sound.tobytes())
            arguments = ["mic", "--rate", str(rate), "--channels", "1", "--consumer", "jsonl", "--consumer"]
            runs = {name: start(path, [*arguments, f"wav:f32:{home}/{name}.wav", "--report", f"{home}/{name}.json"], env=env)
                    for name, path in binaries.items()}
            time.sleep(3)
            player = subprocess.Popen(["paplay", "--device=mic", "--latency-msec=1000", f"{home}/play.wav"], env=env)
            time.sleep(1)
            first, counts = time.monotonic(), {name: switches(process.pid) for name, (process, _) in runs.items()}
            player.wait()
            delays = {}
            for name, (process, lines) in runs.items():
                text = wake_ups(counts[name], switches(process.pid), time.monotonic() - first)
                process.send_signal(signal.SIGINT)
                process.wait()
                lines.join()
                with open(f"{home}/{name}.wav", "rb") as file:
                    raw = file.read().partition(b"data")[2][4:]
                captured = np.abs(np.frombuffer(raw[:len(raw) // 4 * 4], np.float32))
                peaks = [at for at in np.flatnonzero(captured > 0.1) if captured[at] == captured[max(0, at - 50):at + 50].max()]
                delays[name] = []
                for peak in peaks:
                    at, line = next((at, line) for at, line in lines.lines if line["sample"] <= peak < line["sample"] + line["samples"])
                    delays[name].append(at - (line["sample"] + line["samples"] - peak) / 16_000)
                with open(f"{home}/{name}.json") as file:
                    own = json.load(file)["delay"]
                print(f"{name:6} reports delay p50 {own['p50']:.1f}, p99 {own['p99']:.1f} ms; {text}")
        finally:
            server.kill()
            server.wait()
    if any(len(times) != len(clicks) for times in delays.values()):
        sys.exit(f"the virtual microphone lost clicks: {len(clicks)} played, {[len(times) for times in delays.values()]} captured; run it again")
    above = {name: np.asarray(times) - clicks / rate for name, times in delays.items()}
    shortest = min(times.min() for times in above.values())
    for name, times in above.items():
        print(f"{name:6} above the shortest: p50 {ms(times - shortest, 50):.2f}, p99 {ms(times - shortest, 99):.2f} ms")
    before, after = above.values()
    print(f"before minus after at {len(clicks)} clicks: mean {(before - after).mean() * 1e3:.2f}, p10 {ms(before - after, 10):.2f}, "
          f"p50 {ms(before - after, 50):.2f}, p90 {ms(before - after, 90):.2f} ms")


if __name__ == "__main__":
    _, kind, length, *paths = sys.argv
    {"pipe": pipe, "mic": mic}[kind](float(length), dict(zip(("before", "after"), paths, strict=True)))
