"""SetAdam against the equations in plain Python floats, and as a torch optimizer."""

import copy
import math
import weakref

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from bdia.optim import SetAdam
from bdia.optim.set_adam import bounded_groups

MIB = 2**20


class ReferenceSetAdam:
    """One tensor as a list of Python floats (float64), one line per equation of section 4 of the paper's settings."""

    def __init__(self, theta, lr, betas, eps):
        self.theta, self.lr, (self.beta1, self.beta2), self.eps = list(theta), lr, betas, eps
        self.m, self.v, self.t, self.d = [0.0] * len(theta), [0.0] * len(theta), 0, len(theta)

    def step(self, grad):
        self.t += 1
        self.m = [self.beta1 * m + (1 - self.beta1) * g for m, g in zip(self.m, grad, strict=True)]
        self.v = [self.beta2 * v + (1 - self.beta2) * g * g for v, g in zip(self.v, grad, strict=True)]
        square = sum(v * v for v in self.v)
        scale = sum(self.v) ** 2 / (self.d * square) if square else 0.0
        w = [math.sqrt(v * scale / (1 - self.beta2**self.t) + self.eps) for v in self.v]
        w = [u - 0.5 * min(w) for u in w]
        rate = self.lr / (1 - self.beta1**self.t)
        self.theta = [p - rate * m / u for p, m, u in zip(self.theta, self.m, w, strict=True)]


class LiveBytes(TorchDispatchMode):
    """Bytes of the storages made inside the context and still alive, and the most there ever were."""

    def __init__(self):
        super().__init__()
        self.known, self.live, self.peak = weakref.WeakSet(), 0, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        before = {t.untyped_storage().data_ptr() for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)}
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage().data_ptr() not in before:
                self.add(tensor.untyped_storage())
        return out

    def add(self, storage):
        if storage not in self.known:
            self.known.add(storage)
            self.live += storage.nbytes()
            self.peak = max(self.peak, self.live)
            weakref.finalize(storage, self.release, storage.nbytes())

    def release(self, size):
        self.live -= size


def parameters(shapes, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return [nn.Parameter(torch.randn(shape, generator=generator, dtype=dtype)) for shape in shapes]


def set_gradients(params, step, scale=1.0):
    generator = torch.Generator().manual_seed(1000 + step)
    for p in params:
        p.grad = scale * torch.randn(p.shape, generator=generator, dtype=p.dtype)


def take_steps(optimizer, params, first, last):
    for step in range(first, last):
        set_gradients(params, step)
        optimizer.step()


@pytest.mark.parametrize("scale", [1.0, 1e-4, 1e-12, 1e12])  # squared twice, 1e-12 and 1e12 leave float32
def test_fifty_steps_follow_the_equations(scale):
    settings = {"lr": 1e-2, "betas": (0.9, 0.99), "eps": 1e-18 * scale**2}
    params = parameters([(5, 3), (7,), (1,), ()])
    optimizer = SetAdam(params, **settings)
    references = [ReferenceSetAdam(p.flatten().tolist(), **settings) for p in params]
    for step in range(50):
        set_gradients(params, step, scale)
        for p, reference in zip(params, references, strict=True):
            reference.step(p.grad.flatten().tolist())
        optimizer.step()
    for p, reference in zip(params, references, strict=True):
        wanted = torch.tensor(reference.theta).view_as(p)
        torch.testing.assert_close(p.detach(), wanted, rtol=2e-6, atol=2e-6)


def test_double_precision_follows_the_equations_closely():
    settings = {"lr": 1e-2, "betas": (0.9, 0.999), "eps": 1e-8}  # an eps that counts
    (p,) = params = parameters([(6, 2)], dtype=torch.double)
    optimizer, reference = SetAdam(params, **settings), ReferenceSetAdam(p.flatten().tolist(), **settings)
    for step in range(50):
        set_gradients(params, step, scale=1e-4)
        reference.step(p.grad.flatten().tolist())
        optimizer.step()
    wanted = torch.tensor(reference.theta, dtype=torch.double).view_as(p)
    torch.testing.assert_close(p.detach(), wanted, rtol=1e-12, atol=0)


def test_zero_gradients_move_nothing_and_make_no_nan():
    params = parameters([(4, 4), ()])
    before = [p.detach().clone() for p in params]
    optimizer = SetAdam(params)
    for p in params:
        p.grad = torch.zeros_like(p)
    optimizer.step()
    assert all(torch.equal(p, b) for p, b in zip(params, before, strict=True))
    take_steps(optimizer, params, 1, 3)
    assert all(p.isfinite().all() and not torch.equal(p, b) for p, b in zip(params, before, strict=True))


def test_elements_that_never_get_a_gradient_stay():
    (p,) = params = parameters([(4,)])
    before = p.detach().clone()
    optimizer = SetAdam(params)
    p.grad = torch.tensor([1.0, 0.0, -1.0, 0.0])
    optimizer.step()
    assert torch.equal(p[1::2], before[1::2]) and p.isfinite().all() and (p[::2] != before[::2]).all()


def test_saved_and_loaded_optimizer_continues_bit_for_bit(tmp_path):
    params = parameters([(5, 3), (7,), ()])
    optimizer = SetAdam(params, lr=1e-2)
    take_steps(optimizer, params, 0, 5)
    assert set(optimizer.state[params[0]]) == {"step", "exp_avg", "exp_avg_sq"}
    resumed = copy.deepcopy(params)
    torch.save(optimizer.state_dict(), tmp_path / "state.pt")
    second = SetAdam(resumed, lr=1.0)
    second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    take_steps(optimizer, params, 5, 10)
    take_steps(second, resumed, 5, 10)
    assert all(torch.equal(a, b) for a, b in zip(params, resumed, strict=True))


def test_groups_keep_their_own_rate_and_a_parameter_without_gradient_stays():
    slow, fast, still = parameters([(3,), (3,), (3,)])
    fast.data.copy_(slow.data)
    before = slow.detach().clone()
    optimizer = SetAdam([{"params": [slow, still]}, {"params": [fast], "lr": 4e-3}], lr=1e-3)
    for p in (slow, fast):
        p.grad = torch.tensor([1.0, -2.0, 0.5])
    optimizer.step()
    torch.testing.assert_close(fast - before, 4 * (slow - before), rtol=1e-3, atol=1e-7)
    assert still not in optimizer.state


def test_splitting_the_parameters_into_groups_changes_no_bit(monkeypatch):
    together, apart = parameters([(5, 3), (7,), (2, 2)]), parameters([(5, 3), (7,), (2, 2)])
    take_steps(SetAdam(together), together, 0, 5)
    monkeypatch.setattr("bdia.optim.set_adam.GROUP_ELEMENTS", 8)
    take_steps(SetAdam(apart), apart, 0, 5)
    assert all(torch.equal(a, b) for a, b in zip(together, apart, strict=True))
    assert [[p.numel() for p in group] for group in bounded_groups(apart, 11)] == [[15], [7, 4]]


def test_a_step_needs_one_bounded_temporary():
    """12 MiB of parameters in tensors of 1 MiB: beyond its state a step may hold 8 MiB and a few scalars."""
    params = parameters([(512, 512)] * 12)
    optimizer = SetAdam(params)
    take_steps(optimizer, params, 0, 1)
    with LiveBytes() as memory:
        optimizer.step()
    assert 7 * MIB < memory.peak < 8.01 * MIB


def test_training_minimises_a_small_problem():
    torch.manual_seed(0)
    x, wanted = torch.randn(64, 4), torch.randn(4, 1)
    model = nn.Linear(4, 1)
    optimizer = SetAdam(model.parameters(), lr=1e-2)

    def closure():
        optimizer.zero_grad()
        loss = (model(x) - x @ wanted).square().mean()
        loss.backward()
        return loss

    losses = [optimizer.step(closure).item() for _ in range(400)]
    assert losses[-1] < 1e-3 * losses[0]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lr": -1.0}, r"-1\.0.*optimizer\.lr"),
        ({"lr": float("nan")}, r"nan.*optimizer\.lr"),
        ({"betas": (0.9, 1.0)}, r"1\.0.*optimizer\.betas"),
        ({"eps": 0.0}, r"0\.0.*optimizer\.eps"),
    ],
)
def test_settings_out_of_range_are_refused_by_config_key(settings, message):
    with pytest.raises(ValueError, match=message):
        SetAdam(parameters([(2,)]), **settings)


def test_sparse_gradients_are_refused():
    embedding = nn.Embedding(4, 2, sparse=True)
    embedding(torch.tensor([1])).sum().backward()
    with pytest.raises(RuntimeError, match=r"\(4, 2\).*sparse=False"):
        SetAdam(embedding.parameters()).step()
