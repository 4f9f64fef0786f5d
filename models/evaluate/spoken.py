"""Synthesised utterances, kept from run to run in $BELLIS_DATA."""

from functools import cache

import soundfile

from ..kokoro import Kokoro
from ..train.paths import RATE


@cache
def kokoro():
    """The synthesiser, loaded by the first utterance that is not there yet."""
    return Kokoro()


def kept(path, say):
    """The audio at `path`; if there is none yet, that which `say` makes. An interrupted run leaves no part of one."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f"{path.stem}.part{path.suffix}")
        soundfile.write(part, say(), RATE)
        part.rename(path)
    return soundfile.read(path, dtype="float32")[0]
