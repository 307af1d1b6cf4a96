"""Figures of the memory of an experiment: the parts of the peak, and the peak against a setting."""

from collections.abc import Sequence

import plotly.graph_objects as go

from bdia.results.page.plot import DASHES, Plot, make_plot, safe
from bdia.results.page.style import broken, colour_of, rows_height, short, styled_variants
from bdia.results.record import RunRecord
from bdia.results.statistics import Experiment, Spread, Variant
from bdia.results.variants import Settings, stack_name

MANY = 3  # values of a setting that make a line

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


def memory_against_setting(experiment: Experiment) -> Plot | None:
    """Draw the peak over the number that varies most, a line per stack and other settings; None without such a one."""
    peaks = [(variant, variant.spread("peak_allocated")) for variant, _, _ in styled_variants(experiment)]
    shown = [(variant, found) for variant, found in peaks if found]
    key = _axis([variant for variant, _ in shown])
    if key is None:
        return None
    lines: dict[tuple[str, str, Settings], list[tuple[float, float]]] = {}
    for variant, found in shown:
        others = tuple(pair for pair in variant.settings if pair[0] not in (key, "stack._target_"))
        name = stack_name(variant.example.config)
        lines.setdefault((name, variant.stack, others), []).append((dict(variant.settings)[key], short(found.mean)))
    dashes = {others: DASHES[at % len(DASHES)] for at, others in enumerate(dict.fromkeys(line[-1] for line in lines))}
    figure, legend = go.Figure(), []
    for (name, stack, others), points in lines.items():
        label = ", ".join([name, *map(_setting, others)])
        x, y = zip(*sorted(points), strict=True)
        line = {"color": colour_of(stack), "dash": dashes[others], "width": 2}
        figure.add_scatter(x=x, y=y, name=safe(label), mode="lines+markers", line=line)
        legend.append((colour_of(stack), label))
    ticks = sorted({x for points in lines.values() for x, _ in points})
    figure.update_xaxes(title_text=_setting_name(key), tickvals=ticks)
    figure.update_yaxes(title_text="peak memory of a step, MiB", nticks=6)
    return make_plot(f"Peak memory of a step against {_setting_name(key)}", figure, legend)


def _axis(variants: Sequence[Variant]) -> str | None:
    """Return the setting with the most numbers, three at least, which every variant has."""
    values: dict[str, set[float]] = {}
    for variant in variants:
        for key, value in variant.settings:
            if isinstance(value, int | float) and not isinstance(value, bool):
                values.setdefault(key, set()).add(value)
    everywhere = [key for key in values if all(key in dict(variant.settings) for variant in variants)]
    longest = max(everywhere, key=lambda key: len(values[key]), default=None)
    return longest if longest and len(values[longest]) >= MANY else None


def _setting_name(key: str) -> str:
    return key.rpartition(".")[2].replace("_", " ")


def _setting(pair: tuple[str, object]) -> str:
    return f"{_setting_name(pair[0])} {pair[1]}"


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
    names = [broken(variant.label) for variant in variants]
    for part, colour in parts.items():
        widths = [short(spread.mean) if (spread := _part(variant, part)) else 0.0 for variant in variants]
        name = part.removeprefix("peak_").replace("_", " ")
        figure.add_bar(x=widths, y=names, orientation="h", name=name, marker={"color": colour})
        legend.append((colour, name))
    figure.update_layout(barmode="stack")
    figure.update_yaxes(autorange="reversed", type="category")
    figure.update_xaxes(title_text="memory at the peak, MiB", nticks=6)
    caption = "Memory by category at the peak of a step, mean over seeds"
    return make_plot(caption, figure, legend, 100 + rows_height(names, 34))
