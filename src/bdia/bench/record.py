"""The JSON of a bench, `results/bench/<utc>_<sha7>.json`: written anew after every cell, never half."""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bdia.bench.timing import Times
from bdia.data.files import write_whole
from bdia.results.record import RecordError, without_folders

if TYPE_CHECKING:
    from bdia.profiling.workload import Workload

SCHEMA = 1
STATUSES = ("not run", "ok", "oom", "failed")
# What changes the speed of a CPU's allocator and threads; recorded where set.
ENVIRONMENT = ("MALLOC_", "LD_PRELOAD", "GLIBC_TUNABLES", "OMP_", "MKL_", "KMP_", "GOMP_")
ENVIRONMENT += ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")


@dataclass(frozen=True)
class VariantRow:
    """One variant of one cell.

    Args:
        part: "table" or "curve", or "lora" or "full" of `bdia.bench.lora_depth`; cells of one part, model, depth and
            precision were interleaved.
        variant, label: its name in `bdia.bench.cases` and in tables.
        overrides: of configs/train.yaml: `python -m bdia.train` with them trains the same model. In the parts "lora"
            and "full" arguments of `bdia.convert`; there are none where the model is not converted.
        batch, size, unit: batch, and images or tokens per step.
        keep_curve: a point of the curve over `keep`.
        parameters: number of weights.
        ms: milliseconds per step, one per round; `inner` steps each.
        memory: bytes, see `bdia.bench.memory.step_memory`; `stream` counts elements.
        fits: what the planner found, by budget in GiB: {"1": {"batch": ..., "depth": ...}}; 0 is "not even one".
    """

    part: str
    model: str
    depth: int
    precision: str
    variant: str
    label: str
    overrides: list[str]
    batch: int
    unit: str
    keep_curve: bool = False
    size: int = 0
    parameters: int = 0
    status: str = "not run"
    error: str | None = None
    inner: int = 1
    ms: list[float] = field(default_factory=list)
    memory: dict[str, int] = field(default_factory=dict)
    fits: dict[str, dict[str, int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.status not in STATUSES:
            raise RecordError(f"status: saw {self.status!r}, want one of {', '.join(STATUSES)}")

    def measured(self, workload: "Workload", memory: dict[str, int]) -> "VariantRow":
        """Return the row with what was found before the rounds."""
        parameters = sum(p.numel() for p in workload.task.parameters())
        return replace(self, size=workload.size, parameters=parameters, memory=memory)

    def timed(self, ms: list[float], inner: int) -> "VariantRow":
        """Return the row with its times, which makes it whole."""
        return replace(self, status="ok", ms=[round(time, 4) for time in ms], inner=inner)

    def broken(self, status: str, error: str) -> "VariantRow":
        """Return the row of a variant that did not get to its end."""
        return replace(self, status=status, error=error)

    @property
    def group(self) -> tuple[str, str, int, str]:
        """What the variants of one interleaved cell share."""
        return self.part, self.model, self.depth, self.precision

    @property
    def times(self) -> Times | None:
        """Times of the rounds, or None where there are none."""
        return Times(tuple(self.ms)) if self.ms else None

    @property
    def rate(self) -> float | None:
        """Images or tokens per second at the median time."""
        return 1000 * self.size / self.times.median if self.times else None


@dataclass(frozen=True)
class Bench:
    """One run of the bench.

    Args:
        bench_id: `<utc>_<sha7>`, the file's name.
        status: "running" in the file of a bench that was interrupted, else "ok".
        arguments: the command line's values.
        environment: variables that change speed, as they were set.
        overhead: what a whole training run costs beside its steps, see `bdia.bench.overhead`.
    """

    bench_id: str
    status: str
    git: dict[str, Any]
    device: dict[str, Any]
    environment: dict[str, str]
    arguments: dict[str, Any]
    started_utc: str
    wall_s: float = 0.0
    rows: list[VariantRow] = field(default_factory=list)
    overhead: list[dict[str, Any]] = field(default_factory=list)
    schema: int = SCHEMA

    def to_json(self) -> str:
        """Return JSON text: an indented header, then one row per line."""
        header = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "rows"}
        rows = ",\n  ".join(json.dumps(asdict(row), allow_nan=False, ensure_ascii=False) for row in self.rows)
        text = json.dumps(header, indent=1, allow_nan=False, ensure_ascii=False)
        return text.removesuffix("\n}") + ',\n "rows": [\n  ' + rows + "\n ]\n}\n"

    def write(self, folder: Path) -> Path:
        """Write `<folder>/<bench_id>.json`, in place of this bench's earlier one, and return its path."""
        path = folder / f"{self.bench_id}.json"
        write_whole(path, self.to_json())
        return path


def read_bench(path: Path) -> Bench:
    """Read a bench back.

    Raises:
        RecordError: not JSON, another schema, a key missing or unknown; names the file.
    """
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(raw, dict) or raw.get("schema") != SCHEMA:
            raise RecordError(f"schema: saw {raw.get('schema') if isinstance(raw, dict) else raw!r}, want {SCHEMA}")
        return Bench(**{**raw, "rows": [VariantRow(**row) for row in raw["rows"]]})
    except (json.JSONDecodeError, TypeError, KeyError, RecordError) as error:
        raise RecordError(f"{path.name}: no bench of this version: {error}") from error


def bench_id(started: datetime, sha: str) -> str:
    """Return `<utc with microseconds>_<sha7>`; ids sort by start time."""
    return f"{started.astimezone(UTC):%Y%m%dT%H%M%S%fZ}_{sha[:7]}"


def allocator_environment(variables: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the variables of `ENVIRONMENT` that are set; of paths only the files' names."""
    return {key: without_folders(value) for key, value in sorted(variables.items()) if key.startswith(ENVIRONMENT)}
