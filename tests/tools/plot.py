"""The plot of the README: what a delivery and a registration cost by the number of webhooks stored."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

STYLE = """
  svg { --ground: #ffffff; --ink: #24292f; --faint: #d0d7de; --a: #0969da; --b: #bc4c00; --c: #6e7781 }
  @media (prefers-color-scheme: dark) {
    svg { --ground: #0d1117; --ink: #e6edf3; --faint: #30363d; --a: #58a6ff; --b: #f0883e; --c: #8b949e }
  }
  text { font: 13px system-ui, sans-serif; fill: var(--ink) }
  .ground { fill: var(--ground) } .grid { stroke: var(--faint) }
  polyline { fill: none; stroke-width: 2.5 }
"""
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 720, 380, 76, 196, 44, 56


def plot(samples: dict[str, list[float]], stored: Sequence[int]) -> str:
    """Three lines over the number of webhooks stored; both axes are logarithmic."""
    names = (("registration", "b", "none"), ("replacement", "c", "6 5"), ("delivery", "a", "none"))
    titles = {
        "registration": ("a registration",),
        "replacement": ("the bare replacement", "of the file"),
        "delivery": ("a delivery",),
    }
    costs = {name: [statistics.median(samples[f"{name} at {n}"]) * 1e3 for n in stored] for name, _, _ in names}
    every = [cost for values in costs.values() for cost in values]
    low, high = math.floor(math.log10(min(every))), math.ceil(math.log10(max(every)))
    first, last = math.log10(stored[0]), math.log10(stored[-1])

    def x(n: float) -> float:
        return round(LEFT + (math.log10(n) - first) / (last - first) * (WIDTH - LEFT - RIGHT), 1)

    def y(cost: float) -> float:
        return round(HEIGHT - BOTTOM - (math.log10(cost) - low) / (high - low) * (HEIGHT - TOP - BOTTOM), 1)

    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">',
        "<title>What a delivery and a registration cost, by the number of webhooks stored</title>",
        f"<style>{STYLE}</style>",
        f'<rect class="ground" width="{WIDTH}" height="{HEIGHT}" rx="6"/>',
        f'<text x="{LEFT}" y="26" font-weight="600">What one of them costs (both axes logarithmic)</text>',
        f'<text x="{(LEFT + right) / 2}" y="{HEIGHT - 14}" text-anchor="middle">webhooks stored</text>',
        f'<text transform="translate(20 {(TOP + bottom) / 2}) rotate(-90)" text-anchor="middle">milliseconds</text>',
    ]
    for power in range(low, high + 1):
        level = y(10.0**power)
        parts.append(f'<path class="grid" d="M{LEFT} {level}H{right}"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{level + 4}" text-anchor="end">{10.0**power:g}</text>')
    for power in range(math.ceil(first), math.floor(last) + 1):
        parts.append(f'<path class="grid" d="M{x(10**power)} {TOP}V{bottom}"/>')
        parts.append(f'<text x="{x(10**power)}" y="{bottom + 20}" text-anchor="middle">{10**power:,}</text>')
    heights = apart({name: y(values[-1]) for name, values in costs.items()})
    for name, colour, dashes in names:
        points = [(x(n), y(cost)) for n, cost in zip(stored, costs[name], strict=True)]
        line = " ".join(f"{a},{b}" for a, b in points)
        parts.append(f'<polyline points="{line}" style="stroke: var(--{colour}); stroke-dasharray: {dashes}"/>')
        parts += [f'<circle cx="{a}" cy="{b}" r="3.5" style="fill: var(--{colour})"/>' for a, b in points]
        for number, text in enumerate(titles[name]):
            place = f'x="{right + 12}" y="{heights[name] + 4 + 16 * number}"'
            parts.append(f'<text {place} style="fill: var(--{colour})">{text}</text>')
    return "\n".join([*parts, "</svg>", ""])


def apart(heights: dict[str, float], distance: float = 20.0) -> dict[str, float]:
    """The same heights, moved down where two of them would lie upon each other."""
    moved: dict[str, float] = {}
    for name in sorted(heights, key=lambda name: heights[name]):
        moved[name] = max([heights[name], *(height + distance for height in moved.values())])
    return moved
