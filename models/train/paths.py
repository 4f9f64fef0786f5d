"""Folders for the pipeline's data outside of version control: $BELLIS_DATA, or `data` in the repository's folder."""

import os
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("BELLIS_DATA", REPOSITORY / "data"))
PACKAGES = DATA / "packages"  # unpacked, one folder each
PREPARED = DATA / "prepared"  # 16 kHz audio and its index
TARGETS = DATA / "targets"  # units, frame by frame
RUNS = DATA / "runs"  # checkpoints

RATE = 16_000
HOP = 320  # samples between frames
