"""Targets of the heads: the units at the encoder's full depth.

A checkpoint that carries HuBERT's own predictor (final_proj and label_embs_concat, arXiv 2106.07447 equation 3) brings its
units along. Published conversions mostly leave it out; then units are k-means clusters of one layer's output on the user's recordings.
"""

import numpy as np

from .checkpoint import ConvertError
from .graph import Graph

# Temperature of the softmax over cosine similarities, as in HuBERT's training.
TEMPERATURE = 0.1


class Predictor:
    """HuBERT's own unit predictor: cosine similarity of the projected last state and one embedding per unit."""

    def __init__(self, weights):
        self.weight, self.bias = weights["final_proj.weight"], weights["final_proj.bias"]
        embeddings = weights["label_embs_concat"]
        self.embeddings = embeddings / np.maximum(np.linalg.norm(embeddings, axis=1, keepdims=True), 1e-8)
        self.units = len(embeddings)

    def labels(self, states):
        """[frames, D] -> [frames]"""
        return self.logits(states).argmax(1)

    def logits(self, states):
        """[frames, D] -> [frames, U]"""
        x = states.astype(np.float32) @ self.weight.T + self.bias
        return x / np.sqrt((x**2).sum(1, keepdims=True) + 1e-16) @ self.embeddings.T / TEMPERATURE

    def save(self, path, dim, f16=False):
        """As an exit head: f [1, T, D] -> logits [1, T, U]."""
        g = Graph(f16)
        x = g.linear("f", self.weight, self.bias)
        norm = g.op("Sqrt", g.op("Add", g.op("ReduceSum", g.op("Mul", x, x), [2], keepdims=1), np.float32(1e-16)))
        logits = g.linear(g.op("Div", x, norm), self.embeddings / TEMPERATURE)
        g.save(path, {"f": [1, "T", dim]}, {"logits": (logits, [1, "T", self.units])})


def predictor(weights):
    """The checkpoint's own predictor, or None."""
    names = ("final_proj.weight", "final_proj.bias", "label_embs_concat")
    if any(name not in weights for name in names):
        return None
    if weights["final_proj.weight"].shape[0] != weights["label_embs_concat"].shape[1]:
        raise ConvertError("final_proj predicts several sets of units at once: remove it from the checkpoint to use k-means units")
    return Predictor(weights)


class KMeans:
    """k-means clusters of standardised states. Without standardisation, a few large dimensions would dominate."""

    def __init__(self, states, units, seed):
        from sklearn.cluster import MiniBatchKMeans

        self.mean, self.deviation, self.units = states.mean(0), states.std(0) + 1e-6, units
        if len(states) < 10 * units:
            raise ConvertError(f"{len(states)} frames are too few for {units} units: use more recordings or a smaller --units")
        self.model = MiniBatchKMeans(units, random_state=seed, batch_size=4096, n_init=3).fit(self.standardised(states))

    def standardised(self, states):
        return ((states - self.mean) / self.deviation).astype(np.float32)

    def labels(self, states):
        return self.model.predict(self.standardised(states))
