"""The benchmarks on the page: time and memory of a step on CPUs and GPUs, memory against depth, any other rows."""

import json
import logging
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import plotly.graph_objects as go

from bdia.results.page.part import Part
from bdia.results.page.plot import Plot, make_plot
from bdia.results.page.step_studies import STUDIES, study_figure, study_table
from bdia.results.page.style import OTHER_COLOUR
from bdia.results.statistics import NONE
from bdia.results.tables import Table
from bdia.reversible.stacks.registry import STACKS

log = logging.getLogger("bdia")
MIB = 2**20
MOST_ROWS = 40  # of a table
COLOURS = {row.name: row.colour for row in STACKS}
LABELS = {row.name: row.label for row in STACKS}


@dataclass(frozen=True)
class Benchmark:
    """One measurement without training: a table or none, a figure or none, where it comes from."""

    title: str
    table: Table | None
    figure: Plot | None
    source: str

    def part(self) -> Part:
        """Return the benchmark as the page shows it."""
        return Part("", "", self.title, "", self.table, self.figure, (), "", self.source, (), ())


def benchmarks(root: Path | str) -> list[Benchmark]:
    """Return what the newest records of every benchmark under `root` show; a file that can't be read is left out."""
    root = Path(root)
    readers = ((("depth/*",), _depth), (("bench",), _bench), (("gpu/*",), _gpu))
    readers += tuple(((f"{name}/*", name), _study) for name in STUDIES)
    found = []
    for patterns, read in readers:
        for folder in sorted(folder for pattern in patterns for folder in root.glob(pattern) if folder.is_dir()):
            found += _newest(folder, read)
    return found


def _newest(folder: Path, read: Any) -> list[Benchmark]:
    """Read the newest file of a folder that shows something."""
    for path in sorted(folder.glob("*.json"), reverse=True):
        try:
            if shown := read(json.loads(path.read_text(encoding="utf-8")), _source(path)):
                return shown
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            log.warning("not shown: %s: %r", path, error)
    return []


def _source(path: Path) -> str:
    return path.stem if path.parent.parent.name == "" else f"{path.parent.parent.name}/{path.parent.name}/{path.name}"


def where(record: Mapping[str, Any]) -> str:
    """Return the device, torch and the commit of a record."""
    about = record.get("about") or {}
    device = record.get("device") or about.get("device") or "device not recorded"
    name = device.get("name") if isinstance(device, Mapping) else device
    torch = (device.get("torch") if isinstance(device, Mapping) else None) or about.get("torch") or record.get("torch")
    sha = (record.get("git") or {}).get("sha") or about.get("sha") or ""
    return ", ".join(part for part in (str(name), f"torch {torch}" if torch else "", f"commit {sha[:12]}") if part)


def _depth(record: Mapping[str, Any], source: str) -> list[Benchmark]:
    return (_layer_peak if record.get("study") == "layer_peak" else _memory_depth)(record, source)


def _layer_peak(record: Mapping[str, Any], source: str) -> list[Benchmark]:
    """Show what `scripts/layer_peak.py` measured: a row per way to recompute, a column per depth."""
    peaks = {(row["way"], row["depth"]): row["peak"] for row in record["rows"]}
    ways, depths = dict.fromkeys(way for way, _ in peaks), sorted({depth for _, depth in peaks})
    cells = [[f"{peaks[way, depth]:.1f}" if (way, depth) in peaks else NONE for depth in depths] for way in ways]
    heads = ["way", *(f"streams at the peak, {depth} blocks" for depth in depths)]
    table = Table(heads, [[way, *row] for way, row in zip(ways, cells, strict=True)])
    title = "The peak of one layer's backward, in float32 streams (B x T x D values)"
    return [Benchmark(title, table, None, f"{source}: {where(record)}")] if cells else []


def _memory_depth(record: Mapping[str, Any], source: str) -> list[Benchmark]:
    rows, figure, cells = record["rows"], go.Figure(), []
    depths = sorted({row["depth"] for row in rows})
    for stack in dict.fromkeys(row["stack"] for row in rows):
        own = {row["depth"]: row for row in rows if row["stack"] == stack}
        label, colour = LABELS.get(stack, stack), COLOURS.get(stack, OTHER_COLOUR)
        held = [round(own[depth]["held"] / MIB, 2) for depth in own]
        look = {"mode": "lines+markers", "line": {"color": colour, "width": 2}}
        figure.add_scatter(x=[*own], y=held, name=label, **look)
        first, last = min(own), max(own)
        further = (own[last]["held"] - own[first]["held"]) / (last - first) / MIB if last > first else None
        peaks = [f"{own[depth]['peak'] / MIB:,.0f}" if depth in own else NONE for depth in (depths[0], depths[-1])]
        cells.append([label, *peaks, NONE if further is None else f"{further:.2f}"])
    figure.update_xaxes(title_text="blocks", nticks=6)
    figure.update_yaxes(title_text="held between forward and backward, MiB", type="log", dtick=1)
    heads = ["stack", *(f"peak at {depth} blocks, MiB" for depth in (depths[0], depths[-1]))]
    legend = [
        (COLOURS.get(name, OTHER_COLOUR), LABELS.get(name, name)) for name in dict.fromkeys(r["stack"] for r in rows)
    ]
    plot = make_plot("What a step holds for backward, against depth (logarithmic)", figure, legend)
    table = Table([*heads, "held by each further block, MiB"], cells)
    title = "Memory against depth: activations of one step, counted storage by storage"
    return [Benchmark(title, table, plot, f"{source}: {where(record)}")]


def _bench(record: Mapping[str, Any], source: str) -> list[Benchmark]:
    rows = [row for row in record["rows"] if row["part"] == "table" and row["ms"] and row["memory"]]
    cells = []
    for row in rows:
        same = [other for other in rows if _cell(other) == _cell(row)]
        standard = next((other for other in same if other["variant"] == "standard"), row)
        peak, time = row["memory"]["peak"] / MIB, statistics.median(row["ms"])
        ratios = peak * MIB / standard["memory"]["peak"], time / statistics.median(standard["ms"])
        name = f"{row['model']}, {row['depth']} blocks: {row['label']}"
        cells.append([name, f"{peak:,.0f} ({ratios[0]:.2f}x)", f"{time:,.0f} ({ratios[1]:.2f}x)"])
    table = Table(["model and stack", "peak MiB (ratio to standard)", "step ms (ratio)"], cells[:MOST_ROWS])
    threads = (record.get("device") or {}).get("threads")
    title = f"Time and memory of a training step on {threads or 'all'} CPU thread(s)"
    return [Benchmark(title, table, None, f"{source}: {where(record)}; medians of interleaved steps")] if cells else []


def _cell(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return row["model"], row["depth"], row["precision"], row["batch"]


def _gpu(record: Mapping[str, Any], source: str) -> list[Benchmark]:
    cells = []
    for case in record.get("cases", ()):
        setting = case["case"]
        kind = setting.get("precision") or setting.get("weights") or ""
        name = f"{setting.get('model')}, {setting.get('depth')} blocks, {kind}"
        for label, row in case["rows"].items():
            if "peak_mib" in row and "ms" in row:
                numbers = (row["peak_mib"], row.get("peak_ratio"), row["ms"], row.get("time_ratio"))
                peak, time = _with_ratio(*numbers[:2]), _with_ratio(*numbers[2:])
                cells.append([f"{name.rstrip(', ')}: {label}", peak, time])
    table = Table(["model and stack", "peak MiB above the weights (ratio)", "step ms (ratio)"], cells[:MOST_ROWS])
    title = f"Time and memory of a step on {(record.get('about') or {}).get('device', 'a GPU')}"
    return [Benchmark(title, table, None, f"{source}: {where(record)}")] if cells else []


def _with_ratio(value: float, ratio: float | None) -> str:
    return f"{value:,.1f}" + (f" ({ratio:.2f}x)" if ratio else "")


def _study(record: Mapping[str, Any], source: str) -> list[Benchmark]:
    table = study_table(record)
    title = str(record.get("title") or record.get("study") or source.partition("/")[0]).replace("_", " ").capitalize()
    return [Benchmark(title, table, study_figure(record), f"{source}: {where(record)}")] if table.rows else []
