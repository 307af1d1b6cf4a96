"""The study of Fig. 2 in the report: `bdia study name=reconstruction`."""

import statistics
from pathlib import Path

import plotly.graph_objects as go

from bdia.results import study_record
from bdia.results.claims_table import ClaimRow
from bdia.results.page import order
from bdia.results.page.part import Part
from bdia.results.page.plot import DASHES, Plot, make_plot
from bdia.results.page.style import OTHER_COLOUR
from bdia.results.statistics import NONE
from bdia.results.study_record import Record
from bdia.results.tables import Table
from bdia.results.verdicts import CONTRADICTED, NOT_RESOLVED, NOT_RUN, REPRODUCED

NAME = "reconstruction"
TITLE = "Error of the rebuilt stream (the paper's Fig. 2)"
GROWS, GROWS_NOT = 100.0, 10.0  # factors of the claim, fixed before: two orders of magnitude in every seed, or not one
TINY = 2.0**-52  # where the first stream to be rebuilt happens to be exact
FORMS = {"exact": "exact, on the grid"}  # what is not the name of a dtype
COLOURS = {"bfloat16": "#CC6677", "float32": "#DDCC77", "float64": "#4477AA"}


def read_newest(root: Path | str) -> Record | None:
    """Return the newest record under `root`; None where there is none.

    Raises:
        RecordError: the file is no record of this study.
    """
    return study_record.read_newest(root, NAME, check)


def check(row: Record) -> None:
    """Read every entry that a row must have."""
    float(row["relative"]), float(row["error"]), int(row["depth"]), int(row["seed"]), int(row["k"]), row["form"]


def curve(record: Record, depth: int, form: str, key: str = "relative") -> dict[int, list[float]]:
    """Return the errors of each x_k, one per seed."""
    found: dict[int, list[float]] = {}
    for row in record["rows"]:
        if (row["depth"], row["form"]) == (depth, form):
            found.setdefault(row["k"], []).append(row[key])
    return found


def table(record: Record) -> Table:
    """Return the error of x_0 relative to its size by depth and form: median over the seeds (least to largest)."""
    depths, forms = _axes(record)
    rows = []
    for form in forms:
        cells = []
        for depth in depths:
            values = curve(record, depth, form).get(0)
            cells.append(_cell(values) if values else NONE)
        rows.append([FORMS.get(form, f"float form in {form}"), *cells])
    return Table(["error of x_0, relative to its size", *(f"{depth} blocks" for depth in depths)], rows)


def _cell(values: list[float]) -> str:
    if not any(values):
        return "0"
    return f"{statistics.median(values):.1e} ({min(values):.1e} to {max(values):.1e})"


def _axes(record: Record) -> tuple[list[int], list[str]]:
    rows = record["rows"]
    return sorted({row["depth"] for row in rows}), list(dict.fromkeys(row["form"] for row in rows))


def provenance(record: Record) -> list[str]:
    """Return what the record was measured with."""
    settings, device = record["settings"], record["device"]
    size = f"{settings['model']} of width {settings['width']} with drawn weights, {settings['tokens']} tokens"
    return [
        f"{size}; gamma ±{settings['gamma']}, grid 2^-{settings['bits']}; {len(settings['seeds'])} seeds: `bdia study "
        f"name={NAME}`, commit {record['git']['sha'][:12]}, {device['name']}, torch {device['torch']}, "
        f"{record['wall_s']:.0f} s."
    ]


def figure(record: Record) -> Plot:
    """Return the errors against the block: one line per dtype and depth, medians over the seeds."""
    depths, forms = _axes(record)
    drawn, legend = go.Figure(), []
    for form in forms:
        for place, depth in enumerate(depths):
            points = {k: statistics.median(v) for k, v in curve(record, depth, form).items() if statistics.median(v)}
            if points:
                line = {"color": COLOURS.get(form, OTHER_COLOUR), "dash": DASHES[place % len(DASHES)], "width": 2}
                values = [float(f"{value:.5g}") for value in points.values()]
                name = f"{form}, {depth} blocks"
                drawn.add_scatter(x=[depth - k for k in points], y=values, mode="lines", line=line, name=name)
                legend.append((line["color"], form))
    drawn.update_xaxes(title_text="blocks inverted", nticks=8)
    drawn.update_yaxes(title_text="largest error / size of the stream", type="log", exponentformat="power", nticks=6)
    lines = ", ".join(f"{DASHES[place % len(DASHES)]} {depth}" for place, depth in enumerate(depths))
    return make_plot(f"Error of the float inverse, median over the seeds; blocks by line: {lines}", drawn, legend)


def part(record: Record | None) -> Part | None:
    """Return what a record of the study shows on the page; None for no record."""
    if record is None:
        return None
    told = f"1 record, commit {record['git']['sha'][:12]}."
    return Part(
        NAME, NAME, TITLE, "", table(record), figure(record), (), f"bdia study name={NAME}", told,
        tuple(provenance(record)), (), order.place(NAME),
    )  # fmt: skip


def claim(record: Record | None) -> ClaimRow:
    """Judge Fig. 2: the float inverse's error grows by orders of magnitude over 12 blocks."""
    opening = [
        "Fig. 2: the error of the float inverse grows by orders of magnitude over 12 blocks",
        "a curve, no numbers",
    ]
    points = curve(record, 12, "float32") if record else {}
    if record is None or not points:
        return ClaimRow([*opening, NONE, NONE, NONE, NONE, NOT_RUN], ["Measured by `bdia study name=reconstruction`."])
    factors = [
        first / max(last, TINY) for first, last in zip(points[0], points[10], strict=True)
    ]  # x_10 is the first rebuilt
    outcome = CONTRADICTED if max(factors) <= GROWS_NOT else NOT_RESOLVED
    outcome = REPRODUCED if min(factors) >= GROWS else outcome
    exact = max((value for values in curve(record, 12, "exact").values() for value in values), default=0.0)
    ours = f"x_0's error {_cell(points[0])}; exact form {exact:g}"
    growth = f"{min(factors):,.0f} to {max(factors):,.0f} times from x_10 to x_0"
    rule = f"reproduced: {GROWS:g} times in every seed; contradicted: at most {GROWS_NOT:g} times in every seed."
    return ClaimRow([*opening, ours, growth, str(len(factors)), NONE, outcome], [rule, *provenance(record)])
