"""Numbers of records of one file each: bench, depth, GPU, plans, the study of gamma."""

import json
import re
import statistics
from functools import cache
from pathlib import Path
from typing import Any

from bdia.results.statistics import Spread
from doc_numbers.common import MIB, RESULTS, UnknownNumberError, known, pick, word


@cache
def document(path: Path) -> dict[str, Any]:
    """Return one JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def newest(folder: str) -> dict[str, Any]:
    """Return the newest JSON file of a folder of results/; file names begin with the time."""
    paths = sorted((RESULTS / folder).glob("*.json"))
    if not paths:
        raise UnknownNumberError(f"results/{folder}: no record")
    return document(paths[-1])


def bench_rows(part: str, model: str, precision: str = "32-true", depths: tuple[int, ...] = ()) -> list[dict[str, Any]]:
    """Return the rows of the newest bench that measured this model, at all of these depths; PART@COMMIT: of that."""
    part, _, commit = part.partition("@")
    for path in sorted((RESULTS / "bench").glob(f"*_{commit}*.json"), reverse=True):
        rows = [
            row
            for row in document(path)["rows"]
            if (row["part"], row["model"], row["precision"]) == (part, model, precision) and row["status"] == "ok"
        ]
        if rows and set(depths) <= {row["depth"] for row in rows}:
            return [row | {"bench": document(path)} for row in rows]
    raise UnknownNumberError(f"no bench in results/bench has {part} {model} {precision} at depths {depths}")


def bench_field(row: dict[str, Any], field: str) -> float:
    """Return one quantity of a bench's row: median ms, or a number of its memory in MiB."""
    if field == "ms":
        return statistics.median(row["ms"])
    return known(row["memory"].get(field), field) / MIB


def bench(part: str, model: str, depth: str, name: str, field: str) -> float:
    """Return one quantity of one variant at one depth."""
    rows = {row["variant"]: row for row in bench_rows(part, model, depths=(int(depth),)) if row["depth"] == int(depth)}
    return bench_field(pick(rows, name, f"{part} {model} {depth}"), field)


def depth_rows() -> list[dict[str, Any]]:
    """Return the rows of the newest record of memory against depth."""
    return newest("depth/vit_paper")["rows"]


def depth(stack: str, blocks: str, field: str) -> float:
    """Return the activations of one stack at one depth, MiB."""
    rows = {row["stack"]: row for row in depth_rows() if row["depth"] == int(blocks)}
    return pick(rows, stack, f"depth {blocks}")[field] / MIB


def study_rows(name: str, *wanted: str) -> list[dict[str, Any]]:
    """Return the rows with these values, each KEY=VALUE, of the newest record of `bdia study` that has any."""
    pairs = [one.partition("=")[::2] for one in wanted]
    for path in sorted((RESULTS / name).glob("*.json"), reverse=True):
        rows = document(path)["rows"]
        if found := [row for row in rows if all(str(row.get(key)).replace(" ", "_") == value for key, value in pairs)]:
            return found
    raise UnknownNumberError(f"results/{name}: no row with {' '.join(wanted)}")


def study_field(row: dict[str, Any], field: str) -> float:
    """Return one quantity of a row; bytes, which are whole numbers beyond a MiB, in MiB."""
    value = known(row.get(field), field)
    return value / MIB if isinstance(value, int) and value >= MIB else value


def study(name: str, *words: str) -> float:
    """Return one quantity of the one row that has these values: KEY=VALUE ... FIELD."""
    rows = study_rows(name, *words[:-1])
    if len(rows) > 1:
        raise UnknownNumberError(f"results/{name}: {len(rows)} rows with {' '.join(words[:-1])}")
    return study_field(rows[0], words[-1])


def gpu_case(model: str, blocks: str, name: str) -> dict[str, dict[str, Any]]:
    """Return the rows of one case of the newest GPU run, by the word of their label."""
    for case in newest("gpu/h100")["cases"]:
        settings = case["case"]
        kind = str(settings.get("trained") or settings.get("precision"))
        if (settings["model"], settings["depth"]) == (model, int(blocks)) and word(kind).startswith(name):
            return {word(label): row | {"label": label} for label, row in case["rows"].items()}
    raise UnknownNumberError(f"results/gpu/h100: no case {model} {blocks} {name}")


def gpu(model: str, blocks: str, name: str, label: str, field: str) -> float:
    """Return one quantity of a GPU run."""
    return known(pick(gpu_case(model, blocks, name), label, f"gpu {model} {blocks}").get(field), field)


def plan_stacks(model: str, memory: str) -> dict[str, dict[str, Any]]:
    """Return the stacks of a plan by the word of their name."""
    path = RESULTS / "plans" / model / f"{memory}.json"
    if not path.is_file():
        raise UnknownNumberError(f"{path.relative_to(RESULTS.parent)}: not there")
    return {word(stack["name"]): stack for stack in document(path)["stacks"]}


def plan(model: str, memory: str, stack: str, field: str) -> float:
    """Return one quantity of a plan; bytes of a step's cost in MiB."""
    found = pick(plan_stacks(model, memory), stack, f"plan {model} {memory}")
    return found[field] if field in found else known(found["cost"].get(field), field) / MIB


def planned_rows(precision: str | None = None) -> list[dict[str, Any]]:
    """Return planned against measured peaks of Hugging Face models: of one precision, or all."""
    return [row for row in newest("plans/measured")["rows"] if precision in (None, row["precision"])]


def planned_worst() -> int:
    """Return the largest difference of a planned peak from the measured one, bytes."""
    return max(abs(row["planned"] - row["measured"]) for row in planned_rows())


def hf_plan(name: str) -> dict[str, Any]:
    """Return a plan of a Hugging Face model, by the path of its file in results/plans without .json."""
    path = RESULTS / "plans" / f"{name}.json"
    if not path.is_file():
        raise UnknownNumberError(f"{path.relative_to(RESULTS.parent)}: not there")
    return document(path)


def families() -> int:
    """Return how many model families docs/families.md, which scripts/families.py writes, lists."""
    text = (RESULTS.parent / "docs" / "families.md").read_text(encoding="utf-8")
    return int(re.findall(r"^(\d+) families: ", text, re.MULTILINE)[0])


def gamma_rows(cell: str, law: str) -> list[dict[str, Any]]:
    """Return the runs of one cell and law of the newest study of gamma, in the order of their seeds."""
    rows = [row for row in newest("finetune_gamma")["runs"] if (word(row["cell"]), word(row["law"])) == (cell, law)]
    if not rows:
        raise UnknownNumberError(f"results/finetune_gamma: no runs of {cell} {law}")
    return sorted(rows, key=lambda row: row["seed"])


def gamma(cell: str, law: str, field: str) -> float | Spread:
    """Return `val` at the end, `difference` of it to standard with the same seed, or any number of a run."""
    rows = gamma_rows(cell, law)
    if field == "val":
        return Spread.of([row["val"][-1][1] for row in rows])
    if field == "difference":
        pairs = zip(rows, gamma_rows(cell, "standard"), strict=True)
        return Spread.of([ours["val"][-1][1] - theirs["val"][-1][1] for ours, theirs in pairs])
    if field == "bits":
        return rows[0]["side_bits"][-1][1]
    return Spread.of([row[field] for row in rows])
