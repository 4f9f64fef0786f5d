"""Checkpoints from downloads and trainers are read, or rejected with one line that names the file and the remedy."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from models.convert import checkpoint, tiny  # noqa: E402
from models.convert.checkpoint import ConvertError  # noqa: E402

ROOT = Path(__file__).parents[2]
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 377569754\n"


def run(module, *arguments):
    return subprocess.run([sys.executable, "-m", f"models.convert{module}", *map(str, arguments)], cwd=ROOT, capture_output=True, text=True)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    tiny.save("hubert-base", folder)
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "checkpoint")


@pytest.fixture(scope="module")
def wav(tmp_path_factory):
    import soundfile

    path = tmp_path_factory.mktemp("audio") / "audio.wav"
    random = np.random.default_rng(0)
    soundfile.write(path, random.normal(0.02, 0.05, 32000).astype(np.float32), 16000)
    return path


def refused(folder, *expected):
    with pytest.raises(ConvertError) as error:
        checkpoint.load(folder)
    text = str(error.value)
    assert "\n" not in text
    for part in expected:
        assert part in text, text


def state_dict(folder):
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")


def processor(folder, normalize):
    """As transformers 5 saves a processor: without preprocessor_config.json."""
    (folder / "preprocessor_config.json").unlink(missing_ok=True)
    (folder / "vocab.json").write_text(json.dumps({"[PAD]": 0, "a": 1, "|": 2, "[UNK]": 3}))
    tokenizer = transformers.Wav2Vec2CTCTokenizer(folder / "vocab.json")
    transformers.Wav2Vec2Processor(transformers.Wav2Vec2FeatureExtractor(do_normalize=normalize), tokenizer).save_pretrained(folder)


@pytest.mark.parametrize("normalize", [True, False])
def test_preprocessing_is_read_from_a_processor_of_transformers_5(folder, normalize):
    processor(folder, normalize)
    assert not (folder / "preprocessor_config.json").exists()
    assert checkpoint.load(folder).normalize == normalize


def test_preprocessing_is_not_guessed(folder):
    (folder / "preprocessor_config.json").unlink()
    refused(folder, "processor_config.json", "--normalize")
    assert checkpoint.load(folder, normalize=False).normalize is False


def test_contradictory_preprocessing_is_refused(folder):
    (folder / "processor_config.json").write_text(json.dumps({"feature_extractor": {"do_normalize": False, "sampling_rate": 16000}}))
    refused(folder, "preprocessor_config.json and processor_config.json contradict")


def test_verification_reads_the_preprocessing_itself(folder, wav, tmp_path):
    """A pack converted with the wrong do_normalize fails verification, whatever the conversion assumed."""
    processor(folder, True)
    for normalize, passes in (("yes", True), ("no", False)):
        pack = tmp_path / normalize
        ran = run("", folder, pack, "--normalize", normalize, "--chunk-frames", "10", "--left-context", "12", "--right-context", "3")
        assert ran.returncode == 0, ran.stderr
        ran = run(".verify", folder, pack, wav)
        assert (ran.returncode == 0) == passes, ran.stdout + ran.stderr
        if not passes:
            assert "deviates" in ran.stderr and "Traceback" not in ran.stderr
    (folder / "processor_config.json").unlink()
    ran = run(".verify", folder, tmp_path / "yes", wav)
    assert ran.returncode != 0 and "--normalize" in ran.stderr and "Traceback" not in ran.stderr, ran.stderr


def test_the_configuration_of_another_model_is_refused(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 2}))
    refused(folder, "config.json has 2 layers", "the weights 3")
    (folder / "config.json").write_text(json.dumps(config | {"hidden_size": 64}))
    refused(folder, "config.json has sizes (64, 16)", "(32, 16)")


def test_mistakes_leave_no_pack(folder, wav, tmp_path):
    """They are found before the work, or the incomplete pack has another name, so that the corrected command works."""
    out = tmp_path / "pack"
    empty = tmp_path / "empty"
    empty.mkdir()
    for arguments, expected in (
        (["--branches", "exits.{}"], "{k} or {k0}"),
        (["--heads-audio", wav.parent, "--units-layer", "9"], "between 1 and 3"),
        (["--heads-audio", empty], "has no recordings"),
    ):
        ran = run("", folder, out, "--licence", "MIT", *arguments)
        assert ran.returncode != 0 and expected in ran.stderr and "Traceback" not in ran.stderr, ran.stderr
        assert not out.exists()
    ran = run(".measure_norms", folder, wav.parent)
    assert ran.returncode != 0 and "at least two" in ran.stderr and "Traceback" not in ran.stderr, ran.stderr


@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json", "model.safetensors"])
def test_a_git_lfs_pointer_is_named(folder, name):
    (folder / name).write_text(POINTER)
    refused(folder, name, "git lfs pull")


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_web_page_in_place_of_a_file_is_named(folder, name):
    (folder / name).write_text("<!DOCTYPE html><html>Access denied</html>")
    refused(folder, name, "web page")


@pytest.mark.parametrize(("name", "share"), [("config.json", 0.5), ("model.safetensors", 0.0001), ("model.safetensors", 0.5), ("model.safetensors", 0.999)])
def test_a_truncated_download_is_named(folder, name, share):
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: max(1, int(len(content) * share))])
    refused(folder, name, "download it again")


@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_a_truncated_pickle_is_named(folder, share):
    torch.save(state_dict(folder), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    content = (folder / "pytorch_model.bin").read_bytes()
    (folder / "pytorch_model.bin").write_bytes(content[: int(len(content) * share)])
    refused(folder, "pytorch_model.bin")


def test_missing_shards_are_named(saved, tmp_path):
    model = transformers.AutoModel.from_pretrained(saved)
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    shutil.copy(saved / "preprocessor_config.json", tmp_path)
    shards = sorted(path.name for path in tmp_path.glob("model-*.safetensors"))
    assert len(shards) > 2
    whole, one = checkpoint.load(tmp_path).weights, checkpoint.load(saved).weights
    assert whole.keys() == one.keys() and all(np.array_equal(whole[name], one[name]) for name in one)
    (tmp_path / shards[1]).unlink()
    refused(tmp_path, shards[1], "model.safetensors.index.json", "download it too")
    shutil.copy(tmp_path / shards[0], tmp_path / shards[1])
    refused(tmp_path, shards[1], "download that file again")


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module.hubert.", "model.hubert.", "encoder_model.", "base_model.model.hubert."])
@pytest.mark.parametrize("inside", [None, "state_dict", "model"])
def test_a_trainers_prefix_is_removed(saved, folder, prefix, inside):
    wanted = checkpoint.load(saved).weights
    found = {prefix + name: value for name, value in state_dict(folder).items()}
    (folder / "model.safetensors").unlink()
    torch.save({inside: found, "epoch": 3} if inside else found, folder / "pytorch_model.bin")
    weights = checkpoint.load(folder).weights
    assert weights.keys() == wanted.keys() and all(np.array_equal(weights[name], wanted[name]) for name in wanted)


@pytest.mark.parametrize(("change", "expected"), [
    (lambda weights: {f"{one}.{name}": value for one in ("teacher", "student") for name, value in weights.items()}, ["2 encoders", "student., teacher."]),
    (lambda weights: weights | {"encoder.layers.0.attention.q_proj.lora_A.default.weight": weights["encoder.layers.0.attention.q_proj.weight"]}, ["LoRA", "merge_and_unload"]),
    (lambda weights: {"feature_extractor.conv_layers.0.0.weight": weights["feature_extractor.conv_layers.0.conv.weight"]}, ["fairseq"]),
    (lambda weights: {"decoder.weight": weights["encoder.layer_norm.weight"]}, ["decoder.weight", "no HuBERT"]),
])
def test_weights_of_other_models_are_refused_by_name(folder, change, expected):
    from safetensors.torch import save_file

    save_file({name: value.clone() for name, value in change(state_dict(folder)).items()}, folder / "model.safetensors")
    refused(folder, "model.safetensors", *expected)


def test_a_folder_of_trainer_checkpoints_names_them(saved, tmp_path):
    for step in (500, 1000):
        shutil.copytree(saved, tmp_path / f"checkpoint-{step}")
    refused(tmp_path, "config.json", "checkpoint-1000, checkpoint-500")


def test_the_command_prints_one_line(folder, tmp_path):
    (folder / "model.safetensors").write_text(POINTER)
    ran = run("", folder, tmp_path / "pack")
    assert ran.returncode != 0 and ran.stderr.startswith("error: ") and ran.stderr.count("\n") == 1, ran.stderr
