"""Memory and CPU time of a Llama-like decoder over its depth, LoRA and full training: arguments, run, table."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path

import torch

from bdia import InvalidValueError
from bdia.bench.decoder import LORA, MLP_RATIO, TRAININGS, VOCABULARY, WAYS, DecoderCell, decoder_cell
from bdia.bench.limits import memory_ceiling
from bdia.bench.record import Bench, VariantRow, read_bench
from bdia.bench.report import bits_stored_per_block, partner, provenance, ratio, reason
from bdia.bench.run import begin, measure_cells
from bdia.data.files import write_whole
from bdia.profiling.sizes import MIB
from bdia.results.statistics import NONE
from bdia.results.tables import Table, markdown, plain

TABLE = "lora_depth.md"
TIMES_LESS = {("lora", 48): 2.0}  # wanted of BDIA's peak against transformers' checkpointing
LIBRARIES = ("transformers", "peft")


@dataclass
class Arguments:
    """What to measure; `bdia bench-lora --help` says what each means."""

    trainings: list[str] = field(default_factory=lambda: list(TRAININGS))
    depths: list[int] = field(default_factory=lambda: [12, 24, 48, 96])
    width: int = 128
    tokens: int = 512
    batch: int = 2
    variants: list[str] = field(default_factory=lambda: list(WAYS))
    repeats: list[int] = field(default_factory=lambda: [5, 5, 3, 1])
    threads: int = 1
    out: str = "results/bench"
    tables: str = "results/tables"
    show: str | None = None


def check(arguments: Arguments) -> None:
    """Raise ValueError for the first value that cannot be measured, with the key to change."""
    for key, known in (("trainings", TRAININGS), ("variants", WAYS)):
        values = getattr(arguments, key)
        if not values or not set(values) <= set(known):
            raise InvalidValueError(f"{key}={values}: wanted some of {', '.join(known)}; set {key}")
    for key, least in (("depths", 1), ("width", 1), ("tokens", 1), ("batch", 1), ("threads", 1), ("repeats", 0)):
        value = getattr(arguments, key)
        if min(value if isinstance(value, list) else [value], default=least - 1) < least:
            raise InvalidValueError(f"{key}={value}: wanted at least {least}; set {key}")
    if len(arguments.repeats) != len(arguments.depths):
        raise InvalidValueError(f"repeats={arguments.repeats}: wanted one number for each of depths={arguments.depths}")


def cells(arguments: Arguments) -> list[tuple[DecoderCell, int]]:
    """Return the groups to interleave, in the order of the depths, and the number of rounds of each."""
    sizes = arguments.tokens, arguments.batch, {name: WAYS[name] for name in arguments.variants}
    return [
        (decoder_cell(part, arguments.width, depth, *sizes), rounds)
        for depth, rounds in zip(arguments.depths, arguments.repeats, strict=True)
        for part in arguments.trainings
    ]


def run(arguments: Arguments) -> None:
    """Measure, and write after every cell; or show an earlier run."""
    if arguments.show:
        return show(read_bench(Path(arguments.show)), Path(arguments.tables))
    check(arguments)
    torch.set_num_threads(arguments.threads)
    clock, out, cpu = time.perf_counter(), Path(arguments.out), torch.device("cpu")
    bench = begin(arguments, cpu)
    bench = replace(bench, device=bench.device | {name: version(name) for name in LIBRARIES})
    with memory_ceiling(cpu):
        bench = measure_cells(bench, *zip(*cells(arguments), strict=True), out)
    bench = replace(bench, status="ok", wall_s=round(time.perf_counter() - clock, 1))
    print(bench.write(out))
    show(bench, Path(arguments.tables))


def show(bench: Bench, folder: Path) -> None:
    """Write the table, and print it."""
    write_whole(folder / TABLE, document(bench))
    print("\n\n".join(_sections(bench, plain, lambda title: title)))


def document(bench: Bench) -> str:
    """Return the run as Markdown."""
    asked = bench.arguments
    lines = [
        *provenance(bench),
        ", ".join(f"{name} {bench.device[name]}" for name in LIBRARIES if name in bench.device),
        f"model: Llama, width {asked['width']}, MLP {MLP_RATIO * asked['width']}, vocabulary {VOCABULARY}; "
        f"batch {asked['batch']} x {asked['tokens']} tokens, float32, random weights",
        f"LoRA: rank {LORA['r']} on {' and '.join(LORA['target_modules'])} of every layer; all else is frozen",
        "MiB: storages of tensors that are alive in a forward and backward; weights and batch are not counted",
        "peak: the largest sum; of it gradients: those of trained weights at that moment; held: between forward and "
        "backward, the loss's own tensors included",
        "streams: the peak in units of one float32 residual stream",
        "CPU ms: process time of a forward and backward, the variants in turn, median of n rounds; a ratio is that of "
        "the medians, in brackets the median of the rounds' own ratios",
        "nested: the layer's self_attn and mlp are recomputed once more, one at a time",
    ]
    parts = ["# LoRA and full training over depth"]
    parts.append(f"Generated from `{bench.bench_id}.json` by `bdia bench-lora show=...`: do not edit.")
    parts.append("\n".join(f"- {line}" for line in lines))
    return "\n\n".join([*parts, *_sections(bench, markdown, lambda title: f"## {title}")]) + "\n"


def _sections(bench: Bench, form: Callable[[Table], str], title: Callable[[str], str]) -> list[str]:
    parts = []
    for part, name in TRAININGS.items():
        if rows := [row for row in bench.rows if row.part == part]:
            verdicts = "\n".join(f"- {line}" for line in [*savings(rows), *growths(rows)])
            parts += [title(name[0].upper() + name[1:]), form(depth_table(rows)), *([verdicts] if verdicts else [])]
    return parts


def depth_table(rows: Sequence[VariantRow]) -> Table:
    """Return memory and time of every depth and variant."""
    heads = ["layers, variant", "peak, MiB", "streams", "of it gradients, MiB", "x less than checkpointing"]
    heads += ["held, MiB", "bits held per activation and further layer"]
    heads += ["n", "CPU ms", "x standard", "x checkpointing"]
    return Table(heads, [[f"{row.depth}, {row.label}", *_memory(row, rows), *_time(row, rows)] for row in rows])


def _memory(row: VariantRow, rows: Sequence[VariantRow]) -> list[str]:
    if not row.memory:
        return [reason(row), *[NONE] * 5]
    less, bits = times_less(row, rows), bits_stored_per_block(row, rows)
    peak, gradients, held = (row.memory[name] / MIB for name in ("peak", "gradients", "held"))
    streams = row.memory["peak"] / (4 * row.memory["stream"])
    optional = [NONE if value is None else f"{value:.2f}" for value in (less, bits)]
    return [f"{peak:.2f}", f"{streams:.1f}", f"{gradients:.2f}", optional[0], f"{held:.2f}", optional[1]]


def _time(row: VariantRow, rows: Sequence[VariantRow]) -> list[str]:
    if row.times is None:
        return ["0", *[NONE] * 3]
    ratios = [ratio(row, partner(row, rows, name)) for name in ("standard", "checkpoint")]
    return [str(row.times.n), f"{row.times.median:,.0f}", *ratios]


def times_less(row: VariantRow, rows: Sequence[VariantRow]) -> float | None:
    """Return how many times less the peak is than that of transformers' checkpointing at the same depth."""
    other = partner(row, rows, "checkpoint")
    return other.memory["peak"] / row.memory["peak"] if other is not None and other.memory and row.memory else None


def savings(rows: Sequence[VariantRow]) -> list[str]:
    """Say where a factor was wanted whether it is reached, for every variant of BDIA."""
    lines = []
    for row in rows:
        wanted, less = TIMES_LESS.get((row.part, row.depth)), times_less(row, rows)
        if row.overrides and wanted is not None and less is not None:
            verdict = "reached" if less >= wanted else "NOT reached"
            lines.append(
                f"{row.depth} layers, {row.label}: {less:.2f} times less than transformers' checkpointing; wanted at "
                f"least {wanted:g}: {verdict}"
            )
    return lines


def growths(rows: Sequence[VariantRow]) -> list[str]:
    """Say by how much peak and held bytes grow from the shallowest model to the deepest."""
    lines = []
    for variant in dict.fromkeys(row.variant for row in rows):
        whole = sorted((row for row in rows if row.variant == variant and row.memory), key=lambda row: row.depth)
        if len({row.depth for row in whole}) > 1:
            first, last = whole[0], whole[-1]
            grown = {name: (last.memory[name] - first.memory[name]) / MIB for name in ("peak", "gradients", "held")}
            lines.append(
                f"from {first.depth} to {last.depth} layers, {first.label}: peak +{grown['peak']:.2f} MiB, of it "
                f"gradients +{grown['gradients']:.2f}; held +{grown['held']:.2f} MiB"
            )
    return lines
