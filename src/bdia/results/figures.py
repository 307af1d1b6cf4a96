"""Figures of one experiment for the page: its curves or its sweep, the result against memory, memory by category."""

import colorsys

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from bdia.results.page.plot import DASHES, HEIGHT, SYMBOLS, Plot, make_plot, rgba, safe
from bdia.results.record import UNITS, RunRecord
from bdia.results.statistics import Experiment, Spread, Variant
from bdia.reversible.stacks.registry import BY_CLASS

OTHER_COLOUR = "#8A8A8A"  # of a stack that is not in the registry
MAX_POINTS = 120  # of a curve
MOST_CURVES = 4  # variants whose curves can be told apart; more are a sweep
BAND = 0.16  # opacity of a curve's deviation
LABEL = 22  # characters of a variant's name beside a bar

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


def figure_of(experiment: Experiment) -> Plot | None:
    """Return the one figure of an experiment; None where its records hold no numbers for any."""
    drawn = (sweep, curves, memory_by_category) if _is_sweep(experiment) else (curves, sweep, memory_by_category)
    return next((plot for draw in drawn if (plot := draw(experiment)) is not None), None)


def _is_sweep(experiment: Experiment) -> bool:
    shown = [variant for variant in experiment.variants if variant.runs]
    return len(shown) > MOST_CURVES or len({variant.stack for variant in shown}) == 1 < len(shown)


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
    hue, _, saturation = colorsys.rgb_to_hls(*(int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)))
    shade = colorsys.hls_to_rgb(hue, 0.25 + 0.45 * place / (count - 1), saturation)
    return "#" + "".join(f"{round(255 * part):02x}" for part in shade)


def named(variant: Variant, n: int) -> str:
    """Return the text of the variant in a legend."""
    return f"{variant.label} (n={n})"


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
    steps, means = [step for step, _ in points], [_short(spread.mean) for _, spread in points]
    label = safe(named(variant, points[0][1].n))
    line = {"color": colour, "dash": DASHES[place % len(DASHES)], "width": 2}
    traces = []
    if points[0][1].n > 1:
        low, high = ([_short(spread.mean + sign * spread.std) for _, spread in points] for sign in (-1, 1))
        band = {"mode": "lines", "line": {"width": 0}, "hoverinfo": "skip", "fillcolor": rgba(colour, BAND)}
        traces = [go.Scatter(x=steps, y=low, **band), go.Scatter(x=steps, y=high, fill="tonexty", **band)]
    return [*traces, go.Scatter(x=steps, y=means, name=label, mode="lines", line=line)]


def _short(value: float) -> float:
    return float(f"{value:.5g}")


def sweep(experiment: Experiment) -> Plot | None:
    """Draw the result of every variant as a point with its deviation; None where none has a result."""
    found = [(v, colour, experiment.outcome(v)) for v, colour, _ in styled_variants(experiment)]
    shown = [(variant, colour, spread) for variant, colour, spread in found if spread]
    if len(shown) < 2:
        return None
    figure = go.Figure()
    for variant, colour, spread in shown:
        bars = {"type": "data", "array": [_short(spread.std)]} if spread.std > 0 else None
        label = _broken(named(variant, spread.n))
        look = {"color": colour, "size": 10}
        figure.add_scatter(x=[_short(spread.mean)], y=[label], error_x=bars, mode="markers", marker=look, name=label)
    figure.update_yaxes(autorange="reversed", type="category")
    figure.update_xaxes(title_text=_result_text(experiment), nticks=6)
    height = 90 + sum(22 + 16 * _broken(named(v, s.n)).count("<br>") for v, _, s in shown)
    return make_plot("Result of each setting: mean over seeds, bars ± one standard deviation", figure, [], height)


def _result_text(experiment: Experiment) -> str:
    at_best = " at its best" if experiment.result.at_best else ""
    return f"{experiment.result_split} {experiment.result.text}{at_best}"


def _broken(label: str) -> str:
    """Break a label into lines of plotly's text."""
    lines: list[str] = [""]
    for word in label.split(" "):
        if lines[-1] and len(lines[-1]) + 1 + len(word) > LABEL:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return "<br>".join(map(safe, lines))


def result_against_memory(experiment: Experiment) -> Plot | None:
    """Draw the result against the peak memory of a step, both with their deviations; None without both."""
    figure, legend, most = go.Figure(), [], 0.0
    for variant, colour, place in styled_variants(experiment):
        result, memory = experiment.outcome(variant), variant.spread("peak_allocated")
        if result and memory:
            bars = {
                axis: {"type": "data", "array": [_short(spread.std)]}
                for axis, spread in (("error_x", memory), ("error_y", result))
                if spread.std > 0
            }
            look = {"color": colour, "size": 13, "symbol": SYMBOLS[place % len(SYMBOLS)]}
            at = {"x": [_short(memory.mean)], "y": [_short(result.mean)]}
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


def memory_by_category(experiment: Experiment) -> Plot | None:
    """Draw the parts of the peak as bars; None where no run recorded them."""
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


def _stacked_bars(variants: list[Variant], parts: dict[str, str]) -> Plot:
    figure, legend = go.Figure(), []
    names = [_broken(variant.label) for variant in variants]
    for part, colour in parts.items():
        widths = [_short(spread.mean) if (spread := _part(variant, part)) else 0.0 for variant in variants]
        name = part.removeprefix("peak_").replace("_", " ")
        figure.add_bar(x=widths, y=names, orientation="h", name=name, marker={"color": colour})
        legend.append((colour, name))
    figure.update_layout(barmode="stack")
    figure.update_yaxes(autorange="reversed", type="category")
    figure.update_xaxes(title_text="memory at the peak, MiB", nticks=6)
    height = min(2 * HEIGHT, 100 + sum(34 + 16 * name.count("<br>") for name in names))
    return make_plot("Memory by category at the peak of a step, mean over seeds", figure, legend, height)
