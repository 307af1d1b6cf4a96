"""One cell of the bench: a model at one depth and precision, all variants warmed up, measured and timed in turn."""

import gc
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch

from bdia.bench.cases import STEPS_PER_TIMING, WARM_UP, Model, Variant
from bdia.bench.memory import step_memory
from bdia.bench.record import VariantRow
from bdia.bench.timing import interleave
from bdia.build import compose
from bdia.profiling.workload import Workload, build_workload
from bdia.results.record import describe, status_of


@dataclass(frozen=True)
class Cell:
    """What the variants of one interleaved group share.

    Args:
        part: "table" or "curve".
        name, model: key and entry of `cases.MODELS`.
        variants: by name.
    Attributes:
        clock: what a CPU's times are read from, in seconds.
    """

    clock: ClassVar[Callable[[], float]] = staticmethod(time.perf_counter)

    part: str
    name: str
    model: Model
    depth: int
    precision: str
    batch: int
    device: torch.device
    variants: Mapping[str, Variant]

    def overrides(self, variant: Variant) -> list[str]:
        """Return the overrides of configs/train.yaml that build the variant."""
        sizes = [f"model.net.depth={self.depth}", f"trainer.precision={self.precision}"]
        return [*self.model.overrides, *sizes, *variant.overrides_at(self.depth)]

    @property
    def tokens(self) -> int | None:
        """Length of a text on this device; None for images."""
        return self.model.tokens[self.device.type] if self.model.tokens else None

    def build(self, variant: Variant, device: torch.device | str | None = None) -> Workload:
        """Build one variant on made-up data, on the cell's device unless another is named."""
        return build_workload(compose(self.overrides(variant)), self.batch, self.tokens, device or self.device)

    def share(self, first: Workload, other: Workload) -> None:
        """Let a variant's workload use what the first one's holds already."""
        share_weights(first, other)

    def memory(self, workload: Workload) -> dict[str, int]:
        """Measure the memory of one step."""
        return step_memory(workload)

    def __str__(self) -> str:
        return f"{self.part}: {self.name}, {self.depth} blocks, {self.precision}, batch {self.batch}"


def run_cell(cell: Cell, rounds: int) -> list[VariantRow]:
    """Return one row per variant, in the order given; one that breaks or does not fit is a row that says so.

    Such a variant is taken out; where that happens in the rounds they begin again without it.
    """
    rows = {name: _not_run(cell, name, variant) for name, variant in cell.variants.items()}
    workloads: dict[str, Workload] = {}
    for name, variant in cell.variants.items():
        try:
            workload = _prepared(cell, variant, next(iter(workloads.values()), None))
            rows[name] = rows[name].measured(workload, cell.memory(workload))
            workloads[name] = workload
        except Exception as error:
            rows[name] = rows[name].broken(status_of(error), describe(error))
            traceback.clear_frames(error.__traceback__)  # they hold the workload
            workload = None
            free(cell.device)
    while workloads and not _timed(cell, rounds, rows, workloads):
        free(cell.device)
    workload = None
    workloads.clear()
    free(cell.device)
    return list(rows.values())


def _not_run(cell: Cell, name: str, variant: Variant) -> VariantRow:
    """Return the row of a variant that has not run yet."""
    return VariantRow(
        part=cell.part, model=cell.name, depth=cell.depth, precision=cell.precision, variant=name,
        label=variant.label, overrides=cell.overrides(variant), batch=cell.batch, unit=cell.model.unit,
        keep_curve=variant.keep_curve,
    )  # fmt: skip


def _timed(
    cell: Cell,
    rounds: int,
    rows: dict[str, VariantRow],
    workloads: dict[str, Workload],
) -> bool:
    """Run the rounds and put the times into the rows; take out the variant that breaks, and return False."""
    running = ""

    def step(name: str) -> None:
        nonlocal running
        running = name
        workloads[name].step()

    steps_per_timing = STEPS_PER_TIMING[cell.device.type]
    try:
        steps = {name: partial(step, name) for name in workloads}
        found = interleave(steps, rounds, cell.device, steps_per_timing, cell.clock)
    except Exception as error:
        rows[running] = rows[running].broken(status_of(error), describe(error))
        del workloads[running]
        return False
    for name, ms in found.items():
        rows[name] = rows[name].timed(ms, steps_per_timing)
    return True


def _prepared(cell: Cell, variant: Variant, first: Workload | None) -> Workload:
    """Build a variant, on the first one's weights and optimizer state, and run its warm-up."""
    workload = cell.build(variant)
    if first is not None:
        cell.share(first, workload)
    for _ in range(WARM_UP[cell.device.type]):
        workload.step()
    return workload


def share_weights(first: Workload, other: Workload) -> None:
    """Let the other workload train the first one's parameters, as far as names and shapes agree.

    Then a group holds weights and optimizer state once, and deep models fit. RevViT's wider head stays its own.
    """
    own = {name: parameter.shape for name, parameter in other.task.named_parameters()}
    shared = {name: p for name, p in first.task.named_parameters() if own.get(name) == p.shape}
    other.task.load_state_dict(shared, strict=False, assign=True)
    other.optimizer = other.task.optimizer([p for p in other.task.net.parameters() if p.requires_grad])
    other.optimizer.state = first.optimizer.state


def free(device: torch.device) -> None:
    """Give back what a dropped workload held."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
