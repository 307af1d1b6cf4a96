"""Compiled layers under every stack, and what the compiler keeps and recomputes by itself (activation_memory_budget).

`torch._functorch.config.activation_memory_budget` says what share of a compiled graph's activations is kept for
backward: 1 keeps what is quickest, 0 keeps the graph's inputs only. A graph is one layer, or the whole stack.
Weights are stepped in backward. K blocks, T tokens, B texts, D width.
"""

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch._dynamo.config
import torch._functorch.config
import torch._inductor.compile_fx

from bdia import InvalidValueError, UnsupportedError
from bdia.bench.studies.whole_step import BDIA, IN_BACKWARD, build, times
from bdia.bench.timing import median_ratio
from bdia.profiling.allocator_peak import allocator_peak
from bdia.profiling.sizes import MIB
from bdia.profiling.storage_meter import optimizer_state
from bdia.profiling.workload import Workload
from bdia.results.record import describe
from bdia.reversible import BlockStack, RevVitStack

STACKS = {
    "standard": ("stack=standard",),
    "checkpointing": ("stack=checkpoint", "stack.keep=0"),
    "two-level checkpointing": ("stack=checkpoint_two_level",),
    "RevViT": ("stack=revvit", "stack.merge=mean"),
    "BDIA": BDIA,
}
BASE = ("checkpointing", "", 1.0)  # what times are ratios to
RECOMPILES = 1000  # a layer is compiled once for each way; beyond torch's limit of 8 it would run uncompiled


@dataclass
class Arguments:
    """What is measured.

    Args:
        model, width (D), heads, vocabulary, batch (B), tokens (T), optimizer: as of `whole_step`. depths: values of K.
        rounds: times of each way. layer_budgets, whole_budgets: of compiled layers of the standard stack, and of this
            stack compiled as one graph. whole_up_to: the largest K of such a graph, which takes minutes to compile.
    """

    model: str = "gpt2_demo"
    width: int = 128
    heads: int = 4
    vocabulary: int = 500
    depths: list[int] = field(default_factory=lambda: [6, 24])
    batch: int = 2
    tokens: int = 512
    optimizer: str = "adamw"
    layer_budgets: list[float] = field(default_factory=lambda: [0.5, 0.0])
    whole_budgets: list[float] = field(default_factory=lambda: [1.0, 0.5, 0.1])
    whole_up_to: int = 6
    rounds: int = 5


@dataclass(frozen=True)
class Way:
    """One way to take the step.

    Args:
        stack: a key of STACKS. graph: what is compiled: "", "layers" or "whole". budget: of a graph's activations.
    """

    stack: str
    graph: str = ""
    budget: float = 1.0

    @property
    def label(self) -> str:
        """Its name in tables."""
        parts = {"": "", "layers": ", compiled layers", "whole": ", compiled as a whole"}
        return f"{self.stack}{parts[self.graph]}" + (f", budget {self.budget:g}" if self.budget != 1 else "")


class Compiler:
    """torch.compile's usual backend, under a budget of its own.

    The budget is read when a graph is compiled. Each compiler is a backend of its own for torch.compile, so that no way
    gets code that was made under another one's budget.

    Attributes:
        graphs: number of graphs compiled.
    """

    def __init__(self, budget: float) -> None:
        self.budget, self.graphs = budget, 0

    def __call__(self, graph: torch.fx.GraphModule, inputs: Sequence[torch.Tensor]) -> Callable[..., Any]:
        """Compile one graph."""
        self.graphs += 1
        with torch._functorch.config.patch(activation_memory_budget=self.budget):
            return torch._inductor.compile_fx.compile_fx(graph, inputs)  # type: ignore[return-value, arg-type]


def compile_stacks(task: torch.nn.Module, way: Way) -> Compiler:
    """Compile the layers of the task's stacks, or each stack as a whole; the first step does the work.

    RevViT calls the parts of a block and not the block: those of its parts that hold weights are compiled.
    """
    compiler = Compiler(way.budget)
    for stack in [module for module in task.modules() if isinstance(module, BlockStack)]:
        parts: Sequence[torch.nn.Module] = [stack] if way.graph == "whole" else stack.blocks
        if isinstance(stack, RevVitStack):
            parts = [part for block in parts for part in block.children() if any(True for _ in part.parameters())]
        for part in parts:
            part.compile(backend=compiler)
    return compiler


def ways(arguments: Arguments) -> list[Way]:
    """Return what is compared: all stacks without and with compiled layers, then the compiler's own recomputation."""
    found = [Way(stack, graph) for graph in ("", "layers") for stack in STACKS]
    found += [Way("standard", "layers", budget) for budget in arguments.layer_budgets]
    return found + [Way("standard", "whole", budget) for budget in arguments.whole_budgets]


def measure(arguments: Arguments) -> Iterator[list[dict[str, Any]]]:
    """Yield the rows of each depth, a way each; `added` is what the step adds to weights and optimizer state.

    A way that does not work has `refused` in place of numbers: a sentence that says why.

    Raises:
        InvalidValueError: a budget is no share; what building a model raises.
    """
    for key in ("layer_budgets", "whole_budgets"):
        if wrong := [budget for budget in getattr(arguments, key) if not 0 <= budget <= 1]:
            raise InvalidValueError(f"{key}={wrong}: wanted shares from 0 to 1; set {key}")
    for depth in arguments.depths:
        with torch._dynamo.config.patch(recompile_limit=RECOMPILES):
            yield _rows(arguments, depth)


def _rows(arguments: Arguments, depth: int) -> list[dict[str, Any]]:
    rows, steps = {}, {}
    for way in ways(arguments):
        row = {"depth": depth, "label": way.label, "stack": way.stack, "graph": way.graph, "budget": way.budget}
        work = build(arguments, (*STACKS[way.stack], IN_BACKWARD), depth)
        try:
            rows[way] = row | _measured(work, way, depth, arguments)
            steps[way] = work.step
        except Exception as error:  # whatever compilers raise; a way that does not work is a row that says so
            rows[way] = row | {"refused": describe(error)}
    for way, ms in times(steps, arguments.rounds).items():
        rows[way]["rounds_ms"] = [round(time, 1) for time in ms]
    return _with_ratios(list(rows.values()))


def _measured(work: Workload, way: Way, depth: int, arguments: Arguments) -> dict[str, Any]:
    """Return bytes at the peak of the third step, and the seconds that the first one took, compilation included."""
    if way.graph == "whole" and depth > arguments.whole_up_to:
        raise UnsupportedError(f"{depth} blocks as one graph: compiled up to whole_up_to={arguments.whole_up_to} only")
    compiler = compile_stacks(work.task, way) if way.graph else None
    began = time.perf_counter()
    work.step()
    first = time.perf_counter() - began
    if compiler is not None and not compiler.graphs:
        raise UnsupportedError(f"{way.label}: torch.compile made no code for it")
    work.step()  # autograd and the compiler allocate some things once
    added = allocator_peak(work.step)
    known = [*work.task.parameters(), *work.task.buffers(), *optimizer_state(work.optimizer), *work.batch]
    return {
        "added": added, "peak": added + sum(tensor.nbytes for tensor in known), "first_step_s": round(first, 1),
        "graphs": compiler.graphs if compiler else 0,
    }  # fmt: skip


def _with_ratios(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Add the median of the rounds' ratios of time to checkpointing's, which is not compiled."""
    base = next(row for row in rows if (row["stack"], row["graph"], row["budget"]) == BASE)
    for row in rows:
        if "rounds_ms" in row and "rounds_ms" in base:
            row["ms"] = round(statistics.median(row["rounds_ms"]), 1)
            row["time_ratio"] = round(median_ratio(row["rounds_ms"], base["rounds_ms"]), 3)
    return rows


def told(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return one line on the rows of a depth."""
    parts = [
        f"{row['label']}: " + (row.get("refused") or f"{row['added'] / MIB:.1f} MiB, time {row.get('time_ratio')}")
        for row in rows
    ]
    return f"{rows[0]['depth']} blocks: " + "; ".join(parts)
