"""One training run as one JSON document: what was run, where, and what was measured."""

import json
import math
import re
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from bdia import BdiaError
from bdia.results.renamed import with_public_names
from bdia.reversible.engine.memory_errors import out_of_memory

SCHEMA = 1
STATUSES = ("ok", "failed", "oom", "interrupted", "diverged")
SPLITS = ("train", "val", "test", None)

# Every metric has one unit. A new measurement adds its line here.
UNITS = {
    "accuracy": "%",
    "bleu": "points",
    "chrf": "points",
    "exact_match": "%",
    "loss": "nat",
    "perplexity": "1",
    "unigram_perplexity": "1",
    "lr": "1",
    "parameters": "count",
    "train_tokens": "count",
    "val_tokens": "count",
    "test_tokens": "count",
    "train_pairs": "count",
    "val_pairs": "count",
    "test_pairs": "count",
    "dropped_pairs": "count",
    "train_documents": "count",
    "val_documents": "count",
    "test_documents": "count",
    "reconstruction_error": "1",
    "grid_bits": "bits",  # chosen by stack.bits=auto
    "peak_allocated": "MiB",
    "peak_reserved": "MiB",
    "model_state": "MiB",
    "resident_data": "MiB",
    "activation_peak": "MiB",
    "side_information": "MiB",
    "kept_blocks": "count",  # chosen by stack.memory_budget
    "peak_parameters": "MiB",
    "peak_gradients": "MiB",
    "peak_optimizer": "MiB",
    "peak_activations": "MiB",
    "peak_loss_head": "MiB",  # a part of peak_activations: logits and the gradients that the head makes
    "peak_other": "MiB",
    "step_time": "ms",
    "epoch_time": "s",
    "throughput": "images/s",
    "token_throughput": "tokens/s",
}


class RecordError(BdiaError, ValueError):
    """A record that does not follow the schema; the message names the file and the key."""


@dataclass(frozen=True)
class Metric:
    """One measured value.

    Args:
        name: a key of `UNITS`.
        value: in `unit`; NaN and infinities are written as null and read back as NaN.
        unit: `UNITS[name]`, written out so that a record reads without this module.
        split: "train", "val", "test"; None where no data split is meant (memory, time); "rank 1" for what one process
            of several measured, whose largest is the row without.
        step: optimizer steps done when it was measured. Rows that share name and split form a curve.
    Raises:
        RecordError: unknown name or split, or another unit than `UNITS` states.
    """

    name: str
    value: float
    unit: str
    split: str | None = None
    step: int | None = None

    def __post_init__(self) -> None:
        """Refuse an unknown name or split, another unit, a value that is no number."""
        if self.name not in UNITS:
            raise RecordError(f"name: saw {self.name!r}, want one of {', '.join(UNITS)} (add new ones to UNITS)")
        if self.unit != UNITS[self.name]:
            raise RecordError(f"unit: saw {self.unit!r} for {self.name}, want {UNITS[self.name]!r}")
        if self.split not in SPLITS and not re.fullmatch(r"rank \d+", str(self.split)):
            raise RecordError(f"split: saw {self.split!r}, want one of {SPLITS} or a rank such as 'rank 0'")
        if isinstance(self.value, bool) or not isinstance(self.value, int | float):
            raise RecordError(f"value: saw {self.value!r} for {self.name}, want a number")
        if self.step is not None and not isinstance(self.step, int):
            raise RecordError(f"step: saw {self.step!r}, want a count of optimizer steps")


@dataclass(frozen=True)
class RunRecord:
    """One run: what was run, where, and what was measured. Its file is `results/<experiment>/<run_id>.json`.

    Args:
        git: {"sha": str, "dirty": bool}, see `git_state`; of a run that went on after an interruption also
            "resumed_from", the other commits that trained it.
        config: the fully resolved config as plain dicts, lists and scalars; read from a file, with public class names.
        device: {"name", "count", "torch", "cuda", ...}.
        wall_s: seconds from start to end, whatever the status.
        error: the reason where status is not "ok", else None.
        signatures: how a metric was computed where its name does not say it, e.g. {"bleu": sacrebleu's signature};
            records from before this field read as {}.
        data_sha256: SHA-256 of the data as they were read, by split, see `DataModule.checksums`; {} where they were not
            read, and in records from before this field.
    Raises:
        RecordError: unknown schema or status, or a curve whose steps do not ascend.
    """

    run_id: str
    experiment: str
    status: str
    seed: int
    git: dict[str, Any]
    config: dict[str, Any]
    config_sha256: str
    device: dict[str, Any]
    precision: str
    started_utc: str
    wall_s: float
    metrics: list[Metric]
    error: str | None = None
    signatures: dict[str, str] = field(default_factory=dict)
    data_sha256: dict[str, str] = field(default_factory=dict)
    schema: int = SCHEMA

    def __post_init__(self) -> None:
        """Check the record against the schema."""
        self.check()

    def check(self) -> None:
        """Raise RecordError naming the first key that breaks the schema."""
        if self.schema != SCHEMA:
            raise RecordError(f"schema: saw {self.schema!r}, want {SCHEMA}")
        if isinstance(self.seed, bool) or not isinstance(self.seed, int):
            raise RecordError(f"seed: saw {self.seed!r}, want a whole number")
        if isinstance(self.wall_s, bool) or not isinstance(self.wall_s, int | float):
            raise RecordError(f"wall_s: saw {self.wall_s!r}, want seconds")
        for key in ("run_id", "experiment", "config_sha256", "precision", "started_utc"):
            if not isinstance(getattr(self, key), str):
                raise RecordError(f"{key}: saw {getattr(self, key)!r}, want a text")
        if self.status not in STATUSES:
            raise RecordError(f"status: saw {self.status!r}, want one of {STATUSES}")
        for key, wanted in (("git", ("sha", "dirty")), ("device", ("name",))):
            holder = getattr(self, key)
            if not isinstance(holder, dict) or any(name not in holder for name in wanted):
                raise RecordError(f"{key}: saw {holder!r}, want a mapping with {', '.join(wanted)}")
        if not isinstance(self.config, dict):
            raise RecordError(f"config: saw {type(self.config).__name__}, want a mapping")
        self._check_signatures()
        self._check_data_sha256()
        last: dict[tuple[str, str | None], int] = {}
        for index, row in enumerate(self.metrics):
            curve = (row.name, row.split)
            if row.step is not None and row.step <= last.get(curve, -1):
                raise RecordError(f"metrics[{index}].step: saw {row.step} after {last[curve]}, want ascending steps")
            if row.step is not None:
                last[curve] = row.step

    def _check_signatures(self) -> None:
        if not isinstance(self.signatures, dict):
            raise RecordError(f"signatures: saw {self.signatures!r}, want a mapping from metric to text")
        for name, text in self.signatures.items():
            if name not in UNITS or not isinstance(text, str):
                raise RecordError(f"signatures.{name}: saw {text!r}, want text under the name of a metric in UNITS")

    def _check_data_sha256(self) -> None:
        if not isinstance(self.data_sha256, dict):
            raise RecordError(f"data_sha256: saw {self.data_sha256!r}, want a mapping from split to 64 hex digits")
        for split, text in self.data_sha256.items():
            if split not in SPLITS or not isinstance(text, str) or not re.fullmatch("[0-9a-f]{64}", text):
                raise RecordError(f"data_sha256.{split}: saw {text!r}, want 64 hex digits under train, val or test")

    def curve(self, name: str, split: str | None = None) -> list[Metric]:
        """Return the rows of one metric and split, in the order they were measured."""
        return [row for row in self.metrics if (row.name, row.split) == (name, split)]

    def final(self, name: str, split: str | None = None) -> float | None:
        """Return the last value of one metric and split, or None where it was not measured."""
        rows = self.curve(name, split)
        return rows[-1].value if rows else None

    def best(self, name: str, split: str | None = None, higher: bool = True) -> Metric | None:
        """Return the first row with the best finite value; the last row where none is finite, None without rows."""
        rows = self.curve(name, split)
        finite = [row for row in rows if math.isfinite(row.value)]
        if not finite:
            return rows[-1] if rows else None
        return (max if higher else min)(finite, key=lambda row: row.value)

    def to_json(self) -> str:
        """Return the record as JSON text: an indented header, then one metric per line."""
        self.check()
        header = {"schema": self.schema} | {f.name: getattr(self, f.name) for f in fields(self) if f.name != "metrics"}
        rows = ",\n  ".join(json.dumps(_metric_fields(row), allow_nan=False) for row in self.metrics)
        text = json.dumps(header, indent=1, allow_nan=False, ensure_ascii=False)
        return text.removesuffix("\n}") + ',\n "metrics": [\n  ' + rows + "\n ]\n}\n"

    @classmethod
    def from_json(cls, text: str, source: str = "record") -> "RunRecord":
        """Read a record back; `source` (its path) opens every error message."""
        try:
            raw = json.loads(text)
        except (json.JSONDecodeError, RecursionError) as error:
            raise RecordError(f"{source}: not JSON ({error})") from error
        try:
            return _from_mapping(cls, raw)
        except RecordError as error:
            raise RecordError(f"{source}: {error}") from None
        except (TypeError, ValueError, AttributeError, KeyError, RecursionError) as error:
            raise RecordError(f"{source}: a field has another type than a record's ({error})") from error


def _metric_fields(row: Metric) -> dict[str, Any]:
    """Return the fields to write: JSON has no NaN, and an unset split or step is left out."""
    kept = {key: value for key, value in asdict(row).items() if value is not None}
    return kept | {"value": row.value if math.isfinite(row.value) else None}


def _from_mapping(cls: type[RunRecord], raw: Any) -> RunRecord:
    if not isinstance(raw, dict):
        raise RecordError(f"saw {type(raw).__name__}, want a mapping")
    if raw.get("schema") != SCHEMA:  # first: another schema may have other keys
        raise RecordError(f"schema: saw {raw.get('schema')!r}, want {SCHEMA}")
    raw = {"signatures": {}, "data_sha256": {}} | raw  # added to schema 1 later, so older records lack them
    _compare_keys({field.name for field in fields(RunRecord)}, set(raw), "")
    if not isinstance(raw["metrics"], list):
        raise RecordError(f"metrics: saw {type(raw['metrics']).__name__}, want a list")
    metrics = [_read_metric(row, f"metrics[{index}]") for index, row in enumerate(raw["metrics"])]
    config = with_public_names(raw["config"]) if isinstance(raw["config"], dict) else raw["config"]
    return cls(**{**raw, "metrics": metrics, "config": config})


def _read_metric(row: Any, where: str) -> Metric:
    if not isinstance(row, dict):
        raise RecordError(f"{where}: saw {row!r}, want a mapping")
    _compare_keys({"name", "value", "unit"}, set(row) - {"split", "step"}, f"{where}.")
    value = math.nan if row["value"] is None else row["value"]
    try:
        return Metric(row["name"], value, row["unit"], row.get("split"), row.get("step"))
    except RecordError as error:
        raise RecordError(f"{where}.{error}") from None


def _compare_keys(wanted: set[str], seen: set[str], prefix: str) -> None:
    for key in sorted(wanted - seen):
        raise RecordError(f"{prefix}{key}: missing")
    for key in sorted(seen - wanted):
        raise RecordError(f"{prefix}{key}: unknown key, want {', '.join(sorted(wanted))}")


# --- what a record says of a run that broke ---


def status_of(error: BaseException) -> str:
    """Return the record's status: "interrupted", "oom" (out of memory) or "failed"."""
    if isinstance(error, KeyboardInterrupt | SystemExit):
        return "interrupted"
    return "oom" if out_of_memory(error) else "failed"


def describe(error: BaseException) -> str:
    """Return the error's class and text without folders, at most 2,000 characters."""
    return without_folders(f"{type(error).__name__}: {error}")


def without_folders(text: str) -> str:
    """Replace absolute paths by the file's name: records are public and must not depend on the machine."""
    return re.sub(r"(?<![\w.~/-])/(?:[^/\s'\"]+/)+", "", text)[:2000]
