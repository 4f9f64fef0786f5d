"""Command line: python -m models.convert CHECKPOINT OUT"""

import argparse
import shlex
import sys

from .command import run
from .convert import convert
from .pack import Options

DESCRIPTION = """Converts a Hugging Face checkpoint (HuBERT, wav2vec 2.0, WavLM, DistilHuBERT) into a windowed Bellis pack.

CHECKPOINT is a folder with config.json, model.safetensors or pytorch_model.bin, preprocessor_config.json or (transformers 5)
processor_config.json, and preferably README.md, as `huggingface-cli download NAME --local-dir DIR` leaves it. OUT becomes the pack.

A windowed pack recomputes every chunk with its context, because these encoders are bidirectional: cost per second of audio
is (left context + chunk + right context) / chunk times that of the whole recording at once. Latency is chunk + right context.
"""
EXAMPLES = """examples:
  python -m models.convert hubert-base-ls960 packs/hubert --heads-audio recordings/
  python -m models.convert hubert-base-ls960 packs/hubert --norm folded --heads-audio recordings/    front end kept from window to window
  python -m models.convert wavlm-large packs/wavlm --licence CC-BY-SA-3.0 --chunk-frames 32 --right-context 16 --f16
  python -m models.convert.measure_norms hubert-base-ls960 recordings/                                 what --norm folded costs
  python -m models.convert.reference packs/hubert audio.wav golden.npz                                 the pack's states, in Python
  python -m models.convert.verify hubert-base-ls960 packs/hubert audio.wav                             the pack against transformers

Recordings need no labels. They should resemble the audio at the device: noisy if it is noisy, at the
same level with --norm folded, with silence and noise alone in them if the device listens all day.
"""


def parser():
    p = argparse.ArgumentParser("python -m models.convert", description=DESCRIPTION, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("checkpoint", metavar="CHECKPOINT")
    p.add_argument("out", metavar="OUT")
    window = p.add_argument_group("the window, in frames of 20 ms")
    window.add_argument("--chunk-frames", type=int, default=16, help="new frames per chunk, the unit of latency and early exit (default: %(default)s)")
    window.add_argument("--left-context", type=int, default=48, help="frames before the chunk (default: %(default)s)")
    window.add_argument("--right-context", type=int, default=8, help="frames after the chunk, which add to the latency (default: %(default)s)")
    encoder = p.add_argument_group("the encoder")
    encoder.add_argument("--feature", choices=["layer-output", "before-norm"], default="layer-output", help=(
        "what a layer hands to its head and to the consumer: its output, as transformers' hidden_states, or the feed-forward output "
        "before residual and norm, as DAISY's released code (default: %(default)s)"))
    encoder.add_argument("--norm", choices=["window", "folded"], default="window", help=(
        "norms over the recording (GroupNorm of base models, do_normalize): over the window, or fixed statistics measured on recordings, "
        "which lets front-end frames be kept from window to window (default: %(default)s)"))
    encoder.add_argument("--norm-audio", metavar="DIR", help="recordings for --norm folded (default: --heads-audio)")
    encoder.add_argument("--normalize", choices=["yes", "no"], help="do_normalize, overriding what the checkpoint stores")
    encoder.add_argument("--f16", action="store_true", help="store weights as f16: half the size, still computed in f32")
    heads = p.add_argument_group("exit heads")
    heads.add_argument("--heads-audio", metavar="DIR", help="unlabelled recordings for training heads and calibrating thresholds (default: no heads)")
    heads.add_argument("--minutes", type=float, default=10, help="minutes of recordings to use (default: %(default)s)")
    heads.add_argument("--units", type=int, default=100, help="k-means clusters for the heads, if the checkpoint has no predictor (default: %(default)s)")
    heads.add_argument("--units-layer", type=int, metavar="K", help=(
        "layer whose output is clustered (default: the last; heads then predict full depth)"))
    heads.add_argument("--branches", metavar="NAME", help=(
        "carry over linear exit branches in place of training: their weights' name without .weight, with {k} for the layer from 1 or {k0} from 0"))
    heads.add_argument("--branches-file", metavar="FILE", help="file with the branches (.safetensors, .bin, .pt), if they are not in the checkpoint")
    heads.add_argument("--epochs", type=int, default=20, help="epochs of head training (default: %(default)s)")
    heads.add_argument("--seed", type=int, default=0)
    card = p.add_argument_group("provenance, for pack.toml")
    card.add_argument("--name", default="", help="name of the pack (default: the checkpoint's folder)")
    card.add_argument("--description", default="")
    card.add_argument("--licence", default="", help="licence of the weights (default: from the checkpoint's README.md)")
    card.add_argument("--data", default="", help="training data of the encoder (default: from the checkpoint's README.md)")
    return p


def main():
    args = parser().parse_args()
    options = Options(
        before_norm=args.feature == "before-norm", chunk_frames=args.chunk_frames, left_context=args.left_context,
        right_context=args.right_context, f16=args.f16, name=args.name, description=args.description, licence=args.licence,
        data=args.data, command=shlex.join(["python", "-m", "models.convert", *sys.argv[1:]]),
    )
    out = convert(args.checkpoint, args.out, options, args)
    size = sum(path.stat().st_size for path in out.iterdir())
    print(f"{out}: {size / 1e6:.1f} MB; try it with: bellis inspect {out}")


if __name__ == "__main__":
    run(main)
