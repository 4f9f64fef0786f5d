"""Figures of phones: fixed depths at equal compute, intervals over speakers, active levels, and the shares of the device-like stream."""

import numpy as np
import pytest

from models.evaluate import asr
from models.evaluate.asr_streams import active_level
from models.evaluate.measures import at_cost, ratio
from models.evaluate.streams import KINDS, Pool, device
from models.train.paths import HOP, RATE


def test_a_fixed_depth_is_interpolated_between_those_of_less_and_more_compute():
    costs, values = [10, 20, 40], np.array([[8.0, 4], [6, 4], [2, 0]])
    assert at_cost(20, costs, values).tolist() == [6, 4]
    assert at_cost(15, costs, values).tolist() == [7, 4]
    assert at_cost(35, costs, values).tolist() == [3, 1]
    assert at_cost(5, costs, values).tolist() == [8, 4] and at_cost(50, costs, values).tolist() == [2, 0]


def made(segments, monkeypatch):
    """segments: [(clip, speaker, phones)]"""
    parts = [{"clip": clip, "speaker": speaker, "phones": phones} for clip, speaker, phones in segments]
    monkeypatch.setattr(asr, "segments", lambda stream: parts)
    return lambda macs, wrong: asr.Run(np.array(wrong, float), np.zeros(1), {"macs_per_second": macs})


def test_adaptive_exits_are_compared_with_the_fixed_depth_of_their_compute(monkeypatch):
    run = made([("one", "a", "x y z x y"), ("two", "b", "x y z x y"), ("", "", "")], monkeypatch)
    runs = {"never": run(100, [1, 1, 0]), "fixed --layer 1": run(20, [5, 5, 2]), "fixed --layer 2": run(60, [3, 3, 2]), "gain": run(80, [1, 1, 1])}
    fixed, (gain,) = asr.equal_compute("", runs)
    assert [(row["policy"], row["share"]) for row in fixed] == [("fixed --layer 1", 0.2), ("fixed --layer 2", 0.6), ("never", 1)]
    # At 80, fixed depths have 2 + 2 + 1 wrong phones of 10, the last of them where there are none.
    assert gain["error"] == pytest.approx(0.3) and gain["of full depth"] == pytest.approx(1.5)
    assert gain["minus fixed"] == pytest.approx([-0.2, -0.2, -0.2])


def test_intervals_are_over_speakers():
    # Speakers differ, and their clips do not: more clips of each do not make the mean more certain.
    wide = [ratio(np.repeat([0.0, 1, 2, 3], n), np.full(4 * n, 10.0), np.arange(4 * n), np.repeat(list("abcd"), n)) for n in (5, 50)]
    for value, low, high in wide:
        assert value == pytest.approx(0.15) and low < 0.08 and high > 0.22
    # One speaker: clips are resampled, and more of them make it more certain.
    few, many = (ratio(np.resize([0.0, 1, 2, 3], n), np.full(n, 10.0), np.arange(n), ["a"] * n) for n in (20, 2000))
    assert few[2] - few[1] > 5 * (many[2] - many[1]) > 0


def test_all_conditions_of_a_clip_are_resampled_together():
    _, low, high = ratio([0.0, 2, 2, 0], [10.0] * 4, ["one", "one", "two", "two"], ["a"] * 4)
    assert low == pytest.approx(0.1) and high == pytest.approx(0.1)


def test_silence_does_not_change_the_active_level():
    speech = np.random.default_rng(0).standard_normal(RATE) * 0.03
    padded = np.concatenate([np.zeros(RATE), speech, np.zeros(3 * RATE)]) + np.random.default_rng(1).standard_normal(5 * RATE) * 1e-4
    assert active_level(padded) == pytest.approx(0.03, rel=0.02)


class Quiet(Pool):
    """A pool whose noise is a constant."""

    def __init__(self):
        self.rng = np.random.default_rng(0)

    def noise(self, kind, samples):
        assert kind in KINDS
        return np.full(samples, 0.1, np.float32)


@pytest.mark.parametrize("pause", [0, 100])
def test_the_device_like_stream_is_silence_by_two_fifths_pauses_included(pause):
    clips = [(np.full(3 * RATE, 0.1, np.float32), {"clip": str(number), "speaker": "a"}) for number in range(200)]
    stream = device(Quiet(), clips, pause)
    frames = {condition: sum(s["frames"] for s in stream.segments if s["condition"] == condition) for condition in ("speech", "silence", "noise")}
    total = sum(map(len, stream.pieces)) / HOP
    assert total == stream.at and frames["speech"] == 200 * 3 * RATE / HOP
    silence = frames["silence"] + pause * len(stream.segments)
    assert [frames["speech"] / total, silence / total, frames["noise"] / total] == pytest.approx([0.3, 0.4, 0.3], abs=0.01)
    assert sum(s["kind"] != "" for s in stream.segments if s["condition"] == "speech") == 100
