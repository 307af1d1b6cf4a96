"""Studies of a training step on the page: rows of `bdia study name=whole_step`, `equal_memory`, `length` and others."""

from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from bdia.results.page.plot import DASHES, Plot, make_plot
from bdia.results.page.style import OTHER_COLOUR
from bdia.results.statistics import NONE
from bdia.results.tables import Table
from bdia.reversible.stacks.registry import STACKS

MIB = 2**20
MOST_ROWS = 120
SKIPPED = {"overrides", "error", "status", "unit", "rounds_ms"}
# Study, a folder of results -> the columns of its table, where its rows have them; else the first six that vary.
STUDIES: Mapping[str, tuple[str, ...]] = {
    "whole_step": ("depth", "label", "peak", "activations", "peak_ratio", "time_ratio"),
    "equal_memory": ("depth", "curve", "keep", "peak", "time_ratio", "at_this_peak"),
    "length": ("question", "label", "depth", "tokens", "gib", "largest", "peak", "activations", "origin"),
    "compiled": ("depth", "label", "added", "peak", "first_step_s", "ms", "time_ratio"),
    "transformers": ("depth", "label", "peak", "activations", "ms", "time_ratio"),
    "limits": ("question", "label", "gib", "planned", "ran", "planned_peak", "peak", "reserved"),
    "loss_head": ("head", "peak", "held", "gradient_difference", "time_ratio"),
}
COLOURS = {row.label: row.colour for row in STACKS}


def study_table(record: Mapping[str, Any]) -> Table:
    """Return the table of a study's rows."""
    rows: Sequence[Mapping[str, Any]] = record["rows"]
    plain = [{key: value for key, value in row.items() if _is_plain(key, value)} for row in rows]
    keys = [key for key in dict.fromkeys(key for row in plain for key in row) if _varies(key, plain)]
    wanted = [key for key in STUDIES.get(str(record.get("study")), ()) if key in keys]
    chosen = wanted or keys[:6]
    cells = [[_text(row.get(key)) for key in chosen] for row in plain[:MOST_ROWS]]
    return Table([key.replace("_", " ") for key in chosen], cells if chosen else [])


def _is_plain(key: str, value: Any) -> bool:
    return key not in SKIPPED and isinstance(value, str | int | float) and not isinstance(value, bool)


def _varies(key: str, rows: Sequence[Mapping[str, Any]]) -> bool:
    return len({row.get(key) for row in rows}) > 1


def _text(value: Any) -> str:
    if value is None:
        return NONE
    if isinstance(value, str):
        return value
    return f"{value / MIB:,.1f} Mi" if isinstance(value, int) and value > MIB else f"{value:,.5g}"


def study_figure(record: Mapping[str, Any]) -> Plot | None:
    """Return the figure of a study that has one, else None."""
    return _equal_memory(record["rows"]) if record.get("study") == "equal_memory" else None


def _equal_memory(rows: Sequence[Mapping[str, Any]]) -> Plot:
    """Draw time against memory, both in units of checkpointing's without kept blocks: a line per curve and depth."""
    figure, legend = go.Figure(), []
    for dash, depth in zip(DASHES, sorted({row["depth"] for row in rows}), strict=False):
        own = [row for row in rows if row["depth"] == depth]
        base = next(row["peak"] for row in own if (row["curve"], row["keep"]) == ("checkpointing", 0))
        for curve in dict.fromkeys(row["curve"] for row in own):
            points = sorted((row["peak"] / base, row["time_ratio"]) for row in own if row["curve"] == curve)
            colour = COLOURS.get(curve, OTHER_COLOUR)
            look = {"mode": "lines+markers", "line": {"color": colour, "width": 2, "dash": dash}}
            x, y = zip(*((round(peak, 4), time) for peak, time in points), strict=True)
            figure.add_scatter(x=x, y=y, name=f"{curve}, {depth} blocks", **look)
            legend.append((colour, curve))
    figure.update_xaxes(title_text="peak of the step, ratio to checkpointing")
    figure.update_yaxes(title_text="time of the step, likewise")
    lines = "solid, dashed, dash-dotted lines: fewer to more blocks"
    return make_plot(f"Time against memory as more blocks keep their activations; {lines}", figure, legend)
