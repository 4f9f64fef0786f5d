"""Creates the small cached pack with CTC branches of tests/asr.rs, and its golden file:

    python tests/data/ctc/make.py          (from the repository's folder, with models/train/requirements.txt)

Random weights; the front end is one convolution, so that the pack stays small. The heads' and branches' weights are large, so that
posteriors are sharp and classes change from frame to frame.

golden.npz, on the first SECONDS of models/sample.wav in chunks of 16 frames, computed by models/reference.py with onnxruntime:
    ctc_entropy [L + 1, chunks] f64 nats: at full depth, of the branch on h0 and on every layer
    exit_layer [chunks] i64, ctc [T, V] f32: HuBERT-EE's rule, the first depth whose branch's mean entropy is at most threshold [1]
"""

import re
import shutil
import sys
from pathlib import Path

import numpy as np
import soundfile
import torch
from torch import nn

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[2]
sys.path.insert(0, str(REPOSITORY))

from models.reference import CachedPack, Stream, chunks, entropy  # noqa: E402
from models.train import export  # noqa: E402
from models.train.model import Shape, Student  # noqa: E402
from models.train.paths import HOP  # noqa: E402

FIELD, LEAD = 400, 80
VOCABULARY = ["<blank>", "a", "e", "i", "n", "s", "t", "u"]
SECONDS = 3


def frontend(path, dim):
    """Samples to h⁰: one convolution, a non-linearity, a norm."""
    g, rng = export.Graph(True), np.random.default_rng(3)
    kernel = (rng.standard_normal((dim, 1, FIELD)) * np.hanning(FIELD) * 0.5).astype(np.float32)
    x = g.op("Conv", g.op("Unsqueeze", "audio", g.weight(np.int64([1]))), g.weight(kernel), strides=[HOP])
    g.norm(g.op("Tanh", g.op("Transpose", x, perm=[0, 2, 1])), nn.LayerNorm(dim), out="x")
    g.write(path, [("audio", [1, "S"])], [("x", [1, "T", dim])])


def main():
    torch.manual_seed(5)
    model = Student(Shape(layers=4, dim=32, heads=2, units=12, phones=len(VOCABULARY), left_context=32))
    with torch.no_grad():
        for layer in model.layers:
            for matrix in (layer.out, layer.down):
                matrix.weight.normal_(0, 0.3)
        for part in (*model.heads, *model.ctc):
            part.linear.weight.normal_(0, 0.9)
            part.linear.bias[0] += 1.5  # quiet, and blank, are frequent
    pack = HERE / "pack"
    shutil.rmtree(pack, ignore_errors=True)
    export.write(model, pack, "ctc", phones=VOCABULARY, description="random weights, for tests")
    frontend(pack / "frontend.onnx", model.shape.dim)
    manifest = (pack / "pack.toml").read_text()
    manifest = re.sub(r"receptive_field = \d+", f"receptive_field = {FIELD}", manifest)
    manifest = re.sub(r"lead = \d+", f"lead = {LEAD}", manifest)
    manifest = re.sub(r'architecture = ".*"', 'architecture = "one convolution, chunked attention, heads and CTC branches"', manifest)
    manifest = re.sub(r'policy = "never"\n', 'policy = "ctc"\nthreshold = 1.0\nctc = 1.0\n', manifest)
    manifest = re.sub(r'(?s)\[provenance\].*?\n\n', '[provenance]\nweights = "random"\ndata = "none"\nlicence = "CC0-1.0"\ncommand = "python tests/data/ctc/make.py"\ndate = "2026-11-24"\n\n', manifest)
    digest = export.hashlib.sha256((pack / "frontend.onnx").read_bytes()).hexdigest()
    manifest = re.sub(r'(frontend = .*sha256 = ")\w+', rf"\g<1>{digest}", manifest)
    (pack / "pack.toml").write_text(manifest)

    loaded = CachedPack(pack)
    audio = soundfile.read(REPOSITORY / "models/sample.wav", dtype="float32")[0][: SECONDS * 16_000]
    cut = list(chunks(loaded, audio, 16))
    branch = lambda k, feature: loaded.ctc[k].run(None, {"f": feature})[0]
    stream = Stream(loaded, "project")
    full = [stream.chunk(first, x, lambda *_: False)[0] for first, x in cut]
    entropies = np.array([[entropy(branch(k, features[k])) for features in full] for k in loaded.ctc])
    # In the widest gap around the median of what would be judged, so that chunks exit at several depths, and none by a hair.
    ranked = np.sort(entropies[:-1].ravel())
    middle = slice(len(ranked) // 4, len(ranked) // 2)
    at = middle.start + np.diff(ranked[middle]).argmax()
    threshold = round(float(ranked[at] + ranked[at + 1]) / 2, 4)
    manifest = manifest.replace("ctc = 1.0", f"ctc = {threshold}")
    (pack / "pack.toml").write_text(manifest)
    stream = Stream(loaded, "project")
    stopped = [stream.chunk(first, x, lambda k, _, f: entropy(branch(k, f)) <= threshold)[0] for first, x in cut]
    depth = np.array([len(features) - 1 for features in stopped])
    logits = np.concatenate([branch(k, features[k])[0] for k, features in zip(depth, stopped)])
    np.savez_compressed(HERE / "golden.npz", ctc_entropy=entropies, exit_layer=depth, ctc=logits, threshold=np.float32([threshold]))
    print(f"threshold {threshold}, exit layers {depth.tolist()}, classes {np.bincount(logits.argmax(1), minlength=len(VOCABULARY)).tolist()}")
    print(f"{sum(path.stat().st_size for path in HERE.rglob('*.*')) / 1000:.0f} kB")


if __name__ == "__main__":
    main()
