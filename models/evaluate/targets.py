"""The table of targets on a model card: what is measured, and whether it meets its target.

Rows come from docs/models/NAME/figures.json, docs/asr/NAME.json (models.evaluate.asr) and docs/keywords/figures.json (models.evaluate.keywords,
of the default pack). A row whose figure is not in them is left out.
"""

import numpy as np

from .tables import number, percent, percents, table

CLEAN = {"read English": 0.25, "acted English": 0.35, "English, synthetic voices": 0.12}  # phone error at full depth, at most
NOISY = {"10": 0.35, "5": 0.45, "0": 0.60}  # the same of read English in noise, by SNR
GAIN_CLEAN, GAIN_NOISY = 0.15, 0.10  # share of the errors at half depth that the other layers remove, at least
SHARES, HALF_COMPUTE = (0.3, 0.8), 1.02  # of full depth's MACs; error at half of them relative to full depth, at most
SPEARMAN, RATIO = -0.95, 1.4  # of mean depth and SNR, at most; of mean depth at 0 dB and clean, at least
SILENCE, NOISE, TIME = 0.10, 0.20, 0.5  # of full depth's MACs; of the time of clean speech, at most
WITHOUT_VOICES = ("white", "pink", "music", "events")
LEVELS, AS_RECORDED, LEVEL = (-55, -10), "-30", 1.05  # dBFS; phone error and depth relative to -30 dBFS, at most
DEVIATION, LETTERS, PNMI = 0.01, 22, 0.60
ACROSS, SAME = 0.70, {"clean": 0.99, "10": 0.91, "0": 0.60}  # recall at 0.5 false accepts per hour, at least


def with_interval(triple):
    value, low, high = (100 * x for x in triple)
    return f"{value:.1f} % ({low:.1f} to {high:.1f})"


def phones(asr):
    """Rows [figure, target, measured, whether it meets the target] on phone errors."""
    runs, noise, half = asr.get("runs", {}), asr.get("noise", {}), f"fixed --layer {asr.get('layers', 0) // 2}"
    full, halved = (runs.get(policy, {}).get("errors", {}) for policy in ("never", half))
    for kind, most in CLEAN.items():
        if kind in full:
            yield f"phone error at full depth, {kind}, clean", f"≤ {percent(most, 0)}", with_interval(full[kind]["clean"]), full[kind]["clean"][0] <= most
    found = noise.get("read English", {}).get("never", {})
    if found.keys() >= NOISY.keys():
        errors = [found[snr][0] for snr in NOISY]
        yield f"the same, read English at {', '.join(NOISY)} dB", f"≤ {percents(NOISY.values())}", percents(errors, 1), all(np.array(errors) <= list(NOISY.values()))
    for kind in ("read English", "acted English"):
        if kind in full and kind in halved:
            gain = 1 - full[kind]["clean"][0] / halved[kind]["clean"][0]
            yield f"errors that the second half of the layers removes, {kind}, clean", f"≥ {percent(GAIN_CLEAN, 0)}", percent(gain), gain >= GAIN_CLEAN
        deep, shallow = (noise.get(kind, {}).get(policy, {}) for policy in ("never", half))
        if all(snr in rows for snr in ("5", "0") for rows in (deep, shallow)):
            gains = [1 - deep[snr][0] / shallow[snr][0] for snr in ("5", "0")]
            yield f"the same, {kind} at 5, 0 dB", f"≥ {percent(GAIN_NOISY, 0)}", percents(gains, 1), min(gains) >= GAIN_NOISY


def equal_compute(asr):
    """Rows on phone errors of `gain` at equal compute."""
    for stream, points in asr.get("equal compute", {}).items():
        points = sorted((point for point in points if point["policy"].startswith("gain")), key=lambda point: point["share"])
        shares, errors = [point["share"] for point in points], [point["of full depth"] for point in points]
        between = [point for point in points if SHARES[0] <= point["share"] <= SHARES[1]]
        if between:
            measured = f"at {percents([point['share'] for point in between])}: " + ", ".join(f"{100 * point['minus fixed'][0]:+.1f} ({100 * point['minus fixed'][1]:+.1f} to {100 * point['minus fixed'][2]:+.1f})" for point in between)
            yield f"phone error of `gain` minus fixed depth, points, {stream}", f"< 0 at {percent(SHARES[0], 0)} to {percent(SHARES[1], 0)} of the compute", measured, all(point["minus fixed"][2] < 0 for point in between)
        if shares and shares[0] <= 0.5 <= shares[-1]:
            error = float(np.interp(0.5, shares, errors))
            yield f"phone error of `gain` at half the compute, relative to full depth, {stream}", f"≤ {HALF_COMPUTE}", number(error), error <= HALF_COMPUTE


def depth(figures):
    """Rows on DAISY's rule."""
    for version, by_kind in {"16 kHz": figures["depth under noise"], **figures.get("depth under noise, degraded", {})}.items():
        rank, ratio = ({kind: row[name] for kind, row in by_kind.items()} for name in ("spearman", "ratio at 0 dB"))
        high, low = max(rank, key=rank.get), min(ratio, key=ratio.get)
        count = lambda met: f"{sum(met)} of {len(by_kind)} kinds of noise"
        ranks, ratios = [value <= SPEARMAN for value in rank.values()], [value >= RATIO for value in ratio.values()]
        yield f"DAISY's rule, {version}: Spearman of depth and SNR", f"≤ {SPEARMAN}".replace("-", "−"), f"{count(ranks)}; at most {rank[high]:.2f} ({high})".replace("-", "−"), all(ranks)
        yield f"DAISY's rule, {version}: depth at 0 dB relative to clean", f"≥ {RATIO}", f"{count(ratios)}; at least {ratio[low]:.2f} ({low})", all(ratios)


def compute(figures):
    """Rows on compute without speech and on the device-like stream."""
    for policy, found in figures.get("compute by content", {}).items():
        share, relative = found["share"], found["device / clean"]
        silence, noise = [share[f"silence: {kind}"] for kind in ("digital", "room")], [share[f"noise: {kind}"] for kind in WITHOUT_VOICES]
        yield f"`{policy}`: compute in digital silence, room tone", f"≤ {percent(SILENCE, 0)}", percents(silence), max(silence) <= SILENCE
        yield f"`{policy}`: compute in noise without voices ({', '.join(WITHOUT_VOICES)})", f"≤ {percent(NOISE, 0)}", percents(noise), max(noise) <= NOISE
        yield f"`{policy}`: time on the device-like stream relative to clean speech", f"≤ {TIME}", f"{relative['time']:.2f} (MACs {relative['MACs']:.2f})", relative["time"] <= TIME


def level(asr):
    """Rows on quiet and loud speech."""
    found = {dbfs: row for dbfs, row in asr.get("level", {}).items() if LEVELS[0] <= float(dbfs) <= LEVELS[1]}
    if AS_RECORDED in found:
        worst = lambda gain, highest: max((max(row[gain].values()), dbfs) for dbfs, row in found.items() if float(dbfs) <= highest)
        changes = [row["depth"] / found[AS_RECORDED]["depth"] for row in found.values()]
        where = f"{LEVELS[0]} to {LEVELS[1]} dBFS, relative to {AS_RECORDED} dBFS".replace("-", "−")
        rows = ((f"phone error of speech at {where}", worst("ratio", LEVELS[1])), (f"the same with `--gain-db auto`, up to −{AS_RECORDED[1:]} dBFS", worst("raised", float(AS_RECORDED))))
        for title, (ratio, at) in rows:
            yield title, f"≤ {LEVEL}", f"{ratio:.2f} (at {at} dBFS)".replace("-", "−"), ratio <= LEVEL
        yield "depth of `gain` at the same levels", f"{2 - LEVEL:.2f} to {LEVEL}", f"{min(changes):.2f} to {max(changes):.2f}", 2 - LEVEL <= min(changes) and max(changes) <= LEVEL


def representation(figures):
    """Rows on calibration, letters and units."""
    for name in ("pooled", "clean"):
        deviation = max((abs(row[name][0] - float(target)) for target, row in figures["calibrated"].items()))
        yield f"calibrated agreement, deviation from {percents(map(float, figures['calibrated']))}, {name}", f"≤ {100 * DEVIATION:.0f} point", f"{100 * deviation:.1f}", deviation <= DEVIATION
    right, of = (figures["letters"]["never"]["english"][name] for name in ("right", "of"))
    yield "letters across speakers, both directions", f"≥ {LETTERS} of {of}", ", ".join(map(str, right)), min(right) >= LETTERS
    purity = list(figures["phones"]["pnmi"].values())[-1]
    yield "PNMI of the last layer's units on aligned phones", f"≥ {PNMI:.2f}", f"{purity:.2f}", purity >= PNMI


def keywords(systems):
    """Rows on keywords from recordings, of the pack's policy."""
    for system in systems:
        if system["system"] == "bellis, the default policy":
            recall = lambda speakers, condition: system["parts"]["all"][speakers]["recall"][condition]["0.5"]
            across, same = recall("unseen", "clean"), {condition: recall("same", condition) for condition in SAME}
            yield "keyword recall at 0.5 false accepts per hour, across speakers (acted)", f"≥ {ACROSS:.2f}", number(across, 2), across >= ACROSS
            yield "the same, one speaker; clean, 10, 0 dB", "≥ " + ", ".join(f"{least:.2f}" for least in SAME.values()), ", ".join(number(value, 2) for value in same.values()), all(round(same[c], 2) >= least for c, least in SAME.items())


def rows(figures, asr, systems):
    """All rows [figure, target, measured, whether it meets the target]; each source may be empty, except figures."""
    return [*phones(asr), *equal_compute(asr), *depth(figures), *compute(figures), *level(asr), *representation(figures), *keywords(systems)]


def show(found):
    return table(["figure", "target", "measured", "result"], [[figure, target, measured, "met" if met else "missed"] for figure, target, measured, met in found])
