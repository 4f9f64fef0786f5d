"""Transcribes the utterances that Bellis cuts out of a stream.

    bellis run mic --consumer segments:stream:- | python examples/recogniser/transcribe.py
"""

import sys
from pathlib import Path

from moonshine import Moonshine

sys.path.insert(0, str(Path(__file__).parent.parent))
from read_stream import messages


def main() -> None:
    recogniser = Moonshine()
    for header, arrays in messages(sys.stdin.buffer):
        if header["type"] == "segment" and (text := recogniser.transcribe(arrays["audio"])):
            print(f"{header['start']:9.2f} s  {text}", flush=True)


if __name__ == "__main__":
    main()
