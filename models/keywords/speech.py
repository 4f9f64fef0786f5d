"""Reads hours of speech with a pack, and adds what its last CTC branch reads (the posteriorgram) to it, for the thresholds of keywords from text:

    python -m models.keywords.speech models/daisy-tiny      minutes, after models.keywords.embedding

Synthetic prose and prompts, at three speeds, so that voices are higher and lower, half of it in noise. docs/pack.md describes the file.
"""

import argparse
import gzip
import hashlib
import json
import re
import tomllib
from pathlib import Path

import numpy as np
import onnxruntime
from scipy.signal import resample_poly

from ..train.mixing import scale_to
from ..train.paths import HOP, PREPARED, RATE, REPOSITORY
from ..train.texts import text_of
from .bundle import cut, group
from .program import Mixer, Program

FILE = "speech.gz"
BLOCK = 64  # frames
STEP = 0.5  # nats
ABSENT = 12  # steps: 6 nats
PIECE = 300  # seconds that are read at a time
SOURCES = {  # of speech, by group: which clips
    # Not commands, which may be the keyword, nor Hindi, which has English words in another script.
    "synthetic.train": lambda clip: clip["kind"] == "prose" and clip["language"] != "hi",
    "speech.train": lambda clip: clip["package"].startswith("asterisk-core-sounds-"),
}
SPEEDS = ((1, 1), (1, 1), (6, 5), (5, 6))  # of the voices; slower ones are lower
PAUSE = 0.3
NOISY = 0.5  # share of the pieces with noise: half of them recorded noise, half babble
SNR_DB = (0, 15)


def clips(rng):
    """The clips of all sources at random speeds, in random order, with their texts, as far as they are known."""
    found = []
    for name, wanted in SOURCES.items():
        if not (PREPARED / f"{name}.json").exists():
            continue
        index, sound = group(name)
        found += [(sound, clip) for clip in index if wanted(clip)]
    for at in rng.permutation(len(found)):
        sound, clip = found[at]
        text = clip.get("text") or (text_of(clip) or ("",))[0]
        yield resample_poly(cut(clip, sound), *SPEEDS[rng.integers(len(SPEEDS))]).astype(np.float32), text


def pieces(clips):
    """Clips with pauses, in pieces of about PIECE seconds, with the first frame and the text of each."""
    part, texts, length = [], [], 0
    for clip, text in clips:
        texts.append((length // HOP, text))
        part += [clip, np.zeros(int(PAUSE * RATE), np.float32)]
        length += len(clip) + len(part[-1])
        if length >= PIECE * RATE:
            yield np.concatenate(part), texts
            part, texts, length = [], [], 0
    if part:
        yield np.concatenate(part), texts


class Branch:
    """The CTC branch after the last layer."""

    def __init__(self, program, pack):
        manifest = tomllib.loads((pack / "pack.toml").read_text())
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        file = manifest["stages"]["ctc"][str(manifest["encoder"]["layers"])]["file"]
        self.program, self.classes = program, len(manifest["ctc"]["vocabulary"])
        self.session = onnxruntime.InferenceSession(pack / file, options, providers=["CPUExecutionProvider"])

    def costs(self, audio):
        """Nats by which each class is below the likeliest one, [frames, classes]."""
        states = np.concatenate([states for _, (states,) in self.program.chunks(["vectors"], audio, "--policy", "never")])
        logits = self.session.run(None, {self.session.get_inputs()[0].name: states[None]})[0][0]
        return logits.max(1, keepdims=True) - logits


def blocks(costs):
    """Costs [frames, classes] as bytes; frames after the last whole block are left out."""
    steps = np.round(costs / STEP)
    absent = steps >= ABSENT
    rest = -np.log((np.exp(-costs) * absent).sum(1) / np.maximum(absent.sum(1), 1) + 1e-30)
    rows = np.c_[np.where(absent, ABSENT, steps), np.clip(np.round(rest / STEP), ABSENT, 255)].astype(np.uint8)
    whole = len(rows) // BLOCK * BLOCK
    return rows[:whole].reshape(-1, BLOCK, rows.shape[1]).transpose(0, 2, 1)


def write(path, classes, parts):
    """Writes the file: parts are (condition, blocks, texts)."""
    described = [{"condition": condition, "blocks": len(own), "texts": texts} for condition, own, texts in parts]
    header = {"classes": classes, "step": STEP, "absent": ABSENT, "parts": described}
    with gzip.GzipFile(path, "wb", 9, mtime=0) as out:
        out.write(json.dumps(header, ensure_ascii=False).encode() + b"\n")
        for _, own, _ in parts:
            out.write(own.tobytes())


def enter(manifest, path):
    """Adds the file to the pack's manifest."""
    text = re.sub(r"^speech = .*\n", "", manifest.read_text(), flags=re.M).rstrip() + "\n"
    manifest.write_text(text + f'speech = {{ file = "{path.name}", sha256 = "{hashlib.sha256(path.read_bytes()).hexdigest()}" }}\n')


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pack", type=Path)
    parser.add_argument("--program", default=REPOSITORY / "target/release/bellis", type=Path)
    arguments = parser.parse_args()
    branch = Branch(Program(arguments.program, arguments.pack), arguments.pack)
    rng, parts = np.random.default_rng(0), []
    voices, noises = (Mixer(group(name)[1], rng) for name in ("speech.train", "noise.train"))
    for audio, texts in pieces(clips(rng)):
        condition = "noise" if rng.random() < NOISY else "plain"
        if condition == "noise":
            noise = voices.babble(len(audio)) if rng.random() < 0.5 else np.resize(noises.piece(len(audio)), len(audio))
            audio = audio + scale_to(noise.astype(np.float32) / 32768, np.mean(audio**2), rng.uniform(*SNR_DB))
        parts.append((condition, blocks(branch.costs(audio)), texts))
        print(f"{sum(len(own) for _, own, _ in parts) * BLOCK * HOP / RATE / 60:.0f} minutes", end="\r", flush=True)
    print()
    path = arguments.pack / FILE
    write(path, branch.classes, parts)
    enter(arguments.pack / "pack.toml", path)
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
