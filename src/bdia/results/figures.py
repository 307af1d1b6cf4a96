"""Figures of one experiment as SVG text to put inside a page: curves, result against memory, memory by category."""

from textwrap import fill

import matplotlib
from matplotlib.figure import Figure

from bdia.results.aggregate import Experiment, Variant
from bdia.results.looks import LINES, MARKERS, STYLE, legend_below, legend_height, looks, named, svg_text
from bdia.results.record import UNITS, RunRecord
from bdia.results.spread import Spread

# What a peak is made of; a GPU's allocator knows only the second, coarser division.
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
    """Return {caption: SVG} of the figures the experiment's records have numbers for."""
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
        for variant, colour, place in looks(experiment):
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
    for variant, colour, place in looks(experiment):
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
    variants = [variant for variant, _, _ in looks(experiment)]
    for parts in MEMORY_PARTS:
        recorded = {part: colour for part, colour in parts.items() if any(_part(v, part) for v in variants)}
        if recorded:
            return _stacked_bars([v for v in variants if any(_part(v, part) for part in recorded)], recorded)
    return None


def _part(variant: Variant, name: str) -> Spread | None:
    """Return a part of the peak: the loss head is recorded within the activations and drawn beside them."""

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
