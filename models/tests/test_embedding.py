"""Keyword embeddings: decorrelated vectors, and branches that estimate them from every layer's state."""

import hashlib
import tomllib

import numpy as np
import onnxruntime
import pytest

from models.keywords import embedding


@pytest.fixture
def random():
    return np.random.default_rng(0)


def test_directions_are_decorrelated_and_those_with_low_variance_have_the_highest_weight(random):
    # 20 units of a state of 7 numbers: 13 directions are flat, and one of the seven is lost to the rows' mean.
    rows = random.standard_normal((5000, 7)) * [9, 5, 3, 1, 1, 0.5, 0.1] @ random.standard_normal((7, 20)) + 3
    rows -= rows.mean(1, keepdims=True)
    mean, projection = embedding.decorrelation(rows)
    vectors = (rows - mean) @ projection
    assert vectors.shape[1] == 7
    covariance = np.cov(vectors.T)
    variances = covariance.diagonal()  # by rising variance of the direction
    assert np.allclose(covariance, np.diag(variances), atol=1e-3) and np.isclose(variances.mean(), 1)
    assert (np.diff(variances) < 0).all()


def test_a_branch_is_the_least_squares_estimate_of_the_last_layers_vectors(random, tmp_path):
    states = (random.standard_normal((4000, 12)) * 3 + 1).astype(np.float32)
    truth = random.standard_normal((12, 5))
    vectors = embedding.normalised(states) @ truth + 0.5
    fit = embedding.Fit(12, 5)
    for part in np.array_split(np.arange(4000), 3):
        fit.add(states[part], vectors[part])
    path = tmp_path / "embedding_03.onnx"
    embedding.write(path, *fit.solve())
    made = onnxruntime.InferenceSession(path).run(None, {"f": states[None, :50]})[0]
    assert made.shape == (1, 50, 5)
    errors = ((made[0] - vectors[:50]) ** 2).mean()
    assert errors < 1e-3 * (vectors**2).mean()


def test_fitting_again_does_not_duplicate_manifest_entries(tmp_path):
    manifest = tmp_path / "pack.toml"
    manifest.write_text('name = "x"\n\n[provenance]\ndate = "today"\n\n[stages]\nfrontend = { file = "f", sha256 = "0" }\n')
    paths = {layer: tmp_path / f"embedding_{layer:02}.onnx" for layer in (0, 1, 2)}
    for text, width in (("a", 7), ("b", 9)):
        for path in paths.values():
            path.write_text(text)
        embedding.enter(manifest, paths, width)
    read = tomllib.loads(manifest.read_text())
    assert read["embedding"] == {"width": 9}
    assert read["stages"]["embedding"]["2"] == {"file": "embedding_02.onnx", "sha256": hashlib.sha256(b"b").hexdigest()}
    assert set(read["stages"]) == {"frontend", "embedding"} and set(read["stages"]["embedding"]) == {"0", "1", "2"}
