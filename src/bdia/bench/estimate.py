"""How long a bench will take, from a few timed steps per model and precision."""

from collections.abc import Sequence

from bdia.bench.cases import STEPS_PER_TIMING, VARIANTS, WARM_UP
from bdia.bench.cell import Cell, free
from bdia.bench.timing import elapsed_ms

MEASURED_STEP = 2.5  # the step whose memory is measured, on a CPU under a meter, in units of a timed one
BUILD_S = 1.0  # seconds to build one variant of a small model


def estimate_minutes(cells: Sequence[Cell], rounds: int) -> float:
    """Return the minutes that the cells will take, from timed steps of the standard stack."""
    return (
        sum(
            _kind_seconds([cell for cell in cells if (cell.name, cell.precision) == key], rounds)
            for key in dict.fromkeys((cell.name, cell.precision) for cell in cells)
        )
        / 60
    )


def _kind_seconds(cells: Sequence[Cell], rounds: int) -> float:
    """Seconds of the cells of one model and precision: time grows linearly with the depth, and with the batch."""
    shallow, *others = sorted({cell.depth: cell for cell in cells}.values(), key=lambda cell: cell.depth)
    first = seconds_per_step(shallow) / shallow.batch
    per_block = first / shallow.depth
    if others:
        second = seconds_per_step(others[0]) / others[0].batch
        per_block = max(0.0, second - first) / (others[0].depth - shallow.depth)
    seconds = 0.0
    for cell in cells:
        steps = rounds * STEPS_PER_TIMING[cell.device.type] + WARM_UP[cell.device.type] + MEASURED_STEP
        cost = sum(variant.cost for variant in cell.variants.values())
        step = cell.batch * (first + per_block * (cell.depth - shallow.depth))
        seconds += steps * cost * step + BUILD_S * len(cell.variants)
    return seconds


def seconds_per_step(cell: Cell) -> float:
    """Time one step of the standard stack after a warm-up; 0 where it breaks, which the bench itself will show."""
    try:
        workload = cell.build(VARIANTS["standard"])
        workload.step()
        return elapsed_ms(workload.step, cell.device) / 1000
    except Exception:  # whatever it is
        return 0.0
    finally:
        workload = None
        free(cell.device)
