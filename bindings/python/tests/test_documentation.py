"""Every example of docs/python.md runs as it is printed there."""

import re
import subprocess
from pathlib import Path

import bellis
import numpy as np
import pytest
from test_bellis import ROOT, pulse, takes  # noqa: F401

MODELS_PYTHON = ROOT / ".venv/bin/python"

EXAMPLES = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs/python.md").read_text(), re.M | re.S)


def example(part):
    [found] = [one for one in EXAMPLES if part in one]
    return found


def test_no_example_is_left_out():
    for part in ["numpy.zeros", "torch", "microphone() as", "enroll("]:
        example(part)
    assert len(EXAMPLES) == 4


def test_the_first_example(capsys):
    exec(example("numpy.zeros"), {})
    assert re.fullmatch(r"(\d\.\d+ \d+ \(\d+, 192\)\n){3}", capsys.readouterr().out)


@pytest.mark.skipif(not MODELS_PYTHON.exists(), reason="scripts/test-models installs PyTorch and soundfile")
def test_features_for_pytorch(tmp_path):
    """In the environment of models/, with the installed package."""
    (tmp_path / "bellis").symlink_to(Path(bellis.__file__).parent)
    (tmp_path / "talk.wav").symlink_to(ROOT / "models/sample.wav")
    program = example("torch") + "print(features.dtype, *features.shape)"
    environment = {"PYTHONPATH": str(tmp_path), "PATH": "/usr/bin:/bin"}
    command = [MODELS_PYTHON, "-c", program]
    out = subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True, text=True).stdout
    kind, frames, dim = out.split()
    assert kind == "torch.float32" and int(frames) > 300 and dim == "192"


def test_the_microphone(pulse):
    class Enough(Exception):
        pass

    lines = []

    def show(line):
        lines.append(line)
        if len(lines) == 3:
            raise Enough

    with pytest.raises(Enough):
        exec(example("microphone() as"), {"print": show})
    assert all(re.fullmatch(r" +\d\.\d\d s  ▇*", line) for line in lines), lines


def test_keywords(tmp_path, monkeypatch, capsys, takes):
    monkeypatch.chdir(tmp_path)
    first, second, third = takes
    # The recordings once more, with silence after each, at the spotter's rate.
    audio = np.concatenate([np.concatenate([one, np.zeros(16000, "<i2")]) for one in takes])
    heard = np.interp(np.arange(3 * len(audio)) / 3, np.arange(len(audio)), audio).astype("<i2")
    exec(example("enroll("), {"bellis": bellis, "first": first, "second": second, "third": third, "samples": heard})
    assert capsys.readouterr().out.count("door ") >= 2
    assert sorted(path.name for path in (tmp_path / "keywords").iterdir()) == ["door.keyword.toml", "lamp.keyword.toml"]
