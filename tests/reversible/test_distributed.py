"""DistributedDataParallel and FSDP2 with two gloo processes: the gradients of one process."""

import os
import socket

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from reversible_helpers import loss_of, make_blocks, make_tokens
from torch.nn.parallel import DistributedDataParallel

from bdia.reversible import BdiaStack

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not dist.is_gloo_available(), reason="needs gloo")]
RANKS, DEPTH = 2, 4


def sample_of(rank):
    return make_tokens(seed=rank).detach()


def stack_of(backward):
    return BdiaStack(make_blocks(DEPTH, 0.1), backward=backward)


def one_process(backward, steps):
    """Mean gradient over the ranks' batches, each with its rank's random numbers."""
    stack = stack_of(backward)
    totals = [torch.zeros_like(p) for p in stack.parameters()]
    for rank in range(RANKS):
        for parameter in stack.parameters():
            parameter.grad = None
        torch.manual_seed(rank)
        for _ in range(steps):
            loss_of(stack(sample_of(rank))).backward()
        for total, parameter in zip(totals, stack.parameters(), strict=True):
            total += parameter.grad
    return [total / RANKS for total in totals]


def wrap(kind, stack):
    if kind == "ddp":
        return DistributedDataParallel(stack)
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh("cpu", (RANKS,))
    for block in stack:
        fully_shard(block, mesh=mesh)
    return fully_shard(stack, mesh=mesh)


def work(rank, port, kind, backward, steps, folder):
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=RANKS)
    stack = stack_of(backward)
    model = wrap(kind, stack)
    torch.manual_seed(rank)
    for _ in range(steps):
        loss_of(model(sample_of(rank))).backward()
    grads = [p.grad.full_tensor() if hasattr(p.grad, "full_tensor") else p.grad for p in stack.parameters()]
    torch.save(grads, os.path.join(folder, f"{backward}{rank}.pt"))
    dist.destroy_process_group()


def launch(kind, backward, steps, folder):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(work, args=(port, kind, backward, steps, str(folder)), nprocs=RANKS)
    return [torch.load(folder / f"{backward}{rank}.pt") for rank in range(RANKS)]


@pytest.mark.parametrize("kind", ["ddp", "fsdp2"])
@pytest.mark.parametrize("steps", [1, 2])
def test_two_processes_train_reversibly_with_the_gradients_of_stored_and_of_one_process(kind, steps, tmp_path):
    found, wanted = (launch(kind, mode, steps, tmp_path) for mode in ("reversible", "stored"))
    for ranks in zip(*found, *wanted, strict=True):
        assert all(torch.equal(ranks[0], other) for other in ranks[1:])
    for a, b in zip(found[0], one_process("stored", steps), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)  # the ranks' sum is taken in another order
    assert all(g.abs().sum() > 0 for g in found[0])
