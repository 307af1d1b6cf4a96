"""Memory of a whole step against depth and length, and the longest, deepest and largest that fit into a memory.

Small models are run and measured; the others are planned, and each row says which. All ways step weights in backward
(`optimizer.in_backward=true`), but for the one that is named for not doing so. K blocks, T tokens, B texts, D width.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bdia import InvalidValueError
from bdia.bench.studies.whole_step import IN_BACKWARD, WAYS, Way, memory, process_ms
from bdia.build import compose
from bdia.profiling.config_steps import ConfigSteps
from bdia.profiling.moments import StepCost
from bdia.profiling.search import largest_that_fits
from bdia.profiling.sizes import GIB
from bdia.profiling.workload import build_workload

TEXT = 256  # tokens: the longest text is a multiple of it
LONGEST = "longest text"
QUESTIONS = (LONGEST, "most blocks", "largest batch")
SIZES = ("peak", "parameters", "gradients", "optimizer", "activations", "held")


@dataclass(frozen=True)
class Size:
    """A model and its batch: K, T and B."""

    depth: int
    tokens: int
    batch: int


@dataclass
class Arguments:
    """What is measured and planned.

    Args:
        width, heads, vocabulary: of the model of the curves, `gpt2_demo` otherwise. depths: values of K, at `tokens`.
        lengths: values of T, at `length_depth` blocks. batch: B. measured_gflop: steps of more are planned.
        fit_model: a file of configs/model, of the limits. fit_vocabulary: its tokens, 0 for GPT-2's. fit_depth: its K
            where length or batch is sought. fit_tokens, fit_batch: T and B where these are not sought.
        gib: memories. device: planned for, "cuda" or "cpu". ways: keys of `whole_step.WAYS`.
    """

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


def measure(arguments: Arguments) -> Iterator[list[dict[str, Any]]]:
    """Yield the rows of each curve and of each question, a way each."""
    if unknown := [name for name in arguments.ways if name not in WAYS]:
        raise InvalidValueError(f"ways={unknown}: wanted some of {', '.join(WAYS)}; set ways")
    for depth in arguments.depths:
        yield _curve(arguments, "depth", Size(depth, arguments.tokens, arguments.batch))
    for tokens in arguments.lengths:
        yield _curve(arguments, "length", Size(arguments.length_depth, tokens, arguments.batch))
    for name in arguments.ways:
        if arguments.gib and not WAYS[name].on_host:  # what the host takes is measured, not planned
            yield _limits(arguments, name)


def _curve(arguments: Arguments, curve: str, size: Size) -> list[dict[str, Any]]:
    sizes = {"width": arguments.width, "heads": arguments.heads, "positions": size.tokens}
    model = ["model=gpt2_demo", *(f"model.net.{key}={value}" for key, value in sizes.items())]
    plan = _planner(model, arguments.vocabulary, "cpu")
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
            rows.append(row | {"origin": "planned"} | _planned(plan(way, size)))
    return rows


def _speed(step: Callable[[], object], size: Size) -> dict[str, float]:
    """Return the process time of one step, and tokens per second of it."""
    ms = process_ms(step)
    return {"ms": round(ms, 1), "tokens_per_s": round(1000 * size.tokens * size.batch / ms, 1)}


def _planned(cost: StepCost) -> dict[str, int]:
    return {name: getattr(cost, name) for name in SIZES}


def _planner(model: Sequence[str], vocabulary: int | None, device: str) -> Callable[[Way, Size], StepCost]:
    """Return what plans a step of a language model; positions follow the tokens."""
    steps: dict[tuple[str, int], ConfigSteps] = {}

    def plan(way: Way, size: Size) -> StepCost:
        stack = tuple(word for word in way.overrides if word != IN_BACKWARD)
        flag = f"optimizer.in_backward={str(IN_BACKWARD in way.overrides).lower()}"
        if (flag, size.tokens) not in steps:
            own = [*model, "data=pydoc", "optimizer=adamw", flag, f"model.net.positions={size.tokens}"]
            steps[flag, size.tokens] = ConfigSteps(own, size.tokens, 0, vocabulary, device)
        return steps[flag, size.tokens].cost(stack, size.batch, (size.depth,))

    return plan


def _limits(arguments: Arguments, name: str) -> list[dict[str, Any]]:
    """Return, for each memory, the longest text, the most blocks and the largest batch."""
    way, plan = (
        WAYS[name],
        _planner([f"model={arguments.fit_model}"], arguments.fit_vocabulary or None, arguments.device),
    )
    starts = {LONGEST: max(1, arguments.fit_tokens // TEXT), "most blocks": arguments.fit_depth}
    rows = []
    for question in QUESTIONS:
        start, unit = starts.get(question, arguments.fit_batch), unit_of(question)
        for gib in sorted(arguments.gib):

            def cost(n: int, question: str = question, unit: int = unit) -> StepCost:
                return plan(way, size_of(question, n * unit, arguments))

            found = largest_that_fits(lambda n, cost=cost: cost(n).peak, gib * GIB, [start])
            row = {"question": question, "way": name, "label": way.label, "origin": "planned", "gib": gib}
            rows.append(row | {"largest": found * unit} | (_planned(cost(found)) if found else {}))
            start = max(found, 1)
    return rows


def unit_of(question: str) -> int:
    """Return what the answer to a question is a multiple of."""
    return TEXT if question == LONGEST else 1


def size_of(question: str, largest: int, arguments: Any) -> Size:
    """Return the step that answers a question of `QUESTIONS`; `arguments` has the `fit_` sizes of `Arguments`."""
    depth, tokens, batch = arguments.fit_depth, arguments.fit_tokens, arguments.fit_batch
    sizes = {"largest batch": Size(depth, tokens, largest), "most blocks": Size(largest, tokens, batch)}
    return sizes.get(question) or Size(depth, largest, 1)


def told(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return one line on the rows of a curve's point, or of a way's limits."""
    if "gib" in rows[0]:
        parts = [f"{row['question']} in {row['gib']:g} GiB: {row['largest']:,}" for row in rows]
        return f"{rows[0]['label']}: " + "; ".join(parts)
    parts = [f"{row['label']} {row['activations'] / 2**20:.1f} MiB of activations ({row['origin']})" for row in rows]
    return f"{rows[0]['depth']} blocks, {rows[0]['tokens']} tokens: " + "; ".join(parts)
