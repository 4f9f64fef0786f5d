"""Writes a windowed pack: the stages and pack.toml (docs/pack.md)."""

import datetime
import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path

from . import stages
from .checkpoint import ConvertError

# Windowed encoders support any chunk size; chunks above two and a half seconds are not useful for streaming.
MAX_CHUNK_FRAMES = 128


@dataclass
class Options:
    """How a checkpoint becomes a pack. Lengths in frames."""

    before_norm: bool = False
    chunk_frames: int = 16
    left_context: int = 48
    right_context: int = 8
    f16: bool = False
    name: str = ""
    description: str = ""
    licence: str = ""
    data: str = ""
    command: str = ""
    date: str = field(default_factory=lambda: datetime.date.today().isoformat())

    def __post_init__(self):
        for name, least, most in (("chunk_frames", 1, MAX_CHUNK_FRAMES), ("left_context", 0, 1 << 15), ("right_context", 0, 1 << 15)):
            if not least <= getattr(self, name) <= most:
                raise ConvertError(f"--{name.replace('_', '-')} must be {least} to {most} frames, got {getattr(self, name)}")


class Writer:
    """Writer of one pack: stages first, then heads (which are trained through the stages), then pack.toml."""

    def __init__(self, out, checkpoint, options):
        self.out, self.checkpoint, self.options = Path(out), checkpoint, options
        self.fold(None)
        self.entries = {}
        self.exit = {}
        self.head_note = ""
        licence = options.licence or checkpoint.card.get("license", "")
        if not licence:
            raise ConvertError("the checkpoint's README.md names no licence: pass --licence (an SPDX name, or `unknown`)")
        self.licence = licence

    def fold(self, folded):
        """Sets conv0 with fixed statistics folded in (norms.py); None for norms over the window."""
        self.folded, c = folded, self.checkpoint
        over_window = folded is None and (c.shape.group_norm or c.normalize)
        self.frontend_scope = "window" if over_window else "frame"
        self.level = "window-norm" if folded is None and c.normalize else "raw"

    def encoder(self):
        """Writes front end, position and layers."""
        s, w, f16 = self.checkpoint.shape, self.checkpoint.weights, self.options.f16
        self.out.mkdir(parents=True, exist_ok=True)
        stages.frontend(self.add("frontend", "frontend.onnx"), s, w, self.folded, f16)
        stages.position(self.add("position", "position.onnx"), s, w, f16)
        for k in range(1, s.layers + 1):
            stages.layer(self.add(f"layer.{k}", f"layer_{k:02}.onnx"), s, w, k, self.options.before_norm, f16)

    def heads(self, heads):
        """Writes the exit heads (heads.Linear, units.Predictor), one per layer."""
        for k, head in enumerate(heads, 1):
            head.save(self.add(f"head.{k}", f"head_{k:02}.onnx"), self.checkpoint.shape.dim, self.options.f16)

    def add(self, stage, file):
        self.entries[stage] = file
        return self.out / file

    def manifest(self, units=1):
        """Writes pack.toml. `units`: classes of a head (any number for a pack without heads)."""
        c, o, s = self.checkpoint, self.options, self.checkpoint.shape
        style = "stable layer norm" if s.stable_norm else "post-norm"
        extractor = "group norm" if s.group_norm else "layer norm"
        sections = {
            "": dict(format=2, name=o.name or c.name, description=o.description or f"{c.name}, converted for windowed streaming"),
            "audio": dict(sample_rate=c.sample_rate, hop=s.hop, receptive_field=s.receptive_field, lead=0, layout="mono", level=self.level),
            "encoder": dict(
                architecture=f"{s.model_type}: {len(s.conv)} convolutions ({extractor}), {s.layers} {style} layers",
                layers=s.layers, dim=s.dim, heads=s.heads, units=units, mode="windowed", chunk_frames=Inline(min=1, max=MAX_CHUNK_FRAMES),
                default_chunk_frames=o.chunk_frames, left_context=o.left_context, right_context=o.right_context,
                feature="before-norm" if o.before_norm else "layer-output", frontend_scope=self.frontend_scope,
            ),
            "exit": {key: value for key, value in self.exit.items() if key != "calibrated"},
            "exit.calibrated": self.exit.get("calibrated", {}),
            "provenance": dict(
                weights=f"{c.name}, a checkpoint of {s.model_type}" + (f"; {self.head_note}" if self.head_note else ""),
                data=o.data or c.card.get("datasets", "") or "see the checkpoint", licence=self.licence, command=o.command, date=o.date,
            ),
            "stages": {stage: Inline(file=file, sha256=hashlib.sha256((self.out / file).read_bytes()).hexdigest()) for stage, file in self.entries.items()},
        }
        text = []
        for title, keys in sections.items():
            if keys:
                text.append(f"[{title}]" if title else "")
                text += [f"{key} = {toml(value)}" for key, value in keys.items()] + [""]
        (self.out / "pack.toml").write_text("\n".join(text).lstrip("\n"))


class Inline(dict):
    """An inline table."""

    def __init__(self, **keys):
        super().__init__(keys)


def toml(value):
    """Formats a value as TOML; strings, numbers and lists are written as in JSON."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {toml(item)}" for key, item in value.items()) + " }"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(toml, value)) + "]"
    return json.dumps(value, ensure_ascii=False)
