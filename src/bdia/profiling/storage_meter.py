"""Exact accounting of live tensor storages, where there is no allocator to ask: on the CPU, and on fake tensors.

`torch.distributed._tools.MemTracker` does the same, but books a whole Lightning step under "optimizer", because
Lightning runs forward and backward inside `optimizer.step(closure)`. Outside Lightning
the tests hold the two totals equal.
"""

import functools
import weakref
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, UntypedStorage
from torch.optim import Optimizer
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from bdia.data.ranks import local_part


def optimizer_state(optimizer: Optimizer) -> list[Tensor]:
    """Return the tensors of the state of the optimizer's own parameters; it may share its state with another."""
    own = [p for group in optimizer.param_groups for p in group["params"] if p in optimizer.state]
    return [value for p in own for value in optimizer.state[p].values() if isinstance(value, Tensor)]


class StorageMeter(TorchDispatchMode):
    """While active, follow every storage that an operation returns, until it is freed.

    Memory that one operation allocates and frees inside itself is not seen.

    Args:
        known: tensors that exist before, counted from the start (parameters, optimizer state, the batch).
        parameters: their gradients are told apart at the peak.
    Attributes:
        owner: name that storages made from now on are booked under, None for no name.
        peak: largest number of bytes alive after an operation.
        gradients_at_peak: bytes of parameter gradients at that moment.
        owned_at_peak: bytes by owner at that moment, parameter gradients left out.
    """

    def __init__(self, known: Iterable[Tensor], parameters: Iterable[torch.nn.Parameter]) -> None:
        super().__init__()
        self.parameters = list(parameters)
        self.live: dict[int, _Entry] = {}  # by id of the storage object, which lives as long as the storage
        self.alive = 0
        self.owned: dict[str | None, int] = {}
        self.owner: str | None = None
        for tensor in known:
            self._note(tensor.untyped_storage())
        self.peak = self.gradients_at_peak = 0
        self.owned_at_peak: dict[str, int] = {}

    def __enter__(self) -> "StorageMeter":
        """Follow resizing too, which is no operation and passes no dispatcher (torch's MemTracker does it so)."""
        resize = UntypedStorage.resize_

        @functools.wraps(resize)
        def noted(storage: UntypedStorage, size: int) -> Any:
            result = resize(storage, size)
            if id(storage) in self.live:
                self._note(storage)
            return result

        UntypedStorage.resize_, self._resize = noted, resize
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        """Leave resizing as it was."""
        UntypedStorage.resize_ = self._resize
        super().__exit__(*error)

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        """Run the operation, note its results, update the peak."""
        results = self._noted(func, args, kwargs or {})
        if self.alive > self.peak:
            self.peak = self.alive
            gradients = [local_part(p.grad) for p in self.parameters if p.grad is not None]
            self.gradients_at_peak = sum(gradient.nbytes for gradient in gradients)
            self.owned_at_peak = self._owned(gradients)
        return results

    def _noted(self, func: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
        results = func(*args, **kwargs)
        for tensor in (results,) if isinstance(results, Tensor) else tree_leaves(results):
            if isinstance(tensor, Tensor):
                self._book(func, local_part(tensor))
        return results

    def _book(self, func: Any, tensor: Tensor) -> None:
        """Book a result of an operation under the present owner."""
        self._note(tensor.untyped_storage())

    def _note(self, storage: UntypedStorage) -> None:
        """Book a storage, or its new size."""
        key, size = id(storage), storage.nbytes()
        entry = self.live.get(key)
        if entry is None:
            entry = self.live[key] = _Entry(weakref.ref(storage, lambda _: self._forget(key)), self.owner)
        self._add(entry, size - entry.size)

    def _forget(self, key: int) -> None:
        entry = self.live.pop(key)
        self._add(entry, -entry.size)

    def _add(self, entry: "_Entry", size: int) -> None:
        entry.size += size
        self.alive += size
        self.owned[entry.owner] = self.owned.get(entry.owner, 0) + size

    def _owned(self, left_out: list[Tensor]) -> dict[str, int]:
        found = {owner: size for owner, size in self.owned.items() if owner is not None}
        if found:
            for key in {id(gradient.untyped_storage()) for gradient in left_out}:
                entry = self.live.get(key)  # none: a gradient older than the meter that nobody told it of
                if entry is not None and entry.owner is not None:
                    found[entry.owner] -= entry.size
        return {owner: size for owner, size in found.items() if size}

    def total(self) -> int:
        """Bytes alive now."""
        return self.alive


class _Entry:
    """Bytes of one storage and whose they are."""

    __slots__ = ("alive", "owner", "size")

    def __init__(self, alive: weakref.ref, owner: str | None) -> None:
        self.alive, self.owner, self.size = alive, owner, 0
