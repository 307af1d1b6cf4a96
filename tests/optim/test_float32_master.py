"""Weights in bfloat16, the optimizer in float32: the steps of a loop written by hand, also after a resume."""

import copy
import functools

import pytest
import torch
from torch import nn

from bdia import UnsupportedError
from bdia.build import build_optimizer, compose
from bdia.optim import Float32Master, SetAdam, in_backward

MAKERS = {
    "AdamW": torch.optim.AdamW,
    "AdamW fused": functools.partial(torch.optim.AdamW, fused=True, weight_decay=0.1),
    "SetAdam": SetAdam,
    "SGD with momentum": functools.partial(torch.optim.SGD, lr=0.01, momentum=0.9),
}


def model(dtype=torch.bfloat16):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.LayerNorm(16), nn.Linear(16, 4)).to(dtype)


def train(net, optimizer, steps, first=0):
    """Take steps on batches of their own numbers."""
    for number in range(first, first + steps):
        x = torch.randn(5, 8, generator=torch.Generator().manual_seed(number)).to(next(net.parameters()).dtype)
        net(x).float().square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()


def by_hand(net, make, steps):
    """The same with a float32 copy of each weight, all stepped at once."""
    masters = [p.detach().float().requires_grad_() for p in net.parameters()]
    optimizer = make(masters)
    for number in range(steps):
        x = torch.randn(5, 8, generator=torch.Generator().manual_seed(number)).bfloat16()
        net(x).float().square().mean().backward()
        for master, p in zip(masters, net.parameters(), strict=True):
            master.grad, p.grad = p.grad.float(), None
        optimizer.step()
        with torch.no_grad():
            for master, p in zip(masters, net.parameters(), strict=True):
                p.copy_(master)
    return masters


@pytest.mark.parametrize("name", MAKERS)
def test_weights_and_masters_are_those_of_a_loop_written_by_hand(name):
    found, wanted = model(), model()
    optimizer = Float32Master(found.parameters(), make=MAKERS[name])
    train(found, optimizer, 20)
    masters = by_hand(wanted, MAKERS[name], 20)
    for p, other, master in zip(found.parameters(), wanted.parameters(), masters, strict=True):
        assert torch.equal(p, other) and torch.equal(optimizer.state[p]["master"], master)
        assert all(v.dtype == torch.float32 for v in optimizer.state[p].values() if isinstance(v, torch.Tensor))


@pytest.mark.parametrize("name", MAKERS)
def test_float32_weights_are_stepped_as_without_and_have_no_copy(name):
    found, wanted = model(torch.float32), model(torch.float32)
    optimizer = Float32Master(found.parameters(), make=MAKERS[name])
    train(found, optimizer, 5)
    train(wanted, MAKERS[name](wanted.parameters()), 5)
    assert all(torch.equal(p, q) for p, q in zip(found.parameters(), wanted.parameters(), strict=True))
    assert all("master" not in state for state in optimizer.state.values())


@pytest.mark.parametrize("name", MAKERS)
def test_a_step_in_backward_gives_the_same_weights_and_leaves_no_gradient(name):
    found, wanted = model(), model()
    make = functools.partial(Float32Master, make=MAKERS[name])
    train(found, in_backward(found.parameters(), make=make), 5)
    train(wanted, make(wanted.parameters()), 5)
    assert all(torch.equal(p, q) for p, q in zip(found.parameters(), wanted.parameters(), strict=True))


def test_a_resumed_training_is_the_uninterrupted_one_and_small_steps_are_not_lost():
    whole, first = model(), model()
    make = functools.partial(torch.optim.AdamW, lr=1e-5)
    optimizer = Float32Master(whole.parameters(), make=make)
    train(whole, optimizer, 40)
    begun = Float32Master(first.parameters(), make=make)
    train(first, begun, 20)
    ones, master = first[2].weight, begun.state[first[2].weight]["master"]
    assert torch.equal(ones, torch.ones_like(ones)) and not torch.equal(master, torch.ones_like(master))
    resumed = copy.deepcopy(first)
    saved = copy.deepcopy(begun.state_dict())
    other = Float32Master(resumed.parameters(), make=make)
    other.load_state_dict(saved)
    train(resumed, other, 20, first=20)
    for p, q in zip(resumed.parameters(), whole.parameters(), strict=True):
        assert torch.equal(p, q) and torch.equal(other.state[p]["master"], optimizer.state[q]["master"])


def test_the_group_s_settings_at_a_step_count_as_a_schedule_changes_them():
    found, net = model(), model()
    optimizer = Float32Master(
        [{"params": found[0].parameters(), "lr": 0.0}, {"params": found[3].parameters()}], make=SetAdam
    )
    train(found, optimizer, 1)
    assert torch.equal(found[0].weight, net[0].weight) and not torch.equal(found[3].weight, net[3].weight)
    optimizer.param_groups[0]["lr"] = 0.1
    train(found, optimizer, 1)
    assert not torch.equal(found[0].weight, net[0].weight)


def test_a_config_chooses_it_alone_and_in_backward():
    net = model()
    cfg = compose(["optimizer=adamw", "optimizer.float32_master=true"])
    assert isinstance(build_optimizer(cfg)(net.parameters()), Float32Master)
    cfg = compose(["optimizer=adamw", "optimizer.float32_master=true", "optimizer.in_backward=true"])
    optimizer = build_optimizer(cfg)(net.parameters())
    before = [p.clone() for p in net.parameters()]
    net(torch.ones(2, 8, dtype=torch.bfloat16)).float().square().mean().backward()
    assert isinstance(optimizer, Float32Master) and all(p.grad is None for p in net.parameters())
    assert not all(torch.equal(p, q) for p, q in zip(net.parameters(), before, strict=True))


def test_lbfgs_is_refused():
    with pytest.raises(UnsupportedError, match=r"set optimizer.float32_master=false"):
        Float32Master(model().parameters(), make=torch.optim.LBFGS)
