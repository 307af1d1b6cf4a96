"""Activation memory of every stack against depth, measured on the CPU, and the README's figure of it.

Usage: python scripts/memory_depth.py [key=value ...]

  depths=[4,8,12,24,48]   blocks of the paper's ViT (configs/model/vit_paper.yaml)
  batch=32                images in the step
  stacks=[]               files of configs/stack; []: every stack of the registry
  out=results/depth/vit_paper   folder of the record
  figure=docs/images/memory_depth.svg
  show=null               an earlier record: draw its figure again and measure nothing

One forward and backward of each model. Each weight's gradient is dropped as soon as it is there, so that the peak is
that of the activations. Weights and batch are not counted. Every storage that an operation makes is counted exactly
(`bdia.profiling.storage_meter`). No stack keeps the activations of any block. Seven minutes on one CPU core.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from depth_figure import draw

from bdia.bench.studies.record import StudyRecord
from bdia.build import compose
from bdia.cli.arguments import script_arguments
from bdia.data.files import write_whole
from bdia.profiling.storage_meter import StorageMeter
from bdia.profiling.workload import build_workload
from bdia.reversible import BlockStack
from bdia.reversible.stacks.registry import STACKS


@dataclass
class Arguments:
    """The command line; the module's text says what each means."""

    depths: list[int] = field(default_factory=lambda: [4, 8, 12, 24, 48])
    batch: int = 32
    stacks: list[str] = field(default_factory=list)
    out: str = "results/depth/vit_paper"
    figure: str = "docs/images/memory_depth.svg"
    show: str | None = None


def measure(stack: str, depth: int, batch: int) -> dict[str, Any]:
    """Run one forward and backward; return the settings and the bytes: the peak, and what is held between the two."""
    overrides = ["model=vit_paper", f"stack={stack}", f"model.net.depth={depth}"]
    if "keep" in compose(overrides).stack:
        overrides.append("stack.keep=0")
    workload = build_workload(compose(overrides), batch)
    parameters = list(workload.task.parameters())
    for parameter in parameters:
        parameter.register_post_accumulate_grad_hook(lambda p: setattr(p, "grad", None))
    meter = StorageMeter([*parameters, *workload.task.buffers(), *workload.batch], parameters)
    before, at = meter.total(), {}
    (chain,) = (module for module in workload.task.modules() if isinstance(module, BlockStack))
    chain.register_forward_pre_hook(lambda *_: at.update(start=meter.total()))
    chain.register_forward_hook(lambda *_: at.update(end=meter.total()))
    with meter:
        workload.task.loss(workload.batch).backward()
    found = {"peak": meter.peak - before, "held": at["end"] - at["start"]}
    return {"stack": stack, "overrides": overrides, "depth": depth, **found}


def record(arguments: Arguments) -> Path:
    """Measure every stack at every depth and write the record."""
    settings = {key: value for key, value in asdict(arguments).items() if key not in ("out", "figure", "show")}
    study, rows = StudyRecord("memory_depth", settings, Path(arguments.out)), []
    for stack in arguments.stacks or [row.name for row in STACKS]:
        for depth in arguments.depths:
            rows.append(measure(stack, depth, arguments.batch))
            print(f"{stack}, {depth} blocks: {rows[-1]['peak'] / 2**20:.1f} MiB", file=sys.stderr, flush=True)
    return study.write(rows)


def main(argv: Sequence[str] | None = None) -> None:
    """Read the command line."""
    arguments = script_arguments(Arguments(), __doc__, argv)
    path = Path(arguments.show) if arguments.show else record(arguments)
    write_whole(Path(arguments.figure), draw(json.loads(path.read_text(encoding="utf-8"))))
    print(path, arguments.figure, sep="\n")


if __name__ == "__main__":
    main()
