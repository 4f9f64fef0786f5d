"""The bindings as they are installed, compared with the command line."""

import json
import re
import subprocess
import threading
import time
import wave
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import bellis
import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[3]
BELLIS = ROOT / "target/release/bellis"
DEMO = ROOT / "models/keywords/demo"


def samples(path):
    with wave.open(str(path)) as file:
        assert file.getsampwidth() == 2 and file.getnchannels() == 1
        return np.frombuffer(file.readframes(file.getnframes()), "<i2"), file.getframerate()


@pytest.fixture(scope="session")
def speech():
    return samples(ROOT / "models/sample.wav")


@pytest.fixture(scope="session")
def encoder():
    return bellis.Encoder("daisy-tiny")


def run(stream, audio, cut=1600):
    chunks = [chunk for first in range(0, len(audio), cut) for chunk in stream.accept(audio[first : first + cut])]
    return chunks + stream.finish()


def command_line(folder, recording, *arguments):
    command = [BELLIS, "run", recording, "--quiet", "--consumer", f"npy:{folder}/out.npy", "--consumer", f"phones:{folder}/phones"]
    lines = subprocess.run([*command, "--consumer", "jsonl", *arguments], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    phones = [json.loads(line) for line in (folder / "phones").read_text().splitlines()]
    return np.load(folder / "out.npy"), [json.loads(line) for line in lines.splitlines()], phones


@pytest.mark.parametrize("pack", ["daisy-tiny", "daisy-nano"])
@pytest.mark.parametrize("policy", [None, "threshold:2.5", "fixed:4", "never"])
def test_the_output_is_that_of_the_command_line(tmp_path, speech, pack, policy):
    audio, rate = speech
    flags = {"threshold:2.5": ["--policy", "threshold", "--threshold", "2.5"], "fixed:4": ["--policy", "fixed", "--layer", "4"]}
    arguments = flags.get(policy, ["--policy", policy] if policy else [])
    vectors, lines, phones = command_line(tmp_path, ROOT / "models/sample.wav", "--pack", pack, *arguments)
    chunks = run(bellis.Encoder(pack, policy=policy).stream(rate, phones=True), audio, cut=777)
    assert np.array_equal(np.concatenate([chunk.vectors for chunk in chunks]), vectors)
    assert [chunk.layer for chunk in chunks] == [line["layer"] for line in lines]
    assert [chunk.reason for chunk in chunks] == [line["reason"] for line in lines]
    assert [chunk.start for chunk in chunks] == pytest.approx([line["start"] for line in lines], abs=1e-4)
    for chunk, line in zip(chunks, lines):
        assert [layer for layer, _ in chunk.entropies] == [layer for layer, _ in line["entropy"]]
        assert [nats for _, nats in chunk.entropies] == pytest.approx([nats for _, nats in line["entropy"]], abs=1e-4)
    found = [(one.phone, one.start, one.end) for chunk in chunks for one in chunk.phones]
    assert found == [(one["phone"], one["start"], one["end"]) for one in phones] and phones


def test_other_rates_are_resampled_as_in_files(tmp_path, speech, encoder):
    audio, rate = speech
    path = tmp_path / "fast.wav"
    fast = np.interp(np.arange(3 * len(audio)) / 3, np.arange(len(audio)), audio).astype("<i2")
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 3 * rate, 0, "NONE", ""))
        file.writeframes(fast.tobytes())
    vectors, _, _ = command_line(tmp_path, path)
    # Without phones, a chunk may exit at layers that have no CTC branch: the packs have one everywhere.
    chunks = run(encoder.stream(3 * rate, phones=True), fast)
    assert np.array_equal(np.concatenate([chunk.vectors for chunk in chunks]), vectors)


def test_int16_and_float32_are_the_same_and_strides_are_followed(speech, encoder):
    audio, rate = speech
    as_float = audio.astype(np.float32) / 32768
    vectors = [chunk.vectors for chunk in run(encoder.stream(rate), audio)]
    for other in (as_float, np.repeat(as_float, 2)[::2]):
        assert all(np.array_equal(a, b.vectors) for a, b in zip(vectors, run(encoder.stream(rate), other), strict=True))


def test_samples_that_are_not_aligned_are_refused(encoder):
    offset = np.frombuffer(bytes(1 + 2 * 1600), "<i2", offset=1)
    field = np.zeros(1600, [("sample", "<f4"), ("flag", "u1")])["sample"]
    for samples in (offset, field):
        with pytest.raises(TypeError, match="not aligned"):
            encoder.stream(16_000).accept(samples)
        assert encoder.stream(16_000).accept(samples.copy()) == []


def test_vectors_are_arrays_of_frames_and_outlive_their_stream(speech, encoder):
    audio, rate = speech
    [*chunks] = run(encoder.stream(rate, posteriors=True, entropies=True), audio)
    assert chunks[0].vectors.dtype == np.float32 and chunks[0].vectors.shape[1] == encoder.dim
    assert np.allclose(np.exp(chunks[0].posteriors).sum(axis=1), 1, atol=1e-3)
    assert all(chunk.entropy is not None and chunk.entropy >= 0 for chunk in chunks)
    assert sum(chunk.seconds for chunk in chunks) == pytest.approx(len(audio) / rate, abs=0.001)
    assert "bellis.Chunk 0" in repr(chunks[0]) and "daisy-tiny" in repr(encoder)


def test_a_stream_begins_again_after_reset(speech, encoder):
    audio, rate = speech
    stream = encoder.stream(rate)
    first = run(stream, audio)
    assert stream.finish() == []
    with pytest.raises(ValueError, match="reset"):
        stream.accept(audio)
    stream.reset()
    stream.accept(audio[:5000])
    stream.reset()
    second = run(stream, audio)
    assert all(np.array_equal(a.vectors, b.vectors) for a, b in zip(first, second, strict=True))


def test_a_hundred_streams_in_threads(speech, encoder):
    audio, rate = speech
    audio = audio[: 3 * rate]
    wanted = np.concatenate([chunk.vectors for chunk in run(encoder.stream(rate), audio)])

    def one(index):
        chunks = run(encoder.stream(rate), audio, cut=400 + 97 * index)
        return np.array_equal(np.concatenate([chunk.vectors for chunk in chunks]), wanted)

    with ThreadPoolExecutor(100) as pool:
        assert all(pool.map(one, range(100)))


def test_other_threads_run_while_one_computes(speech):
    """A thread that needs the interpreter makes progress during a single long call."""
    audio, rate = speech
    stream = bellis.Encoder("daisy-tiny", policy="never", precision="f32").stream(rate)
    long = np.tile(audio, 20)
    progress, done = [], threading.Event()

    def count():
        while not done.is_set():
            progress.append(None)
            done.wait(0.001)

    thread = threading.Thread(target=count)
    thread.start()
    before = len(progress)
    stream.accept(long)
    during = len(progress) - before
    done.set()
    thread.join()
    assert during > 10


@pytest.fixture
def takes():
    return [samples(path)[0] for path in sorted(DEMO.glob("take-*.wav"))]


def test_keywords_are_those_of_the_command_line(tmp_path, takes, encoder):
    folder = tmp_path / "keywords"
    spotter = bellis.KeywordSpotter(folder, encoder)
    assert spotter.keywords == []
    spotter.enroll("several", takes=takes, threshold=0.3)
    assert spotter.keywords == ["several"]
    with pytest.raises(FileExistsError):
        spotter.enroll("several", takes=takes, threshold=0.3)

    wav = tmp_path / "long.wav"
    subprocess.run([BELLIS, "run", DEMO / "long.flac", "--quiet", "--consumer", f"wav:{wav}"], cwd=ROOT, check=True)
    command = [BELLIS, "run", wav, "--quiet", "--consumer", f"keyword:{folder}"]
    lines = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.splitlines()
    wanted = [(one["keyword"], one["start"], one["end"], one["score"]) for one in map(json.loads, lines)]
    audio, rate = samples(wav)
    spotter = bellis.KeywordSpotter(folder, encoder, rate=rate)
    events = [event for first in range(0, len(audio), 999) for event in spotter.accept(audio[first : first + 999])]
    events += spotter.finish()
    assert [(one.keyword, one.start, one.end, one.score) for one in events] == wanted and len(wanted) == 5
    assert all(event.detected for event in events)


def test_own_speech_sets_the_threshold_as_on_the_command_line(tmp_path, takes, encoder):
    whole, wav, background = tmp_path / "long.wav", tmp_path / "talk.wav", ROOT / "models/keywords/background/ru.ogg"
    subprocess.run([BELLIS, "run", DEMO / "long.flac", "--quiet", "--consumer", f"wav:{whole}"], cwd=ROOT, check=True)
    audio, rate = samples(whole)
    talk = audio[41 * rate : 65 * rate]  # without the word
    with wave.open(str(wav), "wb") as out:
        out.setparams((1, 2, rate, 0, "NONE", ""))
        out.writeframes(talk.tobytes())
    own, other = tmp_path / "own", tmp_path / "other"
    bellis.KeywordSpotter(own, encoder).enroll("several", takes=takes, background=[background], own_speech=talk)
    command = [BELLIS, "enroll", "several", "--folder", other, "--background", background, "--own-speech", wav, "--from"]
    subprocess.run([*command, *sorted(DEMO.glob("take-*.wav"))], cwd=ROOT, check=True)
    threshold = lambda folder: re.search("^threshold = .*", (folder / "several.keyword.toml").read_text(), re.M)[0]
    assert threshold(own) == threshold(other)
    with pytest.raises(ValueError, match="own_speech"):
        bellis.KeywordSpotter(own, encoder).enroll("x", takes=takes, own_speech=talk, threshold=0.3)


def test_a_keyword_from_text_is_that_of_the_command_line(tmp_path, encoder):
    own, other = tmp_path / "own", tmp_path / "other"
    spotter = bellis.KeywordSpotter(own, encoder)
    spotter.enroll("lamp", say="turn on the lamp")
    command = [BELLIS, "enroll", "lamp", "--say", "turn on the lamp", "--folder", other]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    assert (own / "lamp.keyword.toml").read_text() == (other / "lamp.keyword.toml").read_text()
    assert spotter.keywords == ["lamp"]
    with pytest.warns(UserWarning, match="short"):
        spotter.enroll("go", say="go", threshold=0.5)
    with pytest.raises(bellis.BellisError, match="no language"):
        spotter.enroll("x", say="x", language="xx-nowhere", threshold=0.5)
    with pytest.raises(ValueError, match="pass say, or takes"):
        spotter.enroll("x", threshold=0.5)
    with pytest.raises(ValueError, match="false_accepts"):
        spotter.enroll("x", say="hello there", false_accepts=0)


@pytest.fixture
def pulse(tmp_path, monkeypatch):
    """A PulseAudio server with a null sink, whose monitor is the microphone of this process."""
    (tmp_path / ".asoundrc").write_text("pcm.!default { type pulse }\nctl.!default { type pulse }\n")
    for name in ["HOME", "XDG_RUNTIME_DIR", "PULSE_RUNTIME_PATH"]:
        monkeypatch.setenv(name, str(tmp_path))
    sink = "module-null-sink sink_name=mic rate=48000 channels=1 format=s16le norewinds=1"
    server = ["pulseaudio", "-n", "--daemonize=no", "--exit-idle-time=-1", "--realtime=no", "--high-priority=no", "--use-pid-file=no"]
    process = subprocess.Popen([*server, "-L", "module-native-protocol-unix", "-L", sink], stderr=subprocess.DEVNULL)
    until = time.monotonic() + 20
    while subprocess.run(["pactl", "set-default-source", "mic.monitor"], stderr=subprocess.DEVNULL).returncode:
        assert time.monotonic() < until and process.poll() is None, "pulseaudio does not answer"
        time.sleep(0.1)
    yield process
    process.terminate()
    process.wait()


def play(path):
    return subprocess.Popen(["paplay", "--device=mic", "--latency-msec=40", path])


def test_a_microphone_is_an_iterator(pulse, encoder):
    with encoder.microphone(phones=True) as microphone:
        first = next(microphone)
        assert first.start == 0 and first.vectors.shape == (16, 192)
        player = play(ROOT / "models/sample.wav")
        phones, layers = [], []
        for chunk in microphone:
            phones += chunk.phones
            layers.append(chunk.layer)
            if len(phones) >= 20:
                break
        player.terminate()
        player.wait()
    assert max(layers) > 3 and microphone.dropped == 0
    assert list(microphone) == [], "a closed microphone ends"


def test_a_microphone_finds_keywords(tmp_path, pulse, takes, encoder):
    spotter = bellis.KeywordSpotter(tmp_path / "keywords", encoder, rate=48000)
    spotter.enroll("several", takes=takes, threshold=0.3, rate=16000)
    with spotter.microphone() as events:
        wav = tmp_path / "long.wav"
        subprocess.run([BELLIS, "run", DEMO / "long.flac", "--quiet", "--consumer", f"wav:{wav}"], cwd=ROOT, check=True)
        player = play(wav)
        event = next(events)
        player.terminate()
        player.wait()
    assert event.keyword == "several" and event.detected


def test_a_microphone_that_vanishes_is_an_error(pulse, encoder):
    microphone = encoder.microphone()
    next(microphone)
    pulse.terminate()
    with pytest.raises(bellis.BellisError, match="the microphone `default` stopped"):
        for _ in microphone:
            pass


def test_a_slow_loop_drops_audio_and_can_still_be_left(pulse, encoder, monkeypatch):
    monkeypatch.setattr("bellis._microphone._QUEUE_SECONDS", 0.2)
    with encoder.microphone() as microphone:
        next(microphone)
        until = time.monotonic() + 20
        while not microphone.dropped:
            assert time.monotonic() < until, "nothing was dropped"
            time.sleep(0.05)
        # With the queue full, the end of the device still lets it close.
        pulse.terminate()
        pulse.wait()


def test_another_thread_can_close_a_microphone(pulse, encoder):
    microphone = encoder.microphone()
    next(microphone)
    closer = threading.Timer(0.3, microphone.close)
    closer.start()
    for _ in microphone:
        pass
    closer.join()


def test_an_absent_microphone_is_an_error(encoder, monkeypatch):
    with pytest.raises(bellis.BellisError, match="`no_such_device` stopped: arecord.*No such file"):
        next(encoder.microphone("no_such_device"))
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(bellis.BellisError, match="apt install alsa-utils"):
        next(encoder.microphone())


def test_wrong_use_is_refused_with_the_reason(tmp_path, encoder, takes):
    with pytest.raises(FileNotFoundError, match="daisy-nano, daisy-tiny"):
        bellis.Encoder("no-such-pack")
    with pytest.raises(bellis.BellisError, match="pack.toml"):
        bellis.Encoder(tmp_path / "nothing")
    for wrong, message in [({"policy": "nonsense"}, "nonsense"), ({"precision": "f16"}, "f16")]:
        with pytest.raises(ValueError, match=message):
            bellis.Encoder("daisy-tiny", **wrong)
    with pytest.raises(ValueError, match="rate must be between"):
        encoder.stream(rate=10)
    with pytest.raises(ValueError, match="multiple of"):
        encoder.stream(chunk=33)
    stream = encoder.stream()
    for wrong in [[0.0, 1.0], np.zeros((2, 100), np.float32), np.zeros(100), "text", None]:
        with pytest.raises(TypeError, match="float32 or int16"):
            stream.accept(wrong)
    spotter = bellis.KeywordSpotter(tmp_path / "new", encoder)
    with pytest.raises(ValueError, match="threshold"):
        spotter.enroll("x", takes=takes, threshold=2)
    with pytest.raises(bellis.BellisError, match="take 1"):
        spotter.enroll("x", takes=[np.zeros(16000, np.float32)], threshold=0.3)
    # The same recording backwards is speech, but another word.
    unlike = [takes[0], takes[1], np.ascontiguousarray(takes[2][::-1])]
    with pytest.raises(bellis.BellisError, match="take 3: too unlike the others.*keep_unlike=True"):
        spotter.enroll("x", takes=unlike, threshold=0.3)
    spotter.enroll("x", takes=unlike, threshold=0.3, keep_unlike=True)
    with pytest.raises(ValueError, match="near_misses"):
        bellis.KeywordSpotter(tmp_path, encoder, near_misses=2)


def test_the_wheel_has_the_packs():
    assert bellis.packs() == ["daisy-nano", "daisy-tiny"]
