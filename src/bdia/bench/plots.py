"""Plots of a bench as SVG files: memory and time against depth, the trade-off between time and memory."""

from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bdia.bench.cases import CURVE, VARIANTS
from bdia.bench.drawing import LINES, MARKERS, STYLE, legend_below, svg_text
from bdia.bench.record import Bench, VariantRow
from bdia.data.files import write_whole
from bdia.profiling.sizes import MIB
from bdia.results.page.style import OTHER_COLOUR
from bdia.reversible.stacks.registry import BDIA, STACKS

COLOURS = {row.override: row.colour for row in STACKS}
WIDTH, PANEL = 8.4, 3.0  # inches


def write_plots(bench: Bench, folder: Path) -> list[tuple[str, str]]:
    """Write the plots that the bench has numbers for beside its JSON; return (caption, file name) of each."""
    written = []
    with matplotlib.rc_context(STYLE):
        for name, caption, draw in PLOTS:
            if (figure := draw(bench)) is not None:
                file = f"{bench.bench_id}_{name}.svg"
                write_whole(folder / file, _svg(figure, salt=file))
                written.append((caption, file))
    return written


def _memory_against_depth(bench: Bench) -> Figure | None:
    return _against_depth(bench, lambda row: row.memory["peak"] / MIB if row.memory else None, "peak memory, MiB")


def _time_against_depth(bench: Bench) -> Figure | None:
    return _against_depth(bench, lambda row: row.times.median if row.times else None, "step, ms (median, quartiles)")


def _against_depth(bench: Bench, value: Callable[[VariantRow], float | None], label: str) -> Figure | None:
    """One panel per model and precision, one line per variant; None unless some variant has two depths."""
    rows = [row for row in bench.rows if row.part == "table" and value(row) is not None]
    panels = [key for key in dict.fromkeys((row.model, row.precision) for row in rows) if len(_depths(rows, key)) > 1]
    if not panels:
        return None
    lines = -(-len(panels) // 2)
    figure = Figure(figsize=(WIDTH, PANEL * lines + 1.2), layout="constrained")
    grid = figure.subplots(lines, min(2, len(panels)), squeeze=False)
    for axes in grid.flat[len(panels) :]:
        axes.set_visible(False)
    for axes, key in zip(grid.flat, panels, strict=False):
        own = [row for row in rows if (row.model, row.precision) == key]
        for row in {row.variant: row for row in own}.values():
            _line(axes, [other for other in own if other.variant == row.variant], value, label)
        batches = sorted({row.batch for row in own})
        axes.set_title(f"{key[0]}, {key[1]}, batch {', '.join(map(str, batches))}", loc="left", fontsize=11)
        axes.set_xticks(_depths(own, key))
        axes.set_ylim(bottom=0)
        axes.set_xlabel("blocks")
        axes.set_ylabel(label)
    legend_below(figure, grid.flat[: len(panels)])
    return figure


def _depths(rows: Sequence[VariantRow], key: tuple[str, str]) -> list[int]:
    return sorted({row.depth for row in rows if (row.model, row.precision) == key})


def _line(axes: Axes, rows: list[VariantRow], value: Callable[[VariantRow], float | None], label: str) -> None:
    rows = sorted(rows, key=lambda row: row.depth)
    colour, place = _look(rows[0])
    look = {"color": colour, "linestyle": LINES[place % len(LINES)], "marker": MARKERS[place % len(MARKERS)]}
    values = [value(row) for row in rows]
    axes.plot([row.depth for row in rows], values, markersize=5, linewidth=1.6, label=rows[0].label, **look)
    if "quartiles" in label:
        low, high = zip(*(row.times.quartiles for row in rows), strict=True)
        axes.fill_between([row.depth for row in rows], low, high, color=colour, alpha=0.15, linewidth=0)


def _trade_off(bench: Bench) -> Figure | None:
    """Time and throughput against peak memory; None without the points of the curve."""
    rows = [row for row in bench.rows if row.part == "curve" and row.times and row.memory]
    if not rows:
        return None
    figure = Figure(figsize=(WIDTH, PANEL + 1.8), layout="constrained")
    time, rate = figure.subplots(1, 2)
    curve = [row for row in rows if row.keep_curve]
    for axes, value in ((time, lambda row: row.times.median), (rate, lambda row: row.rate)):
        axes.plot([row.memory["peak"] / MIB for row in curve], [value(row) for row in curve], color=BDIA.colour)
        for row in rows:
            colour, place = _look(row)
            axes.plot(
                row.memory["peak"] / MIB, value(row), MARKERS[place % len(MARKERS)], color=colour, label=row.label,
                fillstyle="full" if place < len(MARKERS) else "none",
            )  # fmt: skip
        axes.set_xlim(0, 1.05 * max(row.memory["peak"] for row in rows) / MIB)
        axes.set_xlabel("peak memory, MiB")
    time.set_ylabel("step, ms")
    rate.set_ylabel(f"{rows[0].unit} per second")
    time.set_title(
        f"{rows[0].model}, {rows[0].depth} blocks, {rows[0].precision}, batch {rows[0].batch}", loc="left", fontsize=11
    )
    legend_below(figure, [time])
    return figure


def _look(row: VariantRow) -> tuple[str, int]:
    """Return the colour of the row's stack and its place among that stack's variants."""
    stack = next((text for text in row.overrides if text in COLOURS), None)
    names = [name for name, variant in {**VARIANTS, **CURVE}.items() if stack in variant.overrides]
    return COLOURS.get(stack, OTHER_COLOUR), names.index(row.variant) if row.variant in names else 0


def _svg(figure: Figure, salt: str) -> str:
    """Return the figure as a file of its own: dark ink on white."""
    return svg_text(figure, salt).replace("<svg", '<svg color="#222222" style="background: white"', 1)


PLOTS = (
    ("memory", "Peak memory against depth", _memory_against_depth),
    ("time", "Time of a step against depth", _time_against_depth),
    ("trade_off", "Time and throughput against peak memory", _trade_off),
)
