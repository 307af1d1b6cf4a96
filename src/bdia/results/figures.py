"""Figures of one experiment for the page: its curves or its sweep, the result against memory."""

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from bdia.results.page.memory_figures import memory_against_setting, memory_by_category
from bdia.results.page.plot import DASHES, SYMBOLS, Plot, make_plot, rgba, safe
from bdia.results.page.style import broken, named, rows_height, short, styled_variants
from bdia.results.record import UNITS
from bdia.results.statistics import Experiment, Variant

MAX_POINTS = 120  # of a curve
MOST_CURVES = 4  # variants whose curves can be told apart; more are a sweep
BAND = 0.16  # opacity of a curve's deviation


def figure_of(experiment: Experiment) -> Plot | None:
    """Return the one figure of an experiment; None where its records hold no numbers for any."""
    drawn = (sweep, curves) if _is_sweep(experiment) else (curves, sweep)
    drawn = (*drawn, memory_against_setting, memory_by_category)
    return next((plot for draw in drawn if (plot := draw(experiment)) is not None), None)


def _is_sweep(experiment: Experiment) -> bool:
    shown = [variant for variant in experiment.variants if variant.runs]
    return len(shown) > MOST_CURVES or len({variant.stack for variant in shown}) == 1 < len(shown)


def curves(experiment: Experiment) -> Plot | None:
    """Draw the metrics of the task over the optimizer steps, one panel above the other; None without curves."""
    panels = [
        (name, split)
        for name in experiment.result.curves
        for split in ("train", "val", "test")
        if any(len(variant.curve(name, split)) > 1 for variant in experiment.variants)
    ]
    if not panels:
        return None
    titles = [f"{split} {name}, {UNITS[name]}" for name, split in panels]
    columns = 1 if len(panels) == 1 else 2
    rows = -(-len(panels) // columns)
    figure = make_subplots(rows, columns, subplot_titles=titles, vertical_spacing=0.3 / rows, horizontal_spacing=0.12)
    legend = []
    for at, (name, split) in enumerate(panels):
        where = {"row": 1 + at // columns, "col": 1 + at % columns}
        for variant, colour, place in styled_variants(experiment):
            for trace in _curve(variant, name, split, colour, place):
                figure.add_trace(trace, **where)
                legend.append((colour, named(variant, len(variant.runs))))
        figure.update_xaxes(nticks=3, tickangle=0, **where)
        figure.update_yaxes(nticks=6, **where)
    result = experiment.result
    theirs = f" (the paper's {result.figure})" if result.figure and not experiment.fine_tunes else ""
    caption = f"Curves over the optimizer steps{theirs}: mean over seeds, band ± one standard deviation"
    return make_plot(caption, figure, legend, 60 + 240 * rows)


def _curve(variant: Variant, name: str, split: str, colour: str, place: int) -> list[go.Scatter]:
    points = variant.curve(name, split)
    if not points:
        return []
    points = points[:: -(-len(points) // MAX_POINTS)]
    steps, means = [step for step, _ in points], [short(spread.mean) for _, spread in points]
    label = safe(named(variant, points[0][1].n))
    line = {"color": colour, "dash": DASHES[place % len(DASHES)], "width": 2}
    traces = []
    if points[0][1].n > 1:
        low, high = ([short(spread.mean + sign * spread.std) for _, spread in points] for sign in (-1, 1))
        band = {"mode": "lines", "line": {"width": 0}, "hoverinfo": "skip", "fillcolor": rgba(colour, BAND)}
        traces = [go.Scatter(x=steps, y=low, **band), go.Scatter(x=steps, y=high, fill="tonexty", **band)]
    return [*traces, go.Scatter(x=steps, y=means, name=label, mode="lines", line=line)]


def sweep(experiment: Experiment) -> Plot | None:
    """Draw the result of every variant as a point with its deviation; None where none has a result."""
    found = [(v, colour, experiment.outcome(v)) for v, colour, _ in styled_variants(experiment)]
    shown = [(variant, colour, spread) for variant, colour, spread in found if spread]
    if len(shown) < 2:
        return None
    figure = go.Figure()
    for variant, colour, spread in shown:
        bars = {"type": "data", "array": [short(spread.std)]} if spread.std > 0 else None
        label = broken(named(variant, spread.n))
        look = {"color": colour, "size": 10}
        figure.add_scatter(x=[short(spread.mean)], y=[label], error_x=bars, mode="markers", marker=look, name=label)
    figure.update_yaxes(autorange="reversed", type="category")
    figure.update_xaxes(title_text=_result_text(experiment), nticks=6)
    labels = [broken(named(variant, spread.n)) for variant, _, spread in shown]
    caption = "Result of each setting: mean over seeds, bars ± one standard deviation"
    return make_plot(caption, figure, [], 90 + rows_height(labels, 22))


def _result_text(experiment: Experiment) -> str:
    at_best = " at its best" if experiment.result.at_best else ""
    return f"{experiment.result_split} {experiment.result.text}{at_best}"


def result_against_memory(experiment: Experiment) -> Plot | None:
    """Draw the result against the peak memory of a step, both with their deviations; None without both."""
    figure, legend, most = go.Figure(), [], 0.0
    for variant, colour, place in styled_variants(experiment):
        result, memory = experiment.outcome(variant), variant.spread("peak_allocated")
        if result and memory:
            bars = {
                axis: {"type": "data", "array": [short(spread.std)]}
                for axis, spread in (("error_x", memory), ("error_y", result))
                if spread.std > 0
            }
            look = {"color": colour, "size": 13, "symbol": SYMBOLS[place % len(SYMBOLS)]}
            at = {"x": [short(memory.mean)], "y": [short(result.mean)]}
            label = named(variant, result.n)
            figure.add_scatter(**at, mode="markers", marker=look, name=safe(label), **bars)
            legend.append((colour, label))
            most = max(most, memory.mean)
    if not legend:
        return None
    figure.update_xaxes(title_text="peak memory of a step, MiB", range=[0, 1.1 * most], nticks=6)
    figure.update_yaxes(title_text=_result_text(experiment), nticks=6)
    name = experiment.result.text.partition(",")[0]
    caption = f"{name[0].upper()}{name[1:]} against peak memory, bars ± one standard deviation"
    return make_plot(caption, figure, legend)
