"""A long recording as a device receives it, from utterances with known texts: 30 % speech, half of it in noise at 10 dB; 40 % silence, half digital
and half room tone at -65 dBFS; 30 % noise alone, 5 dB below the speech. The order, the levels (-24 to -40 dBFS) and the noise are random but fixed."""

import json
import wave
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr

RATE = 16000
LONGEST_PART = 8 * RATE
FADE = RATE // 100


@dataclass
class Utterance:
    start: int
    end: int
    text: str
    noisy: bool


def utterances(folder: Path) -> list[tuple[np.ndarray, str]]:
    """Audio and texts of a folder: files NAME.jsonl with one utterance a line (`start`, `end`: samples of NAME.opus or NAME.wav; `text`), or WAV files
    with `transcription` as in pocketsphinx-testdata (`<s> text </s> (NAME)`)."""
    found = []
    for index in sorted(folder.glob("*.jsonl")):
        audio = read(next(path for path in map(index.with_suffix, (".opus", ".wav")) if path.exists()))
        for row in map(json.loads, index.read_text().splitlines()):
            if row.get("language", "en") == "en" and row.get("kind", "prose") in ("prose", "command"):
                found.append((audio[row["start"]:row["end"]], row["text"]))
    for table in sorted(folder.glob("*transcription")):
        for line in table.read_text().splitlines():
            text, name = line.rsplit("(", 1)
            found.append((read(folder / f"{name.rstrip(')')}.wav"), text.replace("<s>", "").replace("</s>", "").strip()))
    if not found:
        raise SystemExit(f"{folder}: neither *.jsonl nor *transcription")
    return found


def read(path: Path) -> np.ndarray:
    audio, rate = soundfile.read(path, dtype="float32", always_2d=True)
    return soxr.resample(audio[:, 0], rate, RATE)


def level(audio: np.ndarray) -> float:
    """RMS of the frames of 20 ms that are at most 30 dB below the loudest one."""
    frames = audio[:len(audio) // 320 * 320].reshape(-1, 320)
    power = (frames**2).mean(axis=1)
    return float(np.sqrt(power[power > power.max() / 1000].mean()))


def at(audio: np.ndarray, dbfs: float) -> np.ndarray:
    return audio * (10 ** (dbfs / 20) / max(level(audio), 1e-9))


class Noise:
    """White and pink noise, and recordings of noise, in turn."""

    def __init__(self, recordings: list[np.ndarray], random: np.random.Generator) -> None:
        self.random, self.turn = random, 0
        self.kinds = [self.white, self.pink] + [lambda count, audio=audio: self.excerpt(audio, count) for audio in recordings]

    def white(self, count: int) -> np.ndarray:
        return self.random.standard_normal(count).astype(np.float32)

    def pink(self, count: int) -> np.ndarray:
        spectrum = np.fft.rfft(self.white(count))
        return np.fft.irfft(spectrum / np.sqrt(np.arange(len(spectrum)) + 1), count).astype(np.float32)

    def excerpt(self, audio: np.ndarray, count: int) -> np.ndarray:
        first = self.random.integers(len(audio))
        return np.take(audio, np.arange(first, first + count), mode="wrap")

    def take(self, count: int, dbfs: float) -> np.ndarray:
        self.turn += 1
        noise = at(self.kinds[self.turn % len(self.kinds)](count), dbfs)
        ramp = np.linspace(0, 1, FADE, dtype=np.float32)
        noise[:FADE] *= ramp
        noise[-FADE:] *= ramp[::-1]
        return noise


def make(speech: list[tuple[np.ndarray, str]], noises: list[Path], seed: int = 1) -> tuple[np.ndarray, list[Utterance]]:
    random = np.random.default_rng(seed)
    noise = Noise([read(path) for path in noises], random)
    total = sum(len(audio) for audio, _ in speech)
    parts: list[tuple[str, int]] = [("speech", index) for index in range(len(speech))]
    for kind, share in (("digital", 2 / 3), ("room", 2 / 3), ("noise", 1.0)):
        left = int(total * share)
        while left > RATE // 10:
            count = min(left, int(random.integers(RATE, LONGEST_PART)))
            parts.append((kind, count))
            left -= count
    random.shuffle(parts)
    pieces, found, here = [], [], 0
    for kind, value in parts:
        dbfs = random.uniform(-40, -24)
        if kind == "speech":
            audio, text = speech[value]
            piece, noisy = at(audio, dbfs), bool(random.random() < 0.5)
            piece = piece + (noise.take(len(piece), dbfs - 10) if noisy else at(noise.white(len(piece)), -65))
            found.append(Utterance(here, here + len(piece), text, noisy))
        elif kind == "noise":
            piece = noise.take(value, dbfs - 5)
        elif kind == "room":
            piece = at(noise.white(value), -65)
        else:
            piece = np.zeros(value, np.float32)
        pieces.append(piece.astype(np.float32))
        here += len(piece)
    return np.concatenate(pieces).clip(-1, 1), found


def write(path: Path, audio: np.ndarray) -> np.ndarray:
    """Writes 16 bits; returns what a reader gets."""
    samples = np.round(audio * 32767).astype(np.int16)
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, RATE, 0, "NONE", ""))
        file.writeframes(samples.tobytes())
    return samples.astype(np.float32) / 32768
