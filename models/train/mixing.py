"""Device-like crops of speech: noise of all kinds at random SNRs, rooms, gains, silence, and noise alone."""

import json

import numpy as np
from scipy import fft

from .model import LEAD, RECEPTIVE_FIELD
from .paths import HOP, PREPARED, RATE, TARGETS

NONE = 65535
SPEECH_SHARE, NOISE_SHARE = 0.82, 0.12  # of the training crops; the rest is silence
QUIET = 0  # the unit for silence


def coloured(rng, samples, slope):
    """Noise whose power falls with frequency^slope: 0 white, 1 pink, 2 brown."""
    size = fft.next_fast_len(samples, real=True)
    spectrum = fft.rfft(rng.standard_normal(size, np.float32))
    spectrum[1:] /= np.arange(1, len(spectrum), dtype=np.float32) ** (slope / 2)
    spectrum[0] = 0
    return fft.irfft(spectrum, size)[:samples]


def room(rng, audio):
    """Adds reverberation: exponentially decaying noise after the direct path, with reverberation times of 0.1 to 0.5 s."""
    time = rng.uniform(0.1, 0.5)
    length = int(time * RATE)
    decay = np.exp(np.linspace(0, -6.9, length, dtype=np.float32))
    response = rng.standard_normal(length, np.float32) * decay * np.float32(rng.uniform(0.01, 0.06))
    response[0] = 1
    size = fft.next_fast_len(len(audio) + length, real=True)
    return fft.irfft(fft.rfft(audio, size) * fft.rfft(response, size), size)[: len(audio)]


def scale_to(noise, speech_power, snr):
    """Scales `noise` to a ratio of `snr` dB between speech_power and its power."""
    power = np.mean(noise**2) + 1e-12
    return noise * np.sqrt(speech_power / power / 10 ** (snr / 10))


class Crops:
    """Random crops of `frames` frames of a speech group, with their units and phones."""

    def __init__(self, frames, speech="speech.train", noise="noise.train", seed=0):
        self.frames, self.rng = frames, np.random.default_rng(seed)
        self.samples = (frames - 1) * HOP + RECEPTIVE_FIELD
        self.speech = np.load(PREPARED / f"{speech}.npy", mmap_mode="r")
        self.units = np.load(TARGETS / f"{speech}.units.npy").astype(np.int64)
        self.phones = np.load(TARGETS / f"{speech}.phones.npy")
        self.noise = np.load(PREPARED / f"{noise}.npy", mmap_mode="r")
        self.index = json.loads((PREPARED / f"{speech}.json").read_text())
        self.last = len(self.speech) // HOP - frames - 8

    def at(self, sound, start):
        return np.asarray(sound[start : start + self.samples], np.float32) / 32768

    def any_of(self, sound):
        return self.at(sound, self.rng.integers(len(sound) - self.samples))

    def noise_crop(self):
        """(kind, samples)."""
        kind = self.rng.choice(["recorded", "babble", "coloured"], p=[0.45, 0.3, 0.25])
        if kind == "recorded":
            return self.any_of(self.noise)
        if kind == "babble":
            voices = [self.any_of(self.speech) for _ in range(self.rng.integers(2, 7))]
            return sum(voice / (voice.std() + 1e-4) for voice in voices).astype(np.float32)
        return coloured(self.rng, self.samples, self.rng.uniform(0, 2))

    def crop(self):
        """Device-like speech: samples f32, units (NONE if unknown), phones (0 between them)."""
        rng = self.rng
        first = int(rng.integers(2, self.last))
        units, phones = (targets[first : first + self.frames].copy() for targets in (self.units, self.phones))
        audio = self.at(self.speech, first * HOP - LEAD)
        power = np.mean(audio**2) + 1e-9
        if rng.random() < 0.25:
            audio = room(rng, audio)
        if rng.random() < 0.3:  # a pause, sometimes as long as the crop
            length = int(rng.uniform(0.2, 1.2) * self.frames)
            begin = int(rng.integers(-length // 2, self.frames - 1))
            low, high = max(0, begin), min(self.frames, begin + length)
            audio[low * HOP : high * HOP] = 0
            units[low:high], phones[low:high] = QUIET, 0
        if rng.random() < 0.75:
            audio = audio + scale_to(self.noise_crop(), power, rng.uniform(-5, 25))
        audio = audio * 10 ** (rng.uniform(-25, 3) / 20)
        audio = audio + rng.standard_normal(self.samples, np.float32) * np.float32(10 ** rng.uniform(-6, -3.3))
        return np.clip(audio, -1, 1).astype(np.float32), units, phones

    def silent(self):
        """Digital silence or room tone."""
        if self.rng.random() < 0.2:
            return np.zeros(self.samples, np.float32)
        tone = coloured(self.rng, self.samples, self.rng.uniform(0, 2))
        return tone / tone.std() * np.float32(10 ** (self.rng.uniform(-90, -50) / 20))

    def noise_alone(self):
        """Noise at any level, without speech."""
        noise = self.noise_crop()
        return noise / (np.abs(noise).max() + 1e-6) * np.float32(10 ** (self.rng.uniform(-40, -3) / 20))

    def device(self):
        """A device-like crop: speech in noise, noise alone, silence."""
        draw = self.rng.random()
        return self.crop()[0] if draw < 0.7 else self.noise_alone() if draw < 0.9 else self.silent()

    def lesson(self):
        """A training crop: mostly speech, sometimes none."""
        draw = self.rng.random()
        if draw < SPEECH_SHARE:
            return self.crop()
        audio = self.noise_alone() if draw < SPEECH_SHARE + NOISE_SHARE else self.silent()
        return audio.astype(np.float32), np.full(self.frames, QUIET), np.zeros(self.frames, np.uint8)

    def batch(self, size):
        """`size` training crops: samples, units, phones."""
        return tuple(np.stack(column) for column in zip(*(self.lesson() for _ in range(size))))
