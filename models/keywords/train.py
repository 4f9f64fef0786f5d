"""Trains a detector of one word, for words with many examples, and enrolls it:

    python -m models.keywords.train lamp --from takes/ --background radio/      ten recordings of the word or more; hours of speech without it

Without hours of other speech in many voices, `bellis enroll` with the recordings themselves is better (docs/keywords.md has the figures).

Each recording is heard in a dozen ways: faster and slower, louder and softer, between other speech and in silence, in babble of 0 to 20 dB. A
stream through the program gives what it makes of them, so that the detector learns from what it will read: the matching
vector of each frame (src/keyword/template.rs), whatever the exit. It is two convolutions over a window a little longer than the word. What it takes for the word in speech
without it is what it learns most from; it hears that speech in noise, and higher and lower, too. The last third of that speech is not learnt from: the threshold is set on it.
"""

import argparse
import io
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

import numpy as np
import soundfile
import torch
from scipy.signal import resample, resample_poly

from ..train.export import Graph, numpy
from ..train.paths import RATE, REPOSITORY
from ..train.prepare import decode

sys.path.insert(0, str(REPOSITORY / "examples"))
from read_stream import messages  # noqa: E402

BUNDLED = REPOSITORY / "models/keywords/background"
SOUNDS = {".wav", ".flac", ".ogg", ".mp3"}
HOP = 320
VARIANTS = 12
TEMPO = 0.12
AROUND = 0.8  # seconds of something else before and after a word
VOICES = (6, 5), (5, 6)  # what other speech is resampled by: a sixth lower and a fifth higher, other voices
LATE = 6  # frames after the word's end in which the detector says so
EVERY = 4  # frames from one window of other speech to the next
CHANNELS, KERNEL, STRIDE = 32, 5, 2
STEPS, BATCH, POSITIVE = 900, 192, 0.25
LEAST = 5
CALM = 3  # what logits are divided by, so that scores near 1 still tell apart what is sure
LONGEST = 4 * 3600  # seconds of one file of other speech


def sounds(paths):
    return [file for path in paths for file in (sorted(p for p in path.rglob("*") if p.suffix in SOUNDS) if path.is_dir() else [path])]


def rms(audio):
    return np.sqrt(np.mean(np.square(audio, dtype=np.float64)) + 1e-12)


class Program:
    """What `bellis` makes of sound."""

    def __init__(self, path, pack):
        self.path, self.pack = path, ["--pack", str(pack)]

    def enroll(self, name, folder, *arguments):
        return subprocess.run([self.path, "enroll", name, "--folder", folder, "--replace", *self.pack, *arguments], capture_output=True, text=True)

    def chunks(self, names, audio, *arguments):
        """Each chunk's layer and its arrays `names`, [frames, numbers], with the pack's policy where `arguments` say none."""
        pcm = (np.clip(audio / max(1.0, np.abs(audio).max()), -1, 1) * 32767).astype("<i2").tobytes()
        command = [self.path, "run", "-", "--rate", str(RATE), "--format", "s16le", "--quiet", *self.pack, *arguments]
        done = subprocess.run([*command, "--consumer", "stream:-", "--arrays", ",".join(names)], input=pcm, capture_output=True)
        if done.returncode:
            raise SystemExit(done.stderr.decode())
        return [(header["layer"], [arrays[name] for name in names]) for header, arrays in messages(io.BytesIO(done.stdout)) if header["type"] == "chunk"]

    def features(self, audio):
        """[frames, width]: what keywords are matched in, of length 1 (src/keyword/template.rs), in half precision."""
        vectors = np.concatenate([vectors for _, (vectors,) in self.chunks(["embedding"], audio)])
        return (vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)).astype(np.float16)


def words(program, files, folder):
    """The word in each recording, cut out: [samples]. `bellis enroll` finds it, and says what is unfit."""
    cut = []
    for file in files:
        audio = decode(file)
        take = folder / "take.wav"
        soundfile.write(take, audio, RATE)
        done = program.enroll("take", folder, "--threshold", "0.8", "--from", take)
        if done.returncode:
            print(f"left out: {file}: {done.stderr.strip().split('take.wav: ')[-1]}")
            continue
        example = tomllib.loads((folder / "take.keyword.toml").read_text())["example"][0]
        first = int(example["start"] * RATE)
        cut.append(audio[first : first + int(example["seconds"] * RATE)])
    return cut


class Mixer:
    """Other speech, and babble of it."""

    def __init__(self, background, random):
        self.background, self.random = background, random

    def piece(self, count):
        at = self.random.integers(0, max(1, len(self.background) - count))
        return self.background[at : at + count]

    def babble(self, count):
        return sum(np.resize(self.piece(count), count) for _ in range(6))

    def noisy(self, audio):
        if self.random.random() < 0.35:
            return audio
        noise = self.babble(len(audio))
        return audio + noise * rms(audio) / rms(noise) * 10 ** (-self.random.uniform(0, 20) / 20)

    def scene(self, word):
        """The word between other speech or silence: samples, and where it ends."""
        word = resample(word, int(len(word) * self.random.uniform(1 - TEMPO, 1 + TEMPO))).astype(np.float32)
        word = word * self.random.uniform(0.03, 0.15) / rms(word)
        around = int(AROUND * RATE)
        sides = [self.piece(around) if self.random.random() < 0.5 else np.zeros(around, np.float32) for _ in range(2)]
        sides = [side * self.random.uniform(0.5, 1.2) * (rms(word) / max(rms(side), 1e-4)) for side in sides]
        scene = np.concatenate([sides[0], word, sides[1]]).astype(np.float32)
        return self.noisy(scene), around + len(word)


class Detector(torch.nn.Module):
    """[batch, window, units] to logits [batch]."""

    def __init__(self, units):
        super().__init__()
        self.embed = torch.nn.Linear(units, CHANNELS)
        self.first = torch.nn.Conv1d(CHANNELS, CHANNELS, KERNEL, STRIDE)
        self.second = torch.nn.Conv1d(CHANNELS, CHANNELS, KERNEL, STRIDE)
        self.out = None

    def features(self, x):
        x = torch.relu(self.embed(x)).transpose(1, 2)
        return torch.relu(self.second(torch.relu(self.first(x)))).flatten(1)

    def fit_to(self, window):
        with torch.no_grad():
            width = self.features(torch.zeros(1, window, self.embed.in_features)).shape[1]
        self.out = torch.nn.Linear(width, 1)
        return self

    def forward(self, x):
        return self.out(torch.nn.functional.dropout(self.features(x), 0.3, self.training))[:, 0]

    def write(self, path, window):
        graph = Graph(half=True)
        x = graph.op("Relu", graph.linear("frames", self.embed))
        x = graph.op("Transpose", x, perm=[0, 2, 1])
        for conv in (self.first, self.second):
            weights = graph.weight(numpy(conv.weight)), graph.weight(numpy(conv.bias))
            x = graph.op("Relu", graph.op("Conv", x, *weights, strides=[STRIDE]))
        x = graph.linear(graph.op("Flatten", x, axis=1), self.out)
        x = graph.op("Mul", x, graph.weight(np.float32([1 / CALM])))
        graph.op("Reshape", x, graph.weight(np.int64([1])), out="logit")
        graph.write(path, [("frames", [1, window, self.embed.in_features])], [("logit", [1])])


def windows(frames, ends, window):
    """The windows that end with frames number `ends`: [count, window, units]."""
    return torch.from_numpy(np.stack([frames[end - window : end] for end in ends]).astype(np.float32))


def learn(scenes, ends, other, window, random):
    """Logistic regression of windows that end with the word against all others, the likest of which come most often."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = Detector(other.shape[1]).fit_to(window)
    optimiser = torch.optim.AdamW(model.parameters(), 2e-3, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 4e-3, STEPS)
    scenes = np.concatenate([np.zeros((window, scenes.shape[1]), np.float16), scenes])
    ends = [end + window for end in ends]
    yes = np.array([end + late for end in ends for late in range(LATE + 1) if end + late <= len(scenes)])
    taken = set(end + late for end in ends for late in range(-8, LATE + 12))
    near = np.array([end for end in range(window, len(scenes), 3) if end not in taken])
    all_other = np.arange(window, len(other), EVERY)
    hard = random.choice(all_other, 64)
    for step in range(STEPS):
        if step and step % (STEPS // 6) == 0:
            model.eval()
            with torch.no_grad():
                scores = np.concatenate([model(windows(other, all_other[at : at + 512], window)).numpy() for at in range(0, len(all_other), 512)])
            hard = all_other[np.argsort(-scores)[: max(64, len(all_other) // 50)]]
            model.train()
            print(f"step {step} of {STEPS}: {np.mean(scores > 0):.3%} of other windows taken for the word")
        count = int(POSITIVE * BATCH)
        rest = BATCH - count
        picks = [(scenes, random.choice(yes, count)), (scenes, random.choice(near, rest // 4)), (other, random.choice(all_other, rest // 4)), (other, random.choice(hard, rest // 2))]
        x = torch.cat([windows(frames, picked, window) for frames, picked in picks])
        y = torch.zeros(len(x))
        y[:count] = 1
        loss = torch.nn.functional.binary_cross_entropy_with_logits(model(x), y)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return model.eval()


def split(heard):
    """Two thirds of each recording to learn from, and the last third."""
    cuts = [2 * len(audio) // 3 for audio in heard]
    return np.concatenate([audio[:cut] for audio, cut in zip(heard, cuts)]), np.concatenate([audio[cut:] for audio, cut in zip(heard, cuts)])


class Other:
    """Speech without the word: samples, and what the program makes of it as it is, in noise, lower and higher."""

    def __init__(self, program, audio):
        print(f"{len(audio) / RATE / 60:.0f} minutes of other speech are heard in four ways, which takes about a fifteenth of their time")
        mixer, minute = Mixer(audio, np.random.default_rng(0)), 60 * RATE
        loud = np.concatenate([mixer.noisy(audio[start : start + minute]) for start in range(0, len(audio), minute)])
        voices = [resample_poly(audio, *ratio).astype(np.float32) for ratio in VOICES]
        self.audio = audio
        self.frames = np.concatenate([program.features(way) for way in (audio, loud, *voices)])


def train(program, takes, other, path, seed=0):
    """Writes the detector of `takes` [samples] against `other` speech; its window in frames."""
    random = np.random.default_rng(seed)
    mixer = Mixer(other.audio, random)
    parts, ends, at = [], [], 0
    for take in takes:
        for _ in range(VARIANTS):
            scene, end = mixer.scene(take)
            parts.append(scene)
            ends.append(round((at + end) / HOP))
            at += len(scene)
    longest = max(len(take) for take in takes) / HOP
    window = int(np.clip(longest * (1 + TEMPO) + 8, 24, 200))
    scenes = program.features(np.concatenate(parts))
    print(f"{len(ends)} scenes of {len(takes)} recordings, {len(other.audio) / RATE / 60:.0f} minutes of other speech, window {window / 50:.2f} s")
    model = learn(scenes, ends, other.frames, window, random)
    model.write(path, window)
    return window


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name")
    parser.add_argument("--from", dest="takes", nargs="+", type=Path, required=True, help="recordings of the word: files or folders")
    parser.add_argument("--background", nargs="+", type=Path, default=[BUNDLED], help="speech without it; bundled recordings without")
    parser.add_argument("--pack", default="daisy-tiny")
    parser.add_argument("--folder", type=Path, help="where keywords are kept; the program's own without")
    parser.add_argument("--program", default=REPOSITORY / "target/release/bellis", type=Path)
    arguments = parser.parse_args()
    if arguments.background == [BUNDLED]:
        print("the bundled background is short: name hours of speech in many voices with --background, or enroll recordings (docs/keywords.md has the figures)")
    program = Program(arguments.program, arguments.pack)
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        takes = words(program, sounds(arguments.takes), folder)
        if len(takes) < LEAST:
            raise SystemExit(f"{len(takes)} recordings are fit; {LEAST} are the least, and ten or more are better. With fewer: bellis enroll {arguments.name} --from …")
        heard = [decode(file, LONGEST) for file in sounds(arguments.background)]
        if sum(map(len, heard)) < 120 * RATE:
            raise SystemExit("less than two minutes of background: name more with --background")
        learnt, held_out = split(heard)
        graph, held = folder / "detector.onnx", folder / "held-out.wav"
        train(program, takes, Other(program, learnt), graph)
        soundfile.write(held, held_out, RATE)
        own = ["--folder", arguments.folder] if arguments.folder else []
        command = [arguments.program, "enroll", arguments.name, "--replace", "--pack", arguments.pack, *own, "--detector", graph, "--background", held]
        raise SystemExit(subprocess.run(command).returncode)


if __name__ == "__main__":
    main()
