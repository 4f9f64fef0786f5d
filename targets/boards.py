"""Shared code of the Python scripts: board files, and the path of the emulated program."""

import os
import pathlib
import shlex
import shutil

HERE = pathlib.Path(__file__).resolve().parent
REPOSITORY = HERE.parent
# Versions of LLVM: the first with the models that targets/mca uses, and one that does not exist yet.
OLDEST_LLVM, NEWEST_LLVM = 17, 30


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


def llvm(name):
    """The newest installed version of one of LLVM's programs."""
    for version in range(NEWEST_LLVM, OLDEST_LLVM - 1, -1):
        if path := shutil.which(f"{name}-{version}"):
            return path
    raise SystemExit(f"{name} of LLVM {OLDEST_LLVM} or newer not found; install it with `apt install llvm-19`")
