"""Shared code of the Python scripts: board files, and the path of the emulated program."""

import os
import pathlib
import shlex

HERE = pathlib.Path(__file__).resolve().parent
REPOSITORY = HERE.parent


def read(name):
    """A board's settings, parsed as by a shell."""
    lines = shlex.split((HERE / name / "board").read_text(), comments=True)
    settings = dict(line.split("=", 1) for line in lines)
    settings.setdefault("EMULATED", settings["CPU"])
    return settings


def names():
    return sorted(path.parent.name for path in HERE.glob("*/board"))


def program(triple, profile):
    """The cross-compiled program."""
    folder = pathlib.Path(os.environ.get("CROSS_TARGET_DIR", REPOSITORY / "target/cross"))
    path = folder / triple / profile / "bellis"
    if not path.is_file():
        raise SystemExit(f"{path} does not exist; build it with targets/build pi-4 --profile {profile}")
    return path
