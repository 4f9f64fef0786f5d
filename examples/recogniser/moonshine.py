"""Moonshine tiny (English) with onnxruntime: float audio at 16 kHz to text, by greedy decoding on one thread."""

import importlib.util
from pathlib import Path

import numpy as np
import onnxruntime

RATE = 16000
START, END = 1, 2
LAYERS, HEADS, WIDTH = 6, 8, 36
# The authors' limit: longer output than this is a repetition.
TOKENS_PER_SECOND = 6.5


def one_thread() -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return options


def weights() -> Path:
    """The folder of the weights in the package moonshine-voice 0.1.0, which is not imported."""
    spec = importlib.util.find_spec("moonshine_voice")
    folder = Path(spec.origin).parent / "assets/tiny-en" if spec else None
    if not folder or not folder.is_dir():
        raise SystemExit("no weights of Moonshine: pip install --no-deps moonshine-voice==0.1.0")
    return folder


class Moonshine:
    def __init__(self, folder: Path | None = None) -> None:
        """`folder` has the weights; without it, those of the installed package."""
        folder = folder or weights()
        self.encoder, self.decoder = (
            onnxruntime.InferenceSession(folder / name, one_thread(), providers=["CPUExecutionProvider"])
            for name in ("encoder_model.ort", "decoder_model_merged.ort")
        )
        self.tokens = tokens((folder / "tokenizer.bin").read_bytes())
        self.caches = [f"{layer}.{side}.{part}" for layer in range(LAYERS) for side in ("decoder", "encoder") for part in ("key", "value")]

    def transcribe(self, audio: np.ndarray) -> str:
        """The text of one utterance of at least a tenth of a second."""
        if len(audio) < RATE // 10:
            return ""
        audio = audio.astype(np.float32)[None]
        mask = np.ones(audio.shape, np.int64)
        states = self.encoder.run(None, {"input_values": audio, "attention_mask": mask})[0]
        empty = np.zeros((1, HEADS, 0, WIDTH), np.float32)
        caches = {f"past_key_values.{name}": empty for name in self.caches}
        found = [START]
        for step in range(int(audio.shape[1] / RATE * TOKENS_PER_SECOND) + 1):
            inputs = {
                "input_ids": np.array([found[-1:]], np.int64), "encoder_hidden_states": states,
                "encoder_attention_mask": mask, "use_cache_branch": np.array([step > 0]),
            }
            logits, *present = self.decoder.run(None, inputs | caches)
            token = int(logits[0, -1].argmax())
            if token == END:
                break
            found.append(token)
            for name, value in zip(self.caches, present, strict=True):
                # The cached branch does not return the encoder's keys and values again.
                if step == 0 or "decoder" in name:
                    caches[f"past_key_values.{name}"] = value
        return b"".join(self.tokens[token] for token in found[1:]).decode(errors="replace").replace("▁", " ").strip()


def tokens(data: bytes) -> list[bytes]:
    """The vocabulary: each token after its length, which has one byte, or two from 128 on (low seven bits first)."""
    found, at = [], 0
    while at < len(data):
        length, at = data[at], at + 1
        if length >= 128:
            length, at = length - 128 + data[at] * 128, at + 1
        found.append(data[at:at + length])
        at += length
    return found
