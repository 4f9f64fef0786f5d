"""examples/read_stream.py reads the program's stream, over a pipe and a Unix socket."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

REPOSITORY = Path(__file__).parents[2]
BELLIS = Path(os.environ.get("BELLIS", REPOSITORY / "target/release/bellis"))
READER = REPOSITORY / "examples/read_stream.py"
sys.path.insert(0, str(REPOSITORY / "examples"))

from read_stream import messages  # noqa: E402


def command(*flags):
    assert BELLIS.exists(), "build the program first: cargo build --release"
    return [str(part) for part in (BELLIS, "run", "--quiet", "--pack", REPOSITORY / "tests/data/ctc/pack", REPOSITORY / "models/sample.wav", *flags)]


def read(*flags):
    with subprocess.Popen(command(*flags), stdout=subprocess.PIPE) as program:
        found = list(messages(program.stdout))
    assert program.returncode == 0
    return found


@pytest.mark.parametrize("float_type, tolerance", [("f32", 0), ("f16", 1e-3)])
def test_chunks_are_those_of_the_numpy_file(tmp_path, float_type, tolerance):
    found = read("--consumer", "stream:-", "--arrays", "vectors,posteriors,ctc,audio", "--float", float_type, "--consumer", f"npy:{tmp_path}/x.npy")
    (stream, _), *chunks, (end, _) = found
    assert (stream["type"], stream["dim"], stream["units"], len(stream["vocabulary"])) == ("stream", 32, 12, 8)
    assert end == {"type": "end", "chunks": len(chunks), "arrays": []}
    states = np.load(tmp_path / "x.npy")
    vectors = np.concatenate([arrays["vectors"] for _, arrays in chunks])
    assert vectors.dtype == {"f32": "<f4", "f16": "<f2"}[float_type]
    np.testing.assert_allclose(vectors.astype("f4"), states, rtol=tolerance, atol=tolerance)
    lines = [json.loads(line) for line in (tmp_path / "x.chunks.jsonl").open()]
    assert [header["sample"] for header, _ in chunks] == [line["sample"] for line in lines]
    assert sum(len(arrays["audio"]) for _, arrays in chunks) == sum(line["samples"] for line in lines)
    for header, arrays in chunks:
        assert arrays["posteriors"].shape == (header["frames"], 12) and arrays["ctc"].shape == (header["frames"], 8)
        np.testing.assert_allclose(np.exp(arrays["posteriors"].astype("f4")).sum(1), 1, rtol=2e-2)


def test_segments_are_those_of_the_folder(tmp_path):
    found = read("--consumer", "segments:stream:-", "--consumer", f"segments:{tmp_path}/talk")
    lines = [json.loads(line) for line in (tmp_path / "talk/segments.jsonl").open()]
    segments = [(header, arrays) for header, arrays in found if header["type"] == "segment"]
    assert len(segments) == len(lines) > 0
    for (header, arrays), line in zip(segments, lines):
        assert header["sample"] == line["sample"] and arrays["audio"].shape == (line["samples"],)
        np.testing.assert_array_equal(arrays["vectors"], np.load(tmp_path / "talk" / line["npy"]))


def test_the_example_reads_a_pipe_and_a_socket(tmp_path):
    piped = subprocess.run([sys.executable, READER, "-"], input=subprocess.run(command("--consumer", "stream:-"), capture_output=True, check=True).stdout, capture_output=True, check=True)
    lines = piped.stdout.decode().splitlines()
    assert lines[0].startswith("stream") and lines[-1].startswith("end") and all("'vectors': (" in line for line in lines[1:-1])
    path = tmp_path / "socket"
    with subprocess.Popen([sys.executable, READER, path], stdout=subprocess.PIPE) as reader:
        while not path.exists():
            assert reader.poll() is None
            time.sleep(0.01)
        subprocess.run(command("--consumer", f"stream:unix:{path}"), check=True)
        assert reader.stdout.read().decode().splitlines() == lines
