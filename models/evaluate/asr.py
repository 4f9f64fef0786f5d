"""Measures phone error rates of the CTC branches by exit layer and policy, and of the recogniser that they were trained on.

    python -m models.evaluate.asr PACK [--minutes M] [--policies LIST] [--out FOLDER]

Held-out speech (speech.test, speech.probe), clean and in noise, runs through `bellis run --consumer phones`. The reference is the output of
hama 1.7 for the clean audio, so hama's own error there is zero by definition. As a baseline, hama also transcribes the noisy audio, in
whole clips. A second reference, independent of any recogniser, is festvox-ru's aligned labels (Russian): all vowels
count as one there, and palatalised consonants as plain ones, since neither model distinguishes them.

Utterances are measured on the stream `device` of models.evaluate.streams: the share of speech, silence and noise in them.

Writes FOLDER/NAME.json and FOLDER/NAME.md (default: docs/asr). The stream and hama's output are cached in $BELLIS_DATA.
"""

import argparse
import hashlib
import json
import subprocess
import tempfile
import tomllib
from pathlib import Path

import numpy as np
import soundfile

from models.train.mixing import scale_to
from models.train.paths import DATA, HOP, PREPARED, RATE, REPOSITORY
from models.train.phones import SAME
from models.train.teach import phones as aligned_phones

from .measures import SILENCE, interval
from .runs import BELLIS, segments
from .streams import PAUSE, STREAMS, Pool, Stream

CONDITIONS = (("", None), ("babble", 10), ("public", 5), ("music", 5), ("white", 0))
CTC_ENTROPIES = (0.1, 0.15, 0.2, 0.3, 0.45, 0.7)
GAINS = (0.01, 0.03, 0.07)
BEAM = 8
BOUNDARY = "<wb>"

VOWEL = "V"
RUSSIAN = {"c": "ts", "ch": "tʃ", "h": "x", "sch": "ʃ", "sh": "ʃ", "zh": "ʒ"}
RUSSIAN_VOWELS = set("a aa ae ay e ee i ii o oo u uu ur y yy".split())
IPA = {"ð": "z", "θ": "s", "ɹ": "r", "ɾ": "r", "w": "v", "h": "x", "ŋ": "n", "d͡ʒ": "ʒ", "t͡ʃ": "tʃ", "t͡s": "ts"}
IPA_VOWELS = set("aeiouyæɑɒɔəɛɜɝɐɪʊʌɨʉø")


def from_label(phone):
    """A phone of festvox-ru's labels, folded."""
    if phone in RUSSIAN_VOWELS:
        return VOWEL
    plain = phone[0] if len(phone) == 2 and phone[0] == phone[1] else phone
    return RUSSIAN.get(plain, plain)


def from_ipa(phone):
    """An IPA phone, folded the same way."""
    if phone[0] in IPA_VOWELS:
        return VOWEL
    plain = phone.replace("ʲ", "").replace("ː", "")
    return IPA.get(plain, plain)


def distance(found, expected):
    """Levenshtein distance."""
    row = list(range(len(expected) + 1))
    for count, one in enumerate(found, 1):
        before, row[0] = row[0], count
        for at, other in enumerate(expected, 1):
            before, row[at] = row[at], min(row[at] + 1, row[at - 1] + 1, before + (one != other))
    return row[-1]


def make_stream(minutes):
    """The stream `asr`: clips of both groups in every condition."""
    pool, stream = Pool(11), Stream()
    for group, share in (("speech.test", 2 / 3), ("speech.probe", 1 / 3)):
        clips = pool.clips(group, minutes * share)
        for kind, snr in CONDITIONS:
            for clip, audio in clips:
                mixed = audio + scale_to(pool.noise(kind, len(audio)), np.mean(audio**2), snr) if kind else audio
                stream.add(mixed / max(1, np.abs(mixed).max()), f"{group} {kind} {snr}" if kind else f"{group} clean", kind, snr, clip)
    stream.write("asr")


def transcribe():
    """hama's phones for each segment of the stream, without word boundaries."""
    path = DATA / "evaluate" / f"hama-{hashlib.sha256((STREAMS / 'asr.json').read_bytes()).hexdigest()[:16]}.json"
    if not path.exists():
        from hama.asr import ASRModel

        model, transcripts = ASRModel(), []
        sound, parts = soundfile.read(STREAMS / "asr.wav", dtype="float32")[0], segments("asr")
        for number, s in enumerate(parts):
            result = model.transcribe_waveform(sound[s["first"] * HOP : (s["first"] + s["frames"]) * HOP], RATE)
            transcripts.append([SAME.get(phone, phone) for phone in result.phonemes if phone != BOUNDARY])
            if number % 50 == 0:
                print(f"asr: hama: {number} of {len(parts)} segments", flush=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(transcripts, ensure_ascii=False))
    return json.loads(path.read_text())


def labels(parts):
    """Folded phones of the segments of festvox-ru, by segment number."""
    index = json.loads((PREPARED / "speech.probe.json").read_text())
    rows, names = aligned_phones(index)
    names = {number: name for name, number in names.items()}
    by_clip = {f"{index[n]['package']}/{index[n]['clip']}": row for n, row in rows.items()}
    found = {}
    for number, s in enumerate(parts):
        if (row := by_clip.get(s["clip"])) is not None:
            changes = row[np.flatnonzero(np.diff(row, prepend=-1))]
            found[number] = [from_label(names[phone]) for phone in changes if names[phone] not in SILENCE]
    return found


def run(pack, policy):
    """Phones of every segment as read by Bellis, and the report of the run."""
    parts = segments("asr")
    with tempfile.TemporaryDirectory() as folder:
        command = [BELLIS, "run", STREAMS / "asr.wav", "--pack", pack, "--quiet", "--policy", *policy.split()]
        command += ["--consumer", f"phones:{folder}/phones.jsonl", "--report", f"{folder}/report.json"]
        subprocess.run([str(part) for part in command], check=True)
        lines = [json.loads(line) for line in Path(folder, "phones.jsonl").open()]
        report = json.loads(Path(folder, "report.json").read_text())
    # Phones belong to a segment up to the middle of the pause after it.
    ends = np.array([(s["first"] + s["frames"] + PAUSE / 2) * HOP for s in parts])
    found = [[] for _ in parts]
    for line in lines:
        found[min(len(parts) - 1, int(np.searchsorted(ends, line["sample"])))].append(line["phone"])
    print(f"asr: {policy}: depth {report['mean_exit_layer']:.2f}, {report['macs_per_second'] / 1e6:.0f} M MACs per second", flush=True)
    return found, report


def utterances(pack):
    """Share of the frames of the stream `device` that are in an utterance, by content; without padding."""
    command = [BELLIS, "run", STREAMS / "device.wav", "--pack", pack, "--quiet", "--consumer", "segments", "--pad", "0"]
    lines = [json.loads(line) for line in subprocess.run([str(part) for part in command], check=True, capture_output=True).stdout.splitlines()]
    parts, inside = segments("device"), np.zeros(max(s["first"] + s["frames"] for s in segments("device")), bool)
    for line in lines:
        inside[line["sample"] // HOP : (line["sample"] + line["samples"]) // HOP] = True
    found = {}
    for s in parts:
        name = "speech, clean" if s["condition"] == "speech" and not s["kind"] else "speech in noise" if s["condition"] == "speech" else f"{s['condition']}: {s['kind']}"
        found.setdefault(name, []).append(inside[s["first"] : s["first"] + s["frames"]])
    return {name: float(np.concatenate(masks).mean()) for name, masks in sorted(found.items())} | {"utterances": len(lines)}


class Scores:
    """Errors against both references."""

    def __init__(self, transcripts, vocabulary):
        self.parts = segments("asr")
        known = set(vocabulary)
        clean = {s["clip"]: [phone for phone in transcripts[n] if phone in known] for n, s in enumerate(self.parts) if not s["kind"]}
        self.expected = [clean[s["clip"]] for s in self.parts]
        self.known, self.labels = known, labels(self.parts)
        missing = sum(len(transcripts[n]) - len(clean[s["clip"]]) for n, s in enumerate(self.parts) if not s["kind"])
        self.missing = missing / max(1, sum(len(transcripts[n]) for n, s in enumerate(self.parts) if not s["kind"]))
        self.clips = np.array([s["clip"] for s in self.parts])

    def of(self, found):
        """{condition: [error, low, high]} against hama's clean phones, and the same against the labels."""
        plain = [[phone for phone in phones if phone in self.known] for phones in found]
        errors = np.array([distance(p, w) for p, w in zip(plain, self.expected)], float)
        counts = np.array([len(w) for w in self.expected], float)
        folded = {n: (distance([from_ipa(phone) for phone in found[n]], w), len(w)) for n, w in self.labels.items()}
        out = {"teacher": {}, "labels": {}}
        for group in ("speech.test", "speech.probe"):
            for kind, snr in CONDITIONS:
                name = f"{kind} {snr}" if kind else "clean"
                here = [n for n, s in enumerate(self.parts) if s["condition"] == f"{group} {name}" and counts[n]]
                out["teacher"][f"{group} {name}"] = self.rate(errors[here], counts[here], self.clips[here])
                here = [n for n in folded if self.parts[n]["condition"] == f"{group} {name}"]
                if here:
                    pairs = np.array([folded[n] for n in here], float)
                    out["labels"][name] = self.rate(pairs[:, 0], pairs[:, 1], self.clips[here])
        noisy = [n for n, s in enumerate(self.parts) if counts[n]]
        out["teacher"]["all"] = self.rate(errors[noisy], counts[noisy], self.clips[noisy])
        return out

    @staticmethod
    def rate(errors, counts, clips):
        return [float(x) for x in interval(errors / counts, counts, clips)]


def policies(manifest):
    """Policies to compare, as flags of `bellis run`."""
    stages, layers = manifest["stages"], manifest["encoder"]["layers"]
    branches = sorted(int(k) for k in stages["ctc"] if int(k) > 0 or "0" in stages.get("head", {}))
    out = [f"fixed --layer {k}" for k in branches if k < layers] + ["never"]
    if "gain" in stages:
        out += ["gain"] + [f"gain --threshold {value}" for value in GAINS]
    return out + [f"ctc --threshold {value}" for value in CTC_ENTROPIES]


def table(figures):
    """Markdown."""
    head = ["", "depth", "of full compute", *(f"{kind} {snr} dB" if kind else "clean" for kind, snr in CONDITIONS), "all"]
    percent = lambda value: f"{100 * value[0]:.1f}"
    names = [f"{kind} {snr}" if kind else "clean" for kind, snr in CONDITIONS]

    def row(name, scores, depth="", share=""):
        teacher = scores["teacher"]
        both = [percent(teacher[f"speech.test {n}"]) for n in names]
        return [name, depth, share, *both, percent(teacher["all"])]

    def second(name, scores):
        return [name, *(f"{percent(scores['teacher'][f'speech.probe {n}'])} / {percent(scores['labels'][n])}" for n in names)]

    runs = figures["runs"]
    show = lambda rows: "\n".join("| " + " | ".join(map(str, r)) + " |" for r in [rows[0], ["---"] * len(rows[0]), *rows[1:]])
    one = [head, row("hama, whole clips", figures["hama"])]
    one += [row(f"`{name}`", r, f"{r['depth']:.2f}", f"{r['share']:.2f}") for name, r in runs.items()]
    two = [["", *head[3:-1]], second("hama, whole clips", figures["hama"])]
    two += [second(f"`{name}`", r) for name, r in runs.items()]
    low, high = (100 * runs["never"]["teacher"]["all"][n] for n in (1, 2))
    return f"""# Phone error rates of {figures["pack"]}

Measured by `python -m models.evaluate.asr {figures["path"]}`; {figures["pack"]}.json has all figures with 95 % intervals. Phone error rate
in %: edit distance divided by the number of phones in the reference. `never` is full depth (all: {low:.1f} to {high:.1f} when clips are resampled); *of full compute* refers to the MACs of
everything that ran. {100 * figures["outside of the vocabulary"]:.1f} % of hama's phones are not in the pack's vocabulary and are ignored.

## Against hama's output for the clean audio

speech.test: French prompts, Dutch acting, English reading; these packages are held out from training.

{show(one)}

## Russian (festvox-ru): against hama's output for the clean audio / against aligned labels

With the labels, all vowels count as one, and palatalised consonants as plain ones.

{show(two)}

## Utterances

Share of 20 minutes of the device-like stream that is in an utterance, by content; the pack's own policy, without padding.

{show([["content", "%"], *([name, f"{100 * value:.1f}"] for name, value in figures["utterances"].items() if name != "utterances")])}
"""


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pack", type=Path)
    parser.add_argument("--minutes", type=float, default=4, help="minutes of speech per condition, when the stream is created")
    parser.add_argument("--policies", help="values of --policy with further flags, separated by commas (default: every layer and a sweep of thresholds)")
    parser.add_argument("--out", type=Path, default=REPOSITORY / "docs/asr")
    arguments = parser.parse_args()
    manifest = tomllib.loads((arguments.pack / "pack.toml").read_text())
    if "ctc" not in manifest:
        raise SystemExit(f"asr: {arguments.pack} has no CTC branches, which phones require")
    if not (STREAMS / "asr.json").exists():
        make_stream(arguments.minutes)
    transcripts = transcribe()
    scores = Scores(transcripts, [phone for phone in manifest["ctc"]["vocabulary"][1:] if phone != BOUNDARY])
    path = arguments.pack.resolve()
    path = path.relative_to(REPOSITORY) if path.is_relative_to(REPOSITORY) else arguments.pack.name
    figures = {"pack": manifest["name"], "path": str(path), "outside of the vocabulary": scores.missing, "hama": scores.of(transcripts), "runs": {}}
    requested = arguments.policies.split(",") if arguments.policies else policies(manifest)
    for policy in dict.fromkeys(["never", *requested, f"never --beam {BEAM}"]):
        found, report = run(arguments.pack, policy)
        figures["runs"][policy] = {"depth": report["mean_exit_layer"], "macs": report["macs_per_second"], **scores.of(found)}
    for one in figures["runs"].values():
        one["share"] = one["macs"] / figures["runs"]["never"]["macs"]
    figures["utterances"] = utterances(arguments.pack)
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / f"{manifest['name']}.json").write_text(json.dumps(figures, indent=1, ensure_ascii=False) + "\n")
    (arguments.out / f"{manifest['name']}.md").write_text(table(figures))
    print(table(figures))


if __name__ == "__main__":
    main()
