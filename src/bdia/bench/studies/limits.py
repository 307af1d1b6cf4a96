"""What `bdia study name=length` planned for a memory, taken on a GPU whose allocator is held to that memory.

A planned size that does not run is lowered until one does. The context that CUDA itself keeps on the device is not
counted, in the plan or here.
"""

import gc
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError

from bdia import InvalidValueError, MissingFileError
from bdia.bench.studies.largest import QUESTIONS, FitSizes, size_of, unit_of
from bdia.bench.studies.whole_step import WAYS
from bdia.build import compose
from bdia.profiling.sizes import GIB
from bdia.profiling.workload import build_workload

LENGTH = Path("results/length")
COLUMNS = {"gib": "gib", "ways": "way", "questions": "question"}  # argument: column of the record's rows


@dataclass
class Arguments:
    """What is taken.

    Args:
        record: of the study `length`; empty: the newest of results/length. gib: memories that it planned for. ways:
            keys of `whole_step.WAYS`. questions: some of `largest.QUESTIONS`.
        lower: share of the planned size by which it is lowered after each size that does not run. tries: sizes at most.
    """

    record: str = ""
    gib: list[float] = field(default_factory=lambda: [16.0])
    ways: list[str] = field(
        default_factory=lambda: ["checkpoint_in_backward", "bdia_in_backward", "bdia_tiled_in_backward"]
    )
    questions: list[str] = field(default_factory=lambda: ["largest batch", "most blocks"])
    lower: float = 0.01
    tries: int = 20


def measure(arguments: Arguments) -> Iterator[list[dict[str, Any]]]:
    """Yield one row for each question, memory and way: what was planned, what ran, its peak in bytes.

    Raises:
        ValueError: there is no GPU, or it is smaller than a memory; an argument names nothing that was planned.
    """
    settings, rows = read_plans(arguments)
    total = torch.cuda.get_device_properties(0).total_memory if torch.cuda.is_available() else 0
    if not 0 < max(arguments.gib, default=0.0) * GIB <= total:
        raise InvalidValueError(f"gib={arguments.gib}: wanted memories of the GPU, here {total / GIB:.1f} GiB; set gib")
    for row in rows:
        torch.cuda.set_per_process_memory_fraction(row["gib"] * GIB / total)
        yield [lowered(row, arguments, partial(take, row, settings))]


def read_plans(arguments: Arguments) -> tuple[FitSizes, list[dict[str, Any]]]:
    """Return the settings of the record and its rows that were asked for.

    Raises:
        FileNotFoundError: there is no record. ValueError: its settings are none of the study `length`; an argument
            names nothing that was planned.
    """
    found = arguments.record or max(map(str, LENGTH.glob("*.json")), default="")
    if not found:
        raise MissingFileError(f"{LENGTH}: no record there; run bdia study name=length, or set record")
    record = json.loads(Path(found).read_text(encoding="utf-8"))
    settings = _read_settings(found, record["settings"])
    rows = [row for row in record["rows"] if row["question"] in QUESTIONS]
    for key, column in COLUMNS.items():
        asked, known = getattr(arguments, key), {row[column] for row in rows}
        if unknown := [value for value in asked if value not in known]:
            raise InvalidValueError(f"{key}={unknown}: {found} planned for {sorted(known)}; set {key}")
        rows = [row for row in rows if row[column] in asked]
    return settings, [row for row in rows if row["largest"]]


def _read_settings(path: str, settings: Mapping[str, Any]) -> FitSizes:
    try:
        return TypeAdapter(FitSizes).validate_python(dict(settings))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise InvalidValueError(
            f"{path}: settings.{key}: {first['msg']}; wanted a record of bdia study name=length; set record"
        ) from error


def lowered(row: Mapping[str, Any], arguments: Arguments, taken: Callable[[int], Mapping[str, Any]]) -> dict[str, Any]:
    """Lower the planned size until `taken` gives no OutOfMemoryError; `ran` is 0 where no try ran."""
    planned, unit = row["largest"], unit_of(row["question"])
    names = ("question", "way", "label", "gib")
    found = {name: row[name] for name in names} | {
        "planned": planned,
        "planned_peak": row["peak"],
        "origin": "measured",
    }
    lower = max(unit, int(planned * arguments.lower) // unit * unit)
    for size in range(planned, max(0, planned - lower * arguments.tries), -lower):
        gc.collect()  # a step before this one, whose error no longer holds its tensors
        torch.cuda.empty_cache()
        with suppress(torch.OutOfMemoryError):
            return found | {"ran": size} | dict(taken(size))
    return found | {"ran": 0}


def take(row: Mapping[str, Any], settings: FitSizes, largest: int) -> dict[str, Any]:
    """Take two steps of a planned size on the GPU; return bytes at the allocator's peak, and seconds of the second."""
    size = size_of(row["question"], largest, settings)
    sizes = [f"model.net.depth={size.depth}", f"model.net.positions={size.tokens}"]
    model = [f"model={settings.fit_model}", "data=pydoc", "optimizer=adamw", *sizes]
    cfg = compose([*model, *WAYS[row["way"]].overrides])
    torch.cuda.reset_peak_memory_stats()
    work = build_workload(cfg, size.batch, size.tokens, "cuda", vocab_size=settings.fit_vocabulary or None)
    work.step()
    torch.cuda.synchronize()
    began = time.perf_counter()
    work.step()
    torch.cuda.synchronize()
    return {
        "peak": torch.cuda.max_memory_allocated(), "reserved": torch.cuda.max_memory_reserved(),
        "s": round(time.perf_counter() - began, 3), "allocator": os.environ.get("PYTORCH_ALLOC_CONF", ""),
    }  # fmt: skip


def told(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return one line on a row."""
    row = rows[0]
    return (
        f"{row['label']}: {row['question']} in {row['gib']:g} GiB: {row['ran']:,} ran, {row['planned']:,} were planned"
    )
