import os
from collections.abc import Iterator, Sequence
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

__version__: str

T = TypeVar("T")
Samples = NDArray[np.float32] | NDArray[np.int16]

class BellisError(Exception): ...

class Phone:
    phone: str
    start: float
    end: float
    confidence: float

class Chunk:
    index: int
    start: float
    seconds: float
    layer: int
    reason: str
    entropy: float | None
    entropies: list[tuple[int, float]]
    vectors: NDArray[np.float32]
    posteriors: NDArray[np.float32] | None
    phones: list[Phone]

class Stream:
    @property
    def rate(self) -> int: ...
    def accept(self, samples: Samples) -> list[Chunk]: ...
    def finish(self) -> list[Chunk]: ...
    def reset(self) -> None: ...

class Encoder:
    def __new__(
        cls,
        pack: str | os.PathLike[str] = "daisy-tiny",
        *,
        policy: str | None = None,
        precision: str = "auto",
        threads: int = 1,
    ) -> Encoder: ...
    def stream(
        self,
        rate: int | None = None,
        *,
        chunk: float | None = None,
        posteriors: bool = False,
        phones: bool = False,
        entropies: bool = False,
    ) -> Stream: ...
    def microphone(
        self,
        device: str | None = None,
        *,
        rate: int = 48000,
        chunk: float | None = None,
        posteriors: bool = False,
        phones: bool = False,
        entropies: bool = False,
    ) -> Microphone[Chunk]: ...
    @property
    def pack(self) -> str: ...
    @property
    def sample_rate(self) -> int: ...
    @property
    def hop_seconds(self) -> float: ...
    @property
    def layers(self) -> int: ...
    @property
    def dim(self) -> int: ...
    @property
    def vocabulary(self) -> list[str]: ...

class Microphone(Generic[T]):
    dropped: int
    overruns: int
    def __enter__(self) -> Microphone[T]: ...
    def __exit__(self, *_: object) -> None: ...
    def __iter__(self) -> Iterator[T]: ...
    def __next__(self) -> T: ...
    def close(self) -> None: ...

class KeywordEvent:
    keyword: str
    detected: bool
    score: float
    threshold: float
    start: float
    end: float

class KeywordSpotter:
    def __new__(
        cls,
        folder: str | os.PathLike[str],
        encoder: Encoder | None = None,
        *,
        rate: int | None = None,
        near_misses: float | None = None,
        false_accepts: float | None = None,
        refractory: float | None = None,
    ) -> KeywordSpotter: ...
    @property
    def keywords(self) -> list[str]: ...
    def accept(self, samples: Samples) -> list[KeywordEvent]: ...
    def finish(self) -> list[KeywordEvent]: ...
    def reset(self) -> None: ...
    def enroll(
        self,
        name: str,
        *,
        say: str | None = None,
        language: str = "en-us",
        takes: Sequence[Samples] = (),
        own_speech: Samples | None = None,
        threshold: float | None = None,
        background: Sequence[str | os.PathLike[str]] = (),
        false_accepts: float = 0.5,
        rate: int | None = None,
        keep_unlike: bool = False,
        replace: bool = False,
    ) -> None: ...
    def microphone(self, device: str | None = None) -> Microphone[KeywordEvent]: ...
    @property
    def rate(self) -> int: ...

def packs() -> list[str]: ...
