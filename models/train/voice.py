"""Voice activity: the probability of a pretrained detector on the clean audio.

    python -m models.train.voice

The detector is Silero VAD (MIT), 32 ms at a time; many clips run side by side.

targets/GROUP.voice.npy   f16, probability of speech in each frame of prepared/GROUP; 0 between clips
"""

import argparse
import json

import numpy as np
import onnxruntime
from scipy.ndimage import maximum_filter1d

from .paths import HOP, PACKAGES, PREPARED, RATE, TARGETS

WINDOW, CONTEXT = 512, 64  # samples of the detector's step, and of the previous step
TOGETHER = 256  # clips per batch
QUIET, REACH, BELOW = 0.2, 3, 20  # silence: probability, surrounding frames it must hold for, dB below the clip's loud frames


def speech_groups():
    """The prepared groups of speech that have targets."""
    return [group for group in ("speech.train", "synthetic.train", "speech.calibrate", "speech.probe", "speech.test") if (PREPARED / f"{group}.json").exists()]


def detect(session, sounds):
    """Probability of each window, [clips, windows], of clips of different lengths."""
    windows = -(-max(map(len, sounds)) // WINDOW)
    audio = np.zeros((len(sounds), CONTEXT + windows * WINDOW), np.float32)
    for row, sound in zip(audio, sounds):
        row[CONTEXT : CONTEXT + len(sound)] = sound / 32768.0
    state, found = np.zeros((2, len(sounds), 128), np.float32), []
    for start in range(0, windows * WINDOW, WINDOW):
        probability, state = session.run(None, {"input": audio[:, start : start + CONTEXT + WINDOW], "state": state, "sr": np.array(RATE)})
        found.append(probability[:, 0])
    return np.stack(found, 1)


def quiet(group):
    """Silent frames of prepared/GROUP: no speech is detected within 60 ms, and the frame is far below the clip's level."""
    voice = np.load(TARGETS / f"{group}.voice.npy").astype(np.float32)
    sound = np.load(PREPARED / f"{group}.npy", mmap_mode="r")
    silent = maximum_filter1d(voice, 2 * REACH + 1) < QUIET
    for clip in json.loads((PREPARED / f"{group}.json").read_text()):
        frames = slice(clip["start"], clip["start"] + clip["frames"])
        rows = sound[frames.start * HOP : frames.stop * HOP].reshape(-1, HOP).astype(np.float32)
        level = 10 * np.log10((rows**2).mean(1) + 1e-3)
        silent[frames] &= level < np.percentile(level, 95) - BELOW
    return silent


def main():
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    TARGETS.mkdir(parents=True, exist_ok=True)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(next((PACKAGES / "silero-vad").rglob("silero_vad_16k_op15.onnx"))), options)
    for group in speech_groups():
        path = TARGETS / f"{group}.voice.npy"
        if path.exists():
            continue
        index = json.loads((PREPARED / f"{group}.json").read_text())
        sound = np.load(PREPARED / f"{group}.npy", mmap_mode="r")
        voice = np.zeros(len(sound) // HOP, np.float16)
        order = sorted(range(len(index)), key=lambda clip: index[clip]["frames"])
        for first in range(0, len(order), TOGETHER):
            clips = [index[clip] for clip in order[first : first + TOGETHER]]
            found = detect(session, [sound[clip["start"] * HOP : (clip["start"] + clip["frames"]) * HOP] for clip in clips])
            for clip, windows in zip(clips, found):
                middles = (np.arange(clip["frames"]) * HOP + HOP // 2) // WINDOW
                voice[clip["start"] : clip["start"] + clip["frames"]] = windows[middles]
        np.save(path, voice)
        print(f"voice: {group}: speech in {(voice > 0.5).mean():.0%} of {len(voice) * HOP / RATE / 3600:.2f} h", flush=True)


if __name__ == "__main__":
    main()
