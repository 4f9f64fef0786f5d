"""Streaming speech representations with early exit.

>>> import bellis, numpy
>>> encoder = bellis.Encoder("daisy-tiny", policy="gain")
>>> stream = encoder.stream(rate=48000)
>>> for chunk in stream.accept(numpy.zeros(48000, numpy.float32)):
...     print(chunk.start, chunk.layer, chunk.vectors.shape)
"""

from __future__ import annotations

import os
import warnings
from pathlib import Path

from . import _bellis
from ._bellis import BellisError, Chunk, KeywordEvent, Phone, Stream, __version__
from ._microphone import Microphone

__all__ = ["BellisError", "Chunk", "Encoder", "KeywordEvent", "KeywordSpotter", "Microphone", "Phone", "Stream", "packs", "__version__"]

_MODELS = Path(__file__).parent / "models"
_BACKGROUND = _MODELS / "keywords/background"


def packs() -> list[str]:
    """Names of the packs in this installation."""
    return sorted(path.parent.name for path in _MODELS.glob("*/pack.toml"))


def _pack_folder(pack: str | os.PathLike[str]) -> Path:
    """The folder of a pack, by its path or its name."""
    path = Path(pack)
    if (path / "pack.toml").is_file() or len(path.parts) != 1:
        return path
    if path.name in packs():
        return _MODELS / path
    raise FileNotFoundError(f"no pack `{pack}`; available: {', '.join(packs())}, or pass a pack's folder")


class Encoder(_bellis.Encoder):
    """A pack's weights with an exit policy, shared by any number of streams and threads.

    pack: a name of `packs()`, or a folder.
    policy: as in `bellis run`, with its numbers: "gain", "fixed:6", "gain:0.05+gate:0.7"; the pack's own by default.
    precision: "auto", "f32" or "int8".
    threads: for large f32 matrix products.
    """

    def __new__(cls, pack="daisy-tiny", *, policy=None, precision="auto", threads=1):
        return super().__new__(cls, _pack_folder(pack), policy=policy, precision=precision, threads=threads)

    def microphone(self, device=None, *, rate=48000, **options):
        """Captures from a microphone: iterate over the result for chunks. It is open from the first chunk on until it is closed.

        device: as in `arecord --list-pcms`; the default one if None.
        rate: that the device captures at, Hz.
        options: those of `stream`.
        """
        return Microphone(lambda: self.stream(rate, **options), rate, device)


class KeywordSpotter(_bellis.KeywordSpotter):
    """Searches one stream for the keywords of a folder, as `bellis run --consumer keyword` does.

    folder: where keyword files are; it need not exist before `enroll`.
    encoder: an Encoder; the default one if None.
    rate: of the samples, Hz; the pack's by default.
    near_misses, false_accepts, refractory: as the flags of `bellis run`.
    """

    def __new__(cls, folder, encoder=None, *, rate=None, near_misses=None, false_accepts=None, refractory=None):
        encoder = Encoder() if encoder is None else encoder
        options = {"near_misses": near_misses, "false_accepts": false_accepts, "refractory": refractory}
        return super().__new__(cls, folder, encoder, rate=rate, **options)

    def enroll(
        self,
        name,
        *,
        say=None,
        language="en-us",
        takes=(),
        own_speech=None,
        threshold=None,
        background=(),
        false_accepts=0.5,
        rate=None,
        keep_unlike=False,
        replace=False,
    ):
        """Enrolls a keyword from a phrase, from takes of it, or from both, as `bellis enroll` does, and begins a new stream with it.

        say, language: the phrase, which espeak-ng speaks.
        takes: 1 to 16 recordings at `rate`, the pack's by default.
        own_speech: other speech of the takes' speaker at `rate`, a minute or two without the phrase; raises the threshold.
        threshold: a score; by default it is set for `false_accepts` per hour on the speech in `background`, files or folders, and without
            those on the pack's reading of speech for a phrase without takes, and otherwise on recordings in the package, which takes about a
            minute of processor time.
        keep_unlike: keep takes that differ from the others, such as other speakers'; by default they are an error.
        """
        speech = {"background": list(background), "default_background": [_BACKGROUND]}
        options = {"own_speech": own_speech, "threshold": threshold, **speech, "false_accepts": false_accepts, "rate": rate}
        options |= {"keep_unlike": keep_unlike, "replace": replace}
        for text in super().enroll(name, say=say, language=language, takes=list(takes), **options):
            warnings.warn(f"keyword `{name}`: {text}", stacklevel=2)

    def microphone(self, device=None):
        """Captures from a microphone at the spotter's rate: iterate over the result for events. `device` is as in `Encoder.microphone`."""

        def begin():
            self.reset()
            return self

        return Microphone(begin, self.rate, device)
