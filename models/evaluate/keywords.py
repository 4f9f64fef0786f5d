"""Keywords by example, through the program: recall at a rate of false accepts, clean and in noise.

    python -m models.evaluate.keywords [--quick] [--pack PACK] [--policy NAME ...] [--peer local-wake] [--out DIR]

Two sets, three examples enrolled of each word, nothing of either in the training data:
    same     words of four letters and more that festvox-ru's one speaker says at least 8 times, cut out of running speech by its phone labels;
             tested on the whole sentences that hold the others
    unseen   phrases of hedgewars' English voices: examples of three voices, tested on the seven others
against background speech of speakers and languages that no pack was trained on (speech.test, and flight-of-the-amazon-queen where it is
unpacked), which also has no word of either set.

Every word gets the score that allows so many false accepts an hour of the background; recall is the mean over words of the share of utterances
at or above it. Near misses of one run give the whole curve: the program runs once over each file.
"""

import argparse
import io
import json
import re
import resource
import subprocess
import tempfile
from collections import defaultdict
from pathlib import Path

import numpy as np
import soundfile
from scipy.signal import resample_poly

from ..train.paths import PACKAGES, PREPARED, RATE, REPOSITORY
from ..train.prepare import decode

RU = PACKAGES / "festvox-ru/usr/share/festival/voices/russian/msu_ru_nsh_clunits"
VOICES = PACKAGES / "hedgewars-data/usr/share/games/hedgewars/Data/Sounds/voices"
ENGLISH = ["British", "Classic", "Default", "HillBilly", "Mobster", "Pirate", "Robot", "Russian", "Singer", "Surfer"]
NO_WORDS = re.compile(r"Laugh|Ow\d|Ooff\d|Jump\d|Hmm|Ouch|.*\d")
QUEEN = PACKAGES / "flight-of-the-amazon-queen/usr/share/scummvm/flight-of-the-amazon-queen/queen.1c"
ENROLLED = 3
PAUSE = 1.0  # seconds between recordings: nothing matches across
LEAST_SCORE = 0.6  # near misses from here on
SNRS = ["clean", 20, 10, 5, 0]
RATES = [0.1, 0.2, 0.5, 1, 2, 5, 10, 20]  # false accepts an hour

# --- words in running speech -----------------------------------------------------------------------------------------------------------

VOWELS = "аеёиоуыэюя"
PHONES = {
    "б": "b p", "в": "v f", "г": "g k v h", "д": "d t", "ж": "zh sh", "з": "z s", "й": "j", "к": "k g h", "л": "l", "м": "m", "н": "n", "п": "p b",
    "р": "r", "с": "s z sh", "т": "t d c ch", "ф": "f v", "х": "h", "ц": "c", "ч": "ch sh", "ш": "sh", "щ": "sch",
}  # fmt: skip


def letter_cost(letter, phone):
    vowel = phone[0] in "aeiouy"
    if letter in VOWELS or vowel:
        return 0 if letter in VOWELS and vowel else 2
    known = PHONES.get(letter, "").split()
    return 0 if phone in known or (len(phone) == 2 and phone[0] == phone[1] and phone[0] in known) else 1


def align(text, phones):
    """Letters of the text to labelled phones by edit distance: Russian is written nearly as it is spoken. (word, start, end) of each word."""
    words = re.sub("[^а-яё ]", " ", text.lower().replace("+", "")).split()
    letters = [(letter, index) for index, word in enumerate(words) for letter in word]
    n, m = len(letters), len(phones)
    best, came = np.full((n + 1, m + 1), np.inf), np.zeros((n + 1, m + 1), int)
    best[0, 0] = 0
    for i in range(n + 1):
        for j in range(m + 1):
            ways = []
            if i and j:
                ways.append((best[i - 1, j - 1] + letter_cost(letters[i - 1][0], phones[j - 1][2]), 0))
            if i:
                ways.append((best[i - 1, j] + (0.05 if letters[i - 1][0] in "ьъ" else 0.8), 1))
            if j:
                ways.append((best[i, j - 1] + (0.4 if phones[j - 1][2] == "j" else 0.8), 2))
            if ways:
                best[i, j], came[i, j] = min(ways)
    own, i, j = defaultdict(list), n, m
    while i or j:
        if came[i, j] == 0:
            i, j = i - 1, j - 1
            own[letters[i][1]].append(j)
        elif came[i, j] == 1:
            i -= 1
        else:
            j -= 1
    if best[n, m] > 0.4 * max(n, 1):
        return []
    return [(words[k], phones[min(at)][0], phones[max(at)][1]) for k, at in own.items()]


def spoken_words():
    """{word: [(utterance, start, end)]}, seconds, of festvox-ru."""
    words = defaultdict(list)
    for line in (RU / "etc/txt.done.data").read_text(errors="replace").splitlines():
        found = re.match(r'\( *(\S+) "(.*)" *\)', line)
        label = RU / "lab" / f"{found[1]}.lab" if found else None
        if not label or not label.exists():
            continue
        phones, before = [], 0.0
        for row in (row.split() for row in label.read_text().splitlines()):
            if len(row) == 3:
                phones.append((before, float(row[0]), row[2]))
                before = float(row[0])
        for word, start, end in align(found[2], [phone for phone in phones if phone[2] != "pau"]):
            if end - start > 0.2:
                words[word].append((found[1], round(start, 3), round(end, 3)))
    return words


# --- the two sets: {word: (examples [audio], tests [(audio, start, end)])} -----------------------------------------------------------


def padded(audio, seconds=0.25):
    silence = np.zeros(int(seconds * RATE), np.float32)
    return np.concatenate([silence, audio, silence])


def same_speaker(count, random, tests):
    index = {c["clip"].split("/")[-1].removesuffix(".wav"): c for c in json.loads((PREPARED / "speech.probe.json").read_text())}
    sound = np.load(PREPARED / "speech.probe.npy", mmap_mode="r")
    clip = lambda u: np.asarray(sound[index[u]["start"] * 320 : (index[u]["start"] + index[u]["frames"]) * 320], np.float32) / 32768
    words = {w: places for w, places in spoken_words().items() if len(w) >= 4 and len(places) >= 8}
    chosen = sorted(words, key=lambda w: (-len(w), w))[:count]
    out = {}
    for word in chosen:
        places = [words[word][i] for i in random.permutation(len(words[word]))]
        utterances = {u for u, _, _ in places[:ENROLLED]}
        examples = [padded(clip(u)[int(s * RATE) : int(e * RATE)]) for u, s, e in places[:ENROLLED]]
        out[word] = examples, [(clip(u), s, e) for u, s, e in places[ENROLLED:] if u not in utterances][:tests]
    return out


def unseen_speakers(count, random, tests):
    recordings = defaultdict(list)
    for voice in ENGLISH:
        for path in sorted((VOICES / voice).glob("*.ogg")):
            audio = decode(path)
            if not NO_WORDS.fullmatch(path.stem) and audio is not None and 0.4 * RATE <= len(audio) <= 2.5 * RATE:
                recordings[path.stem].append(audio)
    chosen = sorted((w for w, takes in recordings.items() if len(takes) >= ENROLLED + 3), key=lambda w: (-len(recordings[w]), w))[:count]
    out = {}
    for word in chosen:
        takes = [padded(recordings[word][i]) for i in random.permutation(len(recordings[word]))]
        out[word] = takes[:ENROLLED], [(audio, 0.25, len(audio) / RATE - 0.25) for audio in takes[ENROLLED:]][:tests]
    return out


def background(hours):
    """Speech without the keywords, from everywhere in the recordings: samples."""
    parts = []
    sound = np.load(PREPARED / "speech.test.npy", mmap_mode="r")
    wanted = int(hours * 3600 * RATE)
    minutes = max(1, min(wanted, len(sound)) // (60 * RATE))
    for start in np.linspace(0, max(0, len(sound) - 60 * RATE), minutes).astype(int):
        parts.append(np.asarray(sound[start : start + 60 * RATE], np.float32) / 32768)
    have = sum(map(len, parts))
    for audio in acted():
        if have >= wanted:
            break
        parts.append(audio[: wanted - have])
        have += len(parts[-1])
    return np.concatenate(parts)


def acted():
    """The English cast of flight-of-the-amazon-queen, nothing over 5.5 kHz: runs of MP3 frames in its one large file."""
    if not QUEEN.exists():
        return
    kbps = [0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160, 0]  # MPEG-2 and 2.5, layer III
    rates = {0: [11025, 12000, 8000], 2: [22050, 24000, 16000]}
    data, at = QUEEN.read_bytes(), 0

    def frame_bytes(i):
        if i + 4 > len(data) or data[i] != 0xFF or data[i + 1] & 0xE6 != 0xE2:
            return 0
        version, index, rate = data[i + 1] >> 3 & 3, data[i + 2] >> 4, data[i + 2] >> 2 & 3
        return 0 if version not in rates or rate == 3 or not kbps[index] else 72000 * kbps[index] // rates[version][rate] + (data[i + 2] >> 1 & 1)

    while (at := data.find(b"\xff", at)) >= 0:
        end, count = at, 0
        while length := frame_bytes(end):
            end, count = end + length, count + 1
        if count >= 20:
            audio, rate = soundfile.read(io.BytesIO(data[at:end]), dtype="float32")
            divisor = np.gcd(rate, RATE)
            yield resample_poly(audio, RATE // divisor, rate // divisor).astype(np.float32) * 0.5
        at = max(end, at + 1)


def noise_at(audio, snr, noise, random):
    if snr == "clean":
        return audio
    start = random.integers(0, len(noise) - 1)
    piece = np.resize(np.roll(noise, -start), len(audio))
    loud = np.abs(audio) > 0.02 * np.abs(audio).max()
    return audio + piece * np.sqrt(np.mean(audio[loud] ** 2) / max(np.mean(piece**2), 1e-12)) * 10 ** (-snr / 20)


def babble():
    """Hedgewars' music and effects aside, phonlab's babble, party and restaurant: noise that no pack was trained on."""
    index = [c for c in json.loads((PREPARED / "noise.test.json").read_text()) if c["package"] == "phonlab"]
    sound = np.load(PREPARED / "noise.test.npy", mmap_mode="r")
    return np.concatenate([np.asarray(sound[c["start"] * 320 : (c["start"] + c["frames"]) * 320], np.float32) / 32768 for c in index])


# --- the program and the peer ---------------------------------------------------------------------------------------------------------


def cpu(command, **options):
    """Runs a command: its output and its processor seconds."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, capture_output=True, text=True, **options)
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, command))}\n{done.stderr}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return done.stdout, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


class Bellis:
    def __init__(self, program, pack, policy, folder):
        self.command, self.pack, self.folder = program, ["--pack", pack], folder
        self.policy = policy.split("=") if policy else []
        self.name = f"bellis, {policy or 'the default policy'}"
        self.thresholds = {}

    def enroll(self, words, calibrate):
        for number, (word, (examples, _)) in enumerate(words.items()):
            takes = []
            for index, audio in enumerate(examples):
                takes.append(self.folder / f"take-{index}.wav")
                soundfile.write(takes[-1], audio, RATE)
            threshold = [] if number < calibrate else ["--threshold", "0.999"]
            command = [self.command, "enroll", word, "--folder", self.folder, "--keep-unlike", "--replace", *self.pack, *threshold, "--from", *takes]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                print(f"  {word}: not enrolled: {done.stderr.strip()}")
                continue
            if number < calibrate:
                text = (self.folder / f"{word}.keyword.toml").read_text()
                self.thresholds[word] = float(re.search(r"^threshold = (\S+)", text, re.M)[1])

    def spot(self, path):
        """[(word, score, start, end)], processor seconds."""
        policy = ["--policy", self.policy[0], *(["--layer", self.policy[1]] if len(self.policy) > 1 else [])] if self.policy else []
        near = ["--near-misses", str(LEAST_SCORE), "--quiet", "--consumer", f"keyword:{self.folder}"]
        lines, seconds = cpu([self.command, "run", path, *self.pack, *policy, *near])
        found = [json.loads(line) for line in lines.splitlines()]
        return [(hit["keyword"], hit["score"], hit["start"], hit["end"]) for hit in found], seconds


class LocalWake:
    """local-wake as its `listen` does it: every 0.25 s the embedding of the last 2 s, its DTW distance to each example; a second's best is a hit."""

    def __init__(self):
        from lwake.features import dtw_cosine_normalized_distance, extract_embedding_features

        self.name, self.extract, self.distance, self.examples = "local-wake", extract_embedding_features, dtw_cosine_normalized_distance, {}

    def enroll(self, words, _):
        self.examples = {word: [self.extract(y=np.asarray(audio, np.float32)) for audio in examples] for word, (examples, _) in words.items()}

    def spot(self, path):
        audio = soundfile.read(path, dtype="float32")[0]
        before = resource.getrusage(resource.RUSAGE_SELF)
        best = defaultdict(lambda: (0.0, 0.0, 0.0))
        for end in range(RATE // 4, len(audio), RATE // 4):
            window = audio[max(0, end - 2 * RATE) : end]
            features = self.extract(y=np.concatenate([np.zeros(2 * RATE - len(window), np.float32), window]))
            for word, examples in self.examples.items():
                score = 1 - min(self.distance(features, example) for example in examples)
                key = word, end // RATE
                best[key] = max(best[key], (score, end / RATE - 2, end / RATE))
        after = resource.getrusage(resource.RUSAGE_SELF)
        seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        return [(word, *hit) for (word, _), hit in best.items()], seconds


# --- figures -------------------------------------------------------------------------------------------------------------------------


def measure(system, name, words, quiet, noise, snrs, calibrate, folder, random):
    system.enroll(words, calibrate)
    path, hours = folder / "sound.flac", len(quiet) / RATE / 3600

    def spot(audio):
        soundfile.write(path, audio / max(1.0, np.abs(audio).max() / 0.99), RATE)
        return system.spot(path)

    def scores_of(hits):
        return {word: sorted((hit[1] for hit in hits if hit[0] == word), reverse=True) for word in words}

    hits, seconds = spot(quiet)
    other = scores_of(hits)
    figures = {"system": system.name, "set": name, "words": len(words), "background_hours": round(hours, 2), "recall": {}}
    figures["utterances"] = sum(len(tests) for _, tests in words.values())
    figures["cpu_ms_per_second"] = round(1e3 * seconds / (hours * 3600), 2)
    if getattr(system, "thresholds", None):
        fired = [sum(score >= threshold for score in other.get(word, [])) for word, threshold in system.thresholds.items()]
        figures["calibrated"] = {"words": len(fired), "asked_per_hour": 0.5, "found_per_hour": round(float(np.mean(fired)) / hours, 2)}
    for snr in snrs:
        parts, truth, at = [], [], 0.0
        for word, (_, tests) in words.items():
            for audio, start, end in tests:
                parts += [noise_at(audio, snr, noise, random), np.zeros(int(PAUSE * RATE), np.float32)]
                truth.append((word, at + start, at + end))
                at += len(audio) / RATE + PAUSE
        hits, _ = spot(np.concatenate(parts))
        # False accepts are counted in the same noise: it raises all scores.
        if snr != "clean":
            other = scores_of(spot(noise_at(quiet, snr, noise, random))[0])
        score = defaultdict(list)
        for word, start, end in truth:
            middle = (start + end) / 2
            score[word].append(max((s for w, s, a, b in hits if w == word and a - 0.3 <= middle <= b + 0.3), default=0.0))
        recall = {}
        for rate in RATES:
            allowed = int(rate * hours)
            at_rate = [np.mean([s > (other[w][allowed] if allowed < len(other[w]) else 0) for s in scores]) for w, scores in score.items()]
            recall[rate] = round(float(np.mean(at_rate)), 3)
        figures["recall"][str(snr)] = recall
        known = getattr(system, "thresholds", {})
        if known:
            caught = [np.mean([s >= known[w] for s in scores]) for w, scores in score.items() if w in known]
            figures["calibrated"].setdefault("recall", {})[str(snr)] = round(float(np.mean(caught)), 3)
        print(f"{system.name:32} {name:7} {str(snr):>5}  " + "  ".join(f"{rate}/h {value:.3f}" for rate, value in recall.items()), flush=True)
    print(f"{'':32} {figures['cpu_ms_per_second']} ms of processor a second of sound  {figures.get('calibrated', '')}", flush=True)
    return figures


def plot(figures, path):
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    sets = sorted({f["set"] for f in figures})
    _, axes = pyplot.subplots(1, len(sets), figsize=(6 * len(sets), 4), squeeze=False)
    for axis, name in zip(axes[0], sets):
        for figure in (f for f in figures if f["set"] == name):
            for snr in ("clean", "10", "0"):
                if snr in figure["recall"]:
                    rates, recall = zip(*figure["recall"][snr].items())
                    axis.plot([float(r) for r in rates], [1 - r for r in recall], label=f"{figure['system']}, {snr}", marker=".")
        axis.set(xscale="log", xlabel="false accepts an hour", ylabel="missed", ylim=(0, 1), title=name)
        axis.legend(fontsize=7)
    pyplot.tight_layout()
    pyplot.savefig(path)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="8 words of each set, 20 minutes of background, three ratios")
    parser.add_argument("--pack", default="daisy-tiny")
    parser.add_argument("--program", default=REPOSITORY / "target/release/bellis", type=Path)
    parser.add_argument("--policy", nargs="*", default=["", "never"], help="'' is the pack's default; fixed=5 a fixed layer")
    parser.add_argument("--peer", action="append", default=[], choices=["local-wake"], help="measured on the same files (pip install local-wake)")
    parser.add_argument("--hours", type=float, help="background; 6 without --quick")
    parser.add_argument("--words", type=int, help="of each set; 25 without --quick")
    parser.add_argument("--set", action="append", choices=["same", "unseen"], help="both without")
    parser.add_argument("--calibrate", type=int, help="words of each set whose thresholds are set by the program itself")
    parser.add_argument("--out", type=Path, help="folder for figures.json and det.svg")
    arguments = parser.parse_args()
    quick = arguments.quick
    count, hours = arguments.words or (8 if quick else 25), arguments.hours or (1 / 3 if quick else 6)
    calibrate = arguments.calibrate if arguments.calibrate is not None else (1 if quick else 5)
    snrs, tests = (["clean", 10, 0], 5) if quick else (SNRS, 12)
    quiet, noise, figures = background(hours), babble(), []
    makers = {"same": same_speaker, "unseen": unseen_speakers}
    for name in arguments.set or makers:
        words = makers[name](count, np.random.default_rng(1), tests)
        systems = [lambda folder, p=policy: Bellis(arguments.program, arguments.pack, p, folder) for policy in arguments.policy]
        systems += [lambda folder: LocalWake() for _ in arguments.peer]
        for make in systems:
            with tempfile.TemporaryDirectory() as folder:
                folder = Path(folder)
                (folder / "keywords").mkdir()
                system = make(folder / "keywords")
                figures.append(measure(system, name, words, quiet, noise, snrs, calibrate, folder, np.random.default_rng(2)))
    if arguments.out:
        arguments.out.mkdir(parents=True, exist_ok=True)
        (arguments.out / "figures.json").write_text(json.dumps(figures, indent=1) + "\n")
        plot(figures, arguments.out / "det.svg")


if __name__ == "__main__":
    main()
