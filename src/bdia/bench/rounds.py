"""Interleaved timing: in every round each variant takes its turn, in an order in which its predecessor changes."""

import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import TypeVar

import torch

Name = TypeVar("Name", bound=Hashable)


def orders(names: Sequence[Name], rounds: int) -> Iterator[list[Name]]:
    """Yield the order of each round: every place and, as evenly as can be, every predecessor comes to each variant.

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
    inner: int = 1,
    progress: Callable[[int], None] = lambda done: None,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[Name, list[float]]:
    """Time every variant once a round.

    Args:
        steps: what to run by variant, warmed up.
        rounds: times per variant.
        device: whose clock is read, see `elapsed_ms`.
        inner: steps that one time is the mean of; more than one where a step is short.
        progress: called with the number of rounds done.
        clock: seconds on a CPU, see `elapsed_ms`.
    Returns:
        milliseconds per step by variant, one per round, in the order of the rounds.
    """
    times: dict[Name, list[float]] = {name: [] for name in steps}
    for done, order in enumerate(orders(list(steps), rounds), 1):
        for name in order:
            times[name].append(elapsed_ms(steps[name], device, inner, clock))
        progress(done)
    return times


def elapsed_ms(
    step: Callable[[], object], device: torch.device, inner: int = 1, clock: Callable[[], float] = time.perf_counter
) -> float:
    """Return the milliseconds of one step, the mean of `inner`: CUDA events on a GPU, `clock` on a CPU."""
    if device.type != "cuda":
        start = clock()
        for _ in range(inner):
            step()
        return 1000 * (clock() - start) / inner
    torch.cuda.synchronize(device)
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(inner):
        step()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / inner
