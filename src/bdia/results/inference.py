"""The study of trained classifiers at inference in the report: `bdia study name=inference`."""

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import plotly.graph_objects as go

from bdia.results import study_record
from bdia.results.page import order
from bdia.results.page.part import Part
from bdia.results.page.plot import DASHES, Plot, make_plot, rgba, safe
from bdia.results.page.style import OTHER_COLOUR
from bdia.results.statistics import NONE
from bdia.results.study_record import Record
from bdia.results.tables import Table

NAME = "inference"
TITLES = {
    "gamma": "Constant gamma at inference (the paper's Fig. 1)",
    "bits": "What quantised inference costs",
    "corruption": "Corrupted test images, calibration, and the mean over random paths of gamma",
}
COLOURS = {"BDIA": "#4477AA", "standard (ViT)": "#CC6677", "RevViT": "#228833"}


def read_newest(root: Path | str) -> Record | None:
    """Return the newest record under `root`; None where there is none.

    Raises:
        RecordError: the file is no record of this study.
    """
    return study_record.read_newest(root, NAME, check)


def check(row: Record) -> None:
    """Read every entry that a row must have."""
    float(row["accuracy"]), float(row["loss"]), float(row["ece"])
    str(row["stack"]), int(row["seed"]), str(row["part"]), row["value"]


def values(record: Record, stack: str, part: str, value: Any, key: str = "accuracy") -> list[float]:
    """Return one number per seed."""
    found = (row for row in record["rows"] if (row["stack"], row["part"], row["value"]) == (stack, part, value))
    return [row[key] for row in found]


def _cell(numbers: Sequence[float], digits: int = 2) -> str:
    """Return mean and standard deviation over the seeds."""
    if not numbers:
        return NONE
    spread = f" ± {statistics.stdev(numbers):.{digits}f}" if len(numbers) > 1 else ""
    return f"{statistics.mean(numbers):.{digits}f}{spread}"


def _stacks(record: Record, part: str) -> list[str]:
    return list(dict.fromkeys(row["stack"] for row in record["rows"] if row["part"] == part))


def _points(record: Record, part: str) -> list[Any]:
    return list(dict.fromkeys(row["value"] for row in record["rows"] if row["part"] == part))


def tables(record: Record) -> dict[str, Table]:
    """Return the table of each part: test accuracy in % or loss in nat, mean ± standard deviation over the seeds."""
    gammas, bits = _points(record, "gamma, grid"), _points(record, "bits")
    rows = []
    for stack in _stacks(record, "gamma, grid"):
        for key, name, digits in (("accuracy", "accuracy, %", 2), ("loss", "loss, nat", 3)):
            cells = [_cell(values(record, stack, "gamma, grid", gamma, key), digits) for gamma in gammas]
            rows.append([f"{stack}: {name}", *cells])
    by_gamma = Table(["trained as", *(f"gamma {gamma:+g}" if gamma else "gamma 0" for gamma in gammas)], rows)
    rows = []
    for stack in _stacks(record, "bits"):
        plain = _cell(values(record, stack, "gamma, float", 0.0))
        rows.append([stack, plain, *(_cell(values(record, stack, "bits", number)) for number in bits)])
    by_bits = Table(["trained as", "float32", *(f"{number} bits" for number in bits)], rows)
    kinds, paths = _points(record, "corruption"), max(_points(record, "paths"), default=0)
    named = [("clean: accuracy, %", "clean", "", "accuracy"), ("clean: calibration error, %", "clean", "", "ece")]
    named += [(f"{kind}: accuracy, %", "corruption", kind, "accuracy") for kind in kinds]
    named += [(f"mean of {paths} paths: {key}", "paths", paths, key) for key in ("accuracy", "ece")]
    rows = [
        [name.replace(": ece", ": calibration error, %").replace("paths: accuracy", "paths: accuracy, %")]
        + [_cell(values(record, stack, part, value, key)) for stack in _stacks(record, "clean")]
        for name, part, value, key in named
    ]
    return {"gamma": by_gamma, "bits": by_bits, "corruption": Table(["", *_stacks(record, "clean")], rows)}


def provenance(record: Record) -> list[str]:
    """Return what the record was measured with."""
    settings, device = record["settings"], record["device"]
    seeds = len({row["seed"] for row in record["rows"]})
    runs, count = settings["runs"], settings.get("images", 0)
    images = f"The first {count:,} images of the test set, too few to rank the stacks" if count else "Test set"
    command = f"bdia study name={NAME} runs={runs}{f' images={count}' if count else ''}"
    return [
        f"{images}, {seeds} trained models of each stack in {runs}; gamma and bits change at inference alone: "
        f"`{command}`, commit {record['git']['sha'][:12]}, {device['name']}, torch "
        f"{device['torch']}, {record['wall_s']:.0f} s.",
        "RevViT has no gamma. A random path draws gamma as in training, without dropout.",
    ]


def figure(record: Record) -> Plot:
    """Return the test accuracy against the constant gamma: one line per stack, band from the least to the largest."""
    gammas = _points(record, "gamma, grid")
    drawn, legend = go.Figure(), []
    for place, stack in enumerate(_stacks(record, "gamma, grid")):
        found = [values(record, stack, "gamma, grid", gamma) for gamma in gammas]
        colour = COLOURS.get(stack, OTHER_COLOUR)
        band = {"mode": "lines", "line": {"width": 0}, "hoverinfo": "skip", "fillcolor": rgba(colour, 0.15)}
        drawn.add_scatter(x=gammas, y=[min(v) for v in found], **band)
        drawn.add_scatter(x=gammas, y=[max(v) for v in found], fill="tonexty", **band)
        line = {"color": colour, "dash": DASHES[place % len(DASHES)], "width": 2}
        drawn.add_scatter(x=gammas, y=[statistics.mean(v) for v in found], mode="lines", line=line, name=safe(stack))
        legend.append((colour, stack))
    drawn.update_xaxes(title_text="constant gamma at inference", nticks=8)
    drawn.update_yaxes(title_text="test accuracy, %", nticks=6)
    return make_plot("Mean over the trained models, band from the least to the largest", drawn, legend)


def parts(record: Record | None) -> list[Part]:
    """Return what a record of the study shows on the page, the first with the figure; none for no record."""
    if record is None:
        return []
    told, command = f"1 record, commit {record['git']['sha'][:12]}.", f"bdia study name={NAME}"
    return [
        Part(
            f"{NAME}-{name}", f"{NAME}, {name}", TITLES[name], "", table, figure(record) if name == "gamma" else None,
            (), command, told, tuple(provenance(record)), (), order.place(NAME),
        )
        for name, table in tables(record).items()
    ]  # fmt: skip
