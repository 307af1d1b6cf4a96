"""Figures of one experiment as SVG text to put inside a page: curves, accuracy against memory, memory by category."""

import colorsys
import io
import re
from typing import Any

import matplotlib
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure

from bdia.results.aggregate import Experiment, Variant

# Okabe and Ito's colours, told apart with any colour vision; one per stack in every figure.
STACK_COLOURS = {"StandardStack": "#0072B2", "CheckpointStack": "#009E73", "RevVitStack": "#CC79A7"}
STACK_COLOURS |= {"BdiaStack": "#D55E00"}
OTHER_COLOUR = "#8A8A8A"
LINES = ("-", "--", "-.", ":", (0, (6, 2, 1, 2, 1, 2)))  # variants of one stack share its hue
MARKERS = ("o", "s", "^", "D", "v")
# What a peak is made of; a GPU's allocator knows only the second, coarser division.
MEMORY_PARTS = (
    ("peak_parameters", "peak_gradients", "peak_optimizer", "peak_activations", "peak_other"),
    ("model_state", "activation_peak"),
)
PART_COLOURS = ("#88CCEE", "#44AA99", "#DDCC77", "#CC6677", "#999999")
INK = "#010203"  # stands for the page's text colour, light or dark
MAX_POINTS = 400
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


def figures(experiment: Experiment) -> dict[str, str]:
    """Return {caption: SVG} of the figures the experiment's records have numbers for."""
    drawn = {
        "Curves: mean over seeds, band ± one standard deviation": _curves,
        "Accuracy against peak memory, bars ± one standard deviation": _accuracy_against_memory,
        "Memory by category, mean over seeds": _memory_by_category,
    }
    found = {}
    with matplotlib.rc_context(STYLE):
        for caption, draw in drawn.items():
            figure = draw(experiment)
            if figure is not None:
                found[caption] = _svg(figure, salt=f"{experiment.name} {caption}")
    return found


def _looks(experiment: Experiment) -> list[tuple[Variant, str, int]]:
    """Return each variant with runs, its colour, and its place among the variants of its stack."""
    shown = [variant for variant in experiment.variants if variant.runs]
    looks = []
    for variant in shown:
        same = [other.settings for other in shown if other.stack == variant.stack]
        place = same.index(variant.settings)
        looks.append((variant, _shade(STACK_COLOURS.get(variant.stack, OTHER_COLOUR), place, len(same)), place))
    return looks


def _shade(colour: str, place: int, count: int) -> str:
    """Return the stack's colour itself for a single variant, else its shade from dark to light."""
    if count == 1:
        return colour
    hue, _, saturation = colorsys.rgb_to_hls(*to_rgb(colour))
    return to_hex(colorsys.hls_to_rgb(hue, 0.25 + 0.45 * place / (count - 1), saturation))


def _curves(experiment: Experiment) -> Figure | None:
    panels = [
        (name, split)
        for name in ("accuracy", "loss")
        for split in ("train", "val", "test")
        if any(len(variant.curve(name, split)) > 1 for variant in experiment.variants)
    ]
    if not panels:
        return None
    rows = -(-len(panels) // 2)
    figure = Figure(figsize=(8.4, 2.9 * rows + _legend_height(experiment)), layout="constrained")
    grid = figure.subplots(rows, min(2, len(panels)), squeeze=False)
    for axes in grid.flat[len(panels) :]:
        axes.set_visible(False)
    for axes, (name, split) in zip(grid.flat, panels, strict=False):
        for variant, colour, place in _looks(experiment):
            _draw_curve(axes, variant, name, split, colour, place)
        axes.set_title(f"{split} {name}, {'%' if name == 'accuracy' else 'nat'}", loc="left", fontsize=11)
        axes.set_xlabel("optimizer step")
    _legend_below(figure, grid.flat[: len(panels)])
    return figure


def _draw_curve(axes, variant: Variant, name: str, split: str, colour: str, place: int) -> None:
    points = variant.curve(name, split)
    if not points:
        return
    points = points[:: -(-len(points) // MAX_POINTS)]
    steps, means = [step for step, _ in points], [spread.mean for _, spread in points]
    label = f"{variant.label} (n={max(spread.n for _, spread in points)})"
    axes.plot(steps, means, color=colour, linestyle=LINES[place % len(LINES)], linewidth=1.8, label=label)
    if points[0][1].n > 1:
        low, high = ([spread.mean + sign * spread.std for _, spread in points] for sign in (-1, 1))
        axes.fill_between(steps, low, high, color=colour, alpha=0.18, linewidth=0)


def _legend_height(experiment: Experiment) -> float:
    """Return the inches that a legend of two columns needs."""
    return 0.25 * (1 + len(experiment.variants) // 2)


def _legend_below(figure: Figure, panels) -> None:
    entries = {
        label: handle for axes in panels for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(entries.values(), entries.keys(), loc="outside lower left", ncols=2)


def _accuracy_against_memory(experiment: Experiment) -> Figure | None:
    split, figure = (
        experiment.result_split,
        Figure(figsize=(7.2, 3.6 + _legend_height(experiment)), layout="constrained"),
    )
    axes = figure.subplots()
    for variant, colour, place in _looks(experiment):
        accuracy, memory = variant.spread("accuracy", split), variant.spread("peak_allocated")
        if accuracy and memory:
            bars = {"xerr": memory.std if memory.std > 0 else None, "yerr": accuracy.std if accuracy.std > 0 else None}
            look = {"color": colour, "fmt": MARKERS[place % len(MARKERS)], "markersize": 8, "capsize": 3}
            axes.errorbar(memory.mean, accuracy.mean, **bars, **look, label=f"{variant.label} (n={accuracy.n})")
    if not axes.containers:
        return None
    axes.set_xlim(0, 1.05 * axes.dataLim.x1)
    axes.set_xlabel("peak memory, MiB")
    axes.set_ylabel(f"{split} accuracy, %")
    _legend_below(figure, [axes])
    return figure


def _memory_by_category(experiment: Experiment) -> Figure | None:
    variants = [variant for variant, _, _ in _looks(experiment)]
    for parts in MEMORY_PARTS:
        shown = [variant for variant in variants if any(variant.spread(part) for part in parts)]
        if shown:
            return _stacked_bars(shown, parts)
    return None


def _stacked_bars(variants: list[Variant], parts: tuple[str, ...]) -> Figure:
    figure = Figure(figsize=(7.2, 1.6 + 0.45 * len(variants)), layout="constrained")
    axes = figure.subplots()
    left = [0.0] * len(variants)
    for part, colour in zip(parts, PART_COLOURS, strict=False):
        spreads = [variant.spread(part) for variant in variants]
        widths = [spread.mean if spread else 0.0 for spread in spreads]
        name = part.removeprefix("peak_").replace("_", " ")
        axes.barh(range(len(variants)), widths, left=left, color=colour, height=0.62, label=name)
        left = [start + width for start, width in zip(left, widths, strict=True)]
    axes.set_yticks(range(len(variants)), [variant.label for variant in variants])
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    axes.set_xlabel("memory at the peak, MiB")
    figure.legend(loc="outside lower left", ncols=len(parts))
    return figure


def _svg(figure: Figure, salt: str) -> str:
    """Return the figure as an <svg> element: the same bytes for the same numbers, scaled by the page."""
    buffer = io.StringIO()
    unnamed = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with matplotlib.rc_context({"svg.hashsalt": salt}):
        figure.savefig(buffer, format="svg", transparent=True, metadata=unnamed)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r'<g id="[^"]*"', "<g", text)  # ids of groups repeat from figure to figure and nothing refers to them
    text = re.sub(
        r'(<svg[^>]*?) width="[^"]*"', r"\1", re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1), count=1
    )
    return text.replace(INK, "currentColor")
