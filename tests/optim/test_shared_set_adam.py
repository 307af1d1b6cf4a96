"""SetAdam where weights are shared out: the step of the whole weight. Gloo processes on this machine."""

import os

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

from bdia import UnsupportedError
from bdia.optim import SetAdam
from bdia.optim.reductions import Shared
from helpers.processes import free_port

pytestmark = pytest.mark.skipif(not dist.is_gloo_available(), reason="needs gloo")
SHAPES = [(5, 3), (1, 4), (300, 7), (64,), (8, 8)]  # two ranks: unequal parts, an empty part, equal parts
ROUNDING = 2e-6  # of a sum, and so of a step, in float32


def weights():
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator) for shape in SHAPES] + [torch.ones(())]


def gradients(step):
    """Some elements never get one, and the last matrix gets none at all in the first steps."""
    generator = torch.Generator().manual_seed(1000 + step)
    found = [torch.randn(shape, generator=generator) for shape in SHAPES] + [torch.tensor(0.3)]
    found[2][:, 0] = 0.0
    found[4] *= step > 2
    return found


def trained(share, steps=5):
    """Parameters after the steps; `share` lays a tensor out, single numbers stay whole as in bdia.tasks.sharding."""
    params = [nn.Parameter(share(w) if w.ndim else w) for w in weights()]
    optimizer = SetAdam(params, lr=0.01)
    for step in range(steps):
        for p, gradient in zip(params, gradients(step), strict=True):
            p.grad = share(gradient) if gradient.ndim else gradient
        optimizer.step()
    return [p.full_tensor() if isinstance(p, DTensor) else p.detach() for p in params]


def assert_same_up_to_rounding(found, wanted):
    for a, b, start in zip(found, wanted, weights(), strict=True):
        assert (a - b).abs().max() <= ROUNDING * (b - start).abs().max() + 1e-6 * b.abs().max()
    assert torch.equal(found[-1], wanted[-1])
    assert not torch.equal(wanted[0], weights()[0])


def join(rank, ranks, port):
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    dist.init_process_group("gloo", rank=rank, world_size=ranks)
    return init_device_mesh("cpu", (ranks,))


def work(rank, port, folder):
    torch.set_num_threads(1)
    mesh = join(rank, 2, port)
    shared = Shared(mesh.get_group())
    parts = [torch.tensor([float(rank), 3.0]), torch.arange(rank, dtype=torch.float32) + 2]
    ones, twos = shared.norms(parts)
    reduced = [*map(torch.stack, (shared.largest(parts), shared.smallest(parts), ones, twos))]
    torch.save((reduced, trained(lambda t: distribute_tensor(t, mesh, [Shard(0)]))), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_take_the_step_of_the_whole_weight(tmp_path):
    mp.spawn(work, args=(free_port(), str(tmp_path)), nprocs=2)
    (reduced, found), (others, again) = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    assert all(torch.equal(a, b) for a, b in zip(reduced + found, others + again, strict=True))
    largest, smallest, ones, twos = (numbers.tolist() for numbers in reduced)
    assert (largest, smallest) == ([3.0, 2.0], [0.0, 2.0])
    assert (ones, twos) == ([7.0, 2.0], [pytest.approx(19**0.5), 2.0])
    assert_same_up_to_rounding(found, trained(lambda tensor: tensor))


@pytest.fixture
def mesh():
    yield join(0, 1, free_port())
    dist.destroy_process_group()


def test_a_weight_laid_out_over_one_process_takes_the_step_of_the_whole_weight(mesh):
    found = trained(lambda tensor: distribute_tensor(tensor, mesh, [Shard(0)]))
    assert_same_up_to_rounding(found, trained(lambda tensor: tensor))


def test_parts_that_overlap_are_refused(mesh):
    with pytest.raises(UnsupportedError, match=r"Replicate.*cut along one dimension.*optimizer=adamw"):
        trained(lambda tensor: distribute_tensor(tensor, mesh, [Replicate()]))


def test_one_that_overlaps_among_others_that_do_not_is_refused(mesh):
    layouts = iter([*[[Shard(0)]] * 4, [Replicate()]] * 2)  # of the weights, then of the first gradients
    with pytest.raises(UnsupportedError, match=r"Replicate.*optimizer=adamw"):
        trained(lambda tensor: distribute_tensor(tensor, mesh, next(layouts)), steps=1)
