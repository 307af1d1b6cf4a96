"""Tables of the records in results/, by the words that a `table` marker in README.md or docs/ names them with.

runs EXPERIMENT [shared]: [SPLIT] METRIC, ...   a row per variant; shared: of the seeds that all variants have
bench PART MODEL PRECISION DEPTHS: FIELD, ...   a row per depth and variant; x_standard and x_checkpoint are ratios
pivot PART MODEL: FIELD                         a bench's row per depth, its column per variant
depth: FIELD                                    the same of results/depth/vit_paper
study NAME KEY=VALUE ...: TEXT, FIELD, ...      a row per row of the newest record of `bdia study` with these values
gpu MODEL DEPTH CASE, ...: FIELD, ...           a row per case and variant
plan MODEL MEMORY: FIELD, ...                   a row per stack
planned PRECISION                               a row per Hugging Face model and way to train it, planned and measured
longest NAME                                    of results/plans/NAME.json: a row per way, a column per memory
devices NAME 1,8,512                            of results/plans/NAME/devices_N.json: a row per N and way
gamma: FIELD                                    a row per law, a column per cell
"""

from collections.abc import Callable, Sequence

from bdia.profiling.sizes import GIB, format_bytes
from bdia.results.record import UNITS
from bdia.results.statistics import NONE, Spread
from bdia.results.tables import Table, markdown
from bdia.reversible.stacks.registry import STACKS
from doc_numbers.common import MIB, UnknownNumberError, pick, word
from doc_numbers.documents import (
    bench_field,
    bench_rows,
    depth_rows,
    gamma,
    gpu_case,
    hf_plan,
    newest,
    plan_stacks,
    planned_rows,
    study_field,
    study_rows,
)
from doc_numbers.runs import experiments, shared_seeds

STATE = ("parameters", "gradients", "optimizer")
DIGITS = {"%": 2, "points": 2, "nat": 3, "MiB": 1, "ms": 0, "1": 1}
TITLES = {
    "bleu": "BLEU", "chrf": "chrF", "peak_allocated": "peak memory", "activation_peak": "activations",
    "peak_parameters": "parameters", "peak_gradients": "gradients", "peak_optimizer": "optimizer",
    "peak_activations": "activations", "peak_loss_head": "of them loss head", "side_information": "side information",
    "peak": "peak, MiB", "held": "held, MiB", "ms": "step, ms", "activations": "activations at the peak, MiB",
    "x_standard": "x standard", "x_checkpoint": "x checkpointing", "peak_mib": "peak, MiB", "held_mib": "held, MiB",
    "busy_ms": "kernels, ms", "largest_batch": "largest batch", "largest_depth": "largest depth",
    "relative_flops": "FLOPs to standard's", "gradients": "gradients, MiB",
    "added": "added by the step, MiB", "first_step_s": "first step, s",
}  # fmt: skip


def table(words: str) -> str:
    """Return the Markdown table that the words name.

    Raises:
        UnknownNumberError: no record holds it.
    """
    head, _, columns = words.partition(":")
    kind, *rest = head.split()
    if kind not in KINDS:
        raise UnknownNumberError(f"{words}: wanted one of {', '.join(KINDS)} first")
    return markdown(KINDS[kind](rest, [column.strip() for column in columns.split(",") if column.strip()]))


def shown(value: float | Spread | None, digits: int) -> str:
    """Return a cell: a mean with its deviation over seeds where there is one."""
    if value is None:
        return NONE
    if isinstance(value, Spread):
        varies = value.std > 0 and round(value.std, digits) > 0
        return shown(value.mean, digits) + (f" ± {value.deviation(digits)}" if varies else "")
    return f"{round(value, digits) + 0.0:,.{digits}f}"  # + 0.0: zero has no sign


def runs(words: Sequence[str], columns: Sequence[str]) -> Table:
    """Return a row per variant of an experiment."""
    experiment = pick(experiments(), words[0], "results/")
    seeds = shared_seeds(words[0]) if "shared" in words else None
    heads, cells = ["stack"], [[variant.label] for variant in experiment.variants]
    for column in columns:
        *split, name = column.split()
        unit = pick(UNITS, name, "UNITS")
        title = " ".join([*split, TITLES.get(name, name.replace("_", " "))])
        heads.append(title if unit in ("1", "count") else f"{title}, {unit}")
        for row, variant in zip(cells, experiment.variants, strict=True):
            runs = [run for run in variant.runs if seeds is None or run.seed in seeds]
            values = [v for run in runs if (v := run.final(name, split[0] if split else None)) is not None]
            row.append(shown(Spread.of(values) if values else None, DIGITS.get(unit, 0)))
    return Table(heads, cells)


def bench(words: Sequence[str], columns: Sequence[str]) -> Table:
    """Return a row per depth and variant of the newest bench that measured all of the depths."""
    part, model, precision, *depths = words
    wanted = tuple(map(int, depths))
    rows = [row for row in bench_rows(part, model, precision, wanted) if not wanted or row["depth"] in wanted]
    partners = {(row["depth"], row["variant"]): row for row in rows}

    def cell(row: dict, column: str) -> str:
        if column.startswith("x_"):
            other = pick(partners, (row["depth"], column.removeprefix("x_")), column)
            return f"{bench_field(row, 'ms') / bench_field(other, 'ms'):.2f}"
        return shown(bench_field(row, column), 0 if column == "ms" else 1)

    heads = ["blocks, variant", *(TITLES.get(column, column) for column in columns)]
    return Table(
        heads, [[f"{row['depth']}, {row['label']}", *(cell(row, column) for column in columns)] for row in rows]
    )


def pivot(words: Sequence[str], columns: Sequence[str]) -> Table:
    """Return a row per depth, a column per variant of a bench."""
    rows = bench_rows(*words)
    return _pivot("blocks", [(row["depth"], row["label"], bench_field(row, columns[0])) for row in rows])


def depth(words: Sequence[str], columns: Sequence[str]) -> Table:
    """Return a row per depth, a column per stack."""
    labels = {row.name: row.label for row in STACKS}
    return _pivot("blocks", [(row["depth"], labels[row["stack"]], row[columns[0]] / MIB) for row in depth_rows()])


def study(words: Sequence[str], columns: Sequence[str]) -> Table:
    """Return the rows of a study that have these values, with the columns named; the first column is text."""
    first, *fields = columns
    rows = [
        [
            str(row[first]),
            *(shown(None if row.get(f) is None else study_field(row, f), _study_digits(f)) for f in fields),
        ]
        for row in study_rows(*words)
    ]
    return Table([TITLES.get(name, name.replace("_", " ")) for name in columns], rows)


def _study_digits(field: str) -> int:
    return 3 if field.endswith("ratio") or field == "at_this_peak" else 0 if field in ("keep", "largest") else 1


def gpu(words: Sequence[str], columns: Sequence[str]) -> Table:
    """Return a row per variant of the named cases, each three words: model, depth, training or precision."""
    cells = []
    for first in range(0, len(words), 3):
        model, blocks, name = words[first : first + 3]
        for row in gpu_case(model, blocks, name).values():
            case = f"{model}, {blocks} blocks, {name}: {row['label']}"
            cells.append([case, *(shown(row.get(column), 1) for column in columns)])
    return Table(["case", *(TITLES.get(column, column) for column in columns)], cells)


def plan(words: Sequence[str], columns: Sequence[str]) -> Table:
    """Return a row per stack of a plan."""
    cells = []
    for stack in plan_stacks(*words).values():
        values = [stack[c] if c in stack else stack["cost"][c] / MIB for c in columns]
        cells.append(
            [
                stack["name"],
                *(shown(value, 2 if c == "relative_flops" else 0) for c, value in zip(columns, values, strict=True)),
            ]
        )
    return Table(["stack", *(TITLES.get(column, column) for column in columns)], cells)


def planned(words: Sequence[str], columns: Sequence[str]) -> Table:
    """Return planned and measured peaks of Hugging Face models at a precision."""
    rows = [
        [
            f"{row['model']}, {row['way']}",
            *(f"{row[name] / MIB:,.2f}" for name in ("planned", "measured")),
            f"{row['planned'] - row['measured']:,}",
        ]
        for row in planned_rows(*words)
    ]
    return Table(["model, training", "planned, MiB", "measured, MiB", "difference, bytes"], rows)


def longest(words: Sequence[str], columns: Sequence[str]) -> Table:
    """Return the longest texts of a plan of a Hugging Face model."""
    found = hf_plan(*words)
    heads = [f"longest in {format_bytes(memory)}, tokens" for memory in found["memories"]]
    rows = [
        [
            way["name"],
            *(shown(way["sizes"][name] / MIB, 0) for name in ("peak", "held")),
            *(f"{tokens:,}" if tokens else "none" for tokens in way["longest"]),
        ]
        for way in found["ways"]
    ]
    return Table(["training", f"peak at {found['tokens']:,} tokens, MiB", "held, MiB", *heads], rows)


def devices(words: Sequence[str], columns: Sequence[str]) -> Table:
    """Return what one of several devices holds under FSDP2, for every way to train a Hugging Face model."""
    name, numbers = words
    plans = [hf_plan(f"{name}/devices_{number}") for number in numbers.split(",")]
    (memory,) = {size for plan in plans for size in plan["memories"]}
    tokens = f"{plans[0]['tokens']:,} tokens"
    heads = [
        "weights, gradients, state",
        "activations",
        "held",
        f"peak at {tokens}",
        f"longest in {format_bytes(memory)}, tokens",
    ]
    rows = [
        [
            str(plan["devices"]), way["name"], shown(sum(way["sizes"][key] for key in STATE) / GIB, 1),
            *(shown(way["sizes"][key] / GIB, 1) for key in ("activations", "held", "peak")), f"{way['longest'][0]:,}",
        ]
        for plan in plans
        for way in plan["ways"]
    ]  # fmt: skip
    return Table(["devices", "training", *heads], rows)


def gammas(words: Sequence[str], columns: Sequence[str]) -> Table:
    """Return a row per law, a column per cell of the study of gamma."""
    study = newest("finetune_gamma")
    cells = [cell["name"] for cell in study["settings"]["cells"] if cell["in_rule"]]
    laws = list(dict.fromkeys(row["law"] for row in study["runs"]))
    body = [[law, *(shown(gamma(word(cell), word(law), columns[0]), 3) for cell in cells)] for law in laws]
    return Table(["gamma", *cells], [row for row in body if columns[0] != "difference" or row[0] != "standard"])


def _pivot(head: str, values: Sequence[tuple[int, str, float]]) -> Table:
    names = list(dict.fromkeys(name for _, name, _ in values))
    by_place = {(place, name): value for place, name, value in values}
    places = sorted({place for place, _, _ in values})
    return Table(
        [head, *names], [[str(place), *(shown(by_place.get((place, name)), 1) for name in names)] for place in places]
    )


KINDS: dict[str, Callable[[Sequence[str], Sequence[str]], Table]] = {
    "runs": runs, "bench": bench, "pivot": pivot, "depth": depth, "gpu": gpu, "plan": plan, "gamma": gammas,
    "study": study, "planned": planned, "longest": longest, "devices": devices,
}  # fmt: skip
