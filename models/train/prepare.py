"""Decodes all audio to 16 kHz mono and indexes the speakers.

    python -m models.train.prepare [--workers N] [--limit CLIPS] [--quick]

prepared/GROUP.npy      int16, all clips one after the other, each padded to whole frames of 320 samples
prepared/GROUP.json     [{clip, package, speaker, start, frames}] in frames
GROUP is speech.train, speech.test, speech.acted, speech.casts, speech.prompts, speech.probe, speech.match, noise.train, noise.test or noise.fillets.
"""

import argparse
import io
import itertools
import json
import multiprocessing
import subprocess

import numpy as np
import soundfile
from scipy.signal import resample_poly

from . import drascula, queen
from .fetch import listed, package_of
from .paths import HOP, PACKAGES, PREPARED, RATE

RAW = {".g722", ".gsm"}  # files without a header, for ffmpeg
SUFFIXES = {".wav", ".ogg", ".flac", ".mp3", ".oga", ".opus", *RAW}
LONGEST_SECONDS = 60  # music and long recordings are truncated
SPEECH_OF_OTHERS = ("voices",)  # folders of speech inside of noise packages


def decode(path, longest=LONGEST_SECONDS):
    """Mono f32 at 16 kHz, at most `longest` seconds, or None if the file is not audio."""
    try:
        if path.suffix in RAW:
            command = ["ffmpeg", "-v", "error", "-f", path.suffix[1:], "-i", path, "-f", "wav", "-"]
            audio, rate = soundfile.read(io.BytesIO(subprocess.run(command, capture_output=True, check=True).stdout), dtype="float32")
        else:
            audio, rate = soundfile.read(path, frames=int(longest * 48_000), dtype="float32")
    except (soundfile.LibsndfileError, subprocess.CalledProcessError):
        return None
    if audio.ndim > 1:
        audio = audio.mean(1)
    if rate != RATE:
        divisor = np.gcd(rate, RATE)
        audio = resample_poly(audio, RATE // divisor, rate // divisor).astype(np.float32)
    return audio[: longest * RATE]


def speaker(package, relative):
    """The speaker: the package, and the language or actor if its folders name them."""
    parts = relative.parts
    if package == "gcin-voice":  # SYLLABLE/SPEAKER.ogg
        return f"{package}/{relative.stem}"
    if package in ("klettres-data", "ktuberling-data"):
        return f"{package}/{parts[-3] if parts[-2] in ('alpha', 'syllab') else parts[-2]}"
    if package == queen.PACKAGE or package in drascula.PACKAGES_OF:
        return f"{package}/{parts[-2]}"
    if package == "tuxpaint-stamps-default":
        return f"{package}/{relative.stem.rsplit('_', 1)[-1] if '_' in relative.stem else 'en'}"
    return package


def work(task):
    package, path = task
    audio = decode(path)
    if audio is None or len(audio) < RATE // 5 or not np.isfinite(audio).all() or np.abs(audio).max() < 1e-3:
        return None
    frames = -(-len(audio) // HOP)
    padded = np.zeros(frames * HOP, np.int16)
    padded[: len(audio)] = np.clip(np.round(audio * 32767), -32768, 32767)
    relative = path.relative_to(PACKAGES / package)
    return {"clip": str(relative), "package": package, "speaker": speaker(package, relative)}, padded


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=multiprocessing.cpu_count())
    parser.add_argument("--limit", type=int, help="maximum number of clips per package, for a quick test")
    parser.add_argument("--quick", action="store_true", help="use packages.quick.toml")
    arguments = parser.parse_args()
    PREPARED.mkdir(parents=True, exist_ok=True)
    packages = listed(arguments.quick)
    for kind in ("speech", "noise"):
        for split, registries in packages[kind].items():
            group = f"{kind}.{split}"
            if (PREPARED / f"{group}.json").exists():
                continue
            tasks = []
            for name in itertools.chain(*registries.values()):
                package, folder = package_of(name), PACKAGES / name.split("==")[0]
                files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
                if kind == "noise":
                    files = [path for path in files if not any(part.lower() in SPEECH_OF_OTHERS for part in path.parts)]
                tasks += [(package, path) for path in files[: arguments.limit]]
            index, sound, at = [], [], 0
            with multiprocessing.Pool(arguments.workers) as pool:
                for done, clip in enumerate(pool.imap(work, tasks, chunksize=16)):
                    if clip:
                        entry, audio = clip
                        index.append({**entry, "start": at, "frames": len(audio) // HOP})
                        sound.append(audio)
                        at += len(audio) // HOP
                    if done % 500 == 0:
                        print(f"prepare: {group} {done}/{len(tasks)}", flush=True)
            np.save(PREPARED / f"{group}.npy", np.concatenate(sound) if sound else np.zeros(0, np.int16))
            (PREPARED / f"{group}.json").write_text(json.dumps(index))
            print(f"prepare: {group}: {len(index)} clips, {at * HOP / RATE / 3600:.2f} h", flush=True)


if __name__ == "__main__":
    main()
