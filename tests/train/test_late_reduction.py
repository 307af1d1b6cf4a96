"""FSDP2 that exchanges gradients once a step: what is held back, and where a stopped run ends. One process."""

import socket
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from bdia.callbacks.checkpoint import Checkpoint
from bdia.train.devices import strategy
from bdia.train.resume import Resume


@pytest.fixture
def net(monkeypatch):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setenv("MASTER_PORT", str(free.getsockname()[1]))
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    dist.init_process_group("gloo", rank=0, world_size=1)
    torch.manual_seed(0)
    yield fully_shard(nn.Linear(4, 2), mesh=init_device_mesh("cpu", (1,)))
    dist.destroy_process_group()


@pytest.mark.skipif(not dist.is_gloo_available(), reason="needs gloo")
def test_gradients_are_held_back_until_the_last_batch_and_then_hold_all(net):
    late = strategy("fsdp2_no_sync", 2)
    late._lightning_module = task = SimpleNamespace(net=net, holds_back=False)
    batches = torch.randn(3, 5, 4)
    for batch in batches[:2]:
        with late.block_backward_sync():
            net(batch).sum().backward()
        assert net.weight.grad is None and task.holds_back
    net(batches[2]).sum().backward()
    torch.testing.assert_close(net.weight.grad.full_tensor(), batches.sum(dim=(0, 1)).expand(2, 4))


@pytest.mark.parametrize("holds_back", [True, False])
def test_a_run_that_is_told_to_end_does_so_where_no_gradient_is_held_back(holds_back):
    resume = Resume("0" * 40)
    resume.stopping.noted = 1
    signals = SimpleNamespace(received_sigterm=False)
    device = SimpleNamespace(root_device=torch.device("cpu"))
    trainer = SimpleNamespace(world_size=2, _signal_connector=signals, strategy=device)
    task = SimpleNamespace(device=torch.device("cpu"), holds_back=holds_back)
    resume.on_train_batch_end(trainer, task, None, None, 0)
    assert signals.received_sigterm is not holds_back


def test_a_checkpoint_whose_time_has_come_waits_while_gradients_are_held_back(monkeypatch, tmp_path):
    checkpoint, written = Checkpoint(dirpath=tmp_path), []
    checkpoint.is_due = True
    monkeypatch.setattr(checkpoint, "_write", written.append)
    trainer = SimpleNamespace(is_last_batch=False, enable_validation=False, val_check_batch=None)
    task = SimpleNamespace(holds_back=True)
    checkpoint.on_train_batch_end(trainer, task, None, None, 0)
    assert not written
    task.holds_back = False
    checkpoint.on_train_batch_end(trainer, task, None, None, 1)
    assert written
