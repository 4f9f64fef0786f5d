"""One pack under evaluation: cached runs of Bellis, and the distance of their exit heads from full depth."""

import hashlib
import pickle
import tomllib
from concurrent.futures import ThreadPoolExecutor
from functools import cache, lru_cache
from pathlib import Path

import numpy as np

from models.train.paths import DATA

from .measures import Heads, agreement, divergence
from .runs import BELLIS, run
from .streams import STREAMS

TAUS = (0.8, 1.2, 1.6, 2.0, 2.5, 3.0)
DELTAS = (0.02, 0.05, 0.1, 0.2)
LAMBDAS = (0.005, 0.01, 0.02, 0.035, 0.06, 0.1, 0.17)


def sweep(depths):
    """Policies to compare, by family."""
    layers = depths[-1]
    return {
        "fixed": [f"fixed --layer {k}" for k in depths],
        "periodic": [f"periodic --layer {k} --period 5" for k in range(1, layers, 3)],
        "entropy": [f"threshold --threshold {tau}" for tau in TAUS],
        "change": [f"change --threshold {delta}" for delta in DELTAS],
        "gain": [f"gain --threshold {value}" for value in LAMBDAS],
    }


class Evaluation:
    """Cached runs of one pack."""

    def __init__(self, pack, jobs):
        self.pack, self.jobs = Path(pack), jobs
        self.key = hashlib.sha256((self.pack / "pack.toml").read_bytes()).hexdigest()[:16]
        self.manifest = tomllib.loads((self.pack / "pack.toml").read_text())
        self.layers, self.policy = self.manifest["encoder"]["layers"], self.manifest["exit"]["policy"]
        self.heads = Heads(pack, self.layers)

    def run(self, stream, policy, *more):
        # Of the audio and the program, size and time stand for the content.
        made = [(file.stat().st_size, file.stat().st_mtime_ns) for file in (STREAMS / f"{stream}.wav", Path(BELLIS))]
        name = hashlib.sha256(repr((self.key, stream, made, (STREAMS / f"{stream}.json").read_bytes(), policy, more)).encode()).hexdigest()[:24]
        path = DATA / "evaluate" / f"{name}.pickle"
        if path.exists():
            return pickle.loads(path.read_bytes())
        found = run(self.pack, stream, policy, *more)
        found.states = found.states.astype(np.float16)
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        part.write_bytes(pickle.dumps(found))
        part.rename(path)
        print(f"evaluate: {' '.join([stream + ',', policy, *more])}: depth {found.report['mean_exit_layer']:.2f}, {found.macs / 1e6:.0f} M MACs per second", flush=True)
        return found

    def all(self, stream, policies):
        """Runs of several policies, made in parallel."""
        with ThreadPoolExecutor(self.jobs) as workers:
            return dict(zip(policies, workers.map(lambda policy: self.run(stream, policy), policies)))

    @cache
    def full_macs(self, stream):
        """MACs per second at full depth."""
        return self.run(stream, "never").macs

    def share(self, stream, found):
        """Share of full depth's MACs."""
        return found.macs / self.full_macs(stream)

    @lru_cache(1)
    def full(self, stream):
        return self.heads(self.run(stream, "never"))

    @cache
    def from_full(self, stream, policy):
        """Per frame: KL(full depth ‖ exit), and whether the most probable unit is that of full depth."""
        full, found = self.full(stream), self.heads(self.run(stream, policy))
        return divergence(full, found), agreement(full, found)

    def kl(self, stream, policy):
        return self.from_full(stream, policy)[0]
