"""The meter against PyTorch's own tracker, to the byte."""

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch.distributed._tools.mem_tracker import MemTracker

from bdia.data.ranks import local_part
from bdia.models import VisionTransformer
from bdia.optim import SetAdam
from bdia.profiling.storage_meter import StorageMeter, optimizer_state
from bdia.reversible import BdiaStack, CheckpointStack, RevVitStack, StandardStack


@pytest.mark.parametrize("stack", [StandardStack, CheckpointStack, BdiaStack, RevVitStack])
def test_the_peak_of_a_training_step_is_memtrackers_to_the_byte(stack, one_thread):
    torch.manual_seed(0)
    net = VisionTransformer(stack, patch_size=8, width=32, depth=4, heads=2, head_dim=16, mlp_hidden=64)
    optimizer = SetAdam(net.parameters())
    images, labels = torch.randn(16, 3, 32, 32), torch.randint(10, (16,))

    def step():
        F.cross_entropy(net(images), labels).backward()
        optimizer.step()
        optimizer.zero_grad()

    step()
    tracker = MemTracker()
    tracker.track_external(net, optimizer, images, labels)
    with tracker:
        step()
    wanted = tracker.get_tracker_snapshot("peak")[torch.device("cpu")]["Total"]
    meter = StorageMeter([*net.parameters(), *optimizer_state(optimizer), images, labels], net.parameters())
    with meter:
        step()
    assert meter.peak == wanted
    assert 0 < meter.gradients_at_peak <= sum(p.nbytes for p in net.parameters())


def test_freed_storages_and_dead_tensors_no_longer_count():
    with StorageMeter([], []) as meter:
        kept = torch.ones(100)
        freed = torch.ones(200)
        dead = torch.ones(300)
        assert meter.total() == 4 * 600
        freed.untyped_storage().resize_(0)
        assert meter.total() == 4 * 400
        del dead
        assert meter.total() == 4 * 100
    assert meter.peak == 4 * 600
    assert kept.sum() == 100


def test_a_storage_that_grows_counts_with_its_new_size_and_resizing_is_left_as_it_was():
    resize = torch.UntypedStorage.resize_
    known = torch.ones(100)
    with StorageMeter([known], []) as meter:
        known.untyped_storage().resize_(4 * 300)
        made = torch.empty(0)
        made.resize_(50)
        assert meter.total() == 4 * 350
    assert torch.UntypedStorage.resize_ is resize


def test_what_is_booked_under_a_name_leaves_with_its_storage():
    parameter = torch.nn.Parameter(torch.ones(100))
    with StorageMeter([parameter], [parameter]) as meter:
        meter.owner = "head"
        kept, dead = torch.ones(200), torch.ones(300)
        del dead
        (parameter * 2).sum().backward()
        meter.owner = None
        last = torch.ones(1000)
    assert meter.owned_at_peak == {"head": kept.nbytes}
    assert meter.gradients_at_peak == parameter.grad.nbytes
    assert meter.peak == sum(tensor.nbytes for tensor in (parameter, parameter.grad, kept, last))


def test_views_share_their_storage_and_what_was_there_before_counts():
    known = torch.ones(100)
    with StorageMeter([known], []) as meter:
        view = known.view(10, 10)[1:]
        assert (meter.total(), view.shape) == (400, (9, 10))


def test_a_gradient_older_than_the_meter_is_no_accident_of_a_step_that_owns_memory():
    layer = torch.nn.Linear(4, 4)
    layer(torch.ones(1, 4)).sum().backward()  # the first of two accumulated batches
    with StorageMeter(layer.parameters(), layer.parameters()) as meter:
        meter.owner = "loss_head"
        layer(torch.ones(1, 4)).sum().backward()
    assert meter.owned_at_peak["loss_head"] > 0


def test_of_a_tensor_that_is_shared_out_the_part_here_counts():
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Shard, distribute_tensor
    from torch.testing._internal.distributed.fake_pg import FakeStore

    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=2)
    try:
        shared = distribute_tensor(torch.zeros(8, 4), init_device_mesh("cpu", (2,)), [Shard(0)], src_data_rank=None)
        with StorageMeter([local_part(shared)], []) as meter:
            before = meter.alive
            shared.mul_(2)
            assert (before, meter.alive) == (4 * 4 * 4, 4 * 4 * 4)
            made = shared + 1
            assert meter.alive == 2 * 4 * 4 * 4
            del made
    finally:
        dist.destroy_process_group()
