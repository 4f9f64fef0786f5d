"""Streams a WAV through a cached pack with onnxruntime and NumPy, like the runtime, and writes the results:

    pip install numpy onnxruntime soundfile
    python models/reference.py PACK IN.wav golden.npz [--chunk-frames N] [--threshold NATS]

golden.npz
    audio [S] f32
    h [L+1, T, D] f32, entropy [heads, chunks] f64 nats: at full depth; the first head is that of h0, if there is one
    exit_layer_NAME [chunks] i64, exit_state_NAME [T, D] f32, ctc_NAME [T, V] f32 (of the exit layer's CTC branch), where NAME is
        catch_up, project: DAISY's rule (the first layer whose entropy is at most the threshold), both ways of gap filling
        gain: the policy `gain` at the pack's lambda (only for packs with predictors)
    forecast [predictors, chunks] f32: predicted ln KL(p_L || p_k) of h0 and layer k, at full depth

S samples give T = ceil(S / hop) frames; the end is padded with zeros, and the last chunk may be short. Python 3.11 or newer.
"""

import argparse
import pathlib
import tomllib

import numpy as np
import onnxruntime
import soundfile

MASKED = -1e4


class CachedPack:
    """A cached pack's stages, ready to run on one thread."""

    def __init__(self, folder):
        self.folder = pathlib.Path(folder)
        manifest = tomllib.loads((self.folder / "pack.toml").read_text())
        self.manifest, self.audio, self.encoder = manifest, manifest["audio"], manifest["encoder"]
        if self.encoder["mode"] != "cached":
            raise SystemExit(f"{folder} is a {self.encoder['mode']} pack; models/convert/reference.py runs those")
        stages, numbers = manifest["stages"], range(1, self.encoder["layers"] + 1)
        self.frontend = self.load(stages["frontend"])
        self.layers = [self.load(stages["layer"][str(k)]) for k in numbers]
        self.states = [stages["layer"][str(k)].get("state", {}) for k in numbers]
        branches = lambda kind: {k: self.load(stages[kind][str(k)]) for k in range(len(self.layers) + 1) if str(k) in stages.get(kind, {})}
        self.heads, self.ctc, self.gain = branches("head"), branches("ctc"), branches("gain")

    def load(self, entry):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        return onnxruntime.InferenceSession(self.folder / entry["file"], options, providers=["CPUExecutionProvider"])


class Stream:
    """One stream's caches. A layer's cache holds the last C frames before `next[k]`; `valid[k]` of them are valid."""

    def __init__(self, pack, gap_fill):
        self.pack, self.gap_fill, encoder = pack, gap_fill, pack.encoder
        heads, self.context = encoder["heads"], encoder["left_context"]
        self.slopes = np.array(encoder.get("alibi_slopes") or [0.0] * heads, np.float32)
        shape = (1, heads, self.context, encoder["dim"] // heads)
        self.keys = [np.zeros(shape, np.float32) for _ in pack.layers]
        self.values = [np.zeros(shape, np.float32) for _ in pack.layers]
        self.states = [{name: np.zeros(size, np.float32) for name, size in states.items()} for states in pack.states]
        self.next, self.valid = [0] * len(pack.layers), [0] * len(pack.layers)
        self.past = []  # [first frame, state]

    def bias(self, frames, valid):
        columns = np.arange(self.context + frames)
        distance = np.abs(np.arange(frames)[:, None] + self.context - columns[None]).astype(np.float32)
        masked = np.where(columns < self.context - valid, MASKED, 0).astype(np.float32)
        return (masked - self.slopes[:, None, None] * distance)[None]

    def run(self, k, x):
        """Runs layer k (from 0) on x [1, T, D] and updates its cache; returns the output and the feature."""
        names = [output.name for output in self.pack.layers[k].get_outputs()]
        inputs = {"x": x, "k": self.keys[k], "v": self.values[k], "bias": self.bias(x.shape[1], self.valid[k]), **self.states[k]}
        out = dict(zip(names, self.pack.layers[k].run(None, inputs)))
        self.keys[k] = np.concatenate([self.keys[k], out["k_new"]], 2)[:, :, -self.context :]
        self.values[k] = np.concatenate([self.values[k], out["v_new"]], 2)[:, :, -self.context :]
        self.states[k] = {name: out[name + "_new"] for name in self.states[k]}
        self.next[k] += x.shape[1]
        self.valid[k] = min(self.valid[k] + x.shape[1], self.context)
        return out["y"], out.get("f", out["y"])

    def fill(self, k, first):
        """Fills layer k's cache up to frame `first` with the chunks of the left context that exited before it."""
        if self.next[k] == first:
            return
        lagging = [c for c in self.past if c[0] + c[1].shape[1] > first - self.context and c[0] >= self.next[k]]
        resume = lagging[0][0] if lagging else first
        if resume != self.next[k]:
            self.next[k], self.valid[k] = resume, 0
            self.states[k] = {name: np.zeros_like(state) for name, state in self.states[k].items()}
        for chunk in lagging:
            y, _ = self.run(k, chunk[1])
            if self.gap_fill == "catch-up":
                chunk[1] = y

    def chunk(self, first, x, stop):
        """Front-end frames x of the chunk at frame `first`; exits at depth k if stop(k, logits, feature) is true, at 0 only if
        the front end has a head. Features by depth, and the logits of the heads."""
        features, logits, layers = [x], {}, len(self.pack.layers)
        for depth in range(layers + 1):
            if depth:
                self.fill(depth - 1, first)
                x, feature = self.run(depth - 1, x)
                features.append(feature)
            if depth in self.pack.heads:
                logits[depth] = self.pack.heads[depth].run(None, {"f": features[depth]})[0]
                if depth < layers and stop(depth, logits[depth], features[depth]):
                    break
        self.past.append([first, x])
        self.past = [c for c in self.past if c[0] + c[1].shape[1] > first + x.shape[1] - self.context]
        return features, logits


def entropy(logits):
    """logits [1, T, U] -> mean over the frames, nats."""
    z = logits[0].astype(np.float64)
    log_p = z - z.max(-1, keepdims=True)
    log_p -= np.log(np.exp(log_p).sum(-1, keepdims=True))
    return float(-(np.exp(log_p) * log_p).sum(-1).mean())


def chunks(pack, audio, chunk_frames):
    """Yields (first frame, front-end frames [1, T, D]) of each chunk."""
    hop, lead, field = pack.audio["hop"], pack.audio.get("lead", 0), pack.audio["receptive_field"]
    total = -(-len(audio) // hop)
    padded = np.zeros((total - 1) * hop + field, np.float32)
    padded[lead : lead + len(audio)] = audio
    for first in range(0, total, chunk_frames):
        frames = min(chunk_frames, total - first)
        samples = padded[first * hop : first * hop + (frames - 1) * hop + field]
        yield first, pack.frontend.run(None, {"audio": samples[None]})[0]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pack")
    parser.add_argument("wav")
    parser.add_argument("golden")
    parser.add_argument("--chunk-frames", type=int, default=16)
    parser.add_argument("--threshold", type=float, help="nats (default: the pack's)")
    arguments = parser.parse_args()

    pack = CachedPack(arguments.pack)
    audio, rate = soundfile.read(arguments.wav, dtype="float32")
    if rate != pack.audio["sample_rate"] or audio.ndim != 1:
        raise SystemExit(f"{arguments.wav}: must be {pack.audio['sample_rate']} Hz mono")
    threshold = arguments.threshold if arguments.threshold is not None else pack.manifest["exit"]["threshold"]
    layers = pack.encoder["layers"]
    cut = list(chunks(pack, audio, arguments.chunk_frames))

    stream = Stream(pack, "catch-up")
    full = [stream.chunk(first, x, lambda k, z, f: False) for first, x in cut]
    golden = {
        "audio": audio,
        "h": np.stack([np.concatenate([features[k][0] for features, _ in full]) for k in range(layers + 1)]),
        "entropy": np.array([[entropy(logits[k]) for _, logits in full] for k in pack.heads]),
    }

    def keep(name, stopped):
        """Results at each chunk's exit layer."""
        depth = np.array([len(features) - 1 for features, _ in stopped])
        golden[f"exit_layer_{name}"] = depth
        golden[f"exit_state_{name}"] = np.concatenate([features[-1][0] for features, _ in stopped])
        if pack.ctc:
            golden[f"ctc_{name}"] = np.concatenate([pack.ctc[k].run(None, {"f": features[k]})[0][0] for k, (features, _) in zip(depth, stopped)])
        print(f"{name}: exit layers {depth.tolist()}, mean {depth.mean():.2f}")

    for gap_fill in ("catch-up", "project"):
        stream = Stream(pack, gap_fill)
        sure = lambda k, z, f: k > 0 and entropy(z) <= threshold
        keep(gap_fill.replace("-", "_"), [stream.chunk(first, x, sure) for first, x in cut])
    if pack.gain:
        forecast = lambda k, feature: pack.gain[k].run(None, {"f": feature})[0][0, 0]
        golden["forecast"] = np.array([[forecast(k, features[k])[0] for features, _ in full] for k in pack.gain])
        price = pack.manifest["exit"]["gain"]["lambda"]

        def not_worth(k, logits, feature):
            if k not in pack.gain:
                return False
            kl = np.append(np.exp(forecast(k, feature)), 0)
            return bool((kl[0] - kl[1:] <= price * np.arange(1, len(kl))).all())

        stream = Stream(pack, "project")
        keep("gain", [stream.chunk(first, x, not_worth) for first, x in cut])
    np.savez_compressed(arguments.golden, threshold=np.float32(threshold), **golden)


if __name__ == "__main__":
    main()
