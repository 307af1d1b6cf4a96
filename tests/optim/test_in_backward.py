"""Parameters that are stepped inside backward: the same weights, bit for bit, and no gradient left."""

import copy
import functools
import gc
import weakref

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.checkpoint import checkpoint

from bdia import UnsupportedError
from bdia.build import compose
from bdia.optim import SetAdam, in_backward
from bdia.profiling.workload import build_workload
from bdia.reversible import BdiaStack, CheckpointStack, StandardStack, TwoLevelCheckpointStack, TwoPoint
from bdia.reversible.stacks.registry import STACKS

MODELS = {
    "vit": ("model=vit_demo", None),
    "gpt2, tied": ("data=pydoc model=gpt2_demo", 12),
    "translation": ("data=numbers model=seq2seq_demo", 12),
}
FAST = {("gpt2, tied", "bdia"), ("vit", "checkpoint")}  # the other pairs are tried in the slow tests
PAIRS = [(model, row.name) for model in MODELS for row in STACKS]
OPTIMIZERS = {
    "SetAdam": SetAdam,
    "AdamW": torch.optim.AdamW,
    "AdamW fused": functools.partial(torch.optim.AdamW, fused=True),
    "SGD with momentum": functools.partial(torch.optim.SGD, lr=0.1, momentum=0.9),
    "RMSprop": torch.optim.RMSprop,
    "Adagrad": torch.optim.Adagrad,
    "NAdam": torch.optim.NAdam,
}


def states(workload):
    """Weights and optimizer state by name."""
    found = dict(workload.task.named_parameters())
    state = workload.optimizer.state_dict()["state"]
    return found | {f"{n} {key}": value for n, one in state.items() for key, value in one.items()}


def assert_same(one, other):
    found, wanted = states(one), states(other)
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def workloads(model, *more):
    overrides, tokens = MODELS[model]
    made = []
    for flag in ("false", "true"):
        cfg = compose([*overrides.split(), *more, f"optimizer.in_backward={flag}"])
        made.append(build_workload(cfg, 2, tokens, vocab_size=40))
    return made


def take_steps(workload, steps, first=0):
    """Steps with dropout and gamma seeded by their number, and a rate that changes."""
    scheduler = LambdaLR(workload.optimizer, lambda step: 1.0 / (1 + first + step))
    for step in range(first, first + steps):
        torch.manual_seed(step)
        workload.step()
        scheduler.step()


@pytest.mark.parametrize(
    ("model", "stack"), [pytest.param(*pair, marks=[pytest.mark.slow] * (pair not in FAST)) for pair in PAIRS]
)
def test_weights_after_20_steps_equal_those_of_the_ordinary_loop(model, stack):
    more = ["stack.keep=0"] if "keep" in compose([f"stack={stack}"]).stack else []
    ordinary, stepped = workloads(model, f"stack={stack}", *more)
    for workload in (ordinary, stepped):
        take_steps(workload, 20)
    assert_same(stepped, ordinary)


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_every_optimizer_steps_as_in_the_ordinary_loop(make):
    (ordinary, stepped), first = workloads("gpt2, tied"), None
    for workload, wrap in (
        (ordinary, lambda make: make),
        (stepped, lambda make: functools.partial(in_backward, make=make)),
    ):
        workload.optimizer = wrap(make)(list(workload.task.net.parameters()))
        first = copy.deepcopy(list(workload.task.net.parameters()))
        take_steps(workload, 3)
    assert_same(stepped, ordinary)
    assert any(not torch.equal(a, b) for a, b in zip(first, stepped.task.net.parameters(), strict=True))


def test_a_training_changes_to_stepping_in_backward_and_back():
    ordinary, stepped = workloads("vit", "stack=bdia")
    take_steps(ordinary, 4)
    take_steps(stepped, 2)
    other = workloads("vit", "stack=bdia")[0]
    other.task.load_state_dict(stepped.task.state_dict())
    other.optimizer.load_state_dict(stepped.optimizer.state_dict())
    take_steps(other, 2, first=2)
    assert_same(other, ordinary)


def test_no_two_gradients_are_alive_but_those_of_tied_weights():
    _, work = workloads("gpt2, tied")
    alive = []
    work.optimizer.register_step_pre_hook(
        lambda *_: alive.append(sum(p.grad is not None for p in work.task.parameters()))
    )
    work.step()
    count = len(list(work.task.net.parameters()))
    assert alive == [1] * count + [0]  # each once, and at the end nothing is left to step


def test_a_second_backward_before_the_step_is_refused():
    layer = nn.Linear(2, 2)
    optimizer = in_backward(layer.parameters(), make=SetAdam)
    layer(torch.ones(1, 2)).sum().backward()
    with pytest.raises(UnsupportedError, match=r"second gradient.*optimizer\.in_backward=false"):
        layer(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    layer(torch.ones(1, 2)).sum().backward()


def test_a_weight_that_reentrant_checkpoints_share_is_refused():
    layer, x = nn.Linear(2, 2), torch.ones(1, 2, requires_grad=True)
    optimizer = in_backward(layer.parameters(), make=SetAdam)
    y = checkpoint(layer, checkpoint(layer, x, use_reentrant=True), use_reentrant=True)
    with pytest.raises(UnsupportedError, match="reentrant"):
        y.sum().backward()
    assert optimizer.state


class Residual(nn.Module):
    """x + f(x), with f's layer given, so that blocks can share it."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return x + torch.tanh(self.layer(x))


@pytest.mark.parametrize("keep", [0, 1])
def test_a_layer_that_blocks_share_is_stepped_once_after_all_of_them_were_recomputed(keep):
    def trained(make):
        torch.manual_seed(0)
        shared = nn.Linear(4, 4)
        stack = BdiaStack([Residual(shared), Residual(nn.Linear(4, 4)), Residual(shared)], TwoPoint("1/2"), keep=keep)
        optimizer = make(stack.parameters())
        for step in range(5):
            torch.manual_seed(step)
            stack(torch.randn(2, 3, 4)).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
        return list(stack.parameters())

    make = functools.partial(SetAdam, lr=0.1)
    pairs = zip(trained(make), trained(functools.partial(in_backward, make=make)), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


class ReadsDetached(Residual):
    """Residual whose weight is another block's, and gets no gradient here: autograd doesn't know that it is needed."""

    def __init__(self, layer):
        super().__init__(layer)
        self.own = nn.Linear(4, 4)

    def forward(self, x):
        return x + torch.tanh(self.own(torch.tanh(x @ self.layer.weight.detach().T)))


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (StandardStack, "inplace operation"),
        (functools.partial(CheckpointStack, keep=0), "weight of ReadsDetached was changed"),
        (TwoLevelCheckpointStack, "weight of .* was changed"),
        (functools.partial(BdiaStack, gamma=TwoPoint("1/2")), "what backward recomputed differs"),
    ],
    ids=["standard", "checkpoint", "two levels", "bdia"],
)
def test_no_stack_goes_on_with_a_weight_that_was_stepped_before_its_last_use(make, match):
    torch.manual_seed(0)
    shared = nn.Linear(4, 4)
    stack = make([ReadsDetached(shared), ReadsDetached(shared), Residual(shared)])
    optimizer = in_backward(stack.parameters(), make=functools.partial(SetAdam, lr=0.1))
    with pytest.raises(RuntimeError, match=match):
        stack(torch.randn(2, 3, 4)).square().mean().backward()
    assert shared.weight in optimizer.state


def test_the_newest_optimizer_steps_alone_and_nothing_keeps_the_weights_alive():
    layer = nn.Linear(2, 2)
    old, new = (in_backward(layer.parameters(), make=SetAdam) for _ in range(2))
    layer(torch.ones(1, 2)).sum().backward()
    assert not old.state and len(new.state) == 2
    weight = weakref.ref(layer.weight)
    del layer, old, new
    gc.collect()
    assert weight() is None


class CountsInGroup(torch.optim.SGD):
    """Keeps a number of steps in its group."""

    def step(self, closure=None):
        super().step(closure)
        for group in self.param_groups:
            group["steps"] = group.get("steps", 0) + 1


@pytest.mark.parametrize(
    ("make", "match"),
    [(CountsInGroup, "CountsInGroup keeps a state of a whole group"), (torch.optim.LBFGS, "all gradients at once")],
)
def test_an_optimizer_that_looks_at_more_than_one_parameter_is_refused(make, match):
    layer = nn.Linear(2, 2)
    with pytest.raises(UnsupportedError, match=match):
        optimizer = in_backward(layer.parameters(), make=make)
        layer(torch.ones(1, 2)).sum().backward()
        assert optimizer
