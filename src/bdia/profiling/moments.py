"""What is alive after every operation of a traced step, and the same for a longer step of blocks that are alike."""

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import accumulate, chain, pairwise
from typing import Any

import torch
from torch import Tensor, UntypedStorage, nn
from torch._subclasses.fake_tensor import FakeTensor

from bdia.profiling.flops import count_flops
from bdia.profiling.storage_meter import StorageMeter

UPDATE_BEGINS = torch.ops.profiler._record_function_enter_new.default
UPDATE_ENDS = torch.ops.profiler._record_function_exit._RecordFunction
_DEVICE = torch.ops.prim.device.default  # asked for so often that it would take half of a trace's time


@dataclass(frozen=True)
class StepCost:
    """Bytes at the moment of a step's peak, by category, and the step's arithmetic.

    Args:
        peak: the sum of the five categories.
        parameters, gradients, optimizer: of the model; gradients are those alive at the peak.
        activations: what is left: stored and recomputed activations, their gradients, temporaries, side information.
        other: the batch and the model's buffers.
        held: bytes of activations held when the backward pass begins.
        flops: floating-point operations of matrix products, convolutions and attention; of nothing else.
    """

    peak: int
    parameters: int
    gradients: int
    optimizer: int
    activations: int
    other: int
    held: int
    flops: int


@dataclass(frozen=True, eq=False)  # by identity: what is computed of two of them is remembered
class Moments:
    """One step, operation by operation, as if the optimizer's state had been there from the start.

    Args:
        operations: what was called.
        alive: bytes after each operation.
        gradients: of them bytes of parameters' gradients.
        phases: index of the first operation of each forward, backward, forward (with the update) and so on.
        totals: the bytes and FLOPs of `StepCost` that belong to no moment: parameters, optimizer, other, held, flops.
    """

    operations: Sequence[object]
    alive: Sequence[int]
    gradients: Sequence[int]
    phases: Sequence[int]
    totals: dict[str, int]

    def cost(self) -> StepCost:
        """Return what the step costs at its peak."""
        peak = max(self.alive)
        gradients = self.gradients[self.alive.index(peak)]
        named = gradients + sum(self.totals[name] for name in ("parameters", "optimizer", "other"))
        return StepCost(peak, gradients=gradients, activations=peak - named, **self.totals)

    def extended(self, others: Sequence[tuple["Moments", Fraction | int]]) -> "Moments | None":
        """Return the moments of a larger step: this one plus so many times its difference to each other one.

        Steps that differ in the number of blocks of one run: the bytes after one operation of one block lie on a
        straight line in that number, where blocks are counted from the nearer end of the run. So the largest of these
        lines is the peak, and blocks between the ends never exceed both of them. Steps that differ in the batch: bytes
        lie on a straight line too. An update that goes through the weights in groups is built otherwise: what it needs
        beside what it finds is taken from the largest step given.

        Returns:
            None if operations of the others are not this one's, with one run of them longer in each phase.
        """
        phases = list(zip(*(_places(self, other) for other, _ in others), strict=True))
        update = len(phases) - 1
        passes = phases if update % 2 else phases[:-1]  # phases alternate, and the first one is a forward
        if any(None in places for places in passes):
            return None
        stop, temporary = len(self.operations), 0
        if None in phases[update]:
            stop = self.phases[update] + 1
            temporary = max(max(m.alive[m.phases[update] :]) - m.alive[m.phases[update]] for m, _ in others)
            phases[update] = tuple([other.phases[update]] for other, _ in others)
        steps = [
            (other, times, list(chain.from_iterable(phase[at] for phase in phases)))
            for at, (other, times) in enumerate(others)
        ]
        alive, gradients = list(self.alive[:stop]), list(self.gradients[:stop])
        for other, times, places in steps:
            for here, there in enumerate(places):
                alive[here] += round(times * (other.alive[there] - self.alive[here]))
                gradients[here] += round(times * (other.gradients[there] - self.gradients[here]))
        alive[-1] += temporary
        totals = {
            name: size + sum(round(times * (other.totals[name] - size)) for other, times in others)
            for name, size in self.totals.items()
        }
        return Moments(self.operations[:stop], alive, gradients, self.phases, totals)


@functools.lru_cache(maxsize=64)
def _places(short: Moments, long: Moments) -> list[list[int] | None]:
    """Return for each phase the place in the longer step of every operation of the shorter one, None if not alike.

    The added operations may begin anywhere in the run of blocks. The middle of it is taken: then the blocks before are
    counted from the start of the run, those after it from the end.
    """
    found: list[list[int] | None] = []
    for (start, stop), (start_long, stop_long) in zip(_bounds(short), _bounds(long), strict=True):
        few, many = short.operations[start:stop], long.operations[start_long:stop_long]
        added = len(many) - len(few)
        first, last = len(few) - _alike(few[::-1], many[::-1]), _alike(few, many)
        cut = (first + last) // 2
        places = [start_long + at + (added if at >= cut else 0) for at in range(len(few))]
        found.append(places if added >= 0 and first <= last else None)
    return found


def _bounds(moments: Moments) -> list[tuple[int, int]]:
    return list(pairwise([*moments.phases, len(moments.operations)]))


def _alike(few: Sequence[object], many: Sequence[object]) -> int:
    """Return how many operations agree from the start on."""
    return next((at for at, (a, b) in enumerate(zip(few, many, strict=False)) if a is not b), min(len(few), len(many)))


class Recorder(StorageMeter):
    """The meter. It also notes every moment, counts FLOPs, and tells backward from what is before and after it."""

    def __init__(self, known: Iterable[Tensor], parameters: Iterable[nn.Parameter]) -> None:
        self.moments = Moments([], [], [], [0], {})
        self._made: dict[int, int] = {}  # by id of a living storage: number of operations before it was made
        super().__init__(known, parameters)
        self.before, self.flops, self.backward = self.alive, 0, False
        self.held: list[tuple[int, int]] = []  # where backward begins: number of operations before, bytes alive
        self._sizes = [(p, p.nbytes) for p in self.parameters]
        self._gradients = self._bytes_of_gradients()

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        """Run the operation and note what is alive after it."""
        if func is _DEVICE and type(args[0]) is FakeTensor:
            return args[0].fake_device
        moments = self.moments
        backward = torch._C._current_graph_task_id() != -1
        if backward != self.backward:
            moments.phases.append(len(moments.alive))
            if backward:
                self.held.append((len(moments.alive), self.alive))
        self.backward = backward
        results = self._noted(func, args, kwargs or {})
        self.flops += count_flops(func, args, kwargs or {}, results)
        moments.operations.append(func)
        moments.alive.append(self.alive)
        if len(moments.phases) > 1:  # no gradient comes or goes in the first forward
            self._gradients = self._bytes_of_gradients()
        moments.gradients.append(self._gradients)
        return results

    def _bytes_of_gradients(self) -> int:
        return sum([size for p, size in self._sizes if p.grad is not None])

    def _note(self, storage: UntypedStorage) -> None:
        if id(storage) not in self.live:
            self._made[id(storage)] = len(self.moments.alive)
        super()._note(storage)

    def finished(self, parameters: int, other: int, state: Sequence[Tensor]) -> Moments:
        """Return the moments; state that was made during the step is added to those before it was made.

        Args:
            parameters, other: bytes, as in `StepCost`.
            state: tensors of the optimizer's state after the step.
        """
        storages = [tensor.untyped_storage() for tensor in state]
        made = [(self._made[id(storage)], storage.nbytes()) for storage in storages if self._made[id(storage)]]
        missing = [0] * (len(self.moments.alive) + 1)
        for at, size in made:
            missing[at] += size
        later = list(accumulate(reversed(missing)))[-2::-1]  # of each moment: bytes of state that are made after it
        alive = [size + more for size, more in zip(self.moments.alive, later, strict=True)]
        held = [size - self.before - sum(more for at, more in made if at <= begun) for begun, size in self.held]
        totals = {
            "parameters": parameters, "optimizer": sum(tensor.nbytes for tensor in state), "other": other,
            "held": max(held, default=0), "flops": self.flops,
        }  # fmt: skip
        operations, gradients = self.moments.operations, list(self.moments.gradients)
        for first, last in _updates(operations):
            most = max(range(first, last + 1), key=lambda at: alive[at])
            alive[first : last + 1] = [alive[most]] * (last + 1 - first)
            gradients[first : last + 1] = [gradients[most]] * (last + 1 - first)
        return replace(self.moments, alive=alive, gradients=gradients, totals=totals)


def _updates(operations: Sequence[object]) -> list[tuple[int, int]]:
    """Return the first and last place of each run of updates with at most one operation between them.

    Where an optimizer steps in backward, the weights of blocks in tiles come in one run, in an order that autograd
    chooses anew in each block. Only what is alive at the most in a run is the same in all blocks.
    """
    runs: list[tuple[int, int]] = []
    open_ones: list[int] = []  # an update may hold another: `Float32Master`'s that of the optimizer in it
    for at, operation in enumerate(operations):
        if operation is UPDATE_BEGINS:
            open_ones.append(at)
        elif operation is UPDATE_ENDS and open_ones:
            begun = open_ones.pop()
            if open_ones:
                continue
            joined = runs and begun - runs[-1][1] <= 2
            runs.append((runs.pop()[0] if joined else begun, at))
    return runs
