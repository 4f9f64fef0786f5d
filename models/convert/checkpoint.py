"""Reads a checkpoint folder as `transformers` saves it: config.json, the feature extractor's settings, weights, README.md."""

import json
import pickle
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np


class ConvertError(Exception):
    """An error that the user can correct; the message states how."""


# Defaults of `transformers` for keys missing in config.json, the same for all three model types.
DEFAULTS = dict(
    hidden_size=768, num_hidden_layers=12, num_attention_heads=12, intermediate_size=3072, hidden_act="gelu",
    layer_norm_eps=1e-5, feat_extract_norm="group", feat_extract_activation="gelu", conv_dim=[512] * 7,
    conv_kernel=[10, 3, 3, 3, 3, 2, 2], conv_stride=[5, 2, 2, 2, 2, 2, 2], conv_bias=False, feat_proj_layer_norm=True,
    num_conv_pos_embeddings=128, num_conv_pos_embedding_groups=16, conv_pos_batch_norm=False, do_stable_layer_norm=False,
    num_buckets=320, max_bucket_distance=800,
)
MODEL_TYPES = ("hubert", "wav2vec2", "wavlm")
ACTIVATIONS = {"gelu": "Gelu", "relu": "Relu"}


@dataclass(frozen=True)
class Shape:
    """The encoder's geometry and variant, from config.json under shorter names."""

    model_type: str
    layers: int
    dim: int
    heads: int
    ff: int
    activation: str           # ONNX operator
    eps: float
    conv: list                # (channels, kernel, stride) of each convolution
    conv_activation: str
    group_norm: bool          # conv0 has a GroupNorm over time; otherwise every convolution a LayerNorm over channels
    projection_norm: bool     # LayerNorm before the feature projection (DistilHuBERT has none)
    position_kernel: int      # frames
    position_groups: int
    position_batch_norm: bool
    stable_norm: bool         # norms before attention and feed-forward (the large models)
    buckets: int              # WavLM: relative position buckets
    max_distance: int         # WavLM: distance in frames from which all distances share a bucket

    @property
    def hop(self):
        """Samples between frames."""
        return int(np.prod([stride for _, _, stride in self.conv]))

    @property
    def receptive_field(self):
        """Input samples of one frame."""
        field, step = 1, 1
        for _, kernel, stride in self.conv:
            field, step = field + (kernel - 1) * step, step * stride
        return field


@dataclass
class Checkpoint:
    """A checkpoint in memory."""

    name: str
    shape: Shape
    weights: dict             # name (without the model's prefix) -> f32 array
    sample_rate: int          # Hz
    normalize: bool           # do_normalize: the recording has zero mean and unit variance before the convolutions
    card: dict                # front matter of README.md: licence, datasets


def load(folder, normalize=None):
    """Reads the checkpoint in `folder`. `normalize` overrides the folder's `do_normalize`."""
    folder = Path(folder)
    if not (folder / "config.json").is_file():
        inside = sorted(path.parent.name for path in folder.glob("*/config.json"))
        hint = f"it has checkpoints in {', '.join(inside)}: name one of them" if inside else "give the folder of a Hugging Face checkpoint (as `save_pretrained` writes it)"
        raise ConvertError(f"{folder} has no config.json: {hint}")
    shape = read_shape(read_json(folder / "config.json"))
    stored, rate = read_preprocessing(folder)
    if normalize is None and stored is None:
        raise ConvertError(
            f"{folder} has neither preprocessor_config.json nor processor_config.json, which say whether the model expects normalised audio: "
            "download them too, or give --normalize yes or no (yes for most HuBERT and wav2vec 2.0 models and WavLM large, no for WavLM base and DistilHuBERT)"
        )
    card = read_card(folder / "README.md")
    weights = read_weights(folder)
    check_shape(shape, weights, folder)
    return Checkpoint(folder.resolve().name, shape, weights, rate, stored if normalize is None else normalize, card)


def read_json(path):
    """The object in a JSON file."""
    check_content(path)
    try:
        content = json.loads(path.read_text())
    except (ValueError, UnicodeDecodeError) as error:
        raise ConvertError(f"{path} is not valid JSON ({error}): it is truncated or damaged; download it again") from None
    if not isinstance(content, dict):
        raise ConvertError(f"{path} does not contain a JSON object: download it again")
    return content


def check_content(path):
    """Rejects a placeholder for a file that was not downloaded."""
    with open(path, "rb") as file:
        head = file.read(64)
    if head.startswith(b"version https://git-lfs.github.com/spec/"):
        raise ConvertError(f"{path} is a Git LFS pointer, not the file: run `git lfs pull` in {path.parent}")
    if head.lstrip().lower().startswith((b"<!doctype html", b"<html")):
        raise ConvertError(f"{path} is a web page, not the file: download it again (log in first if the model is gated)")
    if not head:
        raise ConvertError(f"{path} is empty: download it again")


def read_preprocessing(folder):
    """(do_normalize, sample rate) of the feature extractor; (None, 16000) if the checkpoint does not store it.

    transformers 4 writes preprocessor_config.json; transformers 5 writes processor_config.json with the feature extractor inside.
    """
    found = {}
    for name in ("preprocessor_config.json", "processor_config.json"):
        if (folder / name).is_file():
            stored = read_json(folder / name)
            stored = stored.get("feature_extractor", stored)
            if isinstance(stored, dict) and ("do_normalize" in stored or name.startswith("pre")):
                # Wav2Vec2FeatureExtractor's own defaults.
                found[name] = bool(stored.get("do_normalize", True)), int(stored.get("sampling_rate", 16000))
    if len(set(found.values())) > 1:
        raise ConvertError(f"{folder}: {' and '.join(found)} contradict each other: remove the incorrect one")
    return next(iter(found.values()), (None, 16000))


def read_shape(config):
    """Converts config.json to a Shape; rejects models that the stages cannot express."""
    kind = config.get("model_type")
    if kind not in MODEL_TYPES:
        raise ConvertError(f"model_type is {kind!r}; can be converted: {', '.join(MODEL_TYPES)} (DistilHuBERT is a hubert)")
    c = {key: config.get(key, default) for key, default in DEFAULTS.items()}
    if config.get("adapter_attn_dim") is not None:
        raise ConvertError("config.json has adapter_attn_dim: attention adapters (MMS) are not supported; merge or remove them first")
    for key in ("hidden_act", "feat_extract_activation"):
        if c[key] not in ACTIVATIONS:
            raise ConvertError(f"{key} is {c[key]!r}; supported: {', '.join(ACTIVATIONS)}")
    if c["feat_extract_norm"] not in ("group", "layer"):
        raise ConvertError(f"feat_extract_norm is {c['feat_extract_norm']!r}; supported: group, layer")
    if not len(c["conv_dim"]) == len(c["conv_kernel"]) == len(c["conv_stride"]) > 0:
        raise ConvertError("conv_dim, conv_kernel and conv_stride of config.json differ in length")
    for part, whole in (("num_attention_heads", "hidden_size"), ("num_conv_pos_embedding_groups", "hidden_size")):
        if c[part] < 1 or c[whole] % c[part]:
            raise ConvertError(f"{part} = {c[part]} does not divide {whole} = {c[whole]}")
    if config.get("add_adapter"):
        print("config.json has add_adapter: omitting the adapter after the encoder; the pack ends with the last layer")
    return Shape(
        model_type=kind, layers=c["num_hidden_layers"], dim=c["hidden_size"], heads=c["num_attention_heads"],
        ff=c["intermediate_size"], activation=ACTIVATIONS[c["hidden_act"]], eps=c["layer_norm_eps"],
        conv=list(zip(c["conv_dim"], c["conv_kernel"], c["conv_stride"])), conv_activation=ACTIVATIONS[c["feat_extract_activation"]],
        group_norm=c["feat_extract_norm"] == "group",
        projection_norm=c["feat_proj_layer_norm"] or kind != "hubert",  # only HuBERT has this option
        position_kernel=c["num_conv_pos_embeddings"], position_groups=c["num_conv_pos_embedding_groups"],
        position_batch_norm=bool(c["conv_pos_batch_norm"]) and kind == "hubert", stable_norm=c["do_stable_layer_norm"],
        buckets=c["num_buckets"], max_distance=c["max_bucket_distance"],
    )


def read_weights(folder):
    """Weights of the encoder, by name without the `hubert.` (or other) prefix, as f32."""
    listed, source = None, None
    for index in ("model.safetensors.index.json", "pytorch_model.bin.index.json"):
        if (folder / index).is_file():
            listed = read_json(folder / index).get("weight_map")
            if not isinstance(listed, dict) or not listed:
                raise ConvertError(f"{folder / index} lists no weights: download it again")
            source, files = index, sorted(set(map(str, listed.values())))
            if any(Path(name).name != name for name in files):
                raise ConvertError(f"{index} lists files outside the checkpoint's folder")
            missing = [name for name in files if not (folder / name).is_file()]
            if missing:
                raise ConvertError(f"{folder} lacks {', '.join(missing)}, which {index} lists: download {'it' if len(missing) == 1 else 'them'} too")
            break
    else:
        files = [name for name in ("model.safetensors", "pytorch_model.bin") if (folder / name).is_file()][:1]
    if not files:
        others = sorted(path.name for pattern in ("tf_model.h5", "flax_model.msgpack", "*.pt", "*.ckpt", "zero_to_fp32.py") for path in folder.glob(pattern))
        if "zero_to_fp32.py" in others:
            raise ConvertError(f"{folder} is a DeepSpeed checkpoint: run `python zero_to_fp32.py . .` in it first")
        hint = f"{', '.join(others)} cannot be read: save the model with `save_pretrained`" if others else "download them too"
        raise ConvertError(f"{folder} has neither model.safetensors nor pytorch_model.bin: {hint}")
    weights = {}
    for name in files:
        weights.update(read_tensors(folder / name))
    absent = sorted(set(listed or ()) - set(weights))
    if absent:
        raise ConvertError(f"{folder} lacks the weight {absent[0]} (and {len(absent) - 1} more), which {source} lists in {listed[absent[0]]}: download that file again")
    return without_prefix(weights, folder / files[0])


def check_shape(shape, weights, folder):
    """Rejects a config.json of another model: its sizes are not those of the weights."""
    layers = 1 + max((int(found[1]) for name in weights if (found := re.match(r"encoder\.layers\.(\d+)\.", name))), default=-1)
    if layers != shape.layers:
        raise ConvertError(f"{folder}/config.json has {shape.layers} layers, and the weights {layers}: one of them is of another model")
    projection, size = weights.get("feature_projection.projection.weight"), (shape.dim, shape.conv[-1][0])
    if projection is not None and projection.shape != size:
        raise ConvertError(f"{folder}/config.json has sizes {size} where the weights have {projection.shape}: one of them is of another model")


# A weight that every encoder has, used to detect the prefix of all names.
FIRST_WEIGHT = "feature_extractor.conv_layers.0.conv.weight"
# Prefixes that trainers add to all names: DistributedDataParallel, torch.compile, Lightning.
WRAPPERS = ("module.", "_orig_mod.", "base_model.model.", "model.")


def without_prefix(weights, path):
    """The weights without the prefix that a trainer or a model with a task head adds to the encoder's names."""
    if any(".lora_A." in name or ".base_layer." in name for name in weights):
        raise ConvertError(f"{path} has LoRA adapters: merge them first (`merge_and_unload`) and save the model")
    weights = {name.replace("._orig_mod.", "."): array for name, array in weights.items()}
    while wrapper := next((one for one in WRAPPERS if weights and all(name.startswith(one) for name in weights)), None):
        weights = {name[len(wrapper):]: array for name, array in weights.items()}
    prefixes = sorted(name[: -len(FIRST_WEIGHT)] for name in weights if name.endswith("." + FIRST_WEIGHT) or name == FIRST_WEIGHT)
    if not prefixes:
        if any(name.endswith("feature_extractor.conv_layers.0.0.weight") for name in weights):
            raise ConvertError(f"{path} is a fairseq checkpoint: convert it with transformers' convert_*_original_pytorch_checkpoint_to_pytorch.py first")
        some = ", ".join(sorted(weights)[:3]) or "none"
        raise ConvertError(f"{path} has no {FIRST_WEIGHT}, so it contains no HuBERT, wav2vec 2.0 or WavLM encoder; its weights are {some} …")
    if len(prefixes) > 1:
        raise ConvertError(f"{path} contains {len(prefixes)} encoders ({', '.join(one or '(no prefix)' for one in prefixes)}): save the one to convert separately")
    prefix = prefixes[0]
    return {name.removeprefix(prefix): array for name, array in weights.items()}


def read_tensors(path):
    """name -> f32 array of one weights file. A .bin file is a pickle: PyTorch reads it with `weights_only`, which does not run its code."""
    check_content(path)
    if path.suffix == ".safetensors":
        import ml_dtypes  # noqa: F401  registers bfloat16 with NumPy (a dependency of onnx)
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        check_length(path)
        try:
            tensors = load_file(path)
        except SafetensorError as error:
            raise ConvertError(f"{path} is damaged ({error}): download it again") from None
    else:
        try:
            import torch
        except ImportError:
            raise ConvertError(f"reading {path.name} requires PyTorch: pip install torch, or save the checkpoint as safetensors") from None
        try:
            tensors = torch.load(path, map_location="cpu", weights_only=True)
        except (RuntimeError, EOFError, OSError) as error:
            raise ConvertError(f"{path} is truncated or damaged ({first_line(error)}): download it again") from None
        except pickle.UnpicklingError as error:
            # Either not a pickle, or one that would run code.
            raise ConvertError(
                f"{path} cannot be read with weights_only ({first_line(error)}): it is damaged, or would run code; save the checkpoint as safetensors"
            ) from None
        if not isinstance(tensors, dict):
            raise ConvertError(f"{path} does not contain a state_dict: save the model with `save_pretrained`")
        for key in ("state_dict", "model_state_dict", "model", "module"):
            if isinstance(tensors.get(key), dict):
                tensors = tensors[key]
                break
        tensors = {name: value.detach().float().numpy() for name, value in tensors.items() if isinstance(value, torch.Tensor)}
    return {name: np.ascontiguousarray(array, np.float32) for name, array in tensors.items() if np.issubdtype(array.dtype, np.number) or array.dtype.kind == "V"}


def check_length(path):
    """Rejects a safetensors file that is shorter than its header declares."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = file.read(min(length, size))
    try:
        expected = 8 + length + max((tensor["data_offsets"][1] for name, tensor in json.loads(header).items() if name != "__metadata__"), default=0)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError):
        if 8 + length > size:
            raise ConvertError(f"{path} is truncated within its header: download it again") from None
        raise ConvertError(f"{path} is not a safetensors file, or is damaged: download it again") from None
    if size < expected:
        raise ConvertError(f"{path} is truncated: it has {size:,} of {expected:,} bytes; download it again")


def first_line(error):
    return str(error).strip().split("\n")[0][:120]


def read_card(path):
    """Scalar and list values of a model card's front matter (without a YAML library, for three keys)."""
    if not path.is_file():
        return {}
    front = re.match(r"---\n(.*?)\n---", path.read_text(errors="replace"), re.S)
    card, key = {}, None
    for line in front.group(1).splitlines() if front else []:
        item, pair = re.match(r"\s*-\s+(.+)", line), re.match(r"(\w+):\s*(.*)", line)
        if item and key:
            card[key] = f"{card[key]}, {item.group(1).strip()}".lstrip(", ")
        elif pair:
            key = pair.group(1)
            card[key] = pair.group(2).strip().strip("\"'")
    return card
