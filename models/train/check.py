"""Phone errors of a checkpoint or pack by layer, on held-out speech whose phones are known: a quick look during training.

    python -m models.train.check MODEL [--clips N] [--kinds KIND ...] [--threads N]

The references are the synthesiser's phones, and for recordings what espeak-ng reads in their texts, which is not always what was said. Greedy
decoding of the CTC branches; chunks of 320 ms, whole clips. `models.evaluate` measures packs with Bellis.
"""

import argparse
import itertools
import json
from pathlib import Path

import numpy as np
import torch

from .inventory import BOUNDARY, VOCABULARY, spoken
from .label import model_of
from .mixing import coloured, scale_to
from .model import LEAD, RECEPTIVE_FIELD
from .paths import HOP, PREPARED, TARGETS
from .sentences import BORROWED
from .texts import text_of

CHUNK, LEVEL = 16, 10 ** (-30 / 20)
SHORTEST = 30  # frames of a clip
SILENT = (0, VOCABULARY.index(BOUNDARY))
KINDS = {  # of speech: its group, and which of the clips
    "read English": ("speech.test", lambda entry: entry["package"] == "pocketsphinx-testdata"),
    "English, synthetic voices": ("synthetic.test", lambda entry: entry["language"] == "en"),
    "Spanish, Portuguese and Hindi, synthetic voices": ("synthetic.test", lambda entry: entry["language"] in ("es", "pt", "hi")),
    "German, Dutch, Polish, Russian, Swedish, Czech and Chinese, synthetic voices": ("synthetic.test", lambda entry: entry["language"] in BORROWED),
    "acted English": ("speech.acted", lambda entry: True),
    "acted English, another game": ("speech.casts", lambda entry: entry["package"] == "drascula"),
    "acted Spanish": ("speech.casts", lambda entry: entry["package"] == "drascula-spanish"),
    "acted Dutch": ("speech.test", lambda entry: entry["package"] == "fillets-ng-data-nl"),
    "read Russian": ("speech.probe", lambda entry: True),
    "read French": ("speech.test", lambda entry: entry["package"] == "asterisk-core-sounds-fr-g722"),
}


def collapse(row):
    """Classes of frames to phones: repeats merged, blanks and boundaries removed."""
    fresh = np.diff(row, prepend=-1) != 0
    return [VOCABULARY[phone] for phone in row[fresh] if phone not in SILENT]


def phones_of(row):
    """(phone, first frame, frame after) of the phones of frames [T], without pauses and boundaries."""
    cuts = [0, *(np.flatnonzero(np.diff(row)) + 1), len(row)]
    return [(int(row[a]), a, b) for a, b in zip(cuts, cuts[1:]) if row[a] not in SILENT]


def distance(found, expected):
    """Levenshtein distance."""
    row, expected, steps = np.arange(len(expected) + 1), np.array(list(expected)), np.arange(len(expected) + 1)
    for one in found:
        best = np.minimum(row[1:] + 1, row[:-1] + (expected != one))
        row = np.minimum.accumulate(np.concatenate([[row[0] + 1], best]) - steps) + steps
    return int(row[-1])


def referenced(group, wanted, rng):
    """Yields (entry, samples, phones) of a group's clips for which `wanted` is true and whose phones are known, in random order."""
    if not (PREPARED / f"{group}.json").exists():
        return
    sound = np.load(PREPARED / f"{group}.npy", mmap_mode="r")
    exact = np.load(TARGETS / f"{group}.phones.npy", mmap_mode="r") if (TARGETS / f"{group}.exact").exists() else None
    index = [entry for entry in json.loads((PREPARED / f"{group}.json").read_text()) if wanted(entry) and entry["frames"] > SHORTEST]
    for number in rng.permutation(len(index)):
        entry = index[number]
        here = slice(entry["start"], entry["start"] + entry["frames"])
        if exact is not None:
            phones = collapse(np.asarray(exact[here], int))
        else:
            text = text_of(entry)
            phones = [phone for word in spoken(*text) for phone in word] if text else []
        if phones:
            yield entry, np.asarray(sound[here.start * HOP : here.stop * HOP], np.float32) / 32768, phones


def some(kind, rng, count):
    """At most `count` random (samples, phones) of a kind of speech."""
    return ((audio, phones) for _, audio, phones in itertools.islice(referenced(*KINDS[kind], rng), count))


@torch.no_grad()
def heard(model, pairs, snr, rng):
    """Yields (logits of every layer's CTC branch [L + 1, T, V], phones) for pairs of `some`, in pink noise if there is an SNR."""
    for audio, reference in pairs:
        audio = audio * LEVEL / (audio.std() + 1e-6)
        count = -(-len(audio) // HOP // CHUNK) * CHUNK
        padded = np.zeros((count - 1) * HOP + RECEPTIVE_FIELD, np.float32)
        padded[LEAD : LEAD + len(audio)] = audio[: len(padded) - LEAD]
        if snr is not None:
            padded += scale_to(coloured(rng, len(padded), 1.0), LEVEL**2, snr)
        yield model.phone_logits(model(torch.from_numpy(padded)[None], CHUNK))[:, 0], reference


def errors(model, pairs, snr, rng):
    """Phone error rate of every layer, [L + 1]."""
    wrong, total = np.zeros(model.shape.layers + 1), 0
    for logits, reference in heard(model, pairs, snr, rng):
        wrong += [distance(collapse(row), reference) for row in logits.argmax(-1).numpy()]
        total += len(reference)
    return wrong / max(1, total)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--clips", type=int, default=60, help="maximum number of clips of each kind (default: %(default)s)")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS), metavar="KIND", help="only these kinds of speech (default: all)")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    model = model_of(arguments.model)
    layers = [k for k in range(model.shape.layers + 1) if k in (2, 4, 5, 6, 8, model.shape.layers)]
    for name in arguments.kinds:
        for snr in (None, 5):
            rng = np.random.default_rng(1)
            found = errors(model, some(name, rng, arguments.clips), snr, rng)
            half = found[len(found) // 2]
            print(f"check: {name}, {'clean' if snr is None else f'pink noise at {snr} dB'}: " + " ".join(f"{k}:{100 * found[k]:.1f}" for k in layers) + f", half to full {100 * (half - found[-1]) / max(half, 1e-9):.0f} %", flush=True)


if __name__ == "__main__":
    main()
