"""Measures how often int8 gives the same unit and exit layer as f32, by pack and kind of held-out audio:

    python benches/agreement.py [PACK ...] [--minutes M]

Runs the program twice on the same audio; requires the prepared speech.test and noise.test of models/train ($BELLIS_DATA/prepared).
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))
from models.train.paths import PREPARED, RATE  # noqa: E402

PIECE = 10  # seconds per clip
SNR_DB = 5


def pieces(name, seconds, random):
    """Pieces of clips in sequence; f32 in -1 to 1."""
    sound, clips = np.load(PREPARED / f"{name}.npy", mmap_mode="r"), json.loads((PREPARED / f"{name}.json").read_text())
    found, total = [], 0
    for index in random.permutation(len(clips)):
        start, length = clips[index]["start"] * 320, min(clips[index]["frames"] * 320, PIECE * RATE)
        found.append(np.asarray(sound[start : start + length], np.float32) / 32768)
        total += length
        if total >= seconds * RATE:
            break
    return np.concatenate(found)[: int(seconds * RATE)]


def sounds(seconds):
    random = np.random.default_rng(5)
    speech, noise = pieces("speech.test", seconds, random), pieces("noise.test", seconds, random)
    noise = np.resize(noise, len(speech))
    power = lambda x: np.mean(x.astype(np.float64) ** 2)
    mixed = speech + noise * np.sqrt(power(speech) / power(noise) / 10 ** (SNR_DB / 10))
    return {"speech": speech, f"speech in noise at {SNR_DB} dB": mixed / max(1, np.abs(mixed).max()), "noise": noise}


def run(pack, precision, policy, sound):
    """(unit of every frame, exit layer of every chunk)."""
    command = [os.environ.get("BELLIS", REPOSITORY / "target/release/bellis"), "run", "-", "--pack", pack, "--precision", precision, "--with-units", "--quiet"]
    pcm = (np.clip(sound, -1, 1) * 32767).astype("<i2").tobytes()
    output = subprocess.run([*command, *(["--policy", policy] if policy else [])], input=pcm, stdout=subprocess.PIPE, check=True).stdout
    lines = [json.loads(line) for line in output.splitlines()]
    return np.concatenate([line["units"] for line in lines]), np.array([line["layer"] for line in lines])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("packs", nargs="*", default=[REPOSITORY / "models" / name for name in ("daisy-tiny", "daisy-nano")])
    parser.add_argument("--minutes", type=float, default=10, help="minutes per kind (default: %(default)s)")
    asked = parser.parse_args()
    made = sounds(asked.minutes * 60)
    print("| pack | audio | frames | same unit, full depth | same exit layer, default policy | mean exit layer f32, int8 |\n|---|---|---|---|---|---|")
    for pack in asked.packs:
        for name, sound in made.items():
            (exact, _), (coarse, _) = (run(pack, precision, "never", sound) for precision in ("f32", "int8"))
            (_, deep), (_, other) = (run(pack, precision, None, sound) for precision in ("f32", "int8"))
            print(f"| {Path(pack).name} | {name} | {len(exact)} | {100 * np.mean(exact == coarse):.2f} % | {100 * np.mean(deep == other):.1f} % | "
                  f"{deep.mean():.3f}, {other.mean():.3f} |", flush=True)


main()
