"""Measures the effect of the two replacements of norms over the recording (norms.py) on the hidden states:

    python -m models.convert.measure_norms CHECKPOINT RECORDINGS

The reference is the published norm, over the whole recording. Only the norm differs: attention sees the same window in all of
them. Folded statistics come from one half of the recordings, the figures from the other half.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np

from . import audio, checkpoint, norms, stages
from .command import run
from .pack import Options, Writer
from .reference import WindowedPack

# Gains of a louder or quieter microphone than the measured one, which the published norm compensates.
GAINS_DB = (0, -12, 12)


class Rig:
    """A checkpoint's stages, with one front end per set of statistics."""

    def __init__(self, found, folder):
        self.checkpoint, self.folder = found, Path(folder)
        writer = Writer(folder, found, Options(licence="none"))
        writer.encoder()
        writer.manifest()
        self.pack = WindowedPack(folder)

    def frontend(self, stats):
        """A front end with these statistics folded in."""
        path = self.folder / "folded.onnx"
        stages.frontend(path, self.checkpoint.shape, self.checkpoint.weights, norms.folded(self.checkpoint, *stats))
        session = self.pack.load({"file": path.name})
        return lambda samples: session.run(None, {"audio": samples[None]})[0]

    def over_window(self, samples):
        """The front end with norms over the window."""
        if self.checkpoint.normalize:
            samples = (samples - samples.mean()) / np.sqrt(samples.var() + 1e-7)
        return self.pack.frontend.run(None, {"audio": samples[None]})[0]

    def states(self, frames):
        """Front-end frames [1, W, D] -> [L + 2, W, D]: themselves, layer 1's input, the layers' outputs."""
        x = self.pack.position.run(None, {"x": frames})[0]
        out = [frames[0], x[0]]
        for layer in self.pack.layers:
            x = layer.run(None, {"x": x})[0]
            out.append(x[0])
        return np.stack(out)


def deviations(rig, clips, window_frames):
    """what -> [windows, L + 2], each state's deviation from the reference relative to that state's own spread over time."""
    s, half = rig.checkpoint.shape, len(clips) // 2
    span = (window_frames - 1) * s.hop + s.receptive_field
    fixed = rig.frontend(norms.pool([norms.statistics(rig.checkpoint, clip) for clip in clips[:half]]))
    found = {}
    for clip in clips[half:]:
        reference = rig.frontend(norms.statistics(rig.checkpoint, clip))
        for start in range(0, len(clip) - span + 1, span):
            window = clip[start : start + span]
            expected = rig.states(reference(window))
            spread = ((expected - expected.mean(1, keepdims=True)) ** 2).mean((1, 2))
            ways = {"norm over the window": rig.over_window(window)}
            for gain in GAINS_DB:
                ways[f"folded norm, {gain:+d} dB"] = fixed(window * np.float32(10 ** (gain / 20)))
            for what, frames in ways.items():
                error = ((rig.states(frames) - expected) ** 2).mean((1, 2))
                found.setdefault(what, []).append(np.sqrt(error / spread))
    return {what: np.array(rows) for what, rows in found.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("recordings")
    parser.add_argument("--window-frames", type=int, nargs="+", default=[24, 72, 144], help="left context + chunk + right context (default: %(default)s)")
    parser.add_argument("--minutes", type=float, default=2, help="minutes of recordings (default: %(default)s)")
    parser.add_argument("--normalize", choices=["yes", "no"], help="do_normalize, overriding the checkpoint's")
    args = parser.parse_args()
    found = checkpoint.load(args.checkpoint, None if args.normalize is None else args.normalize == "yes")
    clips = [x for _, x in audio.recordings(args.recordings, found.sample_rate, args.minutes) if x.std() > audio.SILENCE_RMS]
    if len(clips) < 2:
        raise checkpoint.ConvertError(f"{args.recordings} has {len(clips)} recording(s) that are not silent: at least two are needed, one for the statistics and one for the figures")
    layers = found.shape.layers
    shown = {"front end": 0, "layer 1's input": 1, f"layer {(layers + 1) // 2}": 1 + (layers + 1) // 2, f"layer {layers}": layers + 1}
    print("median over windows (90th percentile) of the deviation, 1 being the state's own spread over time")
    with tempfile.TemporaryDirectory() as temporary:
        rig = Rig(found, temporary)
        for frames in args.window_frames:
            for what, rows in deviations(rig, clips, frames).items():
                figures = ", ".join(f"{name} {np.median(rows[:, i]):.3f} ({np.quantile(rows[:, i], 0.9):.3f})" for name, i in shown.items())
                print(f"{frames} frames, {len(rows)} windows, {what}: {figures}", flush=True)


if __name__ == "__main__":
    run(main)
