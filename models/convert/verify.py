"""Compares a pack with its checkpoint, window by window, with `transformers` as the reference (requires PyTorch):

    python -m models.convert.verify CHECKPOINT PACK AUDIO.wav

Prints the largest deviation of every hidden state, and fails when one is more than --tolerance of the state's size. Rounding leaves about
1e-5 (with --f16 1e-3, and more in deep models: raise --tolerance). A pack made with --norm folded deviates by what its norm does (measure_norms.py measures it): --folded only reports.

Nothing of the conversion is used for the checkpoint's side: `transformers` reads its configuration, weights and preprocessing.
"""

import argparse
import sys

import numpy as np

from .command import run
from .reference import WindowedPack
from .tiny import hidden_states


def deviations(model, pack, audio, preprocess, windows):
    """[windows, L + 1] largest deviation of layer 1's input and each layer's output, and the states' sizes likewise."""
    hop, field = pack.audio["hop"], pack.audio["receptive_field"]
    padded = np.concatenate([audio, np.zeros(field, np.float32)])
    found, sizes = [], []
    for first, _, _, end in list(pack.spans(len(audio), pack.encoder["default_chunk_frames"]))[:windows]:
        samples = padded[first * hop : (end - 1) * hop + field]
        _, x, outputs, _ = pack.window(samples)
        expected = hidden_states(model, preprocess(samples))
        found.append(np.abs(np.stack([x, *outputs]) - expected).max((1, 2)))
        sizes.append(np.sqrt((expected**2).mean((1, 2))))
    return np.array(found), np.array(sizes)


def preprocessing(folder, rate, normalize=None):
    """audio [S] -> the model's input, with the checkpoint's own feature extractor, or as specified by `normalize`."""
    import transformers

    if normalize is None:
        try:
            extractor = transformers.AutoFeatureExtractor.from_pretrained(folder)
        except (OSError, ValueError, KeyError, AttributeError) as error:
            sys.exit(f"error: {folder} does not store its preprocessing ({str(error).splitlines()[0]}): give --normalize yes or no")
    else:
        extractor = transformers.Wav2Vec2FeatureExtractor(do_normalize=normalize, sampling_rate=rate)
    if extractor.sampling_rate != rate:
        sys.exit(f"error: {folder} takes {extractor.sampling_rate} Hz, and the pack {rate} Hz")
    return lambda samples: extractor(samples, sampling_rate=rate, return_tensors="np")["input_values"][0].astype(np.float32)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("checkpoint", "pack", "wav"):
        parser.add_argument(name)
    parser.add_argument("--windows", type=int, default=8, help="windows to compare (default: %(default)s)")
    parser.add_argument("--normalize", choices=["yes", "no"], help="do_normalize, for a checkpoint that does not store it")
    parser.add_argument("--tolerance", type=float, default=0.005, help="largest deviation, as a share of a state's size (default: %(default)s)")
    parser.add_argument("--folded", action="store_true", help="the pack was made with --norm folded: report deviations without judging them")
    args = parser.parse_args()
    import soundfile
    import transformers

    pack = WindowedPack(args.pack)
    try:
        audio, rate = soundfile.read(args.wav, dtype="float32")
    except soundfile.LibsndfileError as error:
        sys.exit(f"error: {args.wav}: {error}")
    if rate != pack.audio["sample_rate"] or audio.ndim != 1:
        sys.exit(f"error: {args.wav} must be {pack.audio['sample_rate']} Hz mono")
    preprocess = preprocessing(args.checkpoint, rate, None if args.normalize is None else args.normalize == "yes")
    try:
        model, loaded = transformers.AutoModel.from_pretrained(args.checkpoint, output_loading_info=True)
    except Exception as error:  # of any kind: safetensors has its own for a truncated file
        sys.exit(f"error: {args.checkpoint}: {str(error).splitlines()[0]}")
    unknown = sorted(name for name in loaded["missing_keys"] if not name.endswith("masked_spec_embed"))
    if unknown:
        sys.exit(f"error: {args.checkpoint} lacks {unknown[0]} (and {len(unknown) - 1} more): transformers cannot load it either")
    found, sizes = deviations(model.eval(), pack, audio, preprocess, args.windows)
    for k, (deviation, size) in enumerate(zip(found.max(0), sizes.mean(0))):
        print(f"{'layer ' + str(k) if k else 'input of layer 1'}: {deviation:.1e} at most, the state's size being {size:.2g}")
    worst = (found.max(0) / sizes.mean(0)).max()
    if not worst <= args.tolerance and not args.folded:  # also if it is not a number
        sys.exit(f"error: {args.pack} deviates by {worst:.2g} of a state's size, more than {args.tolerance:g}: it was not made from this checkpoint, with another --normalize, or with --norm folded (--folded)")


if __name__ == "__main__":
    run(main)
