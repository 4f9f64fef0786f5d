"""Draws the ratio of `auto` to the other strategies, as SVG."""

import math

WIDTH, LEFT, RIGHT, TOP, ROW, BOTTOM = 860, 360, 24, 44, 22, 40
COLOURS = {"never": "#2f81c7", "always": "#c77d2f", "send the audio": "#8a5fc7"}
TICKS = (0.2, 0.3, 0.4, 0.5, 0.7, 0.95, 1, 1.5, 2, 3, 5, 10, 20)


def draw(points):
    """`points`: (cell, strategy, median, low, high)."""
    least = min(0.5, 0.9 * min(low for *_, low, _ in points))
    most = max(2.2, 1.15 * max(high for *_, high in points))
    x = lambda ratio: LEFT + (WIDTH - LEFT - RIGHT) * math.log(ratio / least) / math.log(most / least)
    height = TOP + ROW * len(points) + BOTTOM
    bottom = height - BOTTOM
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" font-family="system-ui, sans-serif" font-size="12" role="img">',
        "<title>Chunks per second of auto, divided by those of each single strategy</title>",
        "<style>.text { fill: #57606a } .grid { stroke: #d0d7de } .one { stroke: #57606a }"
        " @media (prefers-color-scheme: dark) { .text { fill: #9da7b1 } .grid { stroke: #3d444d } .one { stroke: #9da7b1 } }</style>",
        f'<text class="text" x="{WIDTH - RIGHT}" y="16" text-anchor="end">chunks per second of auto, divided by those of each single strategy: median, 95 % interval</text>',
        f'<rect x="{x(0.95):.1f}" y="{TOP - 8}" width="{x(most) - x(0.95):.1f}" height="{bottom - TOP + 8}" fill="#2da44e" opacity="0.08"/>',
    ]
    for tick in TICKS:
        if least <= tick <= most:
            parts.append(f'<line class="{"one" if tick == 1 else "grid"}" x1="{x(tick):.1f}" x2="{x(tick):.1f}" y1="{TOP - 8}" y2="{bottom}" stroke-width="0.8"/>')
            parts.append(f'<text class="text" x="{x(tick) + (6 if tick == 1 else -6 if tick == 0.95 else 0):.1f}" y="{bottom + 16}" text-anchor="middle">{tick:g}</text>')
    before = None
    for number, (cell, strategy, middle, low, high) in enumerate(points):
        y = TOP + ROW * number + ROW / 2
        name = f"{cell.topology}, {cell.pack}"
        if name != before:
            parts.append(f'<text class="text" x="{LEFT - 110}" y="{y + 4:.1f}" text-anchor="end">{name}</text>')
        before = name
        parts.append(f'<text x="{LEFT - 10}" y="{y + 4:.1f}" text-anchor="end" fill="{COLOURS[strategy]}">{strategy}</text>')
        parts.append(f'<line x1="{x(low):.1f}" x2="{x(high):.1f}" y1="{y:.1f}" y2="{y:.1f}" stroke="{COLOURS[strategy]}" stroke-width="2"/>')
        parts.append(f'<circle cx="{x(middle):.1f}" cy="{y:.1f}" r="4" fill="{COLOURS[strategy]}"/>')
    return "\n".join([*parts, "</svg>"]) + "\n"
