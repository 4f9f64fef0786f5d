"""Streams of held-out audio: speech in noise at exact SNRs, the device-like stream, phone-labelled speech.

    python -m models.evaluate.streams [--minutes M]

streams/NAME.wav        16 kHz
streams/NAME.json       {"segments": [{"condition", "kind", "snr", "clip", "first", "frames"}]} in frames of 320 samples; `kind` is that of the noise

`noisy`     the same clips of speech.test clean and with every kind of noise at 20, 10, 5, 0 and -5 dB
`device`    30 % speech (half of it in noise), 40 % silence and room tone, 30 % noise alone
`alone`     digital silence, room tone, and each kind of noise alone
`phones`    speech.probe, whose phones are labelled: the first half clean and noisy to train probes on, the second to test them
`letters`   the English alphabet by two speakers of speech.match, and syllables that two Mandarin speakers both say
Speech, voices of the babble and recorded noise are from packages that training never saw (models/train/packages.toml).
"""

import argparse
import json

import numpy as np
import soundfile

from models.train.mixing import coloured, scale_to
from models.train.paths import DATA, HOP, PREPARED, RATE

STREAMS = DATA / "streams"
SNRS = (20, 10, 5, 0, -5)
PAUSE = 20  # frames between clips
LEVEL = 10 ** (-26 / 20)  # RMS of every clip


class Pool:
    """Held-out speech and noise."""

    def __init__(self, seed):
        self.rng = np.random.default_rng(seed)
        self.groups = {}

    def group(self, name):
        if name not in self.groups:
            self.groups[name] = (np.load(PREPARED / f"{name}.npy", mmap_mode="r"), json.loads((PREPARED / f"{name}.json").read_text()))
        return self.groups[name]

    def clips(self, group, minutes, low=75, high=400):
        """[(name, samples)] of 1.5 to 8 s at one level, alternating speakers."""
        sound, index = self.group(group)
        by_speaker = {}
        for number in self.rng.permutation(len(index)):
            entry = index[number]
            if low <= entry["frames"] <= high:
                by_speaker.setdefault(entry["speaker"], []).append(entry)
        chosen, left = [], minutes * 60 * RATE / HOP
        while left > 0 and any(by_speaker.values()):
            for entries in by_speaker.values():
                if entries and left > 0:
                    entry = entries.pop()
                    left -= entry["frames"] + PAUSE
                    chosen.append((f"{entry['package']}/{entry['clip']}", self.cut(sound, entry["start"] * HOP, entry["frames"] * HOP)))
        return chosen

    @staticmethod
    def cut(sound, start, samples):
        audio = np.asarray(sound[start : start + samples], np.float32)
        return audio * LEVEL / (audio.std() + 1e-6)

    def of(self, package, part, samples, group="noise.test"):
        """Recordings of a noise package whose paths contain `part`, in random order."""
        sound, index = self.group(group)
        entries = [entry for entry in index if entry["package"] == package and part in entry["clip"]]
        pieces, length = [], 0
        while length < samples:
            entry = entries[self.rng.integers(len(entries))]
            pieces.append(self.cut(sound, entry["start"] * HOP, entry["frames"] * HOP))
            length += len(pieces[-1])
        return np.concatenate(pieces)[:samples]

    def babble(self, samples, voices=6):
        """Babble of voices of speech.match; longer than that group, it repeats."""
        sound, _ = self.group("speech.match")
        length = min(samples, len(sound) // 2)
        starts = self.rng.integers(len(sound) - length, size=voices)
        return np.resize(sum(self.cut(sound, start, length) for start in starts).astype(np.float32), samples)

    def noise(self, kind, samples):
        made = {
            "white": lambda: coloured(self.rng, samples, 0),
            "pink": lambda: coloured(self.rng, samples, 1),
            "babble": lambda: self.babble(samples),
            "public": lambda: self.of("phonlab", "data/noise", samples),
            "music": lambda: self.of("hedgewars-data", "/Music/", samples),
            "events": lambda: self.of("hedgewars-data", "/Sounds/", samples),
            "fillets": lambda: self.of("fillets-ng-data", "/music/", samples, "noise.fillets"),
        }[kind]()
        return made * LEVEL / (made.std() + 1e-9)

    def in_noise(self, audio, kind, snr):
        """A clip with noise `snr` dB below it."""
        return audio + scale_to(self.noise(kind, len(audio)), np.mean(audio**2), snr)


KINDS = ("white", "pink", "babble", "public", "music", "events")


def save(name, audio, segments, **more):
    """Writes a stream's audio and its index, which `more` is added to."""
    STREAMS.mkdir(parents=True, exist_ok=True)
    part = STREAMS / f"{name}.part.wav"  # a stream that is being replaced may be in use
    soundfile.write(part, np.clip(audio, -1, 1), RATE, subtype="PCM_16")
    part.rename(STREAMS / f"{name}.wav")
    (STREAMS / f"{name}.json").write_text(json.dumps(more | {"segments": segments}))
    print(f"streams: {name}: {len(audio) / RATE / 60:.1f} min, {len(segments)} segments", flush=True)


class Stream:
    """Pieces and their positions."""

    def __init__(self):
        self.pieces, self.segments, self.at = [], [], 0

    def add(self, audio, condition, kind="", snr=None, clip="", pause=PAUSE, **more):
        frames = -(-len(audio) // HOP)
        self.segments.append({"condition": condition, "kind": kind, "snr": snr, "clip": clip, "first": self.at, "frames": frames, **more})
        self.pieces.append(np.pad(audio, (0, (frames + pause) * HOP - len(audio))))
        self.at += frames + pause

    def write(self, name, **more):
        audio = np.concatenate(self.pieces)
        # Dither of half a bit, so that pauses resemble a device's and not digital silence.
        save(name, audio + np.random.default_rng(0).standard_normal(len(audio)).astype(np.float32) * 2e-5, self.segments, **more)


def noisy(pool, minutes):
    stream, clips = Stream(), pool.clips("speech.test", minutes)
    for clip, audio in clips:
        stream.add(audio, "clean", clip=clip)
    for kind in KINDS:
        for snr in SNRS:
            for clip, audio in clips:
                mixed = pool.in_noise(audio, kind, snr)
                stream.add(mixed / max(1, np.abs(mixed).max()), f"{kind} {snr}", kind, snr, clip)
    return stream


def room_tone(rng, samples):
    tone = coloured(rng, samples, rng.uniform(1, 2))
    return tone / tone.std() * 10 ** (rng.uniform(-75, -55) / 20)


def device(pool, clips, pause=0):
    """The clips, [(samples, fields of their segments)], and silence and noise in runs of 4 to 15 s, in random order, with `pause` frames in between."""
    stream, rng = Stream(), pool.rng
    speech = sum(len(audio) for audio, _ in clips)
    pauses = pause * HOP * (len(clips) + speech / RATE / 9.5)  # after clips and noise: silence, too
    runs = []
    for number, (audio, fields) in enumerate(clips):
        if number % 2:
            kind = KINDS[rng.integers(len(KINDS))]
            snr = int(rng.integers(0, 20))
            runs.append((pool.in_noise(audio, kind, snr), "speech", kind, snr, fields))
        else:
            runs.append((audio, "speech", "", None, fields))
    for condition, left in (("silence", speech * 0.4 / 0.3 - pauses), ("noise", speech)):
        while left > 0:
            samples = int(rng.uniform(4, 15) * RATE)
            left -= samples + (pause * HOP if condition == "silence" else 0)
            kind = KINDS[rng.integers(len(KINDS))] if condition == "noise" else ("digital", "room")[int(rng.random() < 0.8)]
            level = 10 ** (rng.uniform(-30, 6) / 20)
            sound = {"digital": lambda n: np.zeros(n, np.float32), "room": lambda n: room_tone(rng, n)}.get(kind, lambda n: pool.noise(kind, n) * level)(samples)
            runs.append((sound, condition, kind, None, {}))
    for number in rng.permutation(len(runs)):
        audio, condition, kind, snr, fields = runs[number]
        stream.add(audio / max(1, np.abs(audio).max()), condition, kind, snr, pause=pause, **fields)
    return stream


def alone(pool, seconds=60):
    stream = Stream()
    stream.add(np.zeros(seconds * RATE, np.float32), "silence", "digital")
    stream.add(room_tone(pool.rng, seconds * RATE), "silence", "room")
    for kind in KINDS:
        stream.add(pool.noise(kind, seconds * RATE), "noise", kind)
    return stream


def phones(pool, minutes):
    stream = Stream()
    sound, index = pool.group("speech.probe")
    half = len(index) // 2
    train, test = index[:half], index[half:]
    budget = minutes * 60 * RATE / HOP

    def add(entries, split, frames, noise):
        for number, entry in enumerate(entries):
            if frames <= 0:
                break
            frames -= entry["frames"]
            audio = pool.cut(sound, entry["start"] * HOP, entry["frames"] * HOP)
            kind, snr = noise(number)
            if kind:
                audio = pool.in_noise(audio, kind, snr)
            condition = f"{split} {kind} {snr}" if kind else f"{split} clean"
            stream.add(audio / max(1, np.abs(audio).max()), condition, kind, snr, entry["clip"])

    add(train, "train", budget, lambda _: ("", None))
    add(train, "train", budget / 2, lambda n: (KINDS[n % len(KINDS)], SNRS[n % len(SNRS)]))
    add(test, "test", budget / 2, lambda _: ("", None))
    for kind, snr in (("white", 10), ("babble", 10), ("public", 0), ("music", 0)):
        add(test, "test", budget / 8, lambda _, kind=kind, snr=snr: (kind, snr))
    return stream


SYLLABLES = 100
EDGE = 5  # frames of silence kept on both sides of a letter


def trimmed(audio):
    """Trims silence: frames 35 dB below the loudest at both ends."""
    level = 10 * np.log10((audio[: len(audio) // HOP * HOP].reshape(-1, HOP) ** 2).mean(1) + 1e-9)
    loud = np.flatnonzero(level > level.max() - 35)
    return audio[max(0, loud[0] - EDGE) * HOP : (loud[-1] + 1 + EDGE) * HOP]


def letters(pool):
    """Segments of condition LANGUAGE SPEAKER whose clip is the letter's or syllable's name."""
    stream, said = Stream(), {}
    sound, index = pool.group("speech.match")
    for entry in index:
        parts = entry["clip"].split("/")
        if entry["package"] == "klettres-data" and parts[-2] == "alpha" and parts[-3] in ("en", "en_GB"):
            said.setdefault(("english", parts[-3]), {})[parts[-1].split(".")[0].lower()] = entry
        elif entry["package"] == "gcin-voice":
            said.setdefault(("mandarin", parts[-1].split(".")[0]), {})[parts[-2]] = entry
    shared = {}
    for (language, _), clips in said.items():
        shared[language] = shared.get(language, set(clips)) & set(clips)
    chosen = sorted(shared["mandarin"])
    shared["mandarin"] = {chosen[i] for i in pool.rng.permutation(len(chosen))[:SYLLABLES]}
    for (language, speaker), clips in sorted(said.items()):
        for name in sorted(shared[language]):
            entry = clips[name]
            audio = trimmed(pool.cut(sound, entry["start"] * HOP, entry["frames"] * HOP))
            stream.add(audio / max(1, np.abs(audio).max()), f"{language} {speaker}", clip=name)
    return stream


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=2, help="minutes of speech per condition of `noisy`; `device` and `phones` have ten times as much")
    arguments = parser.parse_args()
    noisy(Pool(1), arguments.minutes).write("noisy")
    pool = Pool(2)
    device(pool, [(audio, {"clip": clip}) for clip, audio in pool.clips("speech.test", arguments.minutes * 3)]).write("device")
    alone(Pool(3)).write("alone")
    phones(Pool(4), arguments.minutes * 10).write("phones")
    letters(Pool(5)).write("letters")


if __name__ == "__main__":
    main()
