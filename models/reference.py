"""Streams a WAV through a cached pack with onnxruntime and numpy alone, the way the runtime does, and writes what came out:

    pip install numpy onnxruntime soundfile
    python models/reference.py PACK IN.wav golden.npz [--chunk-frames N] [--threshold NATS]

golden.npz
    audio [S] f32
    h [L+1, T, D] f32, entropy [L, chunks] f64 nats: never exiting
    exit_layer_catch_up, exit_layer_project [chunks] i64, exit_state_catch_up, exit_state_project [T, D] f32:
        with DAISY's rule (the first layer whose entropy is at most the threshold) and both ways of gap filling
    forecast [L-1, chunks] f32: what layer k expects of ln KL(p_L || p_k), never exiting; and with the policy `gain` at the
        pack's lambda: exit_layer_gain [chunks] i64, exit_state_gain [T, D] f32 (only for packs with predictors)

S samples make T = ceil(S / hop) frames; the end is filled with zeros, and the last chunk may be short. Python 3.11 or newer.
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
        self.heads = [self.load(stages["head"][str(k)]) for k in numbers]
        self.gain = [self.load(stages["gain"][str(k)]) for k in numbers[:-1]] if "gain" in stages else []

    def load(self, entry):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        return onnxruntime.InferenceSession(self.folder / entry["file"], options, providers=["CPUExecutionProvider"])


class Stream:
    """One stream's caches. A layer's cache holds the last C frames before `next[k]`; `valid[k]` of them are real."""

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
        """Layer k (from 0) on x [1, T, D] -> its output and its feature; the caches move on."""
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
        """Brings layer k's cache up to frame `first`: the chunks of the left context that stopped before it."""
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
        """Front-end frames x of the chunk at frame `first`; stops after layer k (from 0) when stop(k, logits, feature) says so."""
        features, logits = [x], []
        for k in range(len(self.pack.layers)):
            self.fill(k, first)
            x, feature = self.run(k, x)
            features.append(feature)
            logits.append(self.pack.heads[k].run(None, {"f": feature})[0])
            if stop(k, logits[-1], feature):
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
    parser.add_argument("--threshold", type=float, help="nats; the pack's own without one")
    arguments = parser.parse_args()

    pack = CachedPack(arguments.pack)
    audio, rate = soundfile.read(arguments.wav, dtype="float32")
    if rate != pack.audio["sample_rate"] or audio.ndim != 1:
        raise SystemExit(f"{arguments.wav}: wants {pack.audio['sample_rate']} Hz mono")
    threshold = arguments.threshold if arguments.threshold is not None else pack.manifest["exit"]["threshold"]
    layers = pack.encoder["layers"]
    cut = list(chunks(pack, audio, arguments.chunk_frames))

    stream = Stream(pack, "catch-up")
    full = [stream.chunk(first, x, lambda k, z, f: False) for first, x in cut]
    golden = {
        "audio": audio,
        "h": np.stack([np.concatenate([features[k][0] for features, _ in full]) for k in range(layers + 1)]),
        "entropy": np.array([[entropy(logits[k]) for _, logits in full] for k in range(layers)]),
    }
    for gap_fill in ("catch-up", "project"):
        stream = Stream(pack, gap_fill)
        exits = [stream.chunk(first, x, lambda k, z, f: entropy(z) <= threshold) for first, x in cut]
        name = gap_fill.replace("-", "_")
        golden[f"exit_layer_{name}"] = np.array([len(logits) for _, logits in exits])
        golden[f"exit_state_{name}"] = np.concatenate([features[-1][0] for features, _ in exits])
        print(f"{gap_fill}: exit layers {golden[f'exit_layer_{name}'].tolist()}, mean {golden[f'exit_layer_{name}'].mean():.2f}")
    if pack.gain:
        forecast = lambda k, feature: pack.gain[k].run(None, {"f": feature})[0][0, 0]
        golden["forecast"] = np.array([[forecast(k, features[k + 1])[0] for features, _ in full] for k in range(layers - 1)])
        price = pack.manifest["exit"]["gain"]["lambda"]

        def not_worth(k, logits, feature):
            if k == layers - 1:
                return False
            kl = np.append(np.exp(forecast(k, feature)), 0)
            return bool((kl[0] - kl[1:] <= price * np.arange(1, len(kl))).all())

        stream = Stream(pack, "project")
        exits = [stream.chunk(first, x, not_worth) for first, x in cut]
        golden["exit_layer_gain"] = np.array([len(logits) for _, logits in exits])
        golden["exit_state_gain"] = np.concatenate([features[-1][0] for features, _ in exits])
        print(f"gain: exit layers {golden['exit_layer_gain'].tolist()}, mean {golden['exit_layer_gain'].mean():.2f}")
    np.savez_compressed(arguments.golden, threshold=np.float32(threshold), **golden)


if __name__ == "__main__":
    main()
