"""Writes a checkpoint as a pack: ONNX stages with f16 weights, and pack.toml.

    python -m models.train.export CHECKPOINT PACK [--name NAME] [--calibration FILE] [--resumed STEPS] [--f32]

Weights with 1,024 or more elements are stored as f16 behind a Cast, which the runtime folds when it loads the pack; the front
end's spectrum stays in f32. The parameters of the exit policies come from `calibrate`; without them, the default policy is `never`.
"""

import argparse
import datetime
import hashlib
import json
import tomllib
from pathlib import Path

import numpy as np
import torch
from onnx import TensorProto, helper, numpy_helper, save
from onnx import load as load_onnx

from . import model as student
from .inventory import VOCABULARY
from .model import LEAD, MELS, RECEPTIVE_FIELD, STEP, WINDOW
from .paths import HOP, PREPARED, RATE

OPSET, IR = 18, 8
EPSILON = 1e-5  # of PyTorch's layer norm
HALF_FROM = 1024
UNSEEN = -4.0  # bias of phones that a pack's branches do not know


class Graph:
    """Collects nodes and weights of one stage."""

    def __init__(self, half):
        self.half, self.nodes, self.weights, self.count = half, [], [], 0

    def weight(self, value, exact=False):
        value = np.ascontiguousarray(value)
        self.count += 1
        name = f"w{self.count}"
        if self.half and not exact and value.dtype == np.float32 and value.size >= HALF_FROM:
            self.weights.append(numpy_helper.from_array(value.astype(np.float16), name + "_half"))
            self.nodes.append(helper.make_node("Cast", [name + "_half"], [name], to=TensorProto.FLOAT))
        else:
            self.weights.append(numpy_helper.from_array(value, name))
        return name

    def op(self, kind, *inputs, out=None, **attributes):
        self.count += 1
        out = out or f"n{self.count}"
        outs = [out] if isinstance(out, str) else list(out)
        self.nodes.append(helper.make_node(kind, list(inputs), outs, **attributes))
        return out

    def linear(self, x, layer, out=None, columns=slice(None)):
        product = self.op("MatMul", x, self.weight(numpy(layer.weight)[columns].T))
        return self.op("Add", product, self.weight(numpy(layer.bias)[columns]), out=out)

    def gelu(self, x):
        """x · (1 + erf(x / √2)) / 2"""
        erf = self.op("Erf", self.op("Mul", x, self.weight(np.float32([0.5**0.5]))))
        return self.op("Mul", self.op("Mul", x, self.weight(np.float32([0.5]))), self.op("Add", erf, self.weight(np.float32([1]))))

    def norm(self, x, layer, out=None):
        return self.op("LayerNormalization", x, self.weight(numpy(layer.weight), True), self.weight(numpy(layer.bias), True), out=out or f"norm{self.count}", axis=-1, epsilon=EPSILON)

    def write(self, path, inputs, outputs):
        value = lambda name, shape: helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        graph = helper.make_graph(self.nodes, path.stem, [value(*one) for one in inputs], [value(*one) for one in outputs], self.weights)
        save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR), path)


def numpy(parameter):
    return parameter.detach().float().numpy()


def folded(part):
    """The DFT's rows relative to the middle of the window, [WINDOW/2, bins] of cosines and of sines, and the mel filters of those bins.

    The window and the cosines are the same on both sides of the middle, the sines opposite, so a matmul of half the size is applied to
    the sum (the difference) of the two sides. Bins without a filter are omitted.
    """
    mel = numpy(part.mel)
    used = np.flatnonzero(mel.any(0))
    cosine, sine = np.split(numpy(part.dft), 2)
    middle = WINDOW // 2
    cosine = cosine[used, 1 : middle + 1].T.copy()
    cosine[-1] *= 0.5  # the middle is added to itself
    return cosine, sine[used, 1 : middle + 1].T, mel[:, used].T


def frontend(path, part, dim, half):
    g = Graph(half)
    end = np.iinfo(np.int64).max
    cut = lambda x, axis, first, last=end: g.op("Slice", x, *(g.weight(np.int64([value])) for value in (first, last, axis)))
    # Windows [1, M, WINDOW] of two and a half steps; half a step of zeros makes whole ones of the samples.
    half_step = g.weight(np.zeros((1, STEP // 2), np.float32))
    steps = g.op("Reshape", g.op("Concat", "audio", half_step, axis=1), g.weight(np.int64([1, -1, STEP])))
    windows = g.op("Concat", cut(steps, 1, 0, -2), cut(steps, 1, 1, -1), cut(cut(steps, 1, 2), 2, 0, STEP // 2), axis=2)
    front, back = cut(windows, 2, 1, WINDOW // 2 + 1), g.op("Gather", windows, g.weight(np.arange(WINDOW - 1, WINDOW // 2 - 1, -1)), axis=2)
    cosine, sine, filters = folded(part)
    square = lambda x: g.op("Mul", x, x)
    real = square(g.op("MatMul", g.op("Add", front, back), g.weight(cosine, True)))
    imaginary = square(g.op("MatMul", g.op("Sub", front, back), g.weight(sine, True)))
    power = g.op("MatMul", g.op("Add", real, imaginary), g.weight(filters, True))
    log = g.op("Log", g.op("Add", power, g.weight(np.float32([part.log_floor]))))
    mel = g.op("Mul", g.op("Add", log, g.weight(np.float32([4]))), g.weight(np.float32([0.25])))
    # Four mel frames to one frame, two apart.
    pairs = g.op("Reshape", mel, g.weight(np.int64([1, -1, 2 * MELS])))
    four = g.op("Concat", cut(pairs, 1, 0, -1), cut(pairs, 1, 1), axis=2)
    gather = numpy(part.gather.weight).reshape(2 * dim, MELS, 4)  # bands before frames, as unfold leaves them
    product = g.op("MatMul", four, g.weight(gather.transpose(2, 1, 0).reshape(4 * MELS, 2 * dim)))
    hidden = g.gelu(g.op("Add", product, g.weight(numpy(part.gather.bias))))
    g.norm(g.linear(hidden, part.project), part.norm, out="x")
    g.write(path, [("audio", [1, "S"])], [("x", [1, "T", dim])])


def layer(path, part, shape, half):
    g, dim, heads, width = Graph(half), shape.dim, shape.heads, shape.dim // shape.heads
    split = g.weight(np.int64([1, -1, heads, width]))
    by_head = lambda x, out=None: g.op("Transpose", g.op("Reshape", x, split), out=out or f"heads{g.count}", perm=[0, 2, 1, 3])
    normed = g.norm("x", part.norm1)
    both = g.linear(normed, part.key_value)
    key, value = g.op("Split", both, g.weight(np.int64([dim, dim])), out=("key", "value"), axis=2)
    by_head(key, "k_new")
    by_head(value, "v_new")
    # The scale 1/√d is folded into the query's weights.
    query = part.query
    scaled = g.op("MatMul", normed, g.weight(numpy(query.weight).T * width**-0.5))
    query = by_head(g.op("Add", scaled, g.weight(numpy(query.bias) * width**-0.5)))
    keys = g.op("Transpose", g.op("Concat", "k", "k_new", axis=2), perm=[0, 1, 3, 2])
    weights = g.op("Softmax", g.op("Add", g.op("MatMul", query, keys), "bias"), axis=-1)
    mixed = g.op("MatMul", weights, g.op("Concat", "v", "v_new", axis=2))
    mixed = g.op("Reshape", g.op("Transpose", mixed, perm=[0, 2, 1, 3]), g.weight(np.int64([1, -1, dim])))
    x = g.op("Add", "x", g.linear(mixed, part.out))
    wide = g.gelu(g.linear(g.norm(x, part.norm2), part.up))
    g.op("Add", x, g.linear(wide, part.down), out="y")
    cache, new = [1, heads, shape.left_context, width], [1, heads, "T", width]
    inputs = [("x", [1, "T", dim]), ("k", cache), ("v", cache), ("bias", [1, heads, "T", "CT"])]
    g.write(path, inputs, [("y", [1, "T", dim]), ("k_new", new), ("v_new", new)])


def head(path, part, shape, half):
    g = Graph(half)
    g.linear(g.norm("f", part.norm), part.linear, out="logits")
    g.write(path, [("f", [1, "T", shape.dim])], [("logits", [1, "T", part.linear.out_features])])


def gain(path, part, shape, half):
    g = Graph(half)
    dim = shape.dim
    ones, zeros = g.weight(np.ones(dim, np.float32)), g.weight(np.zeros(dim, np.float32))
    normed = g.op("LayerNormalization", "f", ones, zeros, axis=-1, epsilon=EPSILON)
    hidden = g.op("ReduceMean", g.gelu(g.linear(normed, part.hidden)), g.weight(np.int64([1])), keepdims=1)
    g.linear(hidden, part.out, out="log_kl")
    g.write(path, [("f", [1, "T", dim])], [("log_kl", [1, 1, len(part.out.weight)])])


PACK = """format = 2
name = "{name}"
description = "{description}"

[audio]
sample_rate = {rate}
hop = {hop}
receptive_field = {field}
lead = {lead}
layout = "mono"

[encoder]
architecture = "log-mel front end, pre-norm transformer with chunked attention, joint exit heads and CTC branches"
layers = {layers}
dim = {dim}
heads = {heads}
units = {units}
quiet_unit = 0
mode = "cached"
chunk_frames = [8, 16, 32]
default_chunk_frames = 16
left_context = {context}
feature = "layer-output"
position = "alibi"
alibi_slopes = {slopes}
gap_fill = "project"

{exits}
{ctc}[provenance]
weights = "trained from scratch; unit 0 is silence (Silero VAD, MIT); the other units are k-means clusters of Whisper tiny.en encoder states (MIT), position mean removed; phones are those of Kokoro-82M (Apache-2.0), and of espeak-ng for the texts of recordings"
data = "models/train/packages.toml: speech.train, noise.train; models/train/synthesise.py; {steps}"
held_out = "speech.calibrate, speech.test, speech.acted, speech.casts, speech.prompts, speech.probe, speech.match, noise.test, noise.fillets of the same file"
licence = "{licence}"
command = "python -m models.train.train {name}"
date = "{date}"

[stages]
"""
LICENCE = "CC-BY-SA-4.0; trained on recordings under GPL-2 and CC-BY-SA, listed in models/train/packages.toml"


def exit_section(numbers):
    """[exit] of pack.toml from the results of `calibrate`."""
    if numbers is None:
        return '[exit]\npolicy = "never"\n'
    listed = lambda values: "[" + ", ".join(f"{value:.4f}" for value in values) + "]"
    targets = "".join(f"    {{ agreement = {target}, thresholds = {listed(values)} }},\n" for target, values in numbers["calibrated"].items())
    return f"""[exit]
policy = "gain"
threshold = {numbers["threshold"]:.3f}
ctc = {numbers["ctc"]:.3f}
change = {numbers["change"]:.4f}
range = {numbers["range"]}
fixed = {numbers["fixed"]}

[exit.calibrated]
data = "{numbers["data"]}"
targets = [
{targets}]

[exit.gain]
lambda = {numbers["lambda"]:.4f}
"""


def write(model, folder, name, half=True, steps="0 steps", numbers=None, phones=(), description="trained on real and synthetic speech with noise, rooms and silence"):
    """Writes the pack; returns its folder. `phones` names the classes of the CTC branches."""
    folder.mkdir(parents=True, exist_ok=True)
    shape = model.shape
    stages = {"frontend": folder / "frontend.onnx"}
    frontend(stages["frontend"], model.frontend, shape.dim, half)
    for k, part in enumerate(model.layers, 1):
        stages[f"layer.{k}"] = folder / f"layer_{k:02}.onnx"
        layer(stages[f"layer.{k}"], part, shape, half)
    for kind, parts in (("head", model.heads), ("ctc", model.ctc)):
        for k, part in enumerate(parts):
            stages[f"{kind}.{k}"] = folder / f"{kind}_{k:02}.onnx"
            head(stages[f"{kind}.{k}"], part, shape, half)
    for k, state in enumerate(numbers["gain"] if numbers else []):
        part = student.Forecast(shape, k)
        part.load_state_dict(state)
        stages[f"gain.{k}"] = folder / f"gain_{k:02}.onnx"
        gain(stages[f"gain.{k}"], part, shape, half)
    text = PACK.format(
        exits=exit_section(numbers), ctc=ctc_section(phones), name=name, description=description, rate=RATE, hop=HOP, field=RECEPTIVE_FIELD, lead=LEAD, layers=shape.layers, dim=shape.dim,
        heads=shape.heads, units=shape.units, context=shape.left_context, slopes=shape.slopes(), steps=steps, licence=LICENCE,
        date=datetime.date.today().isoformat(),
    )
    for stage, path in sorted(stages.items(), key=lambda one: (one[0].split(".")[0], int(one[0].split(".")[1]) if "." in one[0] else 0)):
        text += f'{stage} = {{ file = "{path.name}", sha256 = "{hashlib.sha256(path.read_bytes()).hexdigest()}" }}\n'
    (folder / "pack.toml").write_text(text)
    return folder


def ctc_section(phones):
    """Phones are recognised well in the languages of the synthetic speech that was trained on, whose phones are exact."""
    if not phones:
        return ""
    index = PREPARED / "synthetic.train.json"
    languages = {entry["language"] for entry in json.loads(index.read_text())} if index.exists() else set()
    return f"[ctc]\nvocabulary = {json.dumps(phones, ensure_ascii=False)}\nlanguages = {json.dumps(sorted(languages))}\n\n"


def log_floor(path):
    """The constant below the logarithm of a pack's front end."""
    graph = load_onnx(path).graph
    log = next(node for node in graph.node if node.op_type == "Log")
    add = next(node for node in graph.node if node.output[0] == log.input[0])
    return next(float(numpy_helper.to_array(w).item()) for w in graph.initializer if w.name in add.input)


def read(folder, vocabulary=None, framewise=False):
    """Reads the model from a pack written by `write`, to resume training without its checkpoints.

    Heads and branches that the pack lacks are fresh. With a `vocabulary`, the CTC branches have its classes: those that the pack knows are
    the pack's, the others are fresh.
    """
    manifest = tomllib.loads((folder / "pack.toml").read_text())
    encoder, own = manifest["encoder"], manifest.get("ctc", {}).get("vocabulary", [])
    wanted = vocabulary or own
    shape = student.Shape(encoder["layers"], encoder["dim"], encoder["heads"], encoder["units"], len(wanted), encoder["left_context"], log_floor(folder / manifest["stages"]["frontend"]["file"]), framewise)
    model = student.Student(shape)
    scale = (shape.dim // shape.heads) ** -0.5

    def weights(stage):
        graph = load_onnx(folder / stage["file"]).graph
        return [numpy_helper.to_array(weight).astype(np.float32) for weight in graph.initializer if weight.data_type in (TensorProto.FLOAT, TensorProto.FLOAT16)]

    def fill(parameters, found):
        """Sets each parameter to the next array of its shape, transposing matrices."""
        for parameter, factor in parameters:
            turned = parameter.ndim == 2
            wanted = tuple(parameter.shape[::-1] if turned else parameter.shape)
            while found[0].shape != wanted:
                found.pop(0)
            value = torch.from_numpy(found.pop(0).copy()) / factor
            parameter.data.copy_(value.T if turned else value)

    plain = lambda part: [(part.weight, 1), (part.bias, 1)]
    with torch.no_grad():
        front, found = model.frontend, weights(manifest["stages"]["frontend"])
        at = next(i for i, array in enumerate(found) if array.shape == (4 * MELS, 2 * shape.dim))
        gather = found[at].reshape(4, MELS, 2 * shape.dim).transpose(2, 1, 0).reshape(2 * shape.dim, -1)
        front.gather.weight.copy_(torch.from_numpy(gather.copy()))
        fill([(front.gather.bias, 1), *plain(front.project), *plain(front.norm)], found[at + 1 :])
        for k in range(1, shape.layers + 1):
            part = model.layers[k - 1]
            parameters = [*plain(part.norm1), *plain(part.key_value), (part.query.weight, scale), (part.query.bias, scale)]
            parameters += [p for one in (part.out, part.norm2, part.up, part.down) for p in plain(one)]
            fill(parameters, weights(manifest["stages"]["layer"][str(k)]))
        branches = [student.Head(shape.dim, len(own)) for _ in model.ctc]
        for kind, parts in (("head", model.heads), ("ctc", branches)):
            for k, part in enumerate(parts):
                if stage := manifest["stages"].get(kind, {}).get(str(k)):
                    fill([*plain(part.norm), *plain(part.linear)], weights(stage))
        both = [(wanted.index(phone), own.index(phone)) for phone in wanted if phone in own]
        for part, known in zip(model.ctc, branches):
            part.norm.load_state_dict(known.norm.state_dict())
            part.linear.bias.fill_(UNSEEN)
            for new, old in both:
                part.linear.weight[new], part.linear.bias[new] = known.linear.weight[old], known.linear.bias[old]
    return model


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("pack", type=Path)
    parser.add_argument("--name", help="name of the pack (default: the folder's name)")
    parser.add_argument("--calibration", type=Path, help="result of `calibrate` (default: calibration.pt next to the checkpoint)")
    parser.add_argument("--resumed", type=int, help="steps of the pack that training resumed from, for the provenance")
    parser.add_argument("--f32", action="store_true", help="store all weights as f32")
    arguments = parser.parse_args()
    model, checkpoint = student.load(arguments.checkpoint)
    calibration = arguments.calibration or arguments.checkpoint.parent / "calibration.pt"
    numbers = torch.load(calibration, weights_only=True) if calibration.exists() else None
    if numbers and numbers.pop("of", None) != student.digest(model):
        raise SystemExit(f"export: {calibration} is of another checkpoint; run `python -m models.train.calibrate {arguments.checkpoint}`")
    steps = f"{checkpoint.get('step', 0)} steps" + (f" after the {arguments.resumed} of the pack that they resumed from" if arguments.resumed else "")
    steps += ", averaged with earlier models" if checkpoint.get("averaged") else ""
    folder = write(model, arguments.pack, arguments.name or arguments.pack.name, not arguments.f32, steps, numbers, VOCABULARY if model.shape.phones else ())
    size = sum(path.stat().st_size for path in folder.iterdir()) / 1e6
    print(f"export: {folder}: {model.shape.layers} layers of {model.shape.dim}, {size:.1f} MB")


if __name__ == "__main__":
    main()
