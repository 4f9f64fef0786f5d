"""Keywords from text against keywords from recordings, in sentences of natural voices, in quiet and in noise.

    python -m models.evaluate.voices [--pack PACK] [--noise KIND --snr DB] [--write]

Phrases are the most frequent ones of a voice (models/evaluate/phrases.py). Recordings are three sentences, drawn at random, out of which the phrase is cut; the text
is aligned by the pack's CTC branch. Each phrase becomes a keyword in several ways:
    text                    `bellis enroll --say`
    text, one recording     the same with one of the recordings
    three recordings        `bellis enroll --from`
OWN are voices that are searched in the other sentences of the recorded voice, OTHERS voices that are searched with recordings of another one.
Recall is the mean over phrases, with the threshold of each keyword that gives 0.5 false accepts per hour in sentences without the phrase: those with other phrases, and random
ones of the same voices. With --write, the table of docs/keywords-figures.md.
"""

import argparse
import subprocess
import tempfile
from collections import Counter
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import soundfile

from ..keywords.bundle import cut, group
from ..keywords.program import Program
from ..keywords.speech import Branch
from ..train import queen
from ..train.inventory import spoken
from ..train.label import WORST, WORST_UNSURE, align
from ..train.paths import HOP, RATE, REPOSITORY
from ..train.texts import UNSURE
from .keywords import ENROLLED, padded, write
from .phrases import LEAST_SCORE, UNREACHED, chosen, noisy, scores, sequences, spot, words_of
from .streams import KINDS as NOISES
from .tables import numbers

ACCEPTS = 0.5  # per hour
MOST = {False: 6, True: 10}  # phrases of a voice with recordings of its own, or of another one
PAUSE = 15  # frames between sentences
NEAR_MISS = 0.1  # least score of keywords from recordings alone
BEFORE, AFTER = 6, 8  # frames around the peaks of the first and the last phone, unless another word is closer
TEXT, BOTH, RECORDINGS = WAYS = ("text", "text, one recording", "three recordings")


def package(name, part=""):
    return lambda entry: entry["package"] == name and part in entry["clip"]


def character(name):
    return lambda entry: entry["speaker"] == f"{queen.PACKAGE}/{name}"


FRENCH, SPANISH = package("asterisk-core-sounds-fr-g722"), package("asterisk-core-sounds-es-g722")
SMALL, BIG = package("fillets-ng-data-nl", "-m-"), package("fillets-ng-data-nl", "-v-")
OWN = {  # voice of espeak-ng, group and clips
    **{f"English, {name.title()}": ("en-us", "speech.acted", character(name)) for name in sorted(queen.TEST)},
    "French, June": ("fr-fr", "speech.test", FRENCH),
    "French, Armelle": ("fr-fr", "speech.prompts", package("asterisk-prompt-fr-armelle")),
    "Spanish, July": ("es", "speech.prompts", package("asterisk-prompt-es-co")),
    "Russian, Nickolay": ("ru", "speech.probe", lambda entry: True),
    "Dutch, small fish": ("nl", "speech.test", SMALL),
    "Dutch, big fish": ("nl", "speech.test", BIG),
}
OTHERS = {  # the same, then group and clips of the recordings; training has the English hero and the Mexican prompts
    "English, five voices": ("en-us", "speech.acted", lambda entry: True, "speech.train", character("JOE")),
    "French, Armelle": (*OWN["French, Armelle"], "speech.test", FRENCH),
    "Spanish, July": (*OWN["Spanish, July"], "speech.train", SPANISH),
    "Dutch, big fish": (*OWN["Dutch, big fish"], "speech.test", SMALL),
}
GROUPS = sorted({group for _, group, *_ in [*OWN.values(), *OTHERS.values()]})


@dataclass
class Clip:
    group: str
    entry: dict
    words: list
    voice: str = ""
    places: list = None  # first and last frame of each word


class Clips:
    """The clips of all groups with a text that fits."""

    def __init__(self, branch):
        self.branch, self.sounds, self.clips = branch, {}, {}

    def of(self, voice, name, wanted):
        if name not in self.clips:
            index, self.sounds[name] = group(name)
            self.clips[name] = [Clip(name, entry, words) for entry in index if (words := words_of(entry))]
        own = [clip for clip in self.clips[name] if wanted(clip.entry)]
        unsure = [clip for clip in own if clip.entry["package"] in UNSURE and not clip.places]
        for clip in unsure:
            self.align(clip, voice)
        misfits = {id(clip) for clip in unsure if not clip.places}
        self.clips[name] = [clip for clip in self.clips[name] if id(clip) not in misfits]
        return [clip for clip in own if id(clip) not in misfits]

    def align(self, clip, voice):
        """Finds the words of a clip, if they fit."""
        phones = [tuple(phone for part in spoken(word, voice) for phone in part) for word in clip.words]
        costs = self.branch.costs(cut(clip.entry, self.sounds[clip.group]))
        found = align(-costs, phones) if all(phones) else None
        if found and -found[1] <= (WORST_UNSURE if clip.entry["package"] in UNSURE else WORST):
            path = found[0]
            begins = np.flatnonzero((path > 1) & (path != np.pad(path[:-1], (1, 0))))
            ends = np.flatnonzero((path > 1) & (path != np.pad(path[1:], (0, 1))))
            counts = np.cumsum([0, *map(len, phones)])
            clip.places = [(int(begins[first]), int(ends[last - 1]) + 1) for first, last in zip(counts, counts[1:])]

    def recording(self, clip, voice, phrase):
        """The phrase out of a clip, or None."""
        if not clip.places:
            self.align(clip, voice)
        if not clip.places:
            return None
        first = next(at for at in range(len(clip.words)) if tuple(clip.words[at : at + len(phrase)]) == phrase)
        last = first + len(phrase) - 1
        start, end = clip.places[first][0], clip.places[last][1]
        earliest = (clip.places[first - 1][1] + start) // 2 if first else 0
        latest = (end + clip.places[last + 1][0] + 1) // 2 if last + 1 < len(clip.words) else clip.entry["frames"]
        audio = cut(clip.entry, self.sounds[clip.group])
        return padded(audio[max(start - BEFORE, earliest) * HOP : min(end + AFTER, latest) * HOP])

    def keywords(self, voice, name, wanted, *source, rng):
        """(phrase, recordings, clips to be found) of each phrase: recordings are from `source`, or else from the voice's own clips."""
        tested = self.of(voice, name, wanted)
        recorded = self.of(voice, *source) if source else tested
        counts = Counter(sequence for clip in recorded for sequence in sequences(clip.words))
        enough = lambda sequence: counts[sequence] >= ENROLLED + (not source)
        for phrase in chosen([clip.words for clip in tested], voice, 1, enough):
            having = [clip for clip in recorded if phrase in sequences(clip.words)]
            takes = []
            while having and len(takes) < ENROLLED:
                clip = having.pop(rng.integers(len(having)))
                if (audio := self.recording(clip, voice, phrase)) is not None:
                    takes.append((clip, audio))
            used = [clip for clip, _ in takes]
            tests = [clip for clip in tested if phrase in sequences(clip.words) and not any(clip is other for other in used)]
            if len(takes) == ENROLLED and tests:
                yield phrase, [audio for _, audio in takes], tests


def ways(others):
    """Half of a keyword's recordings being by another voice is no use case."""
    return (TEXT, RECORDINGS) if others else WAYS


def enroll(program, pack, folder, name, phrase, voice, takes, others):
    """Enrolls a phrase in every way; false if one of them fails."""
    files = []
    for number, take in enumerate(takes):
        files.append(folder / f"take-{number}.wav")
        soundfile.write(files[-1], take, RATE)
    say = ["--say", " ".join(phrase), "--language", voice]
    sources = {TEXT: say, BOTH: [*say, "--from", files[0]], RECORDINGS: ["--from", *files]}
    for way in ways(others):
        command = [program, "enroll", f"{name} {way}", "--folder", folder / "keywords", "--keep-unlike", "--threshold", UNREACHED, "--pack", pack, *sources[way]]
        done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
        if done.returncode:
            print(f"{name}: {' '.join(phrase)}: {way}: {done.stderr.strip()}", flush=True)
            for other in WAYS:
                (folder / f"keywords/{name} {other}.keyword.toml").unlink(missing_ok=True)
            return False
    return True


def played(clips, tests, hours):
    """Samples of all `tests` and of random other clips, as many hours in all, and these clips with their entries."""
    needed, rng, frames = {id(clip) for clip in tests}, np.random.default_rng(4), 0
    known = [clip for name in GROUPS for clip in clips.clips[name]]
    others = [known[at] for at in rng.permutation(len(known)) if id(known[at]) not in needed]
    own = list({id(clip): clip for clip in tests}.values())
    left = hours * 3600 * RATE / HOP - sum(clip.entry["frames"] for clip in own)
    while left > 0 and others:
        own.append(others.pop())
        left -= own[-1].entry["frames"]
    parts, entries = [], []
    for at in rng.permutation(len(own)):
        clip = own[at]
        entries.append((clip, {"start": frames, "frames": clip.entry["frames"]}))
        parts += [clips.sounds[clip.group][clip.entry["start"] * HOP : (clip.entry["start"] + clip.entry["frames"]) * HOP], np.zeros(PAUSE * HOP, np.int16)]
        frames += clip.entry["frames"] + PAUSE
    return np.concatenate(parts), entries


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", default=REPOSITORY / "target/release/bellis", type=Path)
    parser.add_argument("--pack", default="daisy-tiny")
    parser.add_argument("--hours", type=float, default=2, help="of speech in all")
    parser.add_argument("--noise", choices=NOISES, default="public")
    parser.add_argument("--snr", nargs="*", type=int, default=[5], help="dB; also in quiet")
    parser.add_argument("--write", action="store_true", help="write the table of docs/keywords-figures.md")
    arguments = parser.parse_args()
    pack = REPOSITORY / "models" / arguments.pack
    clips, rng = Clips(Branch(Program(arguments.program, pack), pack)), np.random.default_rng(3)
    with tempfile.TemporaryDirectory() as folder:
        folder, keywords = Path(folder), []
        for others, kind in ((False, OWN), (True, OTHERS)):
            for title, source in kind.items():
                for phrase, takes, tests in islice(clips.keywords(*source, rng=rng), MOST[others]):
                    name = str(len(keywords))
                    if enroll(arguments.program, arguments.pack, folder, name, phrase, source[0], takes, others):
                        keywords.append((name, others, title, phrase, tests))
                print(f"voices: {title} enrolled", flush=True)
        sound, own = played(clips, [clip for *_, tests in keywords for clip in tests], arguments.hours)
        entries = [entry for _, entry in own]
        hours, recalls = sum(entry["frames"] for entry in entries) * HOP / RATE / 3600, {}
        for condition in [None, *((arguments.noise, snr) for snr in arguments.snr)]:
            soundfile.write(folder / "audio.wav", sound if condition is None else noisy(sound, entries, *condition), RATE)
            found = spot(arguments.program, ["--pack", arguments.pack], folder / "audio.wav", folder / "keywords", NEAR_MISS)
            for keyword, others, _, phrase, tests in keywords:
                at = {id(clip) for clip in tests}
                tested = np.array([id(clip) in at for clip, _ in own])
                without = np.array([phrase not in sequences(clip.words) for clip, _ in own])
                for way in ways(others):
                    highest = scores(found[f"{keyword} {way}"], entries)
                    least = NEAR_MISS if way == RECORDINGS else LEAST_SCORE
                    limit = max(least, np.sort(highest[without])[::-1][int(ACCEPTS * hours)])
                    recalls[keyword, way, condition] = np.mean(highest[tested] > limit)
            print(f"voices: {condition or 'clean'}", flush=True)
    text = report(keywords, recalls, hours)
    print(text)
    if arguments.write:
        write("voices.py", text)


def report(keywords, recalls, hours):
    conditions = list(dict.fromkeys(condition for _, _, condition in recalls))
    named = lambda condition: "clean" if condition is None else f"{condition[1]} dB"
    mean = lambda of, way, condition: f"{np.mean([recalls[keyword, way, condition] for keyword, *_ in of]):.2f}"
    out = [f"{hours:.1f} hours of speech in all.\n"]
    for others in (False, True):
        header = "recordings by another voice" if others else "recordings by the same voice"
        rows = [[header, "phrases", "sentences", *(f"{way}: {', '.join(map(named, conditions))}" for way in ways(others))]]
        titles = list(dict.fromkeys(title for _, of, title, *_ in keywords if of == others))
        for title in [*titles, "all"]:
            of = [each for each in keywords if each[1] == others and title in (each[2], "all")]
            rows.append([title, len(of), sum(len(tests) for *_, tests in of), *(", ".join(mean(of, way, condition) for condition in conditions) for way in ways(others))])
        out.append(numbers(rows))
    return "\n".join(out)


if __name__ == "__main__":
    main()
