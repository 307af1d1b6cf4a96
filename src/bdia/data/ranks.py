"""The processes that train one model together, and what they tell each other. Alone, each call is free."""

import os
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

EXTERNAL = ("RANK", "SLURM_PROCID")  # set by torchrun, and by srun, in each process that they start


def rank_of_environment() -> int | None:
    """Return this process's number among those that a launcher started; None where none did."""
    return next((int(os.environ[name]) for name in EXTERNAL if os.environ.get(name, "").isdigit()), None)


def are_several() -> bool:
    """Tell whether processes have joined each other."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def rank() -> int:
    """Return this process's number among those that have joined each other; 0 alone."""
    return dist.get_rank() if are_several() else 0


def gathered(value: Any) -> list[Any]:
    """Return a value of every process, in the order of the ranks; every process has to ask for it."""
    if not are_several():
        return [value]
    found: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(found, value)
    return found


def largest_of_ranks(number: int, device: torch.device) -> int:
    """Return the largest of the processes' numbers; every process has to ask."""
    if not are_several():
        return number
    found = torch.tensor([number], device=device)
    dist.all_reduce(found, dist.ReduceOp.MAX)
    return int(found.item())


def local_part(tensor: Tensor) -> Tensor:
    """Return what this process holds of a tensor: all of it where it is not shared out (a DTensor)."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor
