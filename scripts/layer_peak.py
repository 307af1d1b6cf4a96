"""The peak of one layer's backward, in streams, of every way to recompute: what is left once streams cost bits.

Usage: python scripts/layer_peak.py [key=value ...]

  depths=[24,96]          blocks of width 256, four heads, MLP ratio 4; 512 tokens, batch 2, float32, no dropout
  rounds=3                times of a step per way, in turn; 0: no times
  ways=[]                 names of `WAYS`; []: all
  out=results/depth/layer_peak   folder of the record
  show=null               an earlier record: print its table and measure nothing

One forward and backward of the stack alone. Its weights and its input, which the caller keeps, are not counted. One
unit is a float32 stream, B * T * D * 4 bytes. Gradients of weights are not counted: each is dropped when it is whole,
and what tiles have added up of one is left out (`peak`) or counted (`peak_with_sums`). Every storage that an operation
makes is counted (`bdia.profiling.storage_meter`). Times are the process's CPU time, in turn.
"""

import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from bdia.bench.studies.record import StudyRecord
from bdia.bench.timing import interleave
from bdia.cli.arguments import script_arguments
from bdia.models.attention import SelfAttention
from bdia.models.blocks import Block, feed_forward
from bdia.profiling.live_tensors import LiveTensors
from bdia.profiling.storage_meter import StorageMeter
from bdia.reversible import BdiaStack, CheckpointStack, RevVitStack, TwoLevelCheckpointStack

BATCH, TOKENS, WIDTH, HEADS = 2, 512, 256, 4
EIGHT, SIXTEEN = ({"norm2+mlp": tiles, "norm1+attn": 4} for tiles in (8, 16))
WAYS: dict[str, tuple[Any, dict[str, Any]]] = {
    "checkpointing": (CheckpointStack, {"keep": 0}),
    "two-level checkpointing": (TwoLevelCheckpointStack, {}),
    "RevViT": (RevVitStack, {}),
    "BDIA": (BdiaStack, {"keep": 0}),
    "BDIA, nested": (BdiaStack, {"keep": 0, "nested": ["attn", "mlp"]}),
    "BDIA, tiled": (BdiaStack, {"keep": 0, "tile": EIGHT}),
    "BDIA, tiled and nested": (BdiaStack, {"keep": 0, "nested": ["norm1+attn"], "tile": SIXTEEN}),
}


@dataclass
class Arguments:
    """The command line; the module's text says what each means."""

    depths: list[int] = field(default_factory=lambda: [24, 96])
    rounds: int = 3
    ways: list[str] = field(default_factory=list)
    out: str = "results/depth/layer_peak"
    show: str | None = None


def build(way: str, depth: int) -> nn.Module:
    """Return a stack, on the same weights for every way."""
    torch.manual_seed(0)
    kind, settings = WAYS[way]
    stack: nn.Module = kind(
        [
            Block(WIDTH, SelfAttention(WIDTH, HEADS, causal=True), feed_forward(WIDTH, 4 * WIDTH, 0.0, 0.0))
            for _ in range(depth)
        ],
        **settings,
    )
    for parameter in stack.parameters():
        parameter.register_post_accumulate_grad_hook(lambda p: setattr(p, "grad", None))
    return stack


def step(stack: nn.Module, x: Tensor) -> None:
    """Forward and backward; x needs no gradient."""
    stack(x).square().mean().backward()


def peaks(stack: nn.Module, x: Tensor) -> dict[str, float]:
    """Return the most that is alive beside weights and input, in streams, without and with sums over tiles."""
    known = [*stack.parameters(), x]
    meters = {"peak": LiveTensors(stack, known), "peak_with_sums": StorageMeter(known, [])}
    before = meters["peak"].total()
    with meters["peak_with_sums"], meters["peak"]:
        step(stack, x)
    return {name: round((meter.peak - before) / x.nbytes, 3) for name, meter in meters.items()}


def measure(depth: int, ways: Sequence[str], rounds: int) -> list[dict[str, Any]]:
    """Return a row per way: its peaks, and times in turn with the others."""
    x, rows, steps = torch.randn(BATCH, TOKENS, WIDTH), [], {}
    for way in ways:
        stack = build(way, depth)
        if not rows:
            step(stack, x)  # compiles kernels
        rows.append({"depth": depth, "way": way, "settings": WAYS[way][1], **peaks(stack, x)})
        print(rows[-1], file=sys.stderr, flush=True)
        steps[way] = lambda stack=stack: step(stack, x)
    if rounds:
        times = interleave(steps, rounds, x.device, clock=time.process_time)
        rows = [{**row, "cpu_ms": [round(ms, 1) for ms in times[row["way"]]]} for row in rows]
    return rows


def table(record: dict[str, Any]) -> str:
    """Return the record as a table: streams at the peak, and the time of a step to BDIA's without nested or tile."""
    lines = [
        "| blocks | way | streams at the peak | with sums | time to BDIA's |",
        "| ---: | --- | ---: | ---: | ---: |",
    ]
    for row in record["rows"]:
        base = next((r for r in record["rows"] if (r["depth"], r["way"]) == (row["depth"], "BDIA")), {})
        ratio = ""
        if row.get("cpu_ms") and base.get("cpu_ms"):
            ratio = f"{median(a / b for a, b in zip(row['cpu_ms'], base['cpu_ms'], strict=True)):.2f}"
        lines.append(f"| {row['depth']} | {row['way']} | {row['peak']:.2f} | {row['peak_with_sums']:.2f} | {ratio} |")
    return "\n".join(lines)


def record(arguments: Arguments, run: Callable[..., list[dict[str, Any]]] = measure) -> Path:
    """Measure every way at every depth and write the record."""
    torch.set_num_threads(1)
    settings = {key: value for key, value in asdict(arguments).items() if key not in ("out", "show")}
    study, rows = StudyRecord("layer_peak", settings, Path(arguments.out)), []
    for depth in arguments.depths:
        rows += run(depth, arguments.ways or list(WAYS), arguments.rounds)
    return study.write(rows)


def main(argv: Sequence[str] | None = None) -> None:
    """Read the command line."""
    arguments = script_arguments(Arguments(), __doc__, argv)
    path = Path(arguments.show) if arguments.show else record(arguments)
    print(path, table(json.loads(path.read_text(encoding="utf-8"))), sep="\n")


if __name__ == "__main__":
    main()
