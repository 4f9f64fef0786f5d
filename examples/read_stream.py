"""Reads the binary stream of `bellis run --consumer stream:…` (or `segments:stream:…`); docs/output.md describes it.

    bellis run talk.wav --consumer stream:- | python3 examples/read_stream.py -
    python3 examples/read_stream.py /tmp/bellis.sock &  bellis run mic --consumer stream:unix:/tmp/bellis.sock
"""

import json
import socket
import struct
import sys
from pathlib import Path

import numpy as np


def messages(stream):
    """Yields (header, arrays by name) of every message."""
    if stream.read(8) != b"BELLIS1\n":
        raise SystemExit("not a Bellis stream of version 1")
    while lengths := stream.read(8):
        header_bytes, payload_bytes = struct.unpack("<II", lengths)
        header, payload = json.loads(stream.read(header_bytes)), stream.read(payload_bytes)
        arrays, at = {}, 0
        for array in header["arrays"]:
            count = int(np.prod(array["shape"]))
            arrays[array["name"]] = np.frombuffer(payload, array["dtype"], count, at).reshape(array["shape"])
            at += count * np.dtype(array["dtype"]).itemsize
        yield header, arrays


def main():
    if sys.argv[1] == "-":
        stream = sys.stdin.buffer
    else:
        path = Path(sys.argv[1])
        if path.is_socket():  # of a reader that has ended
            path.unlink()
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(path))
            listener.listen()
            stream = listener.accept()[0].makefile("rb")
    for header, arrays in messages(stream):
        place = f"{header['start']:8.2f} s" if "start" in header else ""
        print(header["type"], place, {name: array.shape for name, array in arrays.items()}, flush=True)


if __name__ == "__main__":
    main()
