"""Word errors and processor time of Moonshine tiny behind three front ends, on a long recording with speech, noise and silence:

    everything   fixed windows, nothing skipped
    Silero VAD   its probabilities, with its own rules and with those of Bellis
    Bellis       `bellis run --consumer segments:stream:-`

    python examples/recogniser/compare.py --speech FOLDER… --noise a.wav… [--bellis target/release/bellis] [-- FLAGS OF bellis run]
"""

import argparse
import importlib.util
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import onnxruntime
from whisper_normalizer.english import EnglishTextNormalizer

import recording
from moonshine import RATE, Moonshine, one_thread

sys.path.insert(0, str(Path(__file__).parent.parent))
from read_stream import messages

Span = tuple[int, int]


def windows(audio: np.ndarray, seconds: int) -> list[Span]:
    return [(start, min(start + seconds * RATE, len(audio))) for start in range(0, len(audio), seconds * RATE)]


def silero(audio: np.ndarray) -> np.ndarray:
    """The probability of speech in every 512 samples."""
    spec = importlib.util.find_spec("silero_vad")
    if not spec:
        raise SystemExit("no Silero VAD: pip install --no-deps silero-vad==6.2.3")
    path = Path(spec.origin).parent / "data/silero_vad.onnx"
    session = onnxruntime.InferenceSession(path, one_thread(), providers=["CPUExecutionProvider"])
    audio = np.concatenate([np.zeros(64, np.float32), audio])
    state, rate, found = np.zeros((2, 1, 128), np.float32), np.array(RATE, np.int64), []
    for start in range(64, len(audio) - 511, 512):
        probability, state = session.run(None, {"input": audio[None, start - 64:start + 512], "state": state, "sr": rate})
        found.append(probability[0, 0])
    return np.array(found)


def spans(probabilities: np.ndarray, samples: int, least: float, hangover: float, pad: float, longest: float = 30.0) -> list[Span]:
    """Utterances: speech starts at 0.5 and ends below 0.35; lengths in seconds."""
    second = RATE / 512
    found, first, last = [], None, 0
    for frame, probability in enumerate([*probabilities, *[0.0] * (int(hangover * second) + 2)]):
        if probability >= (0.5 if first is None or last < frame - 1 else 0.35):
            first, last = frame if first is None else first, frame
        elif first is not None and frame - last >= max(hangover * second, 1):
            if last + 1 - first >= least * second:
                found.append((first, last + 1))
            first = None
        if first is not None and frame - first >= longest * second:
            found.append((first, frame))
            first = frame
    margin = int(pad * RATE)
    edges = [0, *(value * 512 for span in found for value in span), samples]
    # Padding takes at most half of the silence between two utterances.
    return [
        (start - min(margin, (start - before) // 2), end + min(margin, (after - end) // 2))
        for before, start, end, after in zip(edges[::2], edges[1::2], edges[2::2], edges[3::2])
    ]


def bellis(program: str, path: Path, flags: list[str]) -> list[Span]:
    command = [program, "run", str(path), "--quiet", "--consumer", "segments:stream:-", *flags]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        found = [(h["sample"], h["sample"] + h["samples"]) for h, _ in messages(process.stdout) if h["type"] == "segment"]
    if process.returncode:
        raise SystemExit(f"{' '.join(command)}: exit code {process.returncode}")
    return found


def processor_time() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + usage.ru_utime + usage.ru_stime


def timed(function, *values):
    before = processor_time()
    result = function(*values)
    return result, processor_time() - before


def errors(reference: list[str], words: list[str]) -> dict[str, int]:
    """Substituted, deleted and inserted words on the shortest alignment."""
    numbers = {word: n for n, word in enumerate({*reference, *words})}
    target = np.array([numbers[word] for word in words], np.int64)
    columns = np.arange(len(words) + 1)
    rows = [columns.astype(np.int64)]
    for word in reference:
        row = np.minimum(rows[-1] + 1, np.concatenate([[rows[-1][0] + 1], rows[-1][:-1] + (target != numbers[word])]))
        # Insertions: the minimum over all columns to the left, plus their distance.
        rows.append(np.minimum.accumulate(row - columns) + columns)
    count, i, j = {"substituted": 0, "deleted": 0, "inserted": 0}, len(reference), len(words)
    while i or j:
        same = i and j and reference[i - 1] == words[j - 1]
        if i and j and rows[i][j] == rows[i - 1][j - 1] + (not same):
            count["substituted"] += not same
            i, j = i - 1, j - 1
        elif i and rows[i][j] == rows[i - 1][j] + 1:
            count["deleted"] += 1
            i -= 1
        else:
            count["inserted"] += 1
            j -= 1
    return count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--speech", type=Path, nargs="+", required=True, help="folders with audio and texts (recording.py)")
    parser.add_argument("--noise", type=Path, nargs="*", default=[], help="recordings of noise")
    parser.add_argument("--bellis", default="bellis", help="the program (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="file for the figures and transcripts")
    parser.add_argument("flags", nargs="*", help="flags of bellis run, after --")
    options = parser.parse_args()

    audio, truth = recording.make([one for folder in options.speech for one in recording.utterances(folder)], options.noise)
    normal, recogniser, report = EnglishTextNormalizer(), Moonshine(), {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "recording.wav"
        audio = recording.write(path, audio)
        probabilities, silero_time = timed(silero, audio)
        cut, bellis_time = timed(bellis, options.bellis, path, options.flags)
    minutes = len(audio) / RATE / 60
    reference = normal(" ".join(one.text for one in truth)).split()
    print(f"{minutes:.1f} minutes, {len(truth)} utterances of {sum(one.end - one.start for one in truth) / RATE / 60:.1f} minutes, {len(reference)} words\n")
    print("| front end | front end, s of CPU | recogniser, s of CPU | CPU per minute | audio recognised | word errors | substituted | deleted | inserted |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    fronts = {
        "exact utterances": ([(one.start, one.end) for one in truth], 0.0),
        "everything, 10 s": (windows(audio, 10), 0.0),
        "everything, 30 s": (windows(audio, 30), 0.0),
        "Silero VAD, its rules": (spans(probabilities, len(audio), 0.25, 0.1, 0.03), silero_time),
        "Silero VAD, Bellis's rules": (spans(probabilities, len(audio), 0.1, 0.5, 0.2), silero_time),
        "Bellis": (cut, bellis_time),
    }
    for name, (parts, front) in fronts.items():
        texts, spent = timed(lambda: [recogniser.transcribe(audio[start:end]) for start, end in parts])
        found = errors(reference, normal(" ".join(texts)).split())
        share, wrong = sum(end - start for start, end in parts) / len(audio), sum(found.values()) / len(reference)
        print(f"| {name} | {front:.1f} | {spent:.1f} | {(front + spent) / minutes:.2f} s | {share:.0%} | {wrong:.1%} | "
              f"{found['substituted']} | {found['deleted']} | {found['inserted']} |", flush=True)
        lines = [{"start": start / RATE, "end": end / RATE, "text": text} for (start, end), text in zip(parts, texts)]
        report[name] = {"front": front, "recogniser": spent, "share": share, **found, "transcript": lines}
    if options.json:
        report["truth"] = [vars(one) for one in truth]
        options.json.write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
