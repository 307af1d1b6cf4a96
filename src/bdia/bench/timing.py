"""Time of a step: variants timed in turn, round by round, and what the times say: medians, quartiles, ratios."""

import statistics
import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar

import torch

from bdia import InvalidValueError

Name = TypeVar("Name", bound=Hashable)


def orders(names: Sequence[Name], rounds: int) -> Iterator[list[Name]]:
    """Yield the order of each round.

    Each variant runs at every place of the order, and after each other variant about equally often.
    A plain rotation moves the places and leaves every variant behind the same one. Here a zigzag 0, 1, n-1, 2, n-2 ...
    is rotated: its differences are all different for an even n, and each occurs at most twice for an odd one.
    Source: E. J. Williams, "Experimental designs balanced for the estimation of residual effects" (1949).
    """
    count = len(names)
    zigzag = [(place + 1) // 2 if place % 2 else -(place // 2) for place in range(count)]
    for shift in range(rounds):
        yield [names[(place + shift) % count] for place in zigzag]


def interleave(
    steps: Mapping[Name, Callable[[], object]],
    rounds: int,
    device: torch.device,
    steps_per_timing: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[Name, list[float]]:
    """Time every variant once a round.

    Args:
        steps: what to run by variant, warmed up.
        rounds: times per variant.
        device: whose clock is read, see `elapsed_ms`.
        steps_per_timing: steps that one time is the mean of; more than one where a step is short.
        clock: seconds on a CPU, see `elapsed_ms`.
    Returns:
        milliseconds per step by variant, one per round, in the order of the rounds.
    """
    times: dict[Name, list[float]] = {name: [] for name in steps}
    for order in orders(list(steps), rounds):
        for name in order:
            times[name].append(elapsed_ms(steps[name], device, steps_per_timing, clock))
    return times


def elapsed_ms(
    step: Callable[[], object],
    device: torch.device,
    steps_per_timing: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> float:
    """Return the milliseconds of one step, the mean of `steps_per_timing`: CUDA events on a GPU, `clock` on a CPU."""
    if device.type != "cuda":
        start = clock()
        for _ in range(steps_per_timing):
            step()
        return 1000 * (clock() - start) / steps_per_timing
    torch.cuda.synchronize(device)
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(steps_per_timing):
        step()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / steps_per_timing


@dataclass(frozen=True)
class Times:
    """Milliseconds per step over the rounds, of one variant.

    Args:
        ms: one time per round.
    """

    ms: tuple[float, ...]

    def __post_init__(self) -> None:
        """Refuse what has no median."""
        if not self.ms or min(self.ms) <= 0:
            raise InvalidValueError(f"times {self.ms}: wanted at least one, all above 0 ms")

    @property
    def n(self) -> int:
        """Number of rounds."""
        return len(self.ms)

    @property
    def median(self) -> float:
        """Median, ms."""
        return statistics.median(self.ms)

    @property
    def quartiles(self) -> tuple[float, float]:
        """First and third quartile, ms, interpolated between the times (as NumPy's default)."""
        if self.n == 1:
            return self.ms[0], self.ms[0]
        first, _, third = statistics.quantiles(self.ms, n=4, method="inclusive")
        return first, third

    def ratio_of_medians(self, other: "Times") -> float:
        """Median over the other's median."""
        return self.median / other.median

    def median_ratio(self, other: "Times") -> float:
        """Median of the ratios within a round: what slows a whole round down cancels.

        Raises:
            ValueError: the two were not timed in the same rounds.
        """
        return median_ratio(self.ms, other.ms)


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """Return the ratio of each round.

    Raises:
        ValueError: as many times are wanted of both.
    """
    if len(ours) != len(theirs):
        raise InvalidValueError(f"{len(ours)} and {len(theirs)} times: wanted two variants of the same rounds")
    return [a / b for a, b in zip(ours, theirs, strict=True)]


def median_ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Return the median of the ratios of each round: what slows a whole round down cancels.

    Raises:
        ValueError: as many times are wanted of both.
    """
    return statistics.median(ratios(ours, theirs))


def falls(values: Sequence[float]) -> bool:
    """Whether no value is larger than the one before."""
    return all(later <= earlier for earlier, later in pairwise(values))


def rises(values: Sequence[float], slack: float = 0.0) -> bool:
    """Whether no value is smaller than the one before, by more than the slack."""
    return all(later >= earlier - slack for earlier, later in pairwise(values))
