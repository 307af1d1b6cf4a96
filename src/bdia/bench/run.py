"""Run a bench, `bdia.bench.run.run(Arguments())`: measure, write after every cell, show; or show an earlier one."""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from bdia import InvalidValueError, import_module
from bdia.bench import cases
from bdia.bench.cell import Cell, run_cell
from bdia.bench.estimate import estimate_minutes
from bdia.bench.limits import add_fits, memory_ceiling
from bdia.bench.overhead import measure_overhead
from bdia.bench.record import Bench, VariantRow, allocator_environment, bench_id, read_bench
from bdia.bench.report import document, text
from bdia.build import CONFIGS
from bdia.data.files import write_whole
from bdia.profiling.device import describe_device, read_device
from bdia.results.identity import git_state
from bdia.results.output import say_on_stderr
from bdia.results.record import describe


@dataclass
class Arguments:
    """What to measure; `bdia bench --help` says what each means."""

    what: list[str] = field(default_factory=lambda: ["table", "curve"])
    models: list[str] = field(default_factory=lambda: list(cases.MODELS))
    depths: list[int] = field(default_factory=lambda: list(cases.DEPTHS))
    precisions: list[str] = field(default_factory=lambda: list(cases.PRECISIONS))
    variants: list[str] = field(default_factory=lambda: list(cases.VARIANTS))
    curve_model: str = "vit_paper"
    curve_depth: int = 6
    repeats: int = cases.FEWEST_ROUNDS
    batch: list[int] = field(default_factory=list)
    device: str = "auto"
    threads: int | None = None
    fits: bool = True
    out: str = "results/bench"
    show: str | None = None


def quick() -> Arguments:
    """Return the arguments of `bdia bench quick=true`."""
    return Arguments(what=["table"], **cases.QUICK)


def check(arguments: Arguments) -> None:
    """Raise ValueError for the first value that cannot be measured, with the key to change."""
    _check_names(arguments)
    _check_numbers(arguments)


def _check_names(arguments: Arguments) -> None:
    known = (
        ("what", arguments.what, cases.PARTS),
        ("models", arguments.models, tuple(cases.MODELS)),
        ("curve_model", [arguments.curve_model], tuple(cases.MODELS)),
        ("precisions", arguments.precisions, cases.PRECISIONS),
        ("variants", arguments.variants, tuple(cases.VARIANTS)),
    )
    for key, values, wanted in known:
        if not values or (unknown := [value for value in values if value not in wanted]):
            seen = ", ".join(unknown) if values else "nothing"
            raise InvalidValueError(f"{key}={seen}: wanted some of {', '.join(wanted)}; set {key}")


def _check_numbers(arguments: Arguments) -> None:
    if arguments.repeats < cases.FEWEST_ROUNDS:
        raise InvalidValueError(
            f"repeats={arguments.repeats}: wanted at least {cases.FEWEST_ROUNDS}, for medians and quartiles; "
            "set repeats"
        )
    numbers = {"depths": arguments.depths, "curve_depth": [arguments.curve_depth], "batch": arguments.batch}
    for key, values in numbers.items():
        if (key == "depths" and not values) or min(values, default=1) < 1:
            raise InvalidValueError(f"{key}={values}: wanted numbers of at least 1; set {key}")
    if len(arguments.batch) not in (0, len(arguments.models)):
        raise InvalidValueError(
            f"batch={arguments.batch}: wanted one number for each of models={arguments.models}, or []; set batch"
        )
    if arguments.threads is not None and arguments.threads < 1:
        raise InvalidValueError(f"threads={arguments.threads}: wanted at least 1, or null; set threads")


def cells(arguments: Arguments, device: torch.device) -> list[Cell]:
    """Return the groups to interleave, shallow ones first."""
    batches = dict(zip(arguments.models, arguments.batch, strict=False))

    def cell(part: str, name: str, depth: int, precision: str, variants: dict[str, cases.Variant]) -> Cell:
        model = cases.MODELS[name]
        usual = cases.CURVE_BATCH[device.type] if part == "curve" else model.batch_at(device.type, depth)
        batch = batches.get(name, usual)
        return Cell(part, name, model, depth, precision, batch, device, variants)

    found = []
    if "curve" in arguments.what:
        points = cases.distinct(cases.CURVE, arguments.curve_depth)
        found.append(cell("curve", arguments.curve_model, arguments.curve_depth, "32-true", points))
    if "table" in arguments.what:
        variants = {name: cases.VARIANTS[name] for name in arguments.variants}
        found += [
            cell("table", name, depth, precision, variants)
            for depth in sorted(arguments.depths)
            for precision in arguments.precisions
            for name in arguments.models
        ]
    return found


def run(arguments: Arguments) -> None:
    """Measure, and write after every cell; or show an earlier bench."""
    if arguments.show:
        path = Path(arguments.show)
        if not path.is_file():
            raise InvalidValueError(f"show={path}: not found; wanted the JSON of an earlier bench; set show")
        return show(read_bench(path), path.parent)
    check(arguments)
    device = read_device(
        ("cuda" if torch.cuda.is_available() else "cpu") if arguments.device == "auto" else arguments.device
    )
    if "curve" in arguments.what or ("table" in arguments.what and len(set(arguments.depths)) > 1):
        _plots()  # where its extra is not installed, that is said before anything runs
    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    with memory_ceiling(device):
        bench = _measure(arguments, device)
    bench.write(Path(arguments.out))
    show(bench, Path(arguments.out))


def begin(arguments: Any, device: torch.device) -> Bench:
    """Write a bench without rows (the command line, where and with which code it runs) and return it.

    So a folder that cannot be written is found out before anything runs.
    """
    started, git = datetime.now(UTC), git_state(CONFIGS.parent)
    bench = Bench(
        bench_id=bench_id(started, git["sha"]), status="running", git=git, environment=allocator_environment(),
        device=describe_device("cpu" if device.type == "cpu" else "gpu"), started_utc=started.isoformat(),
        arguments={key: value for key, value in asdict(arguments).items() if key not in ("out", "tables", "show")},
    )  # fmt: skip
    bench.write(Path(arguments.out))
    return bench


def measure_cells(bench: Bench, todo: Sequence[Cell], rounds: Sequence[int], out: Path) -> Bench:
    """Return the bench with the rows of all cells, each timed in its number of rounds; write it after every cell."""
    clock = time.perf_counter()
    for number, (cell, own) in enumerate(zip(todo, rounds, strict=True), 1):
        say_on_stderr(f"[{number}/{len(todo)}] {cell}")
        found = run_cell(cell, own)
        say_on_stderr("   " + "; ".join(_result(row) for row in found))
        bench = replace(bench, rows=[*bench.rows, *found], wall_s=round(time.perf_counter() - clock, 1))
        bench.write(out)
    return bench


def _measure(arguments: Arguments, device: torch.device) -> Bench:
    clock = time.perf_counter()
    bench, todo, out = begin(arguments, device), cells(arguments, device), Path(arguments.out)
    name, threads = bench.device["name"], bench.device["threads"]
    say_on_stderr(
        f"device={device.type}: {name}, {threads} threads; {len(todo)} cells, {arguments.repeats} rounds each"
    )
    if todo:
        minutes = estimate_minutes(todo, arguments.repeats)
        say_on_stderr(f"about {minutes:.0f} minutes of steps, extrapolated from shallow models; then the planner")
    bench = measure_cells(bench, todo, [arguments.repeats] * len(todo), out)
    for cell in todo if arguments.fits else ():
        if cell.precision == arguments.precisions[0] and not _planned(cell, bench.rows):
            say_on_stderr(f"planner: what fits, {cell.part}, {cell.name}, {cell.precision}")
            bench = replace(bench, rows=_with_fits(cell, bench.rows))
            bench.write(out)
    if "overhead" in arguments.what:
        say_on_stderr("a whole training run beside its bare steps")
        bench = replace(bench, overhead=[_overhead(name, arguments.repeats, device) for name in arguments.models])
    return replace(bench, status="ok", wall_s=round(time.perf_counter() - clock, 1))


def _same(cell: Cell, row: VariantRow) -> bool:
    return (row.part, row.model, row.precision) == (cell.part, cell.name, cell.precision)


def _planned(cell: Cell, rows: Sequence[VariantRow]) -> bool:
    return any(row.fits for row in rows if _same(cell, row))


def _with_fits(cell: Cell, rows: Sequence[VariantRow]) -> list[VariantRow]:
    """Return all rows, those of the cell's model and precision with what fits, at every depth measured."""
    found: dict[str, list[VariantRow]] = {}
    for name, variant in cell.variants.items():
        own = [row for row in rows if _same(cell, row) and row.variant == name]
        try:
            found[name] = add_fits(cell, variant, own)
        except Exception as error:
            say_on_stderr(f"   {name}: not planned ({describe(error)})")
    planned = {(*row.group, row.variant): row for rows in found.values() for row in rows}
    return [planned.get((*row.group, row.variant), row) for row in rows]


def _overhead(name: str, rounds: int, device: torch.device) -> dict[str, Any]:
    overrides = [*cases.MODELS[name].overrides, *cases.OVERHEAD[name]]
    return {"model": name} | measure_overhead(overrides, rounds, device)


def _result(row: VariantRow) -> str:
    return f"{row.variant} {row.times.median:.1f} ms" if row.times else f"{row.variant} {row.status} ({row.error})"


def show(bench: Bench, folder: Path) -> None:
    """Write tables and plots of a bench beside its JSON, and print the tables."""
    figures = _plots().write_plots(bench, folder) if has_plots(bench.rows) else []
    table = folder / f"{bench.bench_id}.md"
    write_whole(table, document(bench, figures))
    print(text(bench))
    print("\n" + "\n".join(map(str, [table.with_suffix(".json"), table, *(folder / file for _, file in figures)])))


def has_plots(rows: Sequence[VariantRow]) -> bool:
    """Whether there is something to plot: the trade-off curve, or a model at several depths."""
    seen = [row for row in rows if row.times or row.memory]
    depths = {(row.model, row.precision, row.depth) for row in seen if row.part == "table"}
    return any(row.part == "curve" for row in seen) or len(depths) > len({key[:2] for key in depths})


def _plots() -> ModuleType:
    """Return the module that draws; it needs the extra `report`."""
    return import_module("bdia.bench.plots")
