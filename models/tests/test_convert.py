"""Every hidden state of every converted architecture equals that of `transformers` within 1e-4."""

import json

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from models.convert import checkpoint, norms, stages, tiny  # noqa: E402
from models.convert.checkpoint import ConvertError  # noqa: E402
from models.convert.pack import Options, Writer  # noqa: E402
from models.convert.reference import WindowedPack  # noqa: E402

TOLERANCE = 1e-4
LICENCE = dict(licence="CC0-1.0")


def sound(seconds=1.3, seed=0):
    """Noise with a varying envelope: levels differ within a window, which affects norms over time."""
    random, samples = np.random.default_rng(seed), int(16000 * seconds)
    envelope = 0.02 + 0.2 * np.abs(np.sin(np.linspace(0, 9, samples)))
    return (random.normal(0, 1, samples) * envelope + 0.01).astype(np.float32)


def normalized(audio):
    """`do_normalize` of Wav2Vec2FeatureExtractor."""
    return (audio - audio.mean()) / np.sqrt(audio.var() + 1e-7)


def pack_of(found, folder, folded=None, **options):
    writer = Writer(folder, found, Options(**(LICENCE | options)))
    writer.fold(folded)
    writer.encoder()
    writer.manifest()
    return WindowedPack(folder)


def states_of(pack, audio):
    """Layer 1's input and every layer's output, [L + 1, T, D]."""
    _, first, outputs, _ = pack.window(audio)
    return np.stack([first, *outputs])


@pytest.mark.parametrize("variant", tiny.VARIANTS)
def test_hidden_states_equal_those_of_transformers(variant, tmp_path):
    model, audio = tiny.save(variant, tmp_path / "checkpoint"), sound()
    found = checkpoint.load(tmp_path / "checkpoint")
    assert found.normalize == tiny.VARIANTS[variant][2]
    wanted = tiny.hidden_states(model, normalized(audio) if found.normalize else audio)
    states = states_of(pack_of(found, tmp_path / "pack"), audio)
    assert states.shape == wanted.shape
    for k, (state, reference) in enumerate(zip(states, wanted)):
        assert np.abs(state - reference).max() < TOLERANCE, f"hidden state {k}"


@pytest.mark.parametrize("variant", ["hubert-base", "wavlm-large"])
def test_a_streamed_chunk_equals_its_part_of_the_window(variant, tmp_path):
    """Compares with `transformers` on every window, cut here independently of the reference script."""
    model, audio = tiny.save(variant, tmp_path / "checkpoint"), sound(1.15)
    found = checkpoint.load(tmp_path / "checkpoint")
    pack = pack_of(found, tmp_path / "pack", chunk_frames=10, left_context=12, right_context=3)
    chunks = list(pack.stream(audio))
    frames = int(np.ceil(len(audio) / 320))
    assert sum(len(chunk["frontend"]) for chunk in chunks) == frames
    padded = np.pad(audio, (0, (frames - 1) * 320 + 400 - len(audio)))
    for number, chunk in enumerate(chunks):
        first, end = number * 10, min(number * 10 + 10, frames)
        before, after = min(12, first), min(3, frames - end)
        window = padded[(first - before) * 320 : (end + after) * 320 + 80]
        wanted = tiny.hidden_states(model, normalized(window) if found.normalize else window)[:, before : before + end - first]
        assert np.abs(chunk["h"] - wanted).max() < TOLERANCE, f"chunk {number}"


def test_residual_and_norm_of_before_norm_give_the_output(tmp_path):
    import torch

    model, audio = tiny.save("hubert-base", tmp_path / "checkpoint"), sound()
    pack = pack_of(checkpoint.load(tmp_path / "checkpoint"), tmp_path / "pack", before_norm=True)
    seen = []
    for layer in model.encoder.layers:
        layer.feed_forward.register_forward_hook(lambda _module, _inputs, output: seen.append(output[0].detach().numpy()))
    with torch.no_grad():
        model(torch.tensor(normalized(audio))[None])
    features = pack.window(audio)[3]
    assert pack.encoder["feature"] == "before-norm"
    assert max(np.abs(a - b).max() for a, b in zip(features, seen)) < TOLERANCE


@pytest.mark.parametrize("variant", ["hubert-base", "hubert-large"])
def test_folded_statistics_of_a_recording_equal_the_norm_over_it(variant, tmp_path):
    model, audio = tiny.save(variant, tmp_path / "checkpoint"), sound()
    found = checkpoint.load(tmp_path / "checkpoint")
    pack = pack_of(found, tmp_path / "pack", norms.folded(found, *norms.statistics(found, audio)))
    assert (pack.encoder["frontend_scope"], pack.audio["level"]) == ("frame", "raw")
    assert np.abs(states_of(pack, audio) - tiny.hidden_states(model, normalized(audio))).max() < TOLERANCE


def test_a_folded_front_end_frame_depends_on_its_receptive_field_only(tmp_path):
    tiny.save("hubert-base", tmp_path / "checkpoint")
    found, audio = checkpoint.load(tmp_path / "checkpoint"), sound()
    pack = pack_of(found, tmp_path / "pack", norms.folded(found, *norms.statistics(found, sound(seed=1))))
    whole = pack.frontend.run(None, {"audio": audio[None]})[0][0]
    part = pack.frontend.run(None, {"audio": audio[None, 20 * 320 : 29 * 320 + 400]})[0][0]
    assert np.abs(whole[20:30] - part).max() < TOLERANCE


def test_a_pickle_and_safetensors_give_the_same_weights(tmp_path):
    tiny.save("wavlm-base", tmp_path / "a")
    tiny.save("wavlm-base", tmp_path / "b", safetensors=False)
    a, b = (checkpoint.load(tmp_path / name).weights for name in "ab")
    assert a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)


def test_weight_norm_is_read_with_its_old_and_new_names(tmp_path):
    model = tiny.save("hubert-base", tmp_path)
    weights, conv = checkpoint.load(tmp_path).weights, "encoder.pos_conv_embed.conv."
    new, kinds = conv + "parametrizations.weight.original", "gv"
    if conv + "weight_g" not in weights:
        weights |= {f"{conv}weight_{kind}": weights.pop(f"{new}{i}") for i, kind in enumerate(kinds)}
    wanted = model.encoder.pos_conv_embed.conv.weight.detach().numpy()
    assert np.allclose(stages.position_weight(weights), wanted, atol=1e-6)
    weights |= {f"{new}{i}": weights.pop(f"{conv}weight_{kind}") for i, kind in enumerate(kinds)}
    assert np.allclose(stages.position_weight(weights), wanted, atol=1e-6)


def test_weights_of_a_model_with_a_task_head_are_read_with_its_prefix(tmp_path):
    import torch
    import transformers

    config = transformers.HubertConfig(**tiny.SMALL, vocab_size=5)
    transformers.HubertForCTC(config).to(torch.bfloat16).save_pretrained(tmp_path)
    weights = checkpoint.load(tmp_path, normalize=True).weights
    assert "encoder.layers.0.attention.q_proj.weight" in weights
    assert all(array.dtype == np.float32 for array in weights.values())


def test_f16_weights_halve_the_stages_and_hardly_change_the_states(tmp_path):
    tiny.save("hubert-large", tmp_path / "checkpoint", hidden_size=64, intermediate_size=256)
    found, audio = checkpoint.load(tmp_path / "checkpoint"), sound()
    packs = [pack_of(found, tmp_path / name, f16=name == "f16") for name in ("f32", "f16")]
    a, b = (states_of(pack, audio) for pack in packs)
    assert 0 < np.abs(a - b).max() < 0.02
    sizes = [(tmp_path / name / "layer_02.onnx").stat().st_size for name in ("f32", "f16")]
    assert sizes[1] < 0.6 * sizes[0]


def test_a_large_f16_weight_is_cast_in_pieces_that_tract_folds(tmp_path):
    import onnx
    import onnxruntime

    weight = np.random.default_rng(0).normal(size=(1100, 1000)).astype(np.float16).astype(np.float32)
    stages.head(tmp_path / "head.onnx", 1000, weight, np.zeros(1100), f16=True)
    sizes = [np.prod(one.dims) for one in onnx.load(tmp_path / "head.onnx").graph.initializer]
    assert max(sizes) <= 1 << 20 and sum(sizes) == weight.size + 1100
    f = np.random.default_rng(1).normal(size=(1, 2, 1000)).astype(np.float32)
    logits = onnxruntime.InferenceSession(tmp_path / "head.onnx").run(None, {"f": f})[0]
    assert np.abs(logits - f @ weight.T).max() < 1e-3


def test_position_buckets_are_those_of_wavlm():
    import torch
    from transformers.models.wavlm.modeling_wavlm import WavLMAttention

    distance = np.arange(-1000, 1001)
    for buckets, most in ((320, 800), (64, 60)):
        theirs = WavLMAttention(8, 2, num_buckets=buckets, max_distance=most)._relative_positions_bucket(torch.tensor(distance))
        ours = stages.bucket(distance, buckets, most)
        assert np.array_equal(ours, theirs.numpy())
        # The layer's table is truncated here: all larger distances are in one bucket.
        assert len(set(ours[distance >= most])) == len(set(ours[distance <= -most])) == 1


@pytest.mark.parametrize(("change", "expected"), [
    (dict(model_type="whisper"), "can be converted: hubert"),
    (dict(adapter_attn_dim=16), "adapters"),
    (dict(hidden_act="mish"), "supported: gelu, relu"),
    (dict(num_attention_heads=5), "does not divide"),
    (dict(conv_stride=[5]), "differ in length"),
])
def test_unsupported_models_are_refused_with_a_reason(change, expected, tmp_path):
    tiny.save("hubert-base", tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(ConvertError, match=expected):
        checkpoint.load(tmp_path)


def test_a_missing_weight_is_named(tmp_path):
    tiny.save("hubert-base", tmp_path / "checkpoint")
    found = checkpoint.load(tmp_path / "checkpoint")
    del found.weights["encoder.layers.1.final_layer_norm.weight"]
    with pytest.raises(ConvertError, match=r"encoder\.layers\.1\.final_layer_norm\.weight"):
        pack_of(found, tmp_path / "pack")


def test_a_weights_file_that_would_run_code_is_not_loaded(tmp_path):
    import pickle

    class Evil:
        def __reduce__(self):
            return print, ("code ran",)

    (tmp_path / "pytorch_model.bin").write_bytes(pickle.dumps({"a": Evil()}))
    with pytest.raises(Exception, match="(?i)weights_only|unsupported|unpickl"):
        checkpoint.read_tensors(tmp_path / "pytorch_model.bin")
