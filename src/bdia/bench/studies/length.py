"""Memory of a whole step against depth and length, and the longest, deepest and largest that fit into a memory.

Small models are run and measured; the others are planned, and each row says which. All ways step weights in backward
(`optimizer.in_backward=true`), but for the one that is named for not doing so. K blocks, T tokens, B texts, D width.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bdia import InvalidValueError
from bdia.bench.cases import STUDIED
from bdia.bench.studies.largest import BATCH, DEEPEST, LONGEST, Size, Steps, limits, planned
from bdia.bench.studies.timm_depth import timm_rows
from bdia.bench.studies.whole_step import IN_BACKWARD, WAYS, memory, process_ms
from bdia.build import compose
from bdia.profiling.workload import build_workload


@dataclass
class Arguments:
    """What is measured and planned.

    Args:
        what: some of `cases.STUDIED`. "depth" is the curve over K and the most blocks that fit; "length" is the curve
            over T, the longest text and the largest batch; "timm" is timm's own checkpointing on its ViT.
        width, heads, vocabulary: of the model of the curves, `gpt2_demo` otherwise. depths: values of K, at `tokens`.
        lengths: values of T, at `length_depth` blocks. batch: B. measured_gflop: steps of more are planned.
        fit_model: a file of configs/model, of the limits. fit_vocabulary: its tokens, 0 for GPT-2's. fit_depth: its K
            where length or batch is sought. fit_tokens, fit_batch: T and B where these are not sought.
        gib: memories. device: planned for, "cuda" or "cpu". ways: keys of `whole_step.WAYS`.
        timm_depths, timm_batch: K and images of timm's ViT.
    """

    what: list[str] = field(default_factory=lambda: list(STUDIED))
    width: int = 256
    heads: int = 8
    vocabulary: int = 2000
    depths: list[int] = field(default_factory=lambda: [6, 12, 24, 48, 96, 192])
    tokens: int = 512
    lengths: list[int] = field(default_factory=lambda: [512, 1024, 2048, 4096, 8192, 16384])
    length_depth: int = 24
    batch: int = 1
    measured_gflop: float = 400.0
    fit_model: str = "gpt2_paper"
    fit_vocabulary: int = 0
    fit_depth: int = 48
    fit_tokens: int = 1024
    fit_batch: int = 8
    gib: list[float] = field(default_factory=lambda: [4.0, 16.0, 24.0, 80.0])
    device: str = "cuda"
    ways: list[str] = field(default_factory=lambda: [name for name in WAYS if IN_BACKWARD in WAYS[name].overrides])
    timm_depths: list[int] = field(default_factory=lambda: [6, 24, 48])
    timm_batch: int = 32


def measure(arguments: Arguments) -> Iterator[list[dict[str, Any]]]:
    """Yield the rows of each curve and of each question, a way each.

    Raises:
        ValueError: `what` or `ways` is empty or names something unknown.
    """
    for key, known in (("what", STUDIED), ("ways", tuple(WAYS))):
        asked = getattr(arguments, key)
        if not asked or (unknown := [name for name in asked if name not in known]):
            raise InvalidValueError(
                f"{key}={unknown if asked else asked}: wanted some of {', '.join(known)}; set {key}"
            )
    for depth in arguments.depths if "depth" in arguments.what else ():
        yield _curve(arguments, "depth", Size(depth, arguments.tokens, arguments.batch))
    for tokens in arguments.lengths if "length" in arguments.what else ():
        yield _curve(arguments, "length", Size(arguments.length_depth, tokens, arguments.batch))
    for depth in arguments.timm_depths if "timm" in arguments.what else ():
        yield timm_rows(depth, arguments.timm_batch)
    questions = [DEEPEST] if "depth" in arguments.what else []
    questions += [LONGEST, BATCH] if "length" in arguments.what else []
    for name in arguments.ways:
        if arguments.gib and questions and not WAYS[name].on_host:  # what the host takes is measured, not planned
            yield limits(arguments, name, questions)


def _curve(arguments: Arguments, curve: str, size: Size) -> list[dict[str, Any]]:
    sizes = {"width": arguments.width, "heads": arguments.heads, "positions": size.tokens}
    model = ["model=gpt2_demo", *(f"model.net.{key}={value}" for key, value in sizes.items())]
    plan = Steps(model, arguments.vocabulary, "cpu").cost
    runs = plan(WAYS["standard"], size).flops <= 1e9 * arguments.measured_gflop
    rows = []
    for name in arguments.ways:
        way, row = WAYS[name], {"question": curve, "way": name, "label": WAYS[name].label, **vars(size)}
        if runs:
            cfg = compose([*model, f"model.net.depth={size.depth}", "optimizer=adamw", "data=pydoc", *way.overrides])
            work = build_workload(cfg, size.batch, size.tokens, vocab_size=arguments.vocabulary)
            found = memory(work, way)
            rows.append(row | {"origin": "measured"} | found | ({} if way.on_host else _speed(work.step, size)))
        elif not way.on_host:
            rows.append(row | {"origin": "planned"} | planned(plan(way, size)))
    return rows


def _speed(step: Callable[[], object], size: Size) -> dict[str, float]:
    """Return the process time of one step, and tokens per second of it."""
    ms = process_ms(step)
    return {"ms": round(ms, 1), "tokens_per_s": round(1000 * size.tokens * size.batch / ms, 1)}


def told(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return one line on the rows of a curve's point, or of a way's limits."""
    if "gib" in rows[0]:
        parts = [f"{row['question']} in {row['gib']:g} GiB: {row['largest']:,}" for row in rows]
        return f"{rows[0]['label']}: " + "; ".join(parts)
    parts = [f"{row['label']} {row['activations'] / 2**20:.1f} MiB of activations ({row['origin']})" for row in rows]
    return f"{rows[0]['depth']} blocks, {rows[0]['tokens']} tokens: " + "; ".join(parts)
