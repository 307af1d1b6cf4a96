"""Time against memory of a whole step: BDIA and checkpointing, each with more and more blocks that keep activations.

The memory that BDIA saves can keep whole blocks, which then need no recomputation. Is it quicker at the same peak?
Weights are stepped in backward, so that gradients do not hide the activations. K blocks.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bdia.bench.studies.whole_step import IN_BACKWARD, WAYS, build, memory, times
from bdia.bench.timing import median_ratio
from bdia.profiling.sizes import MIB

CURVES = {"checkpointing": "stack=checkpoint", "BDIA": "stack=bdia"}
BASE = "checkpointing"


@dataclass
class Arguments:
    """What is measured.

    Args:
        model: a file of configs/model, a language model; width, heads, vocabulary: its size. depths: values of K.
        batch, tokens: texts, and tokens of each. optimizer: a file of configs/optimizer. shares: of the blocks that
            keep their activations. rounds: times of each point.
    """

    model: str = "gpt2_demo"
    width: int = 128
    heads: int = 4
    vocabulary: int = 500
    depths: list[int] = field(default_factory=lambda: [24, 48, 96])
    batch: int = 2
    tokens: int = 512
    optimizer: str = "adamw"
    shares: list[float] = field(default_factory=lambda: [0.0, 0.02, 0.05, 0.1, 0.2, 0.4, 0.7, 1.0])
    rounds: int = 3


def measure(arguments: Arguments) -> Iterator[list[dict[str, Any]]]:
    """Yield the rows of each depth: curve, blocks kept, bytes at the peak, ms, and time in units of checkpointing's."""
    for depth in arguments.depths:
        keeps = sorted({round(share * depth) for share in arguments.shares})
        points = {(label, keep): (word, f"stack.keep={keep}") for label, word in CURVES.items() for keep in keeps}
        points["two-level checkpointing", 0] = ("stack=checkpoint_two_level",)
        rows, steps = {}, {}
        for (label, keep), overrides in points.items():
            work = build(arguments, (*overrides, IN_BACKWARD), depth)
            found = memory(work, WAYS["standard"])
            rows[label, keep] = {"depth": depth, "curve": label, "keep": keep, **found}
            steps[label, keep] = work.step
        for point, ms in times(steps, arguments.rounds).items():
            rows[point]["rounds_ms"] = [round(time, 1) for time in ms]
        yield with_answers(list(rows.values()))


def with_answers(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Add the median time in units of checkpointing's without kept blocks.

    `at_this_peak` is the time, in the same units, of the other curve at this row's peak: on the line between its two
    neighbouring points, or of its quickest point where all its points need less. None where all of them need more.
    """
    base = next(row for row in rows if (row["curve"], row["keep"]) == (BASE, 0))
    for row in rows:
        row["time_ratio"] = round(median_ratio(row["rounds_ms"], base["rounds_ms"]), 3)
    for row in rows:
        if row["curve"] in CURVES:
            other = [one for one in rows if one["curve"] in CURVES.keys() - {row["curve"]}]
            row["at_this_peak"] = time_at(row["peak"], other)
    return rows


def time_at(peak: int, curve: Sequence[Mapping[str, Any]]) -> float | None:
    """Return the time ratio that a curve reaches with so many bytes: the least of all points and lines that fit."""
    fits = [row["time_ratio"] for row in curve if row["peak"] <= peak]
    for one in curve:
        for other in curve:
            if one["peak"] <= peak < other["peak"]:
                share = (peak - one["peak"]) / (other["peak"] - one["peak"])
                fits.append(one["time_ratio"] + share * (other["time_ratio"] - one["time_ratio"]))
    return round(min(fits), 3) if fits else None


def told(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return one line on the rows of a depth: BDIA's time at the peak of checkpointing without kept blocks."""
    base = next(row for row in rows if (row["curve"], row["keep"]) == (BASE, 0))
    points = [f"{row['curve']} keep {row['keep']}: {row['peak'] / MIB:.0f} MiB, {row['time_ratio']}" for row in rows]
    answer = f"at checkpointing's {base['peak'] / MIB:.0f} MiB BDIA takes {base['at_this_peak']} of its time"
    return f"{rows[0]['depth']} blocks: {answer}; " + "; ".join(points)
