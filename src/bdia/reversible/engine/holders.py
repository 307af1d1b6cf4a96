"""Who holds the memory of a tensor: the engine alone, or somebody else too."""

import sys

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.multiprocessing.reductions import StorageWeakRef


def _holders(x: Tensor) -> tuple[int, int]:
    """Count the tensors on x's memory, and the Python references to its storage."""
    storage = x.untyped_storage()
    return torch._C._storage_Use_Count(storage._cdata), sys.getrefcount(storage)


_SOLE = _holders(torch.empty(1, device="cpu"))  # of a tensor that nobody else holds, in this version of torch


def held_elsewhere(x: Tensor) -> bool:
    """Whether another tensor, view, array or storage object shares x's memory."""
    if isinstance(x, FakeTensor):  # of a planner: as if the pass were the one holder
        return False
    return any(count > sole for count, sole in zip(_holders(x), _SOLE, strict=True))


class StorageReference:
    """A weak reference to a tensor's memory: it does not keep it alive."""

    def __init__(self, x: Tensor) -> None:
        self._reference = None if isinstance(x, FakeTensor) else StorageWeakRef(x.untyped_storage())

    def alive(self) -> bool:
        """Whether somebody still holds the memory."""
        return self._reference is not None and not self._reference.expired()
