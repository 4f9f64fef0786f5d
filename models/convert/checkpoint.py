"""Reads a checkpoint folder as `transformers` saves it: config.json, preprocessor_config.json, weights, README.md."""

import json
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np


class ConvertError(Exception):
    """Something that the user can put right; the message says how."""


# What `transformers` takes when config.json leaves a key out: the same for all three model types.
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
    max_distance: int         # WavLM: frames from which on all distances share a bucket

    @property
    def hop(self):
        """Samples between frames."""
        return int(np.prod([stride for _, _, stride in self.conv]))

    @property
    def receptive_field(self):
        """Samples that one frame sees."""
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


def load(folder):
    """Reads the checkpoint in `folder`."""
    folder = Path(folder)
    if not (folder / "config.json").is_file():
        raise ConvertError(f"{folder} has no config.json: give the folder of a Hugging Face checkpoint (as `save_pretrained` writes it)")
    config = json.loads((folder / "config.json").read_text())
    shape = read_shape(config)
    preprocessor = folder / "preprocessor_config.json"
    if preprocessor.is_file():
        audio = json.loads(preprocessor.read_text())
        normalize, rate = bool(audio.get("do_normalize", True)), int(audio.get("sampling_rate", 16000))
    else:
        # The published recipes: models with layer norm in their extractor were trained on normalised sound.
        normalize, rate = not shape.group_norm, 16000
        print(f"no preprocessor_config.json: taking do_normalize = {normalize} as models of this kind were trained; --normalize says otherwise")
    card = read_card(folder / "README.md")
    return Checkpoint(folder.resolve().name, shape, read_weights(folder), rate, normalize, card)


def read_shape(config):
    """config.json -> Shape; refuses what the stages do not express."""
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
        print("config.json has add_adapter: the adapter behind the encoder is left out; the pack ends with the last layer")
    return Shape(
        model_type=kind, layers=c["num_hidden_layers"], dim=c["hidden_size"], heads=c["num_attention_heads"],
        ff=c["intermediate_size"], activation=ACTIVATIONS[c["hidden_act"]], eps=c["layer_norm_eps"],
        conv=list(zip(c["conv_dim"], c["conv_kernel"], c["conv_stride"])), conv_activation=ACTIVATIONS[c["feat_extract_activation"]],
        group_norm=c["feat_extract_norm"] == "group",
        projection_norm=c["feat_proj_layer_norm"] or kind != "hubert",  # only HuBERT has the switch
        position_kernel=c["num_conv_pos_embeddings"], position_groups=c["num_conv_pos_embedding_groups"],
        position_batch_norm=bool(c["conv_pos_batch_norm"]) and kind == "hubert", stable_norm=c["do_stable_layer_norm"],
        buckets=c["num_buckets"], max_distance=c["max_bucket_distance"],
    )


def read_weights(folder):
    """Weights of the encoder, by name without the `hubert.` (or other) prefix, as f32."""
    for index in ("model.safetensors.index.json", "pytorch_model.bin.index.json"):
        if (folder / index).is_file():
            files = sorted(set(json.loads((folder / index).read_text())["weight_map"].values()))
            if any(Path(name).name != name for name in files):
                raise ConvertError(f"{index} lists files outside of the checkpoint's folder")
            break
    else:
        files = [name for name in ("model.safetensors", "pytorch_model.bin") if (folder / name).is_file()][:1]
    if not files:
        raise ConvertError(f"{folder} has neither model.safetensors nor pytorch_model.bin")
    weights = {}
    for name in files:
        weights.update(read_tensors(folder / name))
    return {re.sub(rf"^(model\.)?({'|'.join(MODEL_TYPES)})\.", "", name): array for name, array in weights.items()}


def read_tensors(path):
    """name -> f32 array of one weights file. A .bin is a pickle: PyTorch reads it with `weights_only`, which runs no code of it."""
    if path.suffix == ".safetensors":
        import ml_dtypes  # noqa: F401  gives numpy its bfloat16 (a dependency of onnx)
        from safetensors.numpy import load_file

        tensors = load_file(path)
    else:
        try:
            import torch
        except ImportError:
            raise ConvertError(f"{path.name} needs PyTorch to be read: pip install torch, or save the checkpoint as safetensors") from None
        tensors = torch.load(path, map_location="cpu", weights_only=True)
        tensors = tensors.get("state_dict", tensors)
        tensors = {name: value.detach().float().numpy() for name, value in tensors.items() if isinstance(value, torch.Tensor)}
    return {name: np.ascontiguousarray(array, np.float32) for name, array in tensors.items() if np.issubdtype(array.dtype, np.number) or array.dtype.kind == "V"}


def read_card(path):
    """The scalar and list values that a model card's front matter says of licence and data (no YAML library for three keys)."""
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
