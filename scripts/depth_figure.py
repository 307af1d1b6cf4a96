"""Figures of memory against depth and length, as SVG text: the same bytes for the same record.

Usage: python scripts/depth_figure.py [key=value ...]

  figure=docs/images/length.svg   the README's figure, of the newest records of `bdia bench what=[depth]` and
                                  what=[length] in results/length

`draw` makes the figure of `memory_depth.py`: a line per stack, with its name at its end. It is written by hand, the
same with any version of any library. `draw_length` makes the README's with matplotlib, for light and dark pages.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bdia import MissingFileError
from bdia.bench.studies.largest import LONGEST
from bdia.bench.studies.whole_step import WAYS
from bdia.cli.arguments import script_arguments
from bdia.data.files import write_whole
from bdia.profiling.sizes import MIB
from bdia.reversible.stacks.registry import STACKS

WIDTH, HEIGHT = 760, 400
LEFT, RIGHT, TOP, BOTTOM = 64, 215, 40, 48
LINE = 15  # least distance of two names, in pixels
ROWS = {row.name: row for row in STACKS}
LENGTH = Path(__file__).resolve().parents[1] / "results" / "length"
STEPPED = ", stepped in backward"  # of all ways of the figure, so left out of its legend
DASHES = ("-", "--", ":")  # ways of one stack
MEASURED = "measured"
TAKEN_BACK = [("c73c72a", "bdia_tiled_in_backward", "planned")]  # results/length/README.md says why
INK_OF_POINTS = "#888888"  # of the legend's two sample points
PAGE = """<style>svg { color: #222; background: #fff } @media (prefers-color-scheme: dark) {
svg { color: #ddd; background: #0d1117 } }</style>"""


@dataclass
class Arguments:
    """The command line; the module's text says what each means."""

    figure: str = "docs/images/length.svg"


def newest_rows(question: str, folder: Path = LENGTH) -> list[dict[str, Any]]:
    """Return the rows that answer a question, of the newest record that has any; each with the record's `settings`.

    Raises:
        FileNotFoundError: there is none.
    """
    for path in sorted(folder.glob("*.json"), reverse=True):
        record = json.loads(path.read_text(encoding="utf-8"))
        commit = record["git"]["sha"][:7]
        rows = [row for row in record["rows"] if (commit, row.get("way"), row.get("origin")) not in TAKEN_BACK]
        if found := [row | {"settings": record["settings"]} for row in rows if row["question"] == question]:
            return found
    raise MissingFileError(f"results/length: no record of {question}; run bdia bench what=[depth,length]")


def draw_length(depth: Sequence[dict[str, Any]], longest: Sequence[dict[str, Any]]) -> str:
    """Return activations at the peak against blocks, and the longest text in each memory: full points are measured."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    from bdia.bench.drawing import STYLE, legend_below, svg_text

    with rc_context(STYLE | {"font.size": 10}):
        figure = Figure(figsize=(9.6, 4.6), layout="constrained")
        left, right = figure.subplots(1, 2)
        longest = [row for row in longest if row["largest"]]
        _lines(left, depth, "depth", lambda row: row["activations"] / MIB)
        _lines(right, longest, "gib", lambda row: row["largest"] / 1000)
        _label(left, sorted({row["depth"] for row in depth}), "blocks", "Activations at the peak of a step, MiB")
        memories = sorted({row["gib"] for row in longest})
        blocks = longest[0]["settings"]["fit_depth"]
        _label(right, memories, "memory, GiB", f"Longest text, thousands of tokens, {blocks} blocks")
        left.plot([], [], "o", color=INK_OF_POINTS, label="measured")
        left.plot([], [], "o", color=INK_OF_POINTS, fillstyle="none", label="planned")
        legend_below(figure, [left, right])
        text = svg_text(figure, salt="length")
    return text.replace(">", ">" + PAGE, 1) + "\n"


def _lines(axes: Any, rows: Sequence[dict[str, Any]], key: str, value: Any) -> None:
    """Draw a line per way; what is planned has hollow points."""
    for name in dict.fromkeys(row["way"] for row in rows):
        own = sorted((row for row in rows if row["way"] == name), key=lambda row: row[key])
        override = WAYS[name].overrides[0]
        same = [way for way in dict.fromkeys(row["way"] for row in rows) if WAYS[way].overrides[0] == override]
        stack = next(row for row in STACKS if row.override == override)
        places, values = [row[key] for row in own], [value(row) for row in own]
        label = own[0]["label"].removesuffix(STEPPED)
        axes.plot(places, values, DASHES[same.index(name)], color=stack.colour, linewidth=1.6, label=label)
        for fill in ("full", "none"):
            chosen = [at for at, row in enumerate(own) if (row["origin"] == MEASURED) == (fill == "full")]
            points = [places[at] for at in chosen], [values[at] for at in chosen]
            axes.plot(*points, "o", color=stack.colour, fillstyle=fill, markersize=5)


def _label(axes: Any, places: Sequence[float], across: str, title: str) -> None:
    from matplotlib.ticker import LogLocator

    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xticks(places, [f"{place:g}" for place in places])
    axes.minorticks_off()
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,g}")
    axes.set_xlabel(across)
    axes.set_title(title, loc="left", fontsize=10)


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


def main(argv: Sequence[str] | None = None) -> None:
    """Read the command line."""
    arguments = script_arguments(Arguments(), __doc__, argv)
    write_whole(Path(arguments.figure), draw_length(newest_rows("depth"), newest_rows(LONGEST)))
    print(arguments.figure)


if __name__ == "__main__":
    main()
