"""Peak memory and time of a whole training step: weights, gradients, optimizer state and activations together.

Behind the activations stand the gradients, all alive at the end of backward. `optimizer.in_backward=true` steps each
weight when its gradient is complete and drops the gradient, and only then does the memory that a stack saves show.
B texts, T tokens, K blocks, D width.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from bdia import InvalidValueError
from bdia.bench.cell import share_weights
from bdia.bench.memory import step_memory
from bdia.bench.studies.host import inputs_on_host
from bdia.bench.timing import Name, interleave, median_ratio
from bdia.build import compose
from bdia.profiling.sizes import MIB
from bdia.profiling.workload import Workload, build_workload

IN_BACKWARD = "optimizer.in_backward=true"
BASE = "checkpoint"  # what the ratios are to


@dataclass(frozen=True)
class Way:
    """One way to take the step.

    Args:
        label: its name in tables. overrides: of configs/train.yaml.
        on_host: move what a stack keeps between forward and backward to the host. On a CPU its bytes are counted and
            its time says nothing.
    """

    label: str
    overrides: tuple[str, ...]
    on_host: bool = False


BDIA = ("stack=bdia", "stack.keep=0")
NESTED = (*BDIA, "stack.nested=[attn,mlp]")
TILED = (*BDIA, "stack.tile={norm2+mlp:8,norm1+attn:4}")
WAYS = {
    "standard": Way("standard", ("stack=standard",)),
    BASE: Way("checkpointing", ("stack=checkpoint",)),
    "two_level": Way("two-level checkpointing", ("stack=checkpoint_two_level",)),
    "bdia": Way("BDIA", BDIA),
    "standard_in_backward": Way("standard, stepped in backward", ("stack=standard", IN_BACKWARD)),
    "checkpoint_in_backward": Way("checkpointing, stepped in backward", ("stack=checkpoint", IN_BACKWARD)),
    "host_in_backward": Way(
        "checkpointing, its inputs on the host, stepped in backward", ("stack=checkpoint", IN_BACKWARD), on_host=True
    ),
    "two_level_in_backward": Way(
        "two-level checkpointing, stepped in backward", ("stack=checkpoint_two_level", IN_BACKWARD)
    ),
    "bdia_in_backward": Way("BDIA, stepped in backward", (*BDIA, IN_BACKWARD)),
    "bdia_nested_in_backward": Way("BDIA nested, stepped in backward", (*NESTED, IN_BACKWARD)),
    "bdia_tiled_in_backward": Way("BDIA in tiles, stepped in backward", (*TILED, IN_BACKWARD)),
}


@dataclass
class Arguments:
    """What is measured.

    Args:
        model: a file of configs/model, a language model; width (D), heads, vocabulary: its size. depths: values of K.
        batch: B. tokens: T. optimizer: a file of configs/optimizer. ways: keys of WAYS. rounds: times of each way.
    """

    model: str = "gpt2_demo"
    width: int = 256
    heads: int = 8
    vocabulary: int = 2000
    depths: list[int] = field(default_factory=lambda: [6, 24, 48])
    batch: int = 2
    tokens: int = 512
    optimizer: str = "adamw"
    ways: list[str] = field(default_factory=lambda: list(WAYS))
    rounds: int = 5


def measure(arguments: Arguments) -> Iterator[list[dict[str, Any]]]:
    """Yield the rows of each depth, a way each: bytes at the peak, ms of process time, and ratios to checkpointing."""
    if unknown := [name for name in arguments.ways if name not in WAYS]:
        raise InvalidValueError(f"ways={unknown}: wanted some of {', '.join(WAYS)}; set ways")
    for depth in arguments.depths:
        yield _with_ratios(_rows(arguments, depth))


def _rows(arguments: Arguments, depth: int) -> list[dict[str, Any]]:
    rows, steps = [], {}
    first: Workload | None = None
    for name in arguments.ways:
        work = build(arguments, WAYS[name].overrides, depth)
        if first is None:
            first = work
        elif IN_BACKWARD not in WAYS[name].overrides:  # a weight stepped by two optimizers' hooks would be two steps
            share_weights(first, work)
        rows.append({"depth": depth, "way": name, "label": WAYS[name].label, **memory(work, WAYS[name])})
        if not WAYS[name].on_host:
            steps[name] = work.step
    for name, ms in times(steps, arguments.rounds).items():
        next(row for row in rows if row["way"] == name)["rounds_ms"] = [round(time, 1) for time in ms]
    return rows


def build(arguments: Any, overrides: Sequence[str], depth: int) -> Workload:
    """Build one way's model, optimizer and made-up batch; `arguments` has the sizes of `Arguments`."""
    sizes = {"width": arguments.width, "heads": arguments.heads, "depth": depth, "positions": arguments.tokens}
    choices = [f"model={arguments.model}", f"optimizer={arguments.optimizer}", "data=pydoc", *overrides]
    cfg = compose([*choices, *(f"model.net.{key}={value}" for key, value in sizes.items())])
    return build_workload(cfg, arguments.batch, arguments.tokens, vocab_size=arguments.vocabulary)


def memory(work: Workload, way: Way) -> dict[str, int]:
    """Measure the second step, in which the optimizer's state exists."""
    with inputs_on_host(work.task, way.on_host) as host:
        work.step()
        found = step_memory(work)
    names = ("peak", "parameters", "gradients", "optimizer", "activations", "held", "side_information")
    return {name: found[name] for name in names} | ({"on_host": host.bytes} if way.on_host else {})


def process_ms(step: Callable[[], object]) -> float:
    """Return the process time of a step that was warmed up, in milliseconds."""
    return times({"step": step}, 1)["step"][0]


def times(steps: Mapping[Name, Callable[[], object]], rounds: int) -> dict[Name, list[float]]:
    """Return process times in milliseconds, the steps in turn; nothing where there are no rounds."""
    return interleave(steps, rounds, torch.device("cpu"), clock=time.process_time) if rounds else {}


def _with_ratios(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Add the peak's ratio to checkpointing's, and the median of the rounds' ratios of time."""
    base = next((row for row in rows if row["way"] == BASE), None)
    for row in rows:
        if base is not None:
            row["peak_ratio"] = round(row["peak"] / base["peak"], 4)
        if base is not None and "rounds_ms" in row and "rounds_ms" in base:
            row["time_ratio"] = round(median_ratio(row["rounds_ms"], base["rounds_ms"]), 3)
    return rows


def told(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return one line on the rows of a depth."""
    parts = [
        f"{row['label']} {row['peak'] / MIB:.0f} MiB ({row.get('peak_ratio', 1):.3f}; time {row.get('time_ratio')})"
        for row in rows
    ]
    return f"{rows[0]['depth']} blocks: " + "; ".join(parts)
