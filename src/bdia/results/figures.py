"""Figures of one experiment as SVG text to put inside a page: curves, result against memory, memory by category."""

import colorsys
import io
import re
from collections.abc import Iterable
from textwrap import fill
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure

from bdia.results.record import UNITS, RunRecord
from bdia.results.statistics import Experiment, Spread, Variant
from bdia.reversible.stacks.registry import BY_CLASS

OTHER_COLOUR = "#8A8A8A"  # of a stack that is not in the registry
LINES = ("-", "--", "-.", ":", (0, (6, 2, 1, 2, 1, 2)))  # one per variant of a stack; they share its hue
MARKERS = ("o", "s", "^", "D", "v")
INK = "#010203"  # stands for the page's text colour, light or dark
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text: small, sharp, searchable
    "text.parse_math": False,  # a "$" in a name is a dollar sign
    "font.family": "sans-serif",
    "font.size": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.alpha": 0.25,
    "legend.frameon": False,
    **{key: INK for key in ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")},
    "grid.color": INK,
}
CHARACTER, LINE = 0.085, 0.26  # largest width of a character and height of a line in a legend, inches


def styled_variants(experiment: Experiment) -> list[tuple[Variant, str, int]]:
    """Return (variant, colour, place among the variants of its stack) for each variant that has runs."""
    shown = [variant for variant in experiment.variants if variant.runs]
    styled = []
    for variant in shown:
        same = [other.settings for other in shown if other.stack == variant.stack]
        place = same.index(variant.settings)
        colour = BY_CLASS[variant.stack].colour if variant.stack in BY_CLASS else OTHER_COLOUR
        styled.append((variant, _shade(colour, place, len(same)), place))
    return styled


def _shade(colour: str, place: int, count: int) -> str:
    """Return the stack's colour if it has one variant; else a shade of it, darkest for the first variant."""
    if count == 1:
        return colour
    hue, _, saturation = colorsys.rgb_to_hls(*to_rgb(colour))
    return to_hex(colorsys.hls_to_rgb(hue, 0.25 + 0.45 * place / (count - 1), saturation))


def named(variant: Variant, n: int) -> str:
    """Return the text of the variant in a legend."""
    return f"{variant.label} (n={n})"


def legend_columns(labels: Iterable[str], width: float) -> int:
    """Return two columns where the labels fit into `width` inches side by side, else one."""
    return 2 if max(map(len, labels), default=0) * CHARACTER + 0.6 < width / 2 else 1


def legend_height(experiment: Experiment, width: float) -> float:
    """Return the inches that the legend of all variants needs below a figure of that width."""
    labels = [wrapped(named(variant, len(variant.runs)), width) for variant in experiment.variants]
    columns = legend_columns(labels, width)
    heights = [1 + label.count("\n") for label in labels]
    return LINE * (1 + sum(max(heights[row : row + columns]) for row in range(0, len(heights), columns)))


def wrapped(label: str, width: float) -> str:
    """Break the label into lines that fit into `width` inches beside a legend's line."""
    return fill(label, int((width - 0.8) / CHARACTER))


def legend_below(figure: Figure, panels: Iterable[Axes]) -> None:
    """Put one legend of all panels below the figure."""
    width = figure.get_figwidth()
    entries = {
        wrapped(label, width): handle
        for axes in panels
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(entries.values(), entries.keys(), loc="outside lower left", ncols=legend_columns(entries, width))


def svg_text(figure: Figure, salt: str) -> str:
    """Return the figure as an <svg> element: the same bytes for the same numbers, scaled by the page."""
    buffer = io.StringIO()
    unnamed = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with matplotlib.rc_context({"svg.hashsalt": salt}):
        figure.savefig(buffer, format="svg", transparent=True, metadata=unnamed)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r'<g id="[^"]*"', "<g", text)  # several figures have the same ids; nothing needs them
    text = re.sub(
        r'(<svg[^>]*?) width="[^"]*"', r"\1", re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1), count=1
    )
    return text.replace(INK, "currentColor")


# --- the figures ---

# The parts of a peak. A GPU's allocator tells only the two parts of the second row apart.
MEMORY_PARTS = (
    {
        "peak_parameters": "#88CCEE",
        "peak_gradients": "#44AA99",
        "peak_optimizer": "#DDCC77",
        "peak_activations": "#CC6677",
        "peak_loss_head": "#AA4499",
        "peak_other": "#999999",
    },
    {"model_state": "#88CCEE", "activation_peak": "#44AA99"},
)
MAX_POINTS = 400


def figures(experiment: Experiment) -> dict[str, str]:
    """Return {caption: SVG}; a figure for which the records hold no numbers is left out."""
    result = experiment.result
    name = result.text.partition(",")[0]
    theirs = f" (the paper's {result.figure})" if result.figure and not experiment.fine_tunes else ""
    drawn = {
        f"Curves{theirs}: mean over seeds, band ± one standard deviation": _curves,
        f"{name[0].upper()}{name[1:]} against peak memory, bars ± one standard deviation": _result_against_memory,
        "Memory by category, mean over seeds": _memory_by_category,
    }
    found = {}
    with matplotlib.rc_context(STYLE):
        for caption, draw in drawn.items():
            figure = draw(experiment)
            if figure is not None:
                found[caption] = svg_text(figure, salt=f"{experiment.name} {caption}")
    return found


def _curves(experiment: Experiment) -> Figure | None:
    panels = [
        (name, split)
        for name in experiment.result.curves
        for split in ("train", "val", "test")
        if any(len(variant.curve(name, split)) > 1 for variant in experiment.variants)
    ]
    if not panels:
        return None
    rows = -(-len(panels) // 2)
    figure = Figure(figsize=(8.4, 2.9 * rows + legend_height(experiment, 8.4)), layout="constrained")
    grid = figure.subplots(rows, min(2, len(panels)), squeeze=False)
    for axes in grid.flat[len(panels) :]:
        axes.set_visible(False)
    for axes, (name, split) in zip(grid.flat, panels, strict=False):
        for variant, colour, place in styled_variants(experiment):
            _draw_curve(axes, variant, name, split, colour, place)
        axes.set_title(f"{split} {name}, {UNITS[name]}", loc="left", fontsize=11)
        axes.set_xlabel("optimizer step")
    legend_below(figure, grid.flat[: len(panels)])
    return figure


def _draw_curve(axes, variant: Variant, name: str, split: str, colour: str, place: int) -> None:
    points = variant.curve(name, split)
    if not points:
        return
    points = points[:: -(-len(points) // MAX_POINTS)]
    steps, means = [step for step, _ in points], [spread.mean for _, spread in points]
    label = named(variant, max(spread.n for _, spread in points))
    axes.plot(steps, means, color=colour, linestyle=LINES[place % len(LINES)], linewidth=1.8, label=label)
    if points[0][1].n > 1:
        low, high = ([spread.mean + sign * spread.std for _, spread in points] for sign in (-1, 1))
        axes.fill_between(steps, low, high, color=colour, alpha=0.18, linewidth=0)


def _result_against_memory(experiment: Experiment) -> Figure | None:
    figure = Figure(figsize=(7.2, 3.6 + legend_height(experiment, 7.2)), layout="constrained")
    axes = figure.subplots()
    for variant, colour, place in styled_variants(experiment):
        result, memory = experiment.outcome(variant), variant.spread("peak_allocated")
        if result and memory:
            bars = {"xerr": memory.std if memory.std > 0 else None, "yerr": result.std if result.std > 0 else None}
            look = {"color": colour, "fmt": MARKERS[place % len(MARKERS)], "markersize": 8, "capsize": 3}
            axes.errorbar(memory.mean, result.mean, **bars, **look, label=named(variant, result.n))
    if not axes.containers:
        return None
    axes.set_xlim(0, 1.05 * axes.dataLim.x1)
    axes.set_xlabel("peak memory, MiB")
    at_best = " at its best" if experiment.result.at_best else ""
    axes.set_ylabel(f"{experiment.result_split} {experiment.result.text}{at_best}")
    legend_below(figure, [axes])
    return figure


def _memory_by_category(experiment: Experiment) -> Figure | None:
    variants = [variant for variant, _, _ in styled_variants(experiment)]
    for parts in MEMORY_PARTS:
        recorded = {part: colour for part, colour in parts.items() if any(_part(v, part) for v in variants)}
        if recorded:
            return _stacked_bars([v for v in variants if any(_part(v, part) for part in recorded)], recorded)
    return None


def _part(variant: Variant, name: str) -> Spread | None:
    """Return a part of the peak. Records count the loss head as activations; here it is a part of its own."""

    def measure(record: RunRecord) -> float | None:
        value = record.final(name)
        within = record.final("peak_loss_head") if name == "peak_activations" else None
        return value if value is None or within is None else value - within

    return variant.spread_of(measure)


def _stacked_bars(variants: list[Variant], parts: dict[str, str]) -> Figure:
    names = [fill(variant.label, 34) for variant in variants]
    height = 0.3 + 0.19 * max(1 + name.count("\n") for name in names)
    figure = Figure(figsize=(7.2, 1.6 + height * len(variants)), layout="constrained")
    axes = figure.subplots()
    left = [0.0] * len(variants)
    for part, colour in parts.items():
        spreads = [_part(variant, part) for variant in variants]
        widths = [spread.mean if spread else 0.0 for spread in spreads]
        name = part.removeprefix("peak_").replace("_", " ")
        axes.barh(range(len(variants)), widths, left=left, color=colour, height=0.62, label=name)
        left = [start + width for start, width in zip(left, widths, strict=True)]
    axes.set_yticks(range(len(variants)), names)
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    axes.set_xlabel("memory at the peak, MiB")
    figure.legend(loc="outside lower left", ncols=3 if len(parts) > 5 else len(parts))
    return figure
