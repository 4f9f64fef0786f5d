"""The student: log-mel front end, pre-norm transformer with chunked attention, exit heads before the first layer and after every one.

One pass over a whole crop equals the runtime's computation chunk by chunk with a KV cache, also with early exits: a chunk that
exits after layer e keeps its state, and the deeper layers' keys and values are projected from that state (docs/pack.md,
gap_fill = "project").
"""

import hashlib
from dataclasses import asdict, dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from .paths import RATE

WINDOW, STEP, MELS = 400, 160, 80  # of the mel front end, samples and bands
RECEPTIVE_FIELD, LEAD = WINDOW + 3 * STEP, 3 * STEP  # four mel frames to one frame: 480 samples back, 80 past the hop
MASKED = -1e4


@dataclass
class Shape:
    """A student's sizes."""

    layers: int = 10
    dim: int = 192
    heads: int = 4
    units: int = 256
    phones: int = 0
    left_context: int = 64
    log_floor: float = 1e-8  # power of a mel band; digital silence is a constant, not minus infinity
    framewise: bool = False  # heads for the phone of each frame, for training and alignment only

    def slopes(self):
        """ALiBi's geometric slopes (arXiv 2108.12409)."""
        return [2.0 ** (-8.0 * (head + 1) / self.heads) for head in range(self.heads)]


SHAPES = {
    "daisy-tiny": Shape(),
    "daisy-nano": Shape(layers=8, dim=112),
    "quick": Shape(layers=3, dim=32),
}


def mel_filters():
    """Triangular filters [MELS, WINDOW/2 + 1], 20 Hz to 7.6 kHz on the mel scale (HTK)."""
    mel = lambda hertz: 2595 * np.log10(1 + hertz / 700)
    hertz = lambda m: 700 * (10 ** (m / 2595) - 1)
    edges = hertz(np.linspace(mel(20), mel(7600), MELS + 2))
    bins = np.fft.rfftfreq(WINDOW, 1 / RATE)
    rise = (bins - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    fall = (edges[2:, None] - bins) / (edges[2:] - edges[1:-1])[:, None]
    return np.maximum(0, np.minimum(rise, fall)).astype(np.float32)


def dft_rows():
    """Real and imaginary rows of the windowed DFT, [2 · (WINDOW/2 + 1), WINDOW]."""
    n = np.arange(WINDOW)
    angle = 2 * np.pi * np.outer(np.arange(WINDOW // 2 + 1), n) / WINDOW
    window = np.hanning(WINDOW + 1)[:-1]
    return (np.concatenate([np.cos(angle), -np.sin(angle)]) * window / np.sqrt(WINDOW)).astype(np.float32)


class Frontend(nn.Module):
    """Samples [B, S] to h⁰ [B, T, D]; each frame depends on its receptive field only."""

    def __init__(self, dim, log_floor):
        super().__init__()
        self.log_floor = log_floor
        self.register_buffer("dft", torch.from_numpy(dft_rows()), persistent=False)
        self.register_buffer("mel", torch.from_numpy(mel_filters()), persistent=False)
        self.gather = nn.Linear(4 * MELS, 2 * dim)
        self.project = nn.Linear(2 * dim, dim)
        self.norm = nn.LayerNorm(dim)

    def features(self, audio):
        spectrum = audio.unfold(1, WINDOW, STEP) @ self.dft.T
        real, imaginary = spectrum.chunk(2, -1)
        power = (real**2 + imaginary**2) @ self.mel.T
        return (torch.log(power + self.log_floor) + 4) / 4

    def forward(self, audio):
        mel = self.features(audio)
        four = mel.unfold(1, 4, 2).flatten(2)  # [B, T, MELS · 4]
        return self.norm(self.project(F.gelu(self.gather(four))))


class Windows(torch.autograd.Function):
    """Tensor.unfold(2, size, step) of y [B, H, T, d] for windows of whole steps, with a gradient ten times as fast."""

    @staticmethod
    def forward(context, y, size, step):
        context.shape, context.size, context.step = y.shape, size, step
        return y.unfold(2, size, step)  # [B, H, count, d, size]

    @staticmethod
    def backward(context, gradient):
        (batch, heads, frames, dim), step = context.shape, context.step
        gradient, count = gradient.transpose(-1, -2).contiguous(), gradient.shape[2]
        total = gradient.new_zeros(batch, heads, frames // step, step, dim)
        for first in range(0, context.size, step):
            total[:, :, first // step : first // step + count] += gradient[..., first : first + step, :]
        return total.view(context.shape), None, None


class Layer(nn.Module):
    """Pre-norm attention and feed-forward. Keys and values have separate matmuls, so that the runtime can extract them."""

    def __init__(self, shape):
        super().__init__()
        dim = shape.dim
        self.heads = shape.heads
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.query, self.key_value = nn.Linear(dim, dim), nn.Linear(dim, 2 * dim)
        self.out, self.up, self.down = nn.Linear(dim, dim), nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)

    def forward(self, x, bias, chunk):
        """x [B, T, D], bias [T/chunk, H, chunk, C + chunk]; each chunk attends to the C frames before it and to itself."""
        batch, frames, dim = x.shape
        context, count = bias.shape[-1] - chunk, frames // chunk
        normed = self.norm1(x)
        split = lambda y: y.view(batch, frames, self.heads, -1).transpose(1, 2)
        query = split(self.query(normed)).reshape(batch, self.heads, count, chunk, -1)
        key, value = (F.pad(split(y), (0, 0, context, 0)) for y in self.key_value(normed).chunk(2, -1))
        key, value = (Windows.apply(y, context + chunk, chunk) for y in (key, value))  # [B, H, count, d, C + chunk]
        scores = query @ key * (dim // self.heads) ** -0.5 + bias.transpose(0, 1)
        mixed = scores.softmax(-1) @ value.transpose(-1, -2)
        mixed = mixed.reshape(batch, self.heads, frames, -1).transpose(1, 2).reshape(batch, frames, dim)
        x = x + self.out(mixed)
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class Head(nn.Module):
    """Exit head: hidden state to the logits of units, or of phones (a CTC branch)."""

    def __init__(self, dim, classes):
        super().__init__()
        self.norm, self.linear = nn.LayerNorm(dim), nn.Linear(dim, classes)

    def forward(self, x):
        return self.linear(self.norm(x))


class Forecast(nn.Module):
    """Predictor of layer k (0: the front end): a chunk's states [B, T, D] to ln KL(p_L ‖ p_j), [B, L-k], j = k … L-1."""

    def __init__(self, shape, k, hidden=16):
        super().__init__()
        self.norm = nn.LayerNorm(shape.dim, elementwise_affine=False)
        self.hidden, self.out = nn.Linear(shape.dim, hidden), nn.Linear(hidden, shape.layers - k)

    def forward(self, x):
        return self.out(F.gelu(self.hidden(self.norm(x))).mean(1))


class Student(nn.Module):
    """Front end, layers, heads and CTC branches; those of h⁰ come first."""

    def __init__(self, shape):
        super().__init__()
        self.shape = shape
        self.frontend = Frontend(shape.dim, shape.log_floor)
        self.layers = nn.ModuleList(Layer(shape) for _ in range(shape.layers))
        self.heads = nn.ModuleList(Head(shape.dim, shape.units) for _ in range(shape.layers + 1))
        self.ctc = nn.ModuleList(Head(shape.dim, shape.phones) for _ in range(shape.layers + 1 if shape.phones else 0))
        self.frames = nn.ModuleList(Head(shape.dim, shape.phones) for _ in range(shape.layers + 1 if shape.framewise else 0))
        for name, parameter in self.named_parameters():
            if name.endswith(("out.weight", "down.weight")):
                nn.init.normal_(parameter, std=0.02 / (2 * shape.layers) ** 0.5)

    def bias(self, chunk, count):
        """Additive attention bias [count, H, chunk, C + chunk]: ALiBi, and nothing before the crop's start."""
        context, device = self.shape.left_context, self.frontend.mel.device
        column = torch.arange(context + chunk, device=device)
        distance = (torch.arange(chunk, device=device)[:, None] + context - column).abs().float()
        slopes = torch.tensor(self.shape.slopes(), device=device)[:, None, None]
        before = (column[None] + torch.arange(count, device=device)[:, None] * chunk < context).float() * MASKED
        return before[:, None, None] - slopes * distance

    def forward(self, audio, chunk, exits=None):
        """audio [B, (T-1)·hop + RECEPTIVE_FIELD] -> states h⁰ … h^L, each [B, T, D]. T must be whole chunks.

        exits [B, T/chunk]: the layer after which each chunk exits (0: none runs); its state is unchanged after that.
        """
        x = self.frontend(audio)
        bias = self.bias(chunk, x.shape[1] // chunk)
        depth = None if exits is None else exits.repeat_interleave(chunk, 1)[..., None]
        states = [x]
        for k, layer in enumerate(self.layers, 1):
            y = layer(x, bias, chunk)
            x = y if depth is None else torch.where(depth >= k, y, x)
            states.append(x)
        return states

    def logits(self, states):
        """Unit logits of every head, [L + 1, B, T, U]."""
        return torch.stack([head(state) for head, state in zip(self.heads, states)])

    def phone_logits(self, states):
        """Phone logits of every CTC branch, [L + 1, B, T, V]; class 0 is the blank."""
        return torch.stack([branch(state) for branch, state in zip(self.ctc, states)])

    def frame_logits(self, states):
        """Logits of the phone that sounds in each frame, [L + 1, B, T, V]; class 0 is a pause."""
        return torch.stack([head(state) for head, state in zip(self.frames, states)])


def save(path, model, **more):
    """Writes a checkpoint atomically: a killed run leaves the previous one intact."""
    part = path.with_suffix(".part")
    torch.save({"shape": asdict(model.shape), "model": model.state_dict(), **more}, part)
    part.rename(path)


def load(path):
    """A checkpoint's model and its other entries."""
    checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    model = Student(Shape(**checkpoint["shape"]))
    model.load_state_dict({name: value.float() for name, value in checkpoint["model"].items()})
    return model, checkpoint


def digest(model):
    """SHA-256 of a model's weights."""
    total = hashlib.sha256()
    for name, weight in sorted(model.state_dict().items()):
        total.update(name.encode() + weight.detach().cpu().contiguous().numpy().tobytes())
    return total.hexdigest()
