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
        peak: largest number of bytes alive after an operation.
        gradients_at_peak: bytes of parameter gradients at that moment.
    """

    def __init__(self, known: Iterable[Tensor], parameters: Iterable[torch.nn.Parameter]) -> None:
        super().__init__()
        self.parameters = list(parameters)
        self.live = WeakIdKeyDictionary({tensor.untyped_storage(): None for tensor in known})
        self.peak = self.gradients_at_peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        """Run the operation, note its results, update the peak."""
        results = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(results):
            if isinstance(tensor, Tensor):
                self.live[tensor.untyped_storage()] = None
        if (total := self.total()) > self.peak:
            self.peak = total
            self.gradients_at_peak = sum(p.grad.nbytes for p in self.parameters if p.grad is not None)
        return results

    def total(self) -> int:
        """Bytes alive now."""
        return sum(storage.nbytes() for storage in self.live)
