"""Runs the whole training pipeline: fetch, synthesise, prepare, transcribe, voice, teach, train, label, train, heads, calibrate, export, the keyword
embedding and the reading of speech (models/keywords, which requires `cargo build --release`). The first training learns the phones of synthetic
speech, whose times are exact; then it aligns the recordings' texts, and the second one learns from both.

    python -m models.train full daisy-tiny [--minutes M] [--hours H] [--pack FOLDER]   days: a bundled pack
    python -m models.train quick [--pack FOLDER]                                       minutes: a test of the pipeline

Run again after an interruption, it skips the trainings that are complete and resumes the one that was interrupted.
"""

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

from .model import SHAPES
from .paths import DATA, REPOSITORY

ALIGNER = 0.3  # of the training time, before the recordings are aligned


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("preset", choices=["quick", "full"])
    parser.add_argument("name", choices=[name for name in SHAPES if name != "quick"], nargs="?", default="daisy-tiny")
    parser.add_argument("--minutes", type=float, default=180, help="minutes of training (default: %(default)s)")
    parser.add_argument("--hours", type=float, default=20, help="hours of synthetic speech (default: %(default)s)")
    parser.add_argument("--pack", type=Path, help="output folder of the pack (default: models/NAME)")
    arguments = parser.parse_args()
    quick = arguments.preset == "quick"
    name = "quick" if quick else arguments.name
    data = DATA / "quick" if quick else DATA
    run = data / "runs" / name
    pack = arguments.pack or (data / "packs" if quick else REPOSITORY / "models") / name
    only = ["--quick"] if quick else []
    training = lambda share: ["--steps", "10"] if quick else ["--minutes", str(arguments.minutes * share)]
    steps = [
        ["fetch", *only],
        *([] if quick else [["synthesise", "--hours", str(arguments.hours)], ["synthetic"]]),
        ["prepare", *only, *(["--limit", "30"] if quick else [])],
        ["transcribe"],
        ["voice"],
        ["teach"],
        ["train", name, *training(ALIGNER)],
        ["label", run / "final.pt", "--keep-units"],
        ["train", name, *training(1 - ALIGNER), "--resume", run / "final.pt"],
        ["first_head", run / "final.pt", *(["--batches", "2", "--steps", "20"] if quick else [])],
        ["heads", run / "final.pt", *(["--steps", "5", "--crops", "3"] if quick else [])],
        ["calibrate", run / "final.pt", *(["--crops", "24", "--steps", "50"] if quick else [])],
        ["export", run / "final.pt", pack, "--name", name],
        ["keywords.embedding", pack, *(["--minutes", "1"] if quick else [])],
        ["keywords.speech", pack],
    ]
    if quick:
        # A test: only downloads are reused.
        for made in ("prepared", "targets", "runs"):
            shutil.rmtree(data / made, ignore_errors=True)
    for number, (step, *flags) in enumerate(steps):
        text = " ".join(map(str, [step, *flags]))
        # Steps that would go on from their own result are done once; remove the folder to train again.
        done = run / "done" / f"{number}-{step}" if step in ("train", "label") else None
        if done and done.exists() and done.read_text() == text:
            print(f"train: {text} is done", flush=True)
            continue
        print(f"train: {text}", flush=True)
        command = [sys.executable, "-m", f"models.{step}" if "." in step else f"models.train.{step}", *map(str, flags)]
        if subprocess.run(command, cwd=REPOSITORY, env={**os.environ, "BELLIS_DATA": str(data)}).returncode:
            raise SystemExit(f"train: {step} failed; run the same command again to resume")
        if done:
            done.parent.mkdir(parents=True, exist_ok=True)
            done.write_text(text)
    print(f"train: wrote {pack}; `bellis inspect {pack}` shows it", flush=True)


if __name__ == "__main__":
    main()
