#!/usr/bin/env python3
"""Draws docs/figures/depth.svg: exit depth over time on a stream with speech, noise and silence.

    cargo build --release
    python3 docs/figures/depth.py [--bellis PROGRAM] [--pack PACK] [--policy POLICY]

Joins bundled recordings into one stream, runs `bellis run` on it, and draws the waveform above the exit layer of each chunk.
Needs only Python's standard library; Bellis itself decodes the FLAC files.
"""

import argparse
import array
import json
import math
import random
import subprocess
import tempfile
import wave
from pathlib import Path

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]
RATE = 16_000
SPEECH = sorted((REPOSITORY / "models/bench/speech").glob("*.flac"))
NOISE = REPOSITORY / "models/bench/noise/restaurant.flac"
ROOM_TONE_DBFS = -65
SNR_DB = 5
# (label, kind, seconds)
SCENE = [("silence", "silence", 5), ("speech", "speech", 8), ("silence", "silence", 4), ("restaurant noise", "noise", 6), ("speech in noise, 5 dB", "both", 9), ("silence", "silence", 5)]

WIDTH, LEFT, RIGHT = 860, 44, 12
WAVE_TOP, WAVE_HEIGHT, BARS_TOP, BARS_HEIGHT, BOTTOM = 34, 74, 128, 150, 34
COLOURS = {"silence": "#8b949e", "speech": "#2f81c7", "noise": "#c77d2f", "both": "#8a5fc7"}


def decode(bellis, path, folder):
    """Samples of an audio file at 16 kHz."""
    out = folder / f"{path.stem}.wav"
    subprocess.run([bellis, "run", path, "--policy", "fixed", "--layer", "1", "--consumer", f"wav:{out}", "--quiet"], check=True, cwd=REPOSITORY)
    with wave.open(str(out), "rb") as file:
        return [value / 32768 for value in array.array("h", file.readframes(file.getnframes()))]


def power(samples):
    return sum(value * value for value in samples) / len(samples)


def stream(speech, noise):
    """The samples of the scene."""
    generator, out, at, noise_at = random.Random(1), [], 0, 0
    room = 10 ** (ROOM_TONE_DBFS / 20)
    gain = math.sqrt(power(speech) / power(noise)) * 10 ** (-SNR_DB / 20)
    for _, kind, seconds in SCENE:
        count = seconds * RATE
        part = [generator.gauss(0, room) for _ in range(count)]
        if kind in ("speech", "both"):
            part = [a + b for a, b in zip(part, speech[at : at + count])]
            at += count
        if kind in ("noise", "both"):
            part = [a + gain * b for a, b in zip(part, noise[noise_at : noise_at + count])]
            noise_at += count
        out += part
    return out


def draw(samples, chunks, layers, policy):
    seconds = len(samples) / RATE
    x = lambda time: LEFT + (WIDTH - LEFT - RIGHT) * time / seconds
    height = BARS_TOP + BARS_HEIGHT + BOTTOM
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" font-family="system-ui, sans-serif" font-size="12" role="img">',
        f"<title>Exit layer of each chunk over time ({policy})</title>",
        "<style>.text { fill: #57606a } .grid { stroke: #d0d7de } .wave { fill: #57606a }"
        " @media (prefers-color-scheme: dark) { .text { fill: #9da7b1 } .grid { stroke: #3d444d } .wave { fill: #9da7b1 } }</style>",
    ]
    start = 0
    for label, kind, length in SCENE:
        left, right = x(start), x(start + length)
        parts.append(f'<rect x="{left:.1f}" y="{WAVE_TOP - 8}" width="{right - left:.1f}" height="{BARS_TOP + BARS_HEIGHT - WAVE_TOP + 8}" fill="{COLOURS[kind]}" opacity="0.1"/>')
        parts.append(f'<text class="text" x="{(left + right) / 2:.1f}" y="{WAVE_TOP - 14}" text-anchor="middle">{label}</text>')
        start += length
    columns = WIDTH - LEFT - RIGHT
    peak, middle, path = max(map(abs, samples)), WAVE_TOP + WAVE_HEIGHT / 2, []
    for column in range(columns):
        piece = samples[len(samples) * column // columns : len(samples) * (column + 1) // columns]
        high, low = (middle - WAVE_HEIGHT / 2 * value / peak for value in (max(piece), min(piece)))
        path.append(f"M{LEFT + column} {high:.1f}h1V{max(low, high + 0.8):.1f}h-1z")
    parts.append(f'<path class="wave" d="{"".join(path)}"/>')
    y = lambda layer: BARS_TOP + BARS_HEIGHT * (1 - layer / layers)
    for layer in range(0, layers + 1, 2):
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(layer):.1f}" y2="{y(layer):.1f}" stroke-width="0.7"/>')
        parts.append(f'<text class="text" x="{LEFT - 8}" y="{y(layer) + 4:.1f}" text-anchor="end">{layer}</text>')
    parts.append(f'<text class="text" x="14" y="{BARS_TOP + BARS_HEIGHT / 2:.0f}" text-anchor="middle" transform="rotate(-90 14 {BARS_TOP + BARS_HEIGHT / 2:.0f})">exit layer</text>')
    for chunk in chunks:
        middle_time, start, kind = chunk["start"] + chunk["seconds"] / 2, 0, SCENE[-1][1]
        for _, one, length in SCENE:
            if start <= middle_time < start + length:
                kind = one
                break
            start += length
        left, right = x(chunk["start"]), x(chunk["start"] + chunk["seconds"])
        parts.append(f'<rect x="{left + 0.4:.1f}" y="{y(chunk["layer"]):.1f}" width="{right - left - 0.8:.1f}" height="{y(0) - y(chunk["layer"]):.1f}" fill="{COLOURS[kind]}"/>')
    for time in range(0, int(seconds) + 1, 5):
        parts.append(f'<text class="text" x="{x(time):.1f}" y="{height - BOTTOM + 18}" text-anchor="middle">{time} s</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bellis", type=Path, default=REPOSITORY / "target/release/bellis", help="the program (default: %(default)s)")
    parser.add_argument("--pack", default="daisy-tiny", help="the pack (default: %(default)s)")
    parser.add_argument("--policy", default="gain", help="the exit policy (default: %(default)s)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        speech = [sample for path in SPEECH for sample in decode(arguments.bellis, path, folder)]
        samples = stream(speech, decode(arguments.bellis, NOISE, folder))
        wav = folder / "stream.wav"
        with wave.open(str(wav), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(RATE)
            file.writeframes(array.array("h", (int(max(-1, min(1, value)) * 32767) for value in samples)).tobytes())
        report = folder / "report.json"
        command = [arguments.bellis, "run", wav, "--pack", arguments.pack, "--policy", arguments.policy, "--quiet", "--report", report]
        lines = subprocess.run(command, check=True, capture_output=True, text=True, cwd=REPOSITORY).stdout
        chunks = [json.loads(line) for line in lines.splitlines()]
        layers = len(json.loads(report.read_text())["exits"]) - 1
    (HERE / "depth.svg").write_text(draw(samples, chunks, layers, arguments.policy))
    start = 0
    for label, _, seconds in SCENE:
        inside = [chunk["layer"] for chunk in chunks if start <= chunk["start"] + chunk["seconds"] / 2 < start + seconds]
        print(f"{start:3d} s  {label:24} mean exit layer {sum(inside) / len(inside):.1f} of {layers}")
        start += seconds


if __name__ == "__main__":
    main()
