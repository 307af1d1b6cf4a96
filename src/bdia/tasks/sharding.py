"""FSDP2: weights and gradients shared out over devices, gathered layer by layer."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor

from bdia.reversible import BlockStack

FORWARDS = ("nll", "hidden", "encode", "decode", "logits")  # what tasks call of a model beside forward


def shard(net: nn.Module, mesh: DeviceMesh) -> None:
    """Share out every layer of a model's stacks, then what is left of it; once, however often it is called.

    A layer is gathered before it runs, in forward and again in backward, where it is recomputed. Weights stay in their
    own precision: a cast of a layer's input would take the residual stream off its grid. A parameter that is a single
    number can't be shared out: every process has it, and its gradient is averaged.
    """
    if isinstance(net, FSDPModule):
        return
    single = {parameter for parameter in net.parameters() if parameter.ndim == 0}
    for parameter in single:
        parameter.register_post_accumulate_grad_hook(partial(_average, mesh.get_group()))
    for stack in [module for module in net.modules() if isinstance(module, BlockStack)]:
        for layer in stack:
            fully_shard(layer, mesh=mesh, ignored_params=single)
    fully_shard(net, mesh=mesh, ignored_params=single)
    for name in FORWARDS:
        if hasattr(net, name):
            register_fsdp_forward_method(net, name)


@contextmanager
def whole_weights(net: nn.Module) -> Iterator[None]:
    """Hold all weights of a model on every process meanwhile; all processes have to enter and to leave.

    Inside, a call of the model exchanges nothing, so that one process may call it more often than another does: texts
    end after different numbers of tokens.
    """
    if not isinstance(net, FSDPModule):
        yield
        return
    parts = [module for module in net.modules() if isinstance(module, FSDPModule)]
    net.set_reshard_after_forward(False)
    for part in parts:
        part.unshard()
    try:
        yield
    finally:
        for part in parts:
            part.reshard()
            part.set_reshard_after_forward(part is not net, recurse=False)  # as fully_shard sets it


def _average(group: dist.ProcessGroup, parameter: Tensor) -> None:
    gradient = parameter.grad
    dist.all_reduce(gradient, group=group)
    gradient /= dist.get_world_size(group)


def like_parameter(local: Tensor, parameter: Tensor) -> Tensor:
    """Return a process's part as a tensor that is shared out like the parameter."""
    if not isinstance(parameter, DTensor):
        return local
    return DTensor.from_local(
        local, parameter.device_mesh, parameter.placements, shape=parameter.shape, stride=parameter.stride()
    )
