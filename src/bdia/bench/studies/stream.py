"""The residual stream as float32 values and as int32 numbers of units: price of a step, and precision with outliers.

The step is a language model's with BDIA. The precision is that of a forward without gamma, in `eval()`: what the grid
alone does to a model of small embeddings with one large value in each text, as pretrained language models have them.
B texts, T tokens, K blocks, D width.
"""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from bdia.bench.cell import share_weights
from bdia.bench.memory import step_memory
from bdia.bench.studies.whole_step import build, times
from bdia.bench.timing import median_ratio
from bdia.reversible import BdiaStack, GridOverflowError, TwoPoint
from bdia.reversible.arithmetic.streams import STREAMS

SMALL = 1e-2  # of embeddings, and of what a block adds


@dataclass
class Arguments:
    """What is measured.

    Args:
        model: a file of configs/model, a language model; width (D), heads, vocabulary, depth (K): its size.
        batch: B. tokens: T. optimizer: a file of configs/optimizer. rounds: times of each form; 0: no step is taken.
        bits: of the grids. outliers: the large values. seeds: of the model with outliers.
    """

    model: str = "gpt2_demo"
    width: int = 256
    heads: int = 8
    vocabulary: int = 2000
    depth: int = 12
    batch: int = 8
    tokens: int = 256
    optimizer: str = "adamw"
    rounds: int = 7
    bits: list[int] = field(default_factory=lambda: [8, 9, 10, 11, 12, 13, 14, 15, 16])
    outliers: list[float] = field(default_factory=lambda: [0.0, 1e3, 1e4, 6e4])
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])


def measure(arguments: Arguments) -> Iterator[list[dict[str, Any]]]:
    """Yield the rows of the step, a form each, then those of each outlier: forms and grids."""
    if arguments.rounds:
        yield _steps(arguments)
    for outlier in arguments.outliers:
        yield [_precision(arguments, name, bits, float(outlier)) for name in STREAMS for bits in arguments.bits]


def _steps(arguments: Arguments) -> list[dict[str, Any]]:
    """Measure peaks, in bytes and in streams of B * T * D float32, and process times in turn."""
    works = {
        name: build(arguments, ("stack=bdia", "stack.keep=0", f"stack.stream={name}"), arguments.depth)
        for name in STREAMS
    }
    first = works["float32"]
    share_weights(first, works["int32"])
    stream, rows = 4 * arguments.batch * arguments.tokens * arguments.width, []
    for name, work in works.items():
        work.step()
        found = step_memory(work)
        parts = {key: found[key] for key in ("peak", "activations", "held", "side_information")}
        streams = {f"{key}_streams": round(found[key] / stream, 2) for key in ("activations", "held")}
        rows.append({"part": "step", "stream": name, **parts, **streams})
    ms = times({name: work.step for name, work in works.items()}, arguments.rounds)
    for row in rows:
        own = ms[row["stream"]]
        row |= {"rounds_ms": [round(time, 1) for time in own], "time_ratio": round(median_ratio(own, ms["float32"]), 3)}
    return rows


class SmallBranch(nn.Module):
    """A residual block that adds values of SMALL to each token."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.mlp = nn.LayerNorm(width, eps=1e-8), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        y: Tensor = x + SMALL * torch.tanh(self.mlp(self.norm(x)))
        return y


def _precision(arguments: Arguments, name: str, bits: int, outlier: float) -> dict[str, Any]:
    """Return the relative error of the ordinary values after K blocks, its mean over seeds; None where it overflows."""
    row = {"part": "precision", "stream": name, "bits": bits, "outlier": outlier}
    try:
        errors = [_error(arguments, name, bits, outlier, seed) for seed in arguments.seeds]
    except GridOverflowError:
        return row | {"error": None}
    return row | {"error": float(f"{statistics.mean(errors):.3e}")}


@torch.no_grad()
def _error(arguments: Arguments, name: str, bits: int, outlier: float, seed: int) -> float:
    torch.manual_seed(seed)
    blocks = [SmallBranch(arguments.width) for _ in range(arguments.depth)]
    x = SMALL * torch.randn(arguments.batch, arguments.tokens, arguments.width)
    x[:, 0, 0] += outlier
    form = partial(BdiaStack, blocks, TwoPoint("1/2"))
    wanted = form(quantize_eval=False).eval()(x)
    found = form(bits=bits, stream=name).eval()(x)
    ordinary = torch.ones_like(x, dtype=torch.bool)
    ordinary[:, 0, 0] = outlier == 0
    return ((found - wanted)[ordinary].norm() / wanted[ordinary].norm()).item()


def told(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return one line on the rows of a part."""
    if rows[0]["part"] == "step":
        return "; ".join(f"{r['stream']}: {r['activations_streams']} streams, time {r['time_ratio']}" for r in rows)
    shown = [f"{r['stream']} {r['bits']}: {'overflow' if r['error'] is None else r['error']}" for r in rows]
    return f"outlier {rows[0]['outlier']:g}: {'; '.join(shown)}"
