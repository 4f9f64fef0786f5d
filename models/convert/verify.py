"""Holds a pack against the checkpoint that it was made of, window by window, with `transformers` (needs PyTorch):

    python -m models.convert.verify CHECKPOINT PACK SOUND.wav

Prints the largest deviation of every hidden state. Rounding leaves about 1e-5 of a state's size (1e-3 and more with --f16); a
pack with a folded norm deviates by what its norm does (measure_norms.py says how much of the state that is).
"""

import argparse
import sys

import numpy as np

from .reference import WindowedPack
from .tiny import hidden_states


def deviations(model, pack, audio, normalize, windows):
    """[windows, L + 1] largest deviation of layer 1's input and each layer's output, and the states' sizes likewise."""
    hop, field = pack.audio["hop"], pack.audio["receptive_field"]
    padded = np.concatenate([audio, np.zeros(field, np.float32)])
    found, sizes = [], []
    for first, _, _, end in list(pack.spans(len(audio), pack.encoder["default_chunk_frames"]))[:windows]:
        samples = padded[first * hop : (end - 1) * hop + field]
        _, x, outputs, _ = pack.window(samples)
        wanted = hidden_states(model, (samples - samples.mean()) / np.sqrt(samples.var() + 1e-7) if normalize else samples)
        found.append(np.abs(np.stack([x, *outputs]) - wanted).max((1, 2)))
        sizes.append(np.sqrt((wanted**2).mean((1, 2))))
    return np.array(found), np.array(sizes)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("checkpoint", "pack", "wav"):
        parser.add_argument(name)
    parser.add_argument("--windows", type=int, default=8, help="how many (default: %(default)s)")
    args = parser.parse_args()
    import soundfile
    import transformers

    from . import checkpoint

    pack = WindowedPack(args.pack)
    audio, rate = soundfile.read(args.wav, dtype="float32")
    if rate != pack.audio["sample_rate"] or audio.ndim != 1:
        sys.exit(f"{args.wav} must be {pack.audio['sample_rate']} Hz mono")
    model = transformers.AutoModel.from_pretrained(args.checkpoint).eval()
    found, sizes = deviations(model, pack, audio, checkpoint.load(args.checkpoint).normalize, args.windows)
    for k, (deviation, size) in enumerate(zip(found.max(0), sizes.mean(0))):
        print(f"{'layer ' + str(k) if k else 'input of layer 1'}: {deviation:.1e} at most, the state's size being {size:.2g}")


if __name__ == "__main__":
    main()
