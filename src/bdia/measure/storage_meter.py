"""Exact accounting of live tensor storages on the CPU, where there is no allocator to ask.

`torch.distributed._tools.MemTracker` does the same, but books a whole Lightning step under "optimizer", for Lightning
runs forward and backward inside `optimizer.step(closure)`. The tests hold the two totals equal outside Lightning.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary


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
        self.live = WeakIdKeyDictionary({tensor.untyped_storage(): None for tensor in known})
        self.owner: str | None = None
        self.peak = self.gradients_at_peak = 0
        self.owned_at_peak: dict[str, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        """Run the operation, note its results, update the peak."""
        results = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(results):
            if isinstance(tensor, Tensor) and tensor.untyped_storage() not in self.live:
                self.live[tensor.untyped_storage()] = self.owner
        if (total := self.total()) > self.peak:
            self.peak = total
            gradients = [p.grad for p in self.parameters if p.grad is not None]
            self.gradients_at_peak = sum(gradient.nbytes for gradient in gradients)
            self.owned_at_peak = self._owned({gradient.untyped_storage().data_ptr() for gradient in gradients})
        return results

    def _owned(self, left_out: set[int]) -> dict[str, int]:
        found: dict[str, int] = {}
        for storage, owner in self.live.items():
            if owner is not None and storage.data_ptr() not in left_out:
                found[owner] = found.get(owner, 0) + storage.nbytes()
        return found

    def total(self) -> int:
        """Bytes alive now."""
        return sum(storage.nbytes() for storage in self.live)
