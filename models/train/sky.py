"""The English cast of beneath-a-steel-sky: the recordings of its dialogues, out of the game's data file.

sky.dnr lists the parts of sky.dsk: number, offset and size. Parts from FIRST on are recordings: unsigned 8-bit samples at 11,025 Hz after a header, packed with
Rob Northen's ProPack (RNC method 1). Their texts are in the file too, but the code they are written in is not: models/train/transcribe.py.
"""

import struct

import numpy as np
import soundfile

PACKAGE = "beneath-a-steel-sky"
FOLDER = "usr/share/scummvm/beneath-a-steel-sky"
FIRST, LAST = 50_000, 59_999  # numbers of recordings
HEADER, PACKED = 22, b"RNC\x01"
RATE = 11_025


def parts(directory):
    """{number: (offset, size)}. Offsets with the highest bit count units of 16 bytes."""
    out = {}
    for at in range(4, 4 + 8 * struct.unpack_from("<I", directory)[0], 8):
        number, offset = struct.unpack_from("<H", directory, at)[0], int.from_bytes(directory[at + 2 : at + 5], "little")
        size = int.from_bytes(directory[at + 5 : at + 8], "little") & 0x3FFFFF
        out[number] = ((offset & 0x7FFFFF) << (4 if offset >> 23 else 0), size)
    return out


class Bits:
    """Bits from the lowest on, out of little-endian words of 16; whole bytes lie between them, from the next unread word on."""

    def __init__(self, data, at):
        self.data, self.at = data, at
        self.buffer, self.left = self.word(), 16

    def word(self):
        return int.from_bytes(self.data[self.at : self.at + 2], "little")

    def take(self, count):
        value = self.buffer & ((1 << count) - 1)
        self.buffer, self.left = self.buffer >> count, self.left - count
        if self.left < 16:
            self.at += 2
            self.buffer |= self.word() << self.left
            self.left += 16
        return value

    def bytes(self, count):
        found = self.data[self.at : self.at + count]
        self.at += count
        below = self.left - 16
        self.buffer = self.buffer & ((1 << below) - 1) | self.word() << below
        return found

    def codes(self):
        """A canonical Huffman code, written as the lengths of its symbols: {(length, bits): symbol}."""
        lengths = [self.take(4) for _ in range(self.take(5))]
        codes, code = {}, 0
        for length in range(1, 16):
            for symbol, own in enumerate(lengths):
                if own == length:
                    codes[length, int(f"{code:0{length}b}"[::-1], 2)] = symbol
                    code += 1
            code <<= 1
        return codes

    def number(self, codes):
        """A number: the symbol is its length in bits, without the leading one of numbers above 1."""
        for length in range(1, 16):
            symbol = codes.get((length, self.buffer & ((1 << length) - 1)))
            if symbol is not None:
                self.take(length)
                return symbol if symbol < 2 else 1 << (symbol - 1) | self.take(symbol - 1)
        raise ValueError("no code of the table matches")


def unpack(data):
    """Decompresses RNC method 1: blocks of literal bytes and of copies of earlier ones."""
    out, bits = bytearray(), Bits(data, 18)
    bits.take(2)
    for _ in range(data[17]):
        literals, distances, lengths = bits.codes(), bits.codes(), bits.codes()
        for left in range(bits.take(16), 0, -1):
            if count := bits.number(literals):
                out += bits.bytes(count)
            if left > 1:
                distance, length = bits.number(distances) + 1, bits.number(lengths) + 2
                piece = out[-distance:][:length]
                out += (piece * (length // distance + 1))[:length]
    if len(out) != struct.unpack_from(">I", data, 4)[0]:
        raise ValueError("the unpacked size differs from that in the header")
    return bytes(out)


def extract(folder):
    """Writes speech/NUMBER.wav."""
    data = (folder / FOLDER / "sky.dsk").read_bytes()
    (folder / "speech").mkdir(exist_ok=True)
    for number, (offset, size) in parts((folder / FOLDER / "sky.dnr").read_bytes()).items():
        recording = data[offset + HEADER : offset + size]
        if FIRST <= number <= LAST and recording.startswith(PACKED):
            soundfile.write(folder / f"speech/{number}.wav", np.frombuffer(unpack(recording), np.uint8).astype(np.float32) / 128 - 1, RATE, subtype="PCM_U8")
