"""The figure of `memory_depth.py` as SVG text: a line per stack of the record, with its name at its end.

Written by hand: the file is small, and the same record gives the same bytes with any version of any library.
"""

import math
from typing import Any

from bdia.profiling.sizes import MIB
from bdia.reversible.stacks.registry import STACKS

WIDTH, HEIGHT = 760, 400
LEFT, RIGHT, TOP, BOTTOM = 64, 215, 40, 48
LINE = 15  # least distance of two names, in pixels
ROWS = {row.name: row for row in STACKS}


def draw(record: dict[str, Any]) -> str:
    """Return the figure: activation memory at the peak in MiB, logarithmic, against the number of blocks."""
    curves: dict[str, list[tuple[int, float]]] = {}
    for row in record["rows"]:
        curves.setdefault(row["stack"], []).append((row["depth"], row["peak"] / MIB))
    values = [value for curve in curves.values() for _, value in curve]
    depths = sorted({depth for curve in curves.values() for depth, _ in curve})
    low, high = min(values) / 1.15, max(values) * 1.15

    def x(depth: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * depth / depths[-1]

    def y(value: float) -> float:
        return TOP + (HEIGHT - TOP - BOTTOM) * math.log(high / value) / math.log(high / low)

    batch = record["settings"]["batch"]
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" '
        'font-size="13" fill="#222">',
        "<title>Activation memory against depth</title>",
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>',
        f'<text x="{LEFT}" y="22" font-size="14">Activation memory at the peak, MiB (logarithmic): '
        f"the paper's ViT, batch {batch}, float32</text>",
    ]
    for value in _ticks(low, high):
        parts.append(f'<path d="M{LEFT} {y(value):.1f}H{WIDTH - RIGHT}" stroke="#ddd"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y(value) + 4:.1f}" text-anchor="end">{value:,}</text>')
    for depth in depths:
        parts.append(f'<text x="{x(depth):.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{depth}</text>')
    parts.append(f'<text x="{x(depths[-1] / 2):.1f}" y="{HEIGHT - 10}" text-anchor="middle">blocks</text>')
    for stack, curve in curves.items():
        points = " ".join(f"{x(depth):.1f},{y(value):.1f}" for depth, value in sorted(curve))
        colour = ROWS[stack].colour
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2.2"/>')
        parts += [
            f'<circle cx="{x(depth):.1f}" cy="{y(value):.1f}" r="3.2" fill="{colour}"/>' for depth, value in curve
        ]
    ends = {stack: max(curve) for stack, curve in curves.items()}
    for stack, place in _spread({stack: y(value) for stack, (_, value) in ends.items()}).items():
        text = f"{ROWS[stack].label}, {ends[stack][1]:,.0f}"
        parts.append(f'<text x="{WIDTH - RIGHT + 12}" y="{place + 4:.1f}" fill="{ROWS[stack].colour}">{text}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def _ticks(low: float, high: float) -> list[int]:
    """Return 1, 2 and 5 times the powers of ten inside the range."""
    candidates = (step * 10**power for power in range(7) for step in (1, 2, 5))
    return [value for value in candidates if low <= value <= high]


def _spread(places: dict[str, float]) -> dict[str, float]:
    """Move names down until none covers another, from the top one on."""
    moved: dict[str, float] = {}
    last = -math.inf
    for stack, place in sorted(places.items(), key=lambda item: item[1]):
        last = moved[stack] = max(place, last + LINE)
    return moved
