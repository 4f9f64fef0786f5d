"""The English cast of flight-of-the-amazon-queen: recordings and texts of its dialogues, out of the game's one file.

The file is a table of names with offsets. NAME.DOG is a dialogue: strings of the hero (Joe) and of another character, with numbers. A string is spoken in
segments, which *XX separates (XX: gestures). The recording of a segment is an MP3 of 11 kHz named by dialogue, string, speaker (J or P) and segment.

Characters of TEST are not used for training. No other character resembles them by more than 0.90 (cosine of d-vectors; two halves of one
character: 0.99; characters of one actor: 0.94 and more, so that they are on one side).
"""

import json
import re
import struct
from functools import lru_cache
from pathlib import Path

from .paths import PACKAGES

PACKAGE = "flight-of-the-amazon-queen"
FILE = "usr/share/scummvm/flight-of-the-amazon-queen/queen.1c"
TEST = {"DEATH", "JIM", "KLUNK", "NAOMI", "ORACLE"}
COUNT_AT, NAME_BYTES, ENTRY = 13, 12, ">BII"  # of the table; an entry: bundle, offset, size
HEADER, STRINGS, NODE = 20, 32, 96  # bytes before a dialogue; before its tree; of a node
GESTURE = re.compile(r"\*(?:\.\.)?[0-9A-Za-z]{2}")
DIALOGUE = re.compile(r"(\w+?)\d*\.DOG")


def table(data):
    """{name: (offset, size)}"""
    out, at = {}, COUNT_AT + 2
    for _ in range(struct.unpack_from(">H", data, COUNT_AT)[0]):
        name = data[at : at + NAME_BYTES].rstrip(b"\0").decode("ascii")
        _, *out[name] = struct.unpack_from(ENTRY, data, at + NAME_BYTES)
        at += NAME_BYTES + struct.calcsize(ENTRY)
    return out


def numbered(dialogue, at, count):
    """(number, text) of `count` strings from `at` on, each aligned to 4 bytes."""
    for _ in range(count):
        if at + 5 > len(dialogue):
            return
        number, length = struct.unpack_from(">HB", dialogue, at + 2)
        at += 5 + length
        yield number, dialogue[at - length : at].decode("cp437")
        if length:
            at = -(-at // 4) * 4


def lines(data, files):
    """(character, recording, text) of the spoken segments."""
    for name, (offset, size) in sorted(files.items()):
        match = DIALOGUE.fullmatch(name)
        if not match:
            continue
        dialogue = data[offset + HEADER : offset + size]
        levels, _, key, hers, others = struct.unpack_from(">5h", dialogue)
        other_at = struct.unpack_from(">h", dialogue, 22)[0]
        for speaker, character, at, count in (("J", "JOE", STRINGS + NODE * abs(levels), hers), ("P", match[1], other_at, others)):
            for number, string in numbered(dialogue, at, count):
                for segment, text in enumerate(GESTURE.split(string), 1):
                    recording = f"{key:02d}{number:04X}{speaker}{segment:X}.SB"
                    if text.strip() and recording in files:
                        yield character, recording, text.strip()


def extract(folder):
    """Writes speech/{train,test}/CHARACTER/NAME.mp3, speech/others/NAME.mp3 of what has no text here, and speech/texts.json."""
    data = (folder / FILE).read_bytes()
    files, texts, places = table(data), {}, {}
    for character, recording, text in lines(data, files):
        texts[Path(recording).stem] = text
        places[recording] = f"{'test' if character in TEST else 'train'}/{character}"
    for name, (offset, size) in files.items():
        if name.endswith(".SB"):
            place = folder / "speech" / places.get(name, "others")
            place.mkdir(parents=True, exist_ok=True)
            (place / name).with_suffix(".mp3").write_bytes(data[offset : offset + size])
    (folder / "speech/texts.json").write_text(json.dumps(texts, indent=0))


@lru_cache
def texts():
    return json.loads((PACKAGES / PACKAGE / "speech/texts.json").read_text())
