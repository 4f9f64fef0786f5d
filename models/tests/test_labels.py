"""Labels of training speech: the phone inventory, texts, alignment, and the synthesiser's exact times."""

import struct

import numpy as np
import pytest

from models import kokoro
from models.train import alignment, drascula, inventory, label, queen, sky, synthetic
from models.train.check import collapse, distance
from models.train.inventory import BOUNDARY, VOCABULARY, fold, rhotic, spoken, timed

N = VOCABULARY.index


@pytest.mark.parametrize(
    ("phone", "language", "wanted"),
    [("ʧ", "en", ("t͡ʃ",)), ("t͡ʃ", "", ("t͡ʃ",)), ("I", "en", ("aɪ",)), ("a", "en", ("æ",)), ("a", "es", ("a",)), ("aː", "hi", ("a",)),
     ("ʈʰ", "hi", ("t",)), ("tʰ", "zh", ("t",)), ("t", "zh", ("d",)), ("a→", "zh", ("a",)), ("ꭧʰ", "zh", ("t͡ʃ",)), ("ɐ̃", "pt", ("ɑ̃",)), ("ɡ", "fr", ("g",)), ("ɛː", "", ("ɛ",)), ("ʔ", "en", ()), ("pʲ", "ru", ("p",)), ("ks", "", ("k", "s"))],
)
def test_phones_fold_to_the_inventory(phone, language, wanted):
    assert fold(phone, language) == wanted


def test_every_phone_of_the_inventory_is_its_own():
    assert all(fold(phone) == (phone,) for phone in inventory.PHONES)


def test_espeak_reads_words_in_the_inventory():
    assert spoken("turn on the kitchen lamp", "en-us") == (("t", "ɝ", "n"), ("ɔ", "n", "ð", "ə"), ("k", "ɪ", "t͡ʃ", "ə", "n"), ("l", "æ", "m", "p"))
    assert spoken("un bon vin", "fr-fr")[-1] == ("v", "ɛ̃")
    assert spoken("Gurke Radfahrer", "de") == (("g", "ʊ", "ə", "k", "ə"), ("ʁ", "a", "t", "f", "ɑ", "ʁ", "ə"))
    assert spoken("le weekend", "fr-fr")[-1] == ("w", "i", "k", "ɛ", "n", "d")


def test_mandarin_has_the_same_phones_by_both_readers():
    text = "打开台灯，关上窗户，早上好，设置闹钟，天气怎么样，打电话给妈妈，全部关掉，学习用月亮"
    read = [phone for word in spoken(text, "cmn-latn-pinyin") for phone in word]
    written = []
    for sign in kokoro.phones(text, "cmn"):
        if sign in kokoro.MARKS and written:
            written[-1] += sign
        elif sign not in kokoro.PAUSES:
            written.append(sign)
    assert [phone for sign in written for phone in fold(sign, "zh")] == read


def test_schwa_and_r_are_one_phone_unless_a_vowel_follows_at_once():
    assert [row[0] for row in rhotic([("b", 0, 1), ("ə", 1, 2), ("ɹ", 2, 3)])] == ["b", "ɝ"]
    assert [row[0] for row in rhotic([("ə", 1, 2), ("ɹ", 2, 3), ("aʊ", 3, 4)])] == ["ə", "ɹ", "aʊ"]
    assert timed([("ə", 0.0, 1.0), ("ɹ", 1.0, 2.0)], "en") == [("ɝ", 0.0, 2.0)]


def posteriors(classes, confidence=0.9):
    """Log-probabilities [T, V] of a recogniser that is sure of these classes."""
    p = np.full((len(classes), len(VOCABULARY)), (1 - confidence) / (len(VOCABULARY) - 1))
    p[np.arange(len(classes)), classes] = confidence
    return np.log(p)


def test_alignment_finds_the_frames_of_a_text():
    said = [0, N("n"), N("n"), 0, N("i"), N(BOUNDARY), N("t"), 0, N("t"), 0]
    path, mean = label.align(posteriors(said), (("n", "i"), ("t", "t")))
    assert path.tolist() == said
    assert abs(mean - np.log(0.9)) < 1e-9


def test_a_text_that_was_not_said_costs_more():
    said = posteriors([0, N("n"), 0, N("i"), 0, N("t"), 0])
    right, wrong = (label.align(said, (word,))[1] for word in (("n", "i", "t"), ("s", "u", "k")))
    assert right - wrong > label.WORST


def test_a_text_longer_than_the_clip_has_no_alignment():
    assert label.align(posteriors([0, 0]), (("n", "i", "t"),)) is None


def test_the_same_phone_twice_needs_a_blank_between():
    path, _ = label.align(posteriors([N("t")] * 4), (("t", "t"),))
    assert collapse(path.astype(int)) == ["t", "t"]


def test_frames_of_phones_fill_the_stretches_between_the_alignments_peaks():
    sounds = [0, N("n"), N("n"), N("n"), N("i"), N("i"), 0]
    path = np.array([0, 0, N("n"), 0, 0, N("i"), 0])
    assert label.sounding(posteriors(sounds), path).tolist() == sounds


LABELLED = [("pau", 0.0, 0.1), ("kk", 0.1, 0.2), ("oo", 0.2, 0.3), ("sch", 0.3, 0.4), ("pau", 0.4, 0.5)]


def test_alignment_is_compared_with_labels_by_time_and_class():
    said = np.repeat([0, N("k"), N("ɔ"), N("ʃ"), 0], 5)
    shifts, count, agree = alignment.compare(LABELLED, said)
    assert count == 3 and np.allclose(shifts, 0) and agree.all()
    shifts, _, agree = alignment.compare(LABELLED, np.roll(said, 2))  # 40 ms late
    assert np.allclose(shifts, [0.04] * 3) and agree.sum() == len(said) - 4 * 2
    spikes = np.zeros(25, int)
    spikes[[7, 12, 18]] = N("k"), N("ɔ"), N("ʃ")
    assert np.allclose(alignment.compare(LABELLED, spikes)[0], [0, 0, 0.02])


def test_phones_of_another_class_are_not_compared():
    shifts, count, agree = alignment.compare(LABELLED, np.repeat([0, N("k"), N("u"), N("ʃ"), 0], 5))
    assert count == 3 and np.allclose(shifts, [0, 0]) and agree.sum() == 20


def test_synthetic_labels_follow_the_synthesisers_times():
    hop = synthetic.HOP
    utterance = {"start": 1000, "language": "es", "phones": [["n", 1000 + 2 * hop, 1000 + 4 * hop], ["i", 1000 + 5 * hop, 1000 + 7 * hop], ["t", 1000 + 17 * hop, 1000 + 18 * hop]]}
    phones, frames = synthetic.labels(utterance, 20)
    gap = N(BOUNDARY)
    assert phones.tolist() == [0, 0, N("n"), N("n"), gap, N("i"), N("i"), *[gap] * 10, N("t"), 0, 0]
    assert frames.tolist() == [0, 0, N("n"), N("n"), 255, N("i"), N("i"), *[0] * 10, N("t"), 0, 0]


def test_distance_counts_edits():
    assert distance("kitten", "sitting") == 3 and distance("", "abc") == 3 and distance("abc", "") == 3 and distance("abc", "abc") == 0


def test_lines_of_a_dialogue_find_their_recordings():
    def string(number, text):
        raw = struct.pack(">HHB", 0, number, len(text)) + text.encode()
        return raw + bytes(-len(raw) % 4)

    head = struct.pack(">5h", 1, 0, 7, 2, 1)
    joe = string(6, "*19*18Hello...*17I'm Joe King.*17") + string(9, "")
    tree = bytes(96)
    other_at = 32 + len(tree) + len(joe)
    dialogue = bytes(20) + head.ljust(22, b"\0") + struct.pack(">h", other_at) + bytes(8) + tree + joe + string(6, "Go away!*03")
    names = ["PIRATE2.DOG", "070006J3.SB", "070006J4.SB", "070006P1.SB", "070009J1.SB"]
    data, at = bytes(13) + struct.pack(">H", len(names)), 15 + len(names) * 21
    for name in names:
        size = len(dialogue) if name.endswith("DOG") else 1
        data += name.encode().ljust(12, b"\0") + struct.pack(">BII", 0, at, size)
        at += size
    data += dialogue + bytes(len(names) - 1)
    assert list(queen.lines(data, queen.table(data))) == [
        ("JOE", "070006J3.SB", "Hello..."),
        ("JOE", "070006J4.SB", "I'm Joe King."),
        ("PIRATE", "070006P1.SB", "Go away!"),
    ]


def test_texts_of_a_cast_are_numbered_by_character_and_language():
    def block(texts):
        """Texts with their zeros, padded so that the distance to the next text, in the two bytes before each but the first, is a multiple of 4."""
        rows = [text.encode("cp850") + b"\0" for text in texts]
        steps = [-(-(len(row) + 2) // 4) * 4 for row in rows]
        out = bytes(2)
        for row, step in zip(rows, steps):
            out += struct.pack(">H", step) + row.ljust(step - 2, b"\0")
        return struct.pack(">H", len(out)) + out

    hero, others = ["", drascula.TEXTS.decode(), "MAÑANA"], ["", "HELLO"]
    data = bytes(7)
    for character in drascula.CHARACTERS:
        texts = others if character else hero
        data += struct.pack(">H", len(texts)) + b"".join(block(texts) for _ in drascula.LANGUAGES)
    found = drascula.texts_of(data)
    assert found[""]["es"] == hero and found["VB"]["en"] == others


class Packer:
    """Writes RNC method 1: bits from the lowest on, in words; literals are appended between them."""

    def __init__(self):
        self.out, self.free = bytearray(), 0

    def bits(self, value, count):
        for k in range(count):
            if not self.free:
                self.slot, self.free = len(self.out), 16
                self.out += bytes(2)
            place = 16 - self.free
            self.out[self.slot + place // 8] |= (value >> k & 1) << place % 8
            self.free -= 1

    def code(self, *lengths):
        self.bits(len(lengths), 5)
        for length in lengths:
            self.bits(length, 4)


def test_recordings_unpack():
    packer = Packer()
    packer.bits(0, 2)
    packer.code(2, 2, 2, 2)  # literals: symbols 00, 10, 01, 11, lowest bit first
    packer.code(1, 1)  # distances - 1: 0 or 1
    packer.code(1, 0, 0, 1)  # lengths - 2: 0, or 4 to 7
    packer.bits(2, 16)
    packer.bits(0b01, 2), packer.bits(1, 1)  # symbol 2 and one more bit: three literals
    packer.out += b"xab"
    packer.bits(1, 1)  # distance 2
    packer.bits(1, 1), packer.bits(0b01, 2)  # length 5 + 2, longer than the distance
    packer.bits(0b10, 2)  # one literal
    packer.out += b"!"
    wanted = b"xab" + b"abababa" + b"!"
    data = b"RNC\x01" + struct.pack(">IIHH", len(wanted), len(packer.out), 0, 0) + bytes([0, 1]) + packer.out
    assert sky.unpack(data) == wanted
    with pytest.raises(ValueError, match="unpacked size"):
        sky.unpack(data[:4] + struct.pack(">I", 99) + data[8:])


def test_parts_of_the_data_file():
    entry = lambda number, place, size: struct.pack("<H", number) + place.to_bytes(3, "little") + size.to_bytes(3, "little")
    directory = struct.pack("<I", 2) + entry(50_007, 0x800003, 0x400000 | 77) + entry(60_000, 5, 6)
    assert sky.parts(directory) == {50_007: (48, 77), 60_000: (5, 6)}


def test_a_short_pause_between_phones_may_be_none():
    row = np.array([0, 0, 5, 5, 0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 9, 0], np.uint8)
    found = label.without_short_pauses(row)
    assert found.tolist() == [0, 0, 5, 5, 255, 255, 255, 255, 7, 0, 0, 0, 0, 0, 9, 0]
    assert label.without_short_pauses(row[:3]).tolist() == [0, 0, 5]
