"""Memory of one step of a workload: its peak by category, and what a stack holds between forward and backward."""

from typing import Any

import torch
from torch import Tensor

from bdia.callbacks.memory import book_categories
from bdia.profiling.storage_meter import StorageMeter, optimizer_state
from bdia.profiling.workload import Workload
from bdia.reversible import BlockStack


def step_memory(workload: Workload) -> dict[str, int]:
    """Run one step, which should not be the first one, and account for every storage that its operations make.

    Returns:
        bytes: `peak`, and at the peak `parameters`, `gradients`, `optimizer`, `other` (batch, buffers) and
        `activations` (all the rest), of those `loss_head` where the model has one; `held`, what the stacks' forward
        leaves for backward, their outputs included; `side_information`. In elements: `stream`, B * T * D, summed over
        stacks. On a GPU `peak_allocated` is the allocator's own peak in a second step, without the meter. Memory of
        other workloads is subtracted.
    """
    known = [
        *workload.task.parameters(),
        *workload.task.buffers(),
        *optimizer_state(workload.optimizer),
        *workload.batch,
    ]
    meter = StorageMeter(known, workload.task.parameters())
    stacks = _StoredForBackward(workload, meter)
    own = meter.total()
    hooks = [*book_categories(workload.task, meter), *stacks.hooks]
    try:
        with meter:
            workload.step()
    finally:
        for hook in hooks:
            hook.remove()
    return _categories(workload, meter) | stacks.found() | _allocator(workload, own)


def _categories(workload: Workload, meter: StorageMeter) -> dict[str, int]:
    parts = {
        "parameters": _bytes(workload.task.parameters()),
        "gradients": meter.gradients_at_peak,
        "optimizer": _bytes(optimizer_state(workload.optimizer)),
        "other": _bytes([*workload.batch, *workload.task.buffers()]),
    }
    activations = meter.peak - sum(parts.values())
    return {"peak": meter.peak} | parts | {"activations": activations} | meter.owned_at_peak


def _bytes(tensors: Any) -> int:
    """Bytes of the tensors' storages, each counted once."""
    storages = [tensor.untyped_storage() for tensor in tensors]
    return sum({storage._cdata: storage.nbytes() for storage in storages}.values())


class _StoredForBackward:
    """Hooks on the stacks that read the meter as their forward begins and ends."""

    def __init__(self, workload: Workload, meter: StorageMeter) -> None:
        self.meter, self.before, self.held, self.stream = meter, 0, 0, 0
        self.stacks = [module for module in workload.task.modules() if isinstance(module, BlockStack)]
        self.hooks = [stack.register_forward_pre_hook(self._enter) for stack in self.stacks]
        self.hooks += [stack.register_forward_hook(self._leave) for stack in self.stacks]

    def _enter(self, stack: BlockStack, args: tuple[Tensor, ...]) -> None:
        self.before, self.stream = self.meter.total(), self.stream + args[0].numel()

    def _leave(self, stack: BlockStack, args: tuple[Tensor, ...], output: Tensor) -> None:
        self.held += self.meter.total() - self.before

    def found(self) -> dict[str, int]:
        side = sum(getattr(stack, "side_bytes", 0) for stack in self.stacks)
        return {"held": self.held, "stream": self.stream, "side_information": side}


def _allocator(workload: Workload, own: int) -> dict[str, int]:
    """Take a step and ask the GPU's allocator for its peak; `own`: bytes of the workload's that lie there before."""
    device = workload.batch[0].device
    if device.type != "cuda":
        return {}
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    others = torch.cuda.memory_allocated(device) - own
    workload.step()
    torch.cuda.synchronize(device)
    return {"peak_allocated": torch.cuda.max_memory_allocated(device) - others}
