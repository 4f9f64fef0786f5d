"""Streams a WAV through a windowed pack like the runtime, at full depth, with onnxruntime and NumPy:

    python -m models.convert.reference PACK IN.wav golden.npz [--chunk-frames N]

golden.npz: audio [S] f32; frontend [T, D], the front end's frames; h [L+1, T, D], the first layer's input and every layer's
feature; y [L, T, D], every layer's output; and of a pack with heads logits [L, T, U] and entropy [L, chunks] nats, the mean over the
chunk's frames. Each frame has the values of the chunk that it belongs to.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import tomllib


class WindowedPack:
    """A windowed pack's stages, ready to run on one thread."""

    def __init__(self, folder):
        self.folder = Path(folder)
        self.manifest = tomllib.loads((self.folder / "pack.toml").read_text())
        self.audio, self.encoder = self.manifest["audio"], self.manifest["encoder"]
        if self.encoder["mode"] != "windowed":
            raise SystemExit(f"{folder} is a {self.encoder['mode']} pack; this script runs windowed ones")
        stages, layers = self.manifest["stages"], range(1, self.encoder["layers"] + 1)
        self.frontend = self.load(stages["frontend"])
        self.position = self.load(stages["position"]) if "position" in stages else None
        self.layers = [self.load(stages["layer"][str(k)]) for k in layers]
        self.heads = [self.load(stages["head"][str(k)]) for k in layers] if "head" in stages else []

    def load(self, entry):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        return onnxruntime.InferenceSession(self.folder / entry["file"], options, providers=["CPUExecutionProvider"])

    def window(self, samples):
        """One window's samples -> front-end frames [W, D], and (input of layer 1, layers' outputs, features), each [·, W, D]."""
        if self.audio.get("level") == "window-norm":
            samples = (samples - samples.mean()) / np.sqrt(samples.var() + 1e-7)
        frames = self.frontend.run(None, {"audio": samples[None]})[0]
        x = self.position.run(None, {"x": frames})[0] if self.position else frames
        first, outputs, features = x, [], []
        for layer in self.layers:
            x, *feature = layer.run(None, {"x": x})
            outputs.append(x[0])
            features.append(feature[0][0] if feature else x[0])
        return frames[0], first[0], outputs, features

    def spans(self, samples, chunk_frames):
        """(first frame of the window, of the chunk, end of the chunk, of the window) of each chunk; S samples make ceil(S / hop) frames."""
        frames = -(-samples // self.audio["hop"])
        for start in range(0, frames, chunk_frames):
            end = min(start + chunk_frames, frames)
            yield max(0, start - self.encoder["left_context"]), start, end, min(end + self.encoder.get("right_context", 0), frames)

    def stream(self, audio, chunk_frames=None):
        """audio [S] f32 -> the arrays of the golden file, chunk by chunk, each frame once."""
        hop, field, lead = self.audio["hop"], self.audio["receptive_field"], self.audio.get("lead", 0)
        chunk_frames = chunk_frames or self.encoder.get("default_chunk_frames", 16)
        padded = np.concatenate([np.zeros(lead, np.float32), audio, np.zeros(field, np.float32)])
        for window, start, end, window_end in self.spans(len(audio), chunk_frames):
            frames, first, outputs, features = self.window(padded[window * hop : (window_end - 1) * hop + field])
            own = slice(start - window, end - window)
            logits = [head.run(None, {"f": f[None, own]})[0][0] for head, f in zip(self.heads, features)]
            yield dict(
                frontend=frames[own], h=np.stack([first[own], *(f[own] for f in features)]), y=np.stack([y[own] for y in outputs]),
                logits=np.stack(logits) if logits else np.zeros((0, end - start, 0), np.float32),
            )


def entropy(logits):
    """[..., U] -> nats."""
    z = logits.astype(np.float64)
    z = z - z.max(-1, keepdims=True)
    log_p = z - np.log(np.exp(z).sum(-1, keepdims=True))
    return -(np.exp(log_p) * log_p).sum(-1)


def golden(pack, audio, chunk_frames=None):
    """The whole stream in one dictionary."""
    chunks = list(pack.stream(audio, chunk_frames))
    out = {key: np.concatenate([chunk[key] for chunk in chunks], axis=-2) for key in ("frontend", "h", "y", "logits")}
    if pack.heads:
        out["entropy"] = np.stack([entropy(chunk["logits"]).mean(-1) for chunk in chunks], axis=-1)
    else:
        del out["logits"]
    return dict(audio=audio, **out)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pack")
    parser.add_argument("wav")
    parser.add_argument("out")
    parser.add_argument("--chunk-frames", type=int)
    args = parser.parse_args()
    import soundfile

    pack = WindowedPack(args.pack)
    audio, rate = soundfile.read(args.wav, dtype="float32")
    if rate != pack.audio["sample_rate"] or audio.ndim != 1:
        sys.exit(f"{args.wav} must be {pack.audio['sample_rate']} Hz mono: convert it first (sox IN.wav -r {pack.audio['sample_rate']} -c 1 OUT.wav)")
    found = golden(pack, audio, args.chunk_frames)
    np.savez_compressed(args.out, **found)
    print(f"{len(audio) / rate:.2f} s, {found['h'].shape[1]} frames")


if __name__ == "__main__":
    main()
