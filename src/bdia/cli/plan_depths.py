"""`bdia plan depths=[...]`: every stack's peak at several depths, and what a further block holds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from bdia import BdiaError, InvalidValueError
from bdia.profiling.sizes import format_bytes

if TYPE_CHECKING:
    from bdia.profiling.planner import Planner


def depths_in_text(depths: Sequence[int], make_planner: Callable[[], Planner]) -> str:
    """Return a table: a row per stack, the peak at each depth, then the held activations per further block.

    Raises:
        InvalidValueError: fewer than two depths.
    """
    depths = sorted(set(depths))
    if len(depths) < 2 or depths[0] < 1:
        raise InvalidValueError(f"depths={depths}: wanted at least two depths of at least 1; set depths")
    from bdia.profiling.planner import STACKS
    from bdia.results.tables import Table, plain

    planner = make_planner()
    rows = [[name, *_cells(planner, overrides, depths)] for name, overrides in STACKS.items()]
    heads = ["stack", *(f"peak at {depth} blocks" for depth in depths), "held per further block"]
    size = f"a step of {planner.batch}, {planner.cfg.trainer.precision}, {planner.device}"
    return "\n".join([
        f"{' '.join(planner.overrides)}: {size}; planned, from a trace of the step: nothing is computed", "",
        plain(Table(heads, rows)), "",
        "Held: activations kept between forward and backward. The peak also has weights, gradients and the state "
        "of the optimizer, which grow with depth on every stack.",
    ])  # fmt: skip


def _cells(planner: Planner, overrides: tuple[str, ...], depths: Sequence[int]) -> list[str]:
    try:
        costs = [planner.cost(overrides, depth=depth) for depth in depths]
    except BdiaError:
        return ["refused"] * (len(depths) + 1)
    held = (costs[-1].held - costs[0].held) / (depths[-1] - depths[0]) / len(planner.blocks)
    return [*(format_bytes(cost.peak) for cost in costs), format_bytes(held)]
