"""One number of each of several tensors, which this process holds whole or shares with others (FSDP2)."""

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from bdia import UnsupportedError


class Whole:
    """Reductions of tensors that this process holds whole."""

    def largest(self, tensors: list[Tensor]) -> Sequence[Tensor]:
        """Return the largest element of each."""
        return torch._foreach_max(tensors)

    def norms(self, tensors: list[Tensor]) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
        """Return the 1-norm and the 2-norm of each."""
        return torch._foreach_norm(tensors, 1), torch._foreach_norm(tensors, 2)

    def smallest(self, tensors: list[Tensor]) -> Sequence[Tensor]:
        """Return the smallest element of each."""
        return [tensor.min() for tensor in tensors]


class Shared:
    """Reductions over the parts of all processes; no element is negative, and a process's part may be empty.

    Each call is one small exchange for all tensors. Largest and smallest elements are those of the whole tensor, to the
    last bit. Norms are sums of the parts' norms, and so rounded otherwise than those of the whole tensor.

    Args:
        group: the processes that share the tensors; each has to call with its parts of the same ones.
    """

    def __init__(self, group: dist.ProcessGroup) -> None:
        self.group = group

    def largest(self, parts: list[Tensor]) -> Sequence[Tensor]:
        """Return the largest element of each."""
        found = torch.stack([part.max() if part.numel() else part.new_zeros(()) for part in parts])
        dist.all_reduce(found, dist.ReduceOp.MAX, self.group)
        return found.unbind()

    def norms(self, parts: list[Tensor]) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
        """Return the 1-norm and the 2-norm of each."""
        ones, twos = (torch.stack([part.norm(order) for part in parts]) for order in (1, 2))
        sums = torch.stack([ones, twos.square()])
        dist.all_reduce(sums, dist.ReduceOp.SUM, self.group)
        return sums[0].unbind(), sums[1].sqrt().unbind()

    def smallest(self, parts: list[Tensor]) -> Sequence[Tensor]:
        """Return the smallest element of each."""
        found = torch.stack([part.min() if part.numel() else part.new_full((), torch.inf) for part in parts])
        dist.all_reduce(found, dist.ReduceOp.MIN, self.group)
        return found.unbind()


Reductions = Whole | Shared


def reductions_of(parameter: Tensor) -> Reductions:
    """Return what reduces tensors that are laid out as the parameter.

    Raises:
        UnsupportedError: its parts overlap, or lie on a mesh of several dimensions.
    """
    if not hasattr(parameter, "placements"):
        return Whole()
    placements = parameter.placements
    if len(placements) != 1 or not placements[0].is_shard():
        raise UnsupportedError(
            f"SetAdam got a parameter laid out as {placements}, wanted one that is cut along one dimension of a mesh, "
            "as fully_shard does; set optimizer=adamw"
        )
    return Shared(parameter.device_mesh.get_group())


def local(tensor: Tensor) -> Tensor:
    """Return this process's part of a tensor, without a copy: changes in place reach the tensor."""
    return tensor.to_local() if hasattr(tensor, "placements") else tensor
