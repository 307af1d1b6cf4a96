"""Checkpointing whose inputs lie on the host: what others do, counted on a machine that has a CPU only."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import _disable_current_modes

from bdia.reversible import BlockStack


@dataclass
class Host:
    """Bytes that the last step has moved."""

    bytes: int = 0


@contextlib.contextmanager
def inputs_on_host(task: nn.Module, moves: bool = True) -> Iterator[Host]:
    """Inside, what a stack's forward saves for backward is copied out of a `StorageMeter`'s sight, and back when read.

    It is torch's `save_on_cpu`, except that both copies lie on the CPU: the one for the host is not counted.
    """
    host = Host()
    saved = torch.autograd.graph.saved_tensors_hooks(_mover(host), _back)
    hooks = []
    for stack in (module for module in task.modules() if moves and isinstance(module, BlockStack)):
        hooks.append(stack.register_forward_pre_hook(lambda *_: _begin(host, saved)))
        hooks.append(stack.register_forward_hook(lambda *_: saved.__exit__(None, None, None)))
    try:
        yield host
    finally:
        for hook in hooks:
            hook.remove()


def _begin(host: Host, saved: torch.autograd.graph.saved_tensors_hooks) -> None:
    host.bytes = 0
    saved.__enter__()


def _mover(host: Host) -> Callable[[Tensor], Tensor]:
    def move(tensor: Tensor) -> Tensor:
        host.bytes += tensor.nbytes
        with _disable_current_modes():
            return tensor.detach().clone()

    return move


def _back(moved: Tensor) -> Tensor:
    return moved.clone()
