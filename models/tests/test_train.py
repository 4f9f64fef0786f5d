"""The training pipeline: the model in one pass equals the pack chunk by chunk; calibration of the policies."""

from dataclasses import replace

import numpy as np
import onnxruntime
import pytest
import torch

from models.train import average, calibrate, export, mixing, train
from models.train import model as student
from models.train.mixing import UNKNOWN, at_speed, coded, coloured, room, scale_to
from models.train.teach import information
from models.train.train import FEW, ctc_loss, spoken

SHAPE = student.Shape(layers=3, dim=32, heads=4, units=11, phones=7, left_context=16)
CHUNK, CHUNKS = 8, 5


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(1)
    made = student.Student(SHAPE)
    for parameter in made.parameters():
        parameter.data.add_(0.05 * torch.randn_like(parameter))
    return made.eval()


@pytest.fixture(scope="module")
def audio():
    samples = (CHUNK * CHUNKS - 1) * 320 + student.RECEPTIVE_FIELD
    return torch.from_numpy(np.random.default_rng(0).standard_normal((1, samples)).astype(np.float32) * 0.1)


def streamed(folder, audio, exits):
    """States of every chunk at every layer up to its exit, by onnxruntime, with projected keys and values after exits."""
    stage = lambda name: onnxruntime.InferenceSession(folder / f"{name}.onnx")
    layers = [stage(f"layer_{k:02}") for k in range(1, SHAPE.layers + 1)]
    width = SHAPE.dim // SHAPE.heads
    cache = [[np.zeros((1, SHAPE.heads, SHAPE.left_context, width), np.float32)] * 2 for _ in layers]
    slopes = np.array(SHAPE.slopes(), np.float32)[:, None, None]
    out = []
    for chunk, depth in enumerate(exits):
        first = chunk * CHUNK
        sound = audio[:, first * 320 : (first + CHUNK - 1) * 320 + student.RECEPTIVE_FIELD]
        x = stage("frontend").run(None, {"audio": sound})[0]
        states = [x]
        column = np.arange(SHAPE.left_context + CHUNK)
        bias = -slopes * np.abs(np.arange(CHUNK)[:, None] + SHAPE.left_context - column)
        bias = (bias + np.where(column + first < SHAPE.left_context, student.MASKED, 0)).astype(np.float32)[None]
        for k, layer in enumerate(layers):
            y, key, value = layer.run(None, {"x": x, "k": cache[k][0], "v": cache[k][1], "bias": bias})
            if k < depth:
                x = y
                states.append(x)
            cache[k] = [np.concatenate([old, new], 2)[:, :, CHUNK:] for old, new in zip(cache[k], (key, value))]
        out.append(states)
    return out


@pytest.mark.parametrize("exits", [[3] * CHUNKS, [1, 3, 0, 1, 3]])
def test_a_pack_chunk_by_chunk_equals_the_model_in_one_pass(model, audio, exits, tmp_path):
    export.write(model, tmp_path, "t", half=False)
    with torch.no_grad():
        states = model(audio, CHUNK, torch.tensor([exits]))
    for chunk, found in enumerate(streamed(tmp_path, audio.numpy(), exits)):
        for k, state in enumerate(found):
            wanted = states[k][:, chunk * CHUNK : (chunk + 1) * CHUNK].numpy()
            assert np.abs(state - wanted).max() < 1e-4, (chunk, k)


def test_a_model_is_read_back_from_its_pack(model, tmp_path):
    export.write(model, tmp_path, "t", half=False, phones=[str(k) for k in range(SHAPE.phones)])
    for (name, mine), theirs in zip(model.named_parameters(), export.read(tmp_path).parameters(), strict=True):
        assert torch.allclose(mine, theirs, atol=1e-6), name


def test_an_average_lies_between_its_models():
    torch.manual_seed(2)
    made = [student.Student(replace(SHAPE, framewise=framewise)) for framewise in (True, False)]
    before = [{name: weight.clone() for name, weight in one.state_dict().items()} for one in made]
    average.average(*made, 0.25)
    for name, weight in made[0].state_dict().items():
        expected = before[0][name] if name.startswith("frames.") else 0.75 * before[0][name] + 0.25 * before[1][name]
        torch.testing.assert_close(weight, expected)


def test_gain_stages_compute_the_forecasts(model, tmp_path):
    numbers = {
        "threshold": 1.0, "change": 0.1, "ctc": 0.3, "lambda": 0.02, "fixed": 2, "range": [1, 2], "calibrated": {0.9: [0.1, 0.2]}, "data": "none",
        "gain": [student.Forecast(SHAPE, k).state_dict() for k in range(SHAPE.layers)],
    }
    export.write(model, tmp_path, "t", half=False, numbers=numbers)
    states = torch.randn(1, 9, SHAPE.dim)
    for k in range(SHAPE.layers):
        net = student.Forecast(SHAPE, k)
        net.load_state_dict(numbers["gain"][k])
        found = onnxruntime.InferenceSession(tmp_path / f"gain_{k:02}.onnx").run(None, {"f": states.numpy()})[0]
        assert found.shape == (1, 1, SHAPE.layers - k)
        assert np.allclose(found[0], net(states).detach().numpy(), atol=1e-5)


def test_gain_exits_where_no_deeper_layer_is_worth_its_price():
    kl = torch.tensor([[0.5, 0.1, 0.09, 0.0], [0.02, 0.02, 0.01, 0.0], [0.5, 0.5, 0.5, 0.0]]).T  # [L + 1, chunks]
    exact = [kl[k:3].T for k in range(3)]
    assert calibrate.stops(exact, 0.06).tolist() == [1, 0, 3]
    assert calibrate.stops(exact, 1.0).tolist() == [0, 0, 0]
    assert calibrate.stops(exact, 0.001).tolist() == [3, 3, 3]


def test_thresholds_meet_their_target_on_the_calibration_data():
    torch.manual_seed(0)
    layers, chunks = 5, 4000
    difficulty = torch.rand(chunks)
    entropy = difficulty + 0.3 * torch.rand(layers + 1, chunks)
    agreement = (1 - difficulty * torch.linspace(1, 0, layers + 1)[:, None]).clamp(0, 1)
    evidence = {"entropy": entropy, "agreement": agreement}
    for target in (0.9, 0.95):
        depth = calibrate.first_at_most(entropy, calibrate.thresholds_for(evidence, target))
        assert target <= float(calibrate.at(agreement, depth).mean()) < target + 0.01
        assert depth.float().mean() < layers


def test_thresholds_exit_at_the_first_layer_that_passes():
    values = torch.tensor([[0.0, 0.0, 0.0], [3.0, 1.0, 3.0], [1.0, 1.0, 3.0], [0.0, 0.0, 3.0]])
    assert calibrate.first_at_most(values, 2.0).tolist() == [2, 1, 3]
    assert calibrate.first_at_most(values, [-1.0, 2.0]).tolist() == [2, 2, 3]


def test_noise_is_mixed_at_the_requested_snr():
    rng = np.random.default_rng(0)
    speech = rng.standard_normal(16_000).astype(np.float32) * 0.03
    for snr in (20, 0, -5):
        noise = scale_to(coloured(rng, 16_000, 1.0), np.mean(speech**2), snr)
        assert abs(10 * np.log10(np.mean(speech**2) / np.mean(noise**2)) - snr) < 0.01


def test_information_is_the_entropy_for_a_copy_and_zero_for_independent_data():
    rng = np.random.default_rng(0)
    a = rng.integers(0, 8, 100_000)
    shared, entropy, _ = information(a, a)
    assert abs(shared - entropy) < 1e-9
    assert information(a, rng.integers(0, 8, 100_000))[0] < 1e-3


def test_phones_of_frames_become_a_sequence():
    frames = torch.tensor([[0, 3, 3, 0, 3, 2], [0, 0, 0, 0, 0, 0]])
    targets, counts = spoken(frames)
    assert targets.tolist() == [3, 3, 2] and counts.tolist() == [3, 0]


def test_no_phone_is_lost_at_another_speed():
    """Aligned phones are single frames, of which a faster speed leaves some out; the sound that they stand for is still there."""
    sequence = lambda row: spoken(torch.from_numpy(row.astype(np.int64))[None])[0].tolist()
    random = np.random.default_rng(0)
    for speed in (0.85, 1.0, 1.07, 1.18):
        for _ in range(50):
            source = np.zeros(500, np.uint8)
            at = np.cumsum(random.integers(2, 9, 100))
            source[at[at < 490]] = random.integers(1, 6, (at < 490).sum())  # neighbours may be the same phone
            rows = (np.arange(400) * speed).round().astype(int)
            found = at_speed(source, rows)
            kept, whole = sequence(found), sequence(source[: rows[-1] + 1])
            # At the end of the crop, there may be no room for the last one.
            assert len(found) == 400 and kept == whole[: len(kept)] and len(whole) - len(kept) <= 1
            assert speed != 1.0 or np.array_equal(found, source[:400])
    # Near its place, and what is unknown stays.
    source = np.zeros(500, np.uint8)
    source[100:400:3], source[450:] = np.arange(100) % 5 + 1, UNKNOWN
    rows = (np.arange(400) * 1.18).round().astype(int)
    found = at_speed(source, rows)
    places = np.flatnonzero((found > 0) & (found < UNKNOWN))
    assert len(places) == 100 and np.abs(rows[places] - np.arange(100, 400, 3)).max() <= 2
    assert np.array_equal(found == UNKNOWN, source[rows] == UNKNOWN)


@pytest.fixture
def prepared(tmp_path, monkeypatch):
    """A prepared group of speech and one of noise, both random, with random targets."""
    rng, frames = np.random.default_rng(0), 1000
    for group in ("speech.train", "noise.train"):
        np.save(tmp_path / f"{group}.npy", rng.integers(-3000, 3000, frames * 320, dtype=np.int16))
        (tmp_path / f"{group}.json").write_text("[]")
    for kind, high, dtype in (("units", 256, np.uint16), ("phones", 50, np.uint8), ("frames", 50, np.uint8)):
        np.save(tmp_path / f"speech.train.{kind}.npy", rng.integers(2, high, frames).astype(dtype))
    for module, name in ((mixing, "PREPARED"), (mixing, "TARGETS"), (train, "PREPARED")):
        monkeypatch.setattr(module, name, tmp_path)
    return tmp_path


def test_the_same_seed_trains_the_same_model(prepared):
    def trained(name, seed):
        train.run(train.options(["quick", "--steps", "3", "--batch", "2", "--workers", "0", "--threads", "1", "--seed", str(seed)]), prepared / name)
        return student.digest(student.load(prepared / name / "final.pt")[0])

    assert trained("first", 1) == trained("again", 1) != trained("other", 2)


def test_ctc_counts_every_alignment():
    log_p = torch.full((1, 3, 4), 1 / 4).log()  # three frames, one phone: a_a is not an alignment of one phone; 6 of 64 sequences are
    assert abs(float(ctc_loss(log_p.repeat(2, 1, 1), torch.tensor([[0, 2, 0], [0, 255, 0]]))) - -np.log(6 / 64) / FEW) < 1e-5


def test_rooms_and_codecs_keep_the_positions():
    rng = np.random.default_rng(0)
    audio = np.zeros(16_000, np.float32)
    audio[4_000:4_400] = np.sin(np.arange(400) * 0.3) * 0.4
    for changed in [room(rng, audio), *(coded(rng, audio) for _ in range(4))]:
        assert len(changed) == len(audio)
        lag = np.correlate(changed[3_000:6_000], audio[3_500:5_500]).argmax()
        assert abs(lag - 500) < 16 and np.abs(changed[:3_000]).max() < 0.05
