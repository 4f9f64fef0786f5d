"""The report of the soak test: a table, and plots as SVG."""

import re
import statistics

START, END = "<!-- soak: scripts/soak --docs -->", "<!-- /soak -->"
# Share of the measurements before the comparison of memory begins.
WARM_UP = 0.1


def growth(memory):
    """Relative growth of the median, from the first to the last tenth of the measurements after the warm-up."""
    after = memory[int(len(memory) * WARM_UP) :]
    tenth = max(len(after) // 10, 1)
    return statistics.median(after[-tenth:]) / statistics.median(after[:tenth]) - 1


def text(result):
    rows = result["rows"]
    faults = ", ".join(f"{count} × {name.replace('_', ' ')}" for name, count in sorted(result["faults"].items()))
    memory = [row["rss"] / 2**20 for row in rows]
    lines = [
        ("audio", f"{result['hours']:.1f} h in {result['wall_seconds'] / 60:.1f} min, seed {result['seed']}"),
        ("samples", f"{result['fed']:.0f} written to the device = {result['captured']:.0f} captured = {result['processed']:.0f} processed "
                    f"+ {result['dropped']:.0f} dropped ({result['dropped'] / result['captured']:.2%})"),
        ("chunks", f"{result['chunks']:.0f}"),
        ("faults", faults),
        ("reloads", f"{result['reloads']:.0f} applied, {result['rejected']:.0f} rejected"),
        ("devices lost", f"{result['sources_lost']:.0f}"),
        ("resident memory", f"{min(memory):.1f} to {max(memory):.1f} MiB; growth after the warm-up {result['rss_growth']:+.2%}"),
        ("threads, descriptors", f"{rows[0]['threads']:.0f} and {rows[0]['descriptors']:.0f} at each of {len(rows)} measurements"),
        ("slowest scrape", f"{result['slowest_scrape_seconds'] * 1e3:.0f} ms"),
        ("log", f"{result['log_lines']} lines"),
    ]
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in lines)])


def write(result, docs):
    page = docs / "reliability.md"
    old = page.read_text()
    new = f"{START}\n{text(result)}\n\n![Memory, threads, descriptors and samples over the hours of audio](figures/soak.svg)\n{END}"
    page.write_text(re.sub(f"{re.escape(START)}.*{re.escape(END)}", lambda _: new, old, flags=re.S))
    (docs / "figures/soak.svg").write_text(plots(result["rows"]))


def plots(rows):
    """Four plots over hours of audio."""
    hours = [row["hours"] for row in rows]
    panels = [
        ("resident memory, MiB", [[row["rss"] / 2**20 for row in rows]], True),
        ("threads (lower), descriptors (upper)", [[row["threads"] for row in rows], [row["descriptors"] for row in rows]], True),
        ("processed, hours of audio", [[row["processed"] / 16_000 / 3600 for row in rows]], True),
        ("dropped, % of captured", [[100 * row["dropped"] / row["captured"] for row in rows]], True),
    ]
    width, height, gap = 380, 190, 20
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {2 * width + gap} {2 * height + gap}" font-family="sans-serif" font-size="11">',
        '<rect width="100%" height="100%" fill="#fff"/>',
    ]
    for index, (title, lines, from_zero) in enumerate(panels):
        out.append(panel((index % 2) * (width + gap), (index // 2) * (height + gap), width, height, title, hours, lines, from_zero))
    return "\n".join([*out, "</svg>\n"])


def panel(left, top, width, height, title, hours, lines, from_zero):
    margin, head, foot = 44, 22, 30
    low = 0 if from_zero else min(map(min, lines))
    high = max(map(max, lines)) * 1.05 or 1
    last = max(hours)

    def at(hour, value):
        x = left + margin + (width - margin - 8) * hour / last
        y = top + height - foot - (height - head - foot) * (value - low) / (high - low)
        return f"{x:.1f},{y:.1f}"

    parts = [f'<text x="{left + margin}" y="{top + 14}" fill="#222">{title}</text>']
    for step in range(5):
        value = low + (high - low) * step / 4
        x, y = at(0, value).split(",")
        parts.append(f'<line x1="{x}" x2="{left + width - 8}" y1="{y}" y2="{y}" stroke="#ddd"/>')
        parts.append(f'<text x="{float(x) - 5}" y="{float(y) + 4}" text-anchor="end" fill="#555">{value:.3g}</text>')
    for hour in range(0, int(last) + 1, max(1, round(last / 6))):
        x, y = at(hour, low).split(",")
        parts.append(f'<text x="{x}" y="{float(y) + 15}" text-anchor="middle" fill="#555">{hour} h</text>')
    for colour, values in zip(("#1f5fa8", "#b5541c"), lines):
        points = " ".join(at(hour, value) for hour, value in zip(hours, values))
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
    return "\n".join(parts)
