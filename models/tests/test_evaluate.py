"""The evaluation: simulated policies and their compute, versions of streams, depth by SNR, and the table of targets."""

import numpy as np
import pytest
from scipy.signal import welch

from models.evaluate import depth, simulate, targets, versions
from models.evaluate.measures import at_cost


def projections_one_by_one(exits, layers, context):
    """Chunk by chunk, as the runtime does it: a layer that runs first projects the chunks of its context that it has not seen."""
    total, filled = 0, dict.fromkeys(range(1, layers + 1), 0)
    for chunk, exit in enumerate(exits):
        for k in range(1, exit + 1):
            total += min(context, chunk - filled[k])
            filled[k] = chunk + 1
    return total


def test_projections_are_those_that_a_deeper_chunk_needs():
    rng = np.random.default_rng(0)
    for _ in range(20):
        exits = rng.integers(0, 5, 40)
        assert simulate.projected(exits, 4, 3) == projections_one_by_one(exits, 4, 3)
    assert simulate.projected(np.array([4, 4, 4]), 4, 3) == 0


def test_the_depth_chosen_once_weighs_kl_against_layers():
    kl = np.array([[0.9, 0.3, 0.1], [0.02, 0.01, 0.01], [3.0, 3.0, 3.0]])
    assert simulate.cheapest(kl, 0.0).tolist() == [3, 3, 3]
    assert simulate.cheapest(kl, 0.15).tolist() == [2, 0, 3]
    assert simulate.cheapest(kl, 10.0).tolist() == [0, 0, 0]


def test_a_curve_is_read_between_its_points():
    costs, values = np.array([0.1, 0.5, 1.0]), np.array([[10.0, 100.0], [2.0, 20.0], [0.0, 0.0]])
    assert at_cost(0.3, costs, values) == pytest.approx([6.0, 60.0])
    assert at_cost(0.05, costs, values) == pytest.approx([10.0, 100.0])
    assert at_cost(2.0, costs, values) == pytest.approx([0.0, 0.0])


def test_depth_that_falls_in_noise_is_reported_with_its_interval():
    frames = np.full(30, 100.0)
    clips = np.random.default_rng(0).uniform(-0.1, 0.1, 30)
    means = {snr: level + clips for snr, level in zip(("clean", 20, 10, 5, 0, -5), (4.0, 4.5, 5.0, 6.0, 7.0, 6.5))}
    found = depth.series(means, frames)
    assert list(found["falls"]) == [-5]
    assert found["falls"][-5] == pytest.approx((-0.5, -0.5, -0.5))
    assert found["spearman"] == pytest.approx(-0.94, abs=0.01)
    assert found["ratio at 0 dB"] == pytest.approx(found[0][0] / found["clean"][0])


def test_only_whole_chunks_of_a_segment_count():
    assert depth.inside({"first": 17, "frames": 47}, 16).tolist() == [2, 3]
    assert depth.inside({"first": 0, "frames": 15}, 16).tolist() == []


@pytest.mark.parametrize("version", ["narrow-band", "telephone"])
def test_narrow_versions_have_no_high_frequencies_and_keep_the_rest(version):
    audio = np.random.default_rng(0).standard_normal(16_001).astype(np.float32) * 0.1
    made = versions.VERSIONS[version](audio)
    assert made.shape == audio.shape
    hertz, before = welch(audio, 16_000)
    after = welch(made, 16_000)[1]
    band = lambda power, low, high: power[(hertz >= low) & (hertz <= high)].mean()
    assert band(after, 4500, 8000) < 0.01 * band(before, 4500, 8000)
    assert band(after, 300, 3000) == pytest.approx(band(before, 300, 3000), rel=0.1)


def test_eight_bits_have_at_most_256_levels():
    audio = np.linspace(-1, 1, 10_000, dtype=np.float32)
    made = versions.eight_bit(audio)
    assert len(np.unique(made)) == 256
    assert np.abs(made - audio).max() <= 1 / 128


FIGURES = {
    "depth under noise": {"white": {"spearman": -1.0, "ratio at 0 dB": 1.7}, "pink": {"spearman": -0.94, "ratio at 0 dB": 1.5}},
    "calibrated": {"0.9": {"pooled": [0.923], "clean": [0.901]}, "0.98": {"pooled": [0.985], "clean": [0.974]}},
    "letters": {"never": {"english": {"right": [23, 22], "of": 26}}},
    "phones": {"pnmi": {"0": 0.2, "10": 0.543}},
}
ASR = {
    "layers": 10,
    "runs": {
        "never": {"errors": {"read English": {"clean": [0.24, 0.2, 0.3]}}},
        "fixed --layer 5": {"errors": {"read English": {"clean": [0.3, 0.2, 0.4]}}},
    },
    "equal compute": {"device": [
        {"policy": "gain --threshold 0.1", "share": 0.4, "minus fixed": [-0.02, -0.03, -0.01], "of full depth": 1.05},
        {"policy": "gain --threshold 0.01", "share": 0.6, "minus fixed": [-0.01, -0.02, 0.001], "of full depth": 1.01},
        {"policy": "fixed --layer 5", "share": 0.5, "minus fixed": [0, 0, 0], "of full depth": 1.2},
    ]},
    "level": {
        "-60": {"ratio": {"read English": 3.0}, "raised": {"read English": 1.0}, "depth": 2.0},
        "-50": {"ratio": {"read English": 1.04}, "raised": {"read English": 1.06}, "depth": 5.1},
        "-30": {"ratio": {"read English": 1.0}, "raised": {"read English": 1.0}, "depth": 5.0},
    },
}


def test_targets_are_met_or_missed_by_their_limits():
    found = {figure: (measured, met) for figure, _, measured, met in targets.rows(FIGURES, ASR, [])}
    assert found["phone error at full depth, read English, clean"] == ("24.0 % (20.0 to 30.0)", True)
    assert found["errors that the second half of the layers removes, read English, clean"] == ("20.0 %", True)
    assert not found["phone error of `gain` minus fixed depth, points, device"][1]
    assert found["phone error of `gain` at half the compute, relative to full depth, device"] == ("1.030", False)
    assert found["DAISY's rule, 16 kHz: Spearman of depth and SNR"] == ("1 of 2 kinds of noise; at most −0.94 (pink)", False)
    assert found["DAISY's rule, 16 kHz: depth at 0 dB relative to clean"][1]
    assert found["calibrated agreement, deviation from 90, 98 %, clean"] == ("0.6", True)
    assert not found["calibrated agreement, deviation from 90, 98 %, pooled"][1]
    assert found["letters across speakers, both directions"] == ("23, 22", True)
    assert next(value for figure, value in found.items() if "speech at −55 to −10 dBFS" in figure) == ("1.04 (at −50 dBFS)", True)
    assert found["the same with `--gain-db auto`, up to −30 dBFS"] == ("1.06 (at −50 dBFS)", False)


def test_targets_without_a_figure_are_left_out():
    names = [figure for figure, *_ in targets.rows(FIGURES, {}, [])]
    assert not any("phone error" in name or "keyword" in name or "compute" in name for name in names)
