"""Exit heads of converted packs, their calibration, and the command line."""

import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from models.convert import heads, tiny, units  # noqa: E402
from models.convert.reference import WindowedPack, entropy, golden  # noqa: E402

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "data"


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    """More than half a minute of tones that change every 80 ms, which give learnable units."""
    import soundfile

    folder, random = tmp_path_factory.mktemp("recordings"), np.random.default_rng(3)
    for number in range(6):
        tone = np.repeat(random.choice([200, 500, 1200, 3000], 100), 1280)
        loud = np.repeat(random.uniform(0.05, 0.3, 100), 1280)
        sound = loud * np.sin(2 * np.pi * np.cumsum(tone) / 16000) + random.normal(0, 0.01, len(tone))
        soundfile.write(folder / f"{number}.wav", sound.astype(np.float32), 16000)
    return folder


def convert(*arguments):
    return subprocess.run([sys.executable, "-m", "models.convert", *map(str, arguments)], cwd=ROOT, capture_output=True, text=True)


def test_a_checkpoint_becomes_a_pack_with_calibrated_heads(recordings, tmp_path):
    tiny.save("hubert-base", tmp_path / "checkpoint")
    ran = convert(tmp_path / "checkpoint", tmp_path / "pack", "--heads-audio", recordings, "--units", 8, "--minutes", 0.8, "--norm", "folded", "--f16")
    assert ran.returncode == 0, ran.stderr
    manifest = tomllib.loads((tmp_path / "pack" / "pack.toml").read_text())
    assert manifest["encoder"]["units"] == 8 and manifest["exit"]["policy"] == "calibrated"
    assert manifest["provenance"]["licence"] == "cc0-1.0" and manifest["provenance"]["data"] == "none (random weights)"
    targets = manifest["exit"]["calibrated"]["targets"]
    assert [target["agreement"] for target in targets] == [0.9, 0.95, 0.98]
    assert all(len(target["thresholds"]) == manifest["encoder"]["layers"] - 1 for target in targets)
    right = [float(line.split()[2]) for line in ran.stdout.splitlines() if line.startswith("head ")]
    assert len(right) == 3 and right[-1] > 0.7, ran.stdout


def test_branches_of_a_checkpoint_are_imported(tmp_path):
    from safetensors.numpy import save_file

    tiny.save("distilhubert", tmp_path / "checkpoint")
    random = np.random.default_rng(0)
    branches = {f"exits.{k}.{part}": random.normal(size=shape).astype("f4") for k in range(2) for part, shape in (("weight", (11, 32)), ("bias", 11))}
    save_file(branches, tmp_path / "branches.safetensors")
    ran = convert(tmp_path / "checkpoint", tmp_path / "pack", "--branches", "exits.{k0}", "--branches-file", tmp_path / "branches.safetensors")
    assert ran.returncode == 0, ran.stderr
    pack, f = WindowedPack(tmp_path / "pack"), random.normal(size=(1, 3, 32)).astype("f4")
    for k, head in enumerate(pack.heads):
        assert np.allclose(head.run(None, {"f": f})[0], f @ branches[f"exits.{k}.weight"].T + branches[f"exits.{k}.bias"], atol=1e-5)


def test_a_pack_can_be_verified_against_transformers(recordings, tmp_path):
    tiny.save("wav2vec2-large", tmp_path / "checkpoint")
    assert convert(tmp_path / "checkpoint", tmp_path / "pack").returncode == 0
    command = [sys.executable, "-m", "models.convert.verify", tmp_path / "checkpoint", tmp_path / "pack", recordings / "0.wav"]
    ran = subprocess.run(list(map(str, command)), cwd=ROOT, capture_output=True, text=True)
    deviations = [float(line.split(": ")[1].split()[0]) for line in ran.stdout.splitlines() if "at most" in line]
    assert len(deviations) == 4 and max(deviations) < 1e-4, ran.stdout + ran.stderr


def test_errors_state_the_remedy(tmp_path):
    tiny.save("hubert-base", tmp_path / "checkpoint")
    (tmp_path / "checkpoint" / "README.md").unlink()
    assert "--licence" in convert(tmp_path / "checkpoint", tmp_path / "pack").stderr
    assert "--norm-audio" in convert(tmp_path / "checkpoint", tmp_path / "pack", "--licence", "MIT", "--norm", "folded").stderr
    assert "1 to 128 frames" in convert(tmp_path / "checkpoint", tmp_path / "pack", "--chunk-frames", 0).stderr
    assert "config.json" in convert(tmp_path, tmp_path / "pack").stderr
    assert "not empty" in convert(tmp_path / "checkpoint", tmp_path / "checkpoint").stderr


def test_huberts_predictor_gives_the_same_result_as_a_head_and_in_numpy(tmp_path):
    import onnxruntime
    import torch

    random = np.random.default_rng(0)
    weights = {"final_proj.weight": random.normal(size=(6, 32)), "final_proj.bias": random.normal(size=6), "label_embs_concat": random.normal(size=(9, 6))}
    own, states = units.predictor({name: value.astype("f4") for name, value in weights.items()}), random.normal(size=(5, 32)).astype("f4")
    own.save(tmp_path / "head.onnx", 32)
    logits = onnxruntime.InferenceSession(tmp_path / "head.onnx").run(None, {"f": states[None]})[0][0]
    projected = torch.tensor(states @ own.weight.T + own.bias)
    wanted = torch.cosine_similarity(projected[:, None], torch.tensor(weights["label_embs_concat"], dtype=torch.float)[None], dim=-1) / 0.1
    assert np.allclose(logits, wanted, atol=1e-4) and np.allclose(own.logits(states), wanted, atol=1e-4)
    assert units.predictor({}) is None


def test_a_head_learns_a_linear_classification():
    random = np.random.default_rng(0)
    x = random.normal(size=(4000, 10)) * np.logspace(-2, 2, 10) + 5
    labels = (((x - 5) / np.logspace(-2, 2, 10)) @ random.normal(size=(10, 4))).argmax(1)
    head = heads.train(x[:3000], labels[:3000], 4, seed=0, epochs=40, batch=64)
    assert (head.logits(x[3000:]).argmax(1) == labels[3000:]).mean() > 0.95


def test_calibration_holds_for_the_survivors_of_each_layer():
    random = np.random.default_rng(1)
    agreement = np.vstack([np.sort(random.uniform(0.5, 1, 400))[::-1], random.uniform(0.6, 1, 400), np.ones(400)])
    entropies = 2 * (1 - agreement) + random.normal(0, 0.02, agreement.shape)
    frames = np.full(400, 16)
    for target in heads.AGREEMENTS:
        thresholds = heads.calibrate(entropies, agreement, frames, target)
        kept, depth = heads.cascade(entropies, agreement, frames, thresholds)
        assert kept >= target - 1e-3 and 1 <= depth < 3
    # If no chunk agrees, none exits before the last layer.
    assert heads.calibrate(entropies, agreement * 0.5, frames, 0.95) == [-1.0, -1.0]


def test_entropy_is_that_of_the_distribution():
    assert entropy(np.zeros((2, 8))) == pytest.approx(np.log(8))
    assert entropy(np.array([[1000.0, 0.0]])) == pytest.approx(0)


@pytest.mark.parametrize("name", ["windowed-base", "windowed-large", "windowed-wavlm"])
def test_golden_files_match_their_packs(name):
    kept = np.load(GOLDEN / name / "golden.npz")
    found = golden(WindowedPack(GOLDEN / name / "pack"), kept["audio"])
    for key, value in found.items():
        assert np.abs(value - kept[key]).max() < 1e-4, key
