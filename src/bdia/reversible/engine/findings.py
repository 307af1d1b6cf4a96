"""What the engine's checks find on the device, and the one wait in which all of it is read.

A check leaves a number on the device: the largest value of a stream, or whether two sums of bits differ. Reading it
waits for the device, so nothing is read until the backward ends; there all passes of that backward are read together.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple, Protocol
from weakref import WeakValueDictionary

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.autograd import Variable


class Seen(NamedTuple):
    """Findings as numbers of Python.

    Attributes:
        peaks: (block, largest magnitude in units u), in the order of the updates.
        changed: k of each x_k that is not what forward left in memory.
        differing: k of each layer whose recomputation differs from its forward.
    """

    peaks: list[tuple[int, float]]
    changed: list[int]
    differing: list[int]


class Findings:
    """What the checks of one pass have found and nobody has read yet; all 0-dim tensors. A planner's hold no values."""

    def __init__(self) -> None:
        self.peaks: list[tuple[int, Tensor]] = []
        self.changed: list[tuple[int, Tensor]] = []
        self.differing: list[tuple[int, Tensor]] = []

    def note_peak(self, block: int, peak: Tensor) -> None:
        """Remember the largest magnitude of a stream, in units u."""
        _note(self.peaks, block, peak)

    def note_changed(self, k: int, wrong: Tensor) -> None:
        """Remember a bool: x_k is not what forward left."""
        _note(self.changed, k, wrong)

    def note_difference(self, k: int, wrong: Tensor) -> None:
        """Remember a bool: what layer k recomputed differs from its forward."""
        _note(self.differing, k, wrong)

    def take(self) -> "Findings":
        """Return what there is, and forget it."""
        taken = Findings()
        taken.__dict__, self.__dict__ = self.__dict__, taken.__dict__
        return taken


def _note(place: list[tuple[int, Tensor]], k: int, found: Tensor) -> None:
    if not isinstance(found, FakeTensor):
        place.append((k, found))


def read(taken: Sequence[Findings]) -> list[Seen]:
    """Read findings of several passes: one device synchronisation, or one per device that they lie on."""
    kinds = [kind for found in taken for kind in (found.peaks, found.changed, found.differing)]
    tensors: dict[torch.device, list[Tensor]] = defaultdict(list)
    for kind in kinds:
        if kind:
            tensors[kind[0][1].device].append(torch.stack([tensor for _, tensor in kind]).float())
    values = {device: iter(torch.cat(parts).tolist()) for device, parts in tensors.items()}
    numbers = [[(k, next(values[kind[0][1].device])) for k, _ in kind] for kind in kinds]
    return [
        Seen(peaks, [k for k, wrong in changed if wrong], [k for k, wrong in differing if wrong])
        for peaks, changed, differing in zip(numbers[::3], numbers[1::3], numbers[2::3], strict=True)
    ]


def on_host(x: Tensor) -> bool:
    """Whether reading x waits for nothing, so that it can be read at once."""
    return x.device.type == "cpu"


class Finishing(Protocol):
    """A pass, at the end of a backward."""

    def end_backward(self) -> Findings:
        """Let go of what only a running backward needs; return what its checks found."""
        ...

    def conclude(self, seen: Seen) -> None:
        """Raise what was found; else release the states."""
        ...


class BackwardEnd:
    """The passes that one backward has reached. Autograd calls it at the end, and owns it."""

    def __init__(self) -> None:
        self.passes: list[Finishing] = []

    def finish(self) -> None:
        """Read all findings at once; the first error is raised."""
        found = [finishing.end_backward() for finishing in self.passes]
        for finishing, seen in zip(self.passes, read(found), strict=True):
            finishing.conclude(seen)


_ends: WeakValueDictionary[int, BackwardEnd] = WeakValueDictionary()  # by the number of autograd's task


def at_backward_end(finishing: Finishing) -> None:
    """Have a pass finished when the present backward ends."""
    task = torch._C._current_graph_task_id()
    end = _ends.get(task)
    if end is None:
        end = _ends[task] = BackwardEnd()
        Variable._execution_engine.queue_callback(end.finish)
    end.passes.append(finishing)
