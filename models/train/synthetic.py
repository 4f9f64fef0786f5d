"""Prepares the synthesised speech of `synthesise`: its audio, and the exact phones of every frame.

    python -m models.train.synthetic [--shards FOLDER ...]

A shard is NNN.opus (or .flac) and NNN.jsonl, one utterance a line: start and end in samples, language, kind, voice, text, and
phones [phone, start, end]. Shards 000, 001 and 027 are spoken by the test voices.

prepared/synthetic.GROUP.npy, .json   as `prepare` writes them; GROUP is train or test
targets/synthetic.GROUP.phones.npy    u8, the phone that sounds in each frame, and the word boundary between words
targets/synthetic.GROUP.frames.npy    u8, the same without word boundaries: 0 in pauses; 255 where a short gap may be either
targets/synthetic.GROUP.exact         marks that these need no aligner
"""

import argparse
import json
from pathlib import Path

import numpy as np
import soundfile

from .inventory import BOUNDARY, VOCABULARY, timed
from .mixing import UNKNOWN
from .paths import DATA, HOP, PREPARED, RATE, TARGETS

SHARDS = DATA / "synthetic"
TEST_SHARDS = (0, 1, 27)
SHORT = 3  # frames: a gap between words that may be no pause


def labels(utterance, count):
    """(phones, frames) of an utterance, [count] each."""
    phones, frames = np.zeros(count, np.uint8), np.zeros(count, np.uint8)
    rows = timed([(phone, (a - utterance["start"]) / HOP, (b - utterance["start"]) / HOP) for phone, a, b in utterance["phones"]], utterance["language"])
    cell = lambda position: int(np.clip(np.ceil(position - 0.5), 0, count))  # frames whose middle lies after the position
    last = None
    for phone, start, end in rows:
        first, after = cell(start), max(cell(end), cell(start) + 1)
        if last is not None and first > last:
            phones[last:first] = VOCABULARY.index(BOUNDARY)
            if first - last <= SHORT:
                frames[last:first] = UNKNOWN
        phones[first:after] = frames[first:after] = VOCABULARY.index(phone)
        last = min(after, count)
    return phones, frames


def collect(folders, test):
    """(index, sound, phones, frames) of all shards of the folders."""
    index, sound, phones, frames, at = [], [], [], [], 0
    shards = {path.stem: path for folder in folders for path in sorted(Path(folder).glob("[0-9]*.jsonl"))}
    for name, path in sorted(shards.items()):
        if (int(name) in TEST_SHARDS) != test:
            continue
        audio, rate = soundfile.read(next(p for s in (".opus", ".flac") if (p := path.with_suffix(s)).exists()), dtype="int16")
        if rate != RATE:
            raise SystemExit(f"synthetic: {path}: the audio has {rate} Hz, expected {RATE}")
        for line in path.open(encoding="utf8"):
            one = json.loads(line)
            clip = audio[one["start"] : one["end"]]
            count = -(-len(clip) // HOP)
            sound.append(np.pad(clip, (0, count * HOP - len(clip))))
            rows = labels(one, count)
            phones.append(rows[0])
            frames.append(rows[1])
            index.append({"clip": f"{name}/{one['start']}", "package": "synthetic", "speaker": one["voice"], "language": one["language"], "kind": one["kind"], "text": one["text"], "start": at, "frames": count})
            at += count
    return index, *(np.concatenate(parts) if parts else np.zeros(0, kind) for parts, kind in ((sound, np.int16), (phones, np.uint8), (frames, np.uint8)))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", nargs="+", type=Path, default=[SHARDS], help="folders of shards (default: %(default)s)")
    arguments = parser.parse_args()
    PREPARED.mkdir(parents=True, exist_ok=True)
    TARGETS.mkdir(parents=True, exist_ok=True)
    for group in ("train", "test"):
        index, sound, phones, frames = collect(arguments.shards, group == "test")
        name = f"synthetic.{group}"
        np.save(PREPARED / f"{name}.npy", sound)
        np.save(TARGETS / f"{name}.phones.npy", phones)
        np.save(TARGETS / f"{name}.frames.npy", frames)
        (TARGETS / f"{name}.exact").touch()
        (PREPARED / f"{name}.json").write_text(json.dumps(index, ensure_ascii=False))
        voices = len({entry["speaker"] for entry in index})
        print(f"synthetic: {group}: {len(index)} utterances, {len(sound) / RATE / 3600:.2f} h, {voices} voices", flush=True)


if __name__ == "__main__":
    main()
