"""The page of models.evaluate.asr: tables of its figures, as Markdown."""

from .asr_streams import CONDITIONS, SNRS
from .tables import table


def name_of(noise, snr):
    return f"{noise} {snr} dB" if noise else "clean"


def percent(triple):
    value, low, high = triple[:3]
    return f"{100 * value:.1f} ({100 * low:.1f} to {100 * high:.1f})"


def by_kind(figures):
    """A section for every kind of speech: errors by policy and condition."""
    names, runs, sections = [name_of(*condition) for condition in CONDITIONS], figures["runs"], []
    for kind in runs["never"]["errors"]:
        rows = [[f"`{policy}`", f"{one['depth']:.2f}", f"{one['share']:.2f}", *(f"{100 * one['errors'][kind][name][0]:.1f}" for name in names)] for policy, one in runs.items()]
        half = f"fixed --layer {figures['layers'] // 2}"
        if half in runs:
            less = lambda name: 1 - runs["never"]["errors"][kind][name][0] / max(1e-9, runs[half]["errors"][kind][name][0])
            rows.append(["errors that the second half of the layers removes, %", "", "", *(f"{100 * less(name):.0f}" for name in names)])
        _, low, high = runs["never"]["errors"][kind]["clean"]
        sections.append(f"## {kind[0].upper()}{kind[1:]}\n\nFull depth, clean: {100 * low:.1f} to {100 * high:.1f} (95 %).\n\n{table(['', 'depth', 'of full compute', *names], rows)}")
    return "\n".join(sections)


def languages(figures):
    return table(["speech", "seconds", "phone error, % (95 %)"], [[kind, f"{found[3]:.0f}", percent(found)] for kind, found in figures["languages"].items()])


def noise(figures):
    rows = [
        [kind if number == 0 else "", f"`{policy}`", *(percent(found[str(snr)]) for snr in SNRS)]
        for kind, by_policy in figures["noise"].items() for number, (policy, found) in enumerate(by_policy.items())
    ]
    return table(["speech", "policy", *(f"{snr} dB" for snr in SNRS)], rows)


def equal_compute(figures, stream):
    signed = lambda triple: "{:+.2f} ({:+.2f} to {:+.2f})".format(*(100 * value for value in triple))
    rows = [[f"`{row['policy']}`", f"{row['share']:.2f}", f"{100 * row['error']:.1f}", signed(row["minus fixed"]), f"{100 * (row['of full depth'] - 1):+.1f}"] for row in figures["equal compute"][stream]]
    return table(["policy", "of full compute", "phone error, %", "minus fixed depth, points (95 %)", "relative to full depth, %"], rows)


def levels(figures):
    kinds = list(next(iter(figures["level"].values()))["ratio"])
    rows = [[f"{level}", *(f"{found[gain][kind]:.2f}" for gain in ("ratio", "raised") for kind in kinds), f"{found['depth']:.2f}"] for level, found in figures["level"].items()]
    return table(["active level, dBFS", *kinds, *(f"{kind}, `--gain-db auto`" for kind in kinds), f"mean exit layer of `{figures['default']}`"], rows)


def more(figures):
    """What is only measured with the default set of policies."""
    spoken = ", ".join(f"{seconds:.0f} s of {kind}" for kind, seconds in figures["noise seconds"].items())
    inside = [[name, f"{100 * value:.1f}"] for name, value in figures["utterances"].items() if name != "utterances"]
    return f"""## Languages

Full depth, clean; more speech than in the tables above.

{languages(figures)}
## Noise

Mean over white and pink noise, babble, public places, music and events; phone error in % (95 %) at each SNR, of {spoken} in each noise.

{noise(figures)}
## Adaptive exit and fixed depth

Difference in phone error from a fixed depth of equal compute, interpolated between layers; negative is better. On all of the speech above, clean and in noise:

{equal_compute(figures, "pooled")}
![phone error by compute, speech]({figures["pack"]}/compute-pooled.svg)

On a device-like stream (30 % speech, half of it in noise; 40 % silence; 30 % noise), where phones in silence and noise are errors:

{equal_compute(figures, "device")}
![phone error by compute, device-like stream]({figures["pack"]}/compute-device.svg)

## Level

Phone error at full depth relative to that at −30 dBFS, clean, by the active level of the speech. From −20 dBFS, peaks are clipped.

{levels(figures)}
## Utterances

Share of 20 minutes of the device-like stream that is in an utterance, by content; the pack's own policy, without padding.

{table(["content", "%"], inside)}"""


def page(figures):
    return f"""# Phone error rates of {figures["pack"]}

Measured by `python -m models.evaluate.asr {figures["path"]}`; {figures["pack"]}.json has all figures with 95 % intervals. Phone error rate
in %: edit distance divided by the number of phones in the reference, which is what the synthesiser was given, or what espeak-ng reads in a
recording's text. None of these voices and noise recordings was used in training. `never` is full depth; *of full compute* refers
to the MACs of everything that ran. Intervals resample speakers, and the clips of each speaker.

{by_kind(figures)}
{more(figures) if "languages" in figures else ""}"""
