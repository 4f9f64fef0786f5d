"""Generates the small windowed packs and golden files of the Rust and Python tests:

    python -m models.convert.golden [--out tests/data] [--wav RECORDING.wav]
    python -m models.convert.golden --base OUT         a pack of HuBERT-base's size for measurements of cost, 190 MB

Random weights, real geometry (receptive field 400, hop 320), real speech. Each folder has the pack and golden.npz
(models/convert/reference.py) with exit_layer [chunks] at the pack's thresholds. The recording is kept in windowed-base/golden.npz and taken from there without --wav, so the
files can be regenerated from the repository alone.
"""

import argparse
import shutil
import tempfile
from pathlib import Path

import numpy as np

from . import checkpoint, tiny
from .heads import Linear
from .pack import Options, Writer
from .reference import WindowedPack, golden

UNITS = 16
SECONDS = 2.9  # not a whole number of hops: the last frame is padded with zeros, and the last chunk is short

# folder -> (variant of tiny.py, do_normalize, options): together they cover all features of windowed packs.
PACKS = {
    "windowed-base": ("hubert-base", True, dict(before_norm=True, chunk_frames=16, left_context=24, right_context=8)),
    "windowed-large": ("hubert-large", False, dict(chunk_frames=16, left_context=24, right_context=0)),
    "windowed-wavlm": ("wavlm-base", False, dict(chunk_frames=20, left_context=50, right_context=10, f16=True)),
}


BASE = dict(
    hidden_size=768, num_hidden_layers=12, num_attention_heads=12, intermediate_size=3072, conv_dim=[512] * 7, num_conv_pos_embeddings=128,
    num_conv_pos_embedding_groups=16,
)


def write(pack, name, variant, normalize, options, **shape):
    """Writes a pack with random weights; returns its writer."""
    options = Options(
        name=name, description="random weights, for tests", licence="CC0-1.0", data="none: random weights",
        command="python -m models.convert.golden", date="2026-11-23", **options,
    )
    with tempfile.TemporaryDirectory() as temporary:
        tiny.save(variant, Path(temporary), **shape)
        found = checkpoint.load(temporary)
    found.name, found.normalize = variant, normalize
    shutil.rmtree(pack, ignore_errors=True)
    writer = Writer(pack, found, options)
    writer.encoder()
    random = np.random.default_rng(7)
    dim, layers = found.shape.dim, found.shape.layers
    writer.heads([Linear(random.normal(0, 0.4, (UNITS, dim)), random.normal(0, 0.2, UNITS)) for _ in range(layers)])
    writer.manifest(UNITS)
    return writer


def make(folder, audio):
    """Creates one folder of PACKS."""
    pack = folder / "pack"
    writer = write(pack, folder.name, *PACKS[folder.name])
    found = golden(WindowedPack(pack), audio)
    # A threshold per layer in the middle of its entropies, so that chunks exit at every layer, with a margin.
    ranked = np.sort(found["entropy"][:-1], axis=1)
    half = ranked.shape[1] // 2
    thresholds = ranked[:, half - 1 : half + 1].mean(1).round(4)
    stop = np.vstack([found["entropy"][:-1] <= thresholds[:, None], np.ones((1, ranked.shape[1]), bool)])
    writer.exit = dict(policy="threshold", threshold=thresholds.tolist())
    writer.manifest(UNITS)
    found = {key: value.astype(np.float32) for key, value in found.items()}
    np.savez_compressed(folder / "golden.npz", **found, exit_layer=(stop.argmax(0) + 1).astype(np.int64))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[2] / "tests" / "data")
    parser.add_argument("--wav", help="16 kHz mono recording; used from 1 s")
    parser.add_argument("--base", type=Path, metavar="OUT", help="only write a pack of HuBERT-base's size there")
    args = parser.parse_args()
    if args.base:
        variant, normalize, options = PACKS["windowed-base"]
        write(args.base, "hubert-base-random", variant, normalize, options | dict(f16=True), **BASE)
        return
    if args.wav:
        import soundfile

        audio, rate = soundfile.read(args.wav, dtype="float32")
        audio = audio[rate : int((1 + SECONDS) * rate) + 77]
    else:
        audio = np.load(args.out / "windowed-base" / "golden.npz")["audio"]
    for name in PACKS:
        (args.out / name).mkdir(parents=True, exist_ok=True)
        make(args.out / name, audio)
        size = sum(path.stat().st_size for path in (args.out / name).rglob("*.*"))
        print(f"{name}: {size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
