"""The CPU's quick dropout, by a mask for small tensors and a hash for large: rate, scale, what backward keeps of it."""

import warnings

import pytest
import torch
from torch import nn
from torch._dynamo.utils import counters

import bdia.models.dropout as module
import bdia.reversible.engine.compiled as compiled
from bdia.models.dropout import LEVELS, SLICE, Dropout, _drop, _DropByHash, _DropByMask, _kept, _mask, hashed
from bdia.profiling.storage_meter import StorageMeter
from bdia.reversible import BdiaStack
from bdia.reversible.engine.compiled import COMPILE_FROM, CompilerWarning

KEY = torch.tensor([12345, -678910], dtype=torch.int32)
SIZES = {"mask": (64, 512), "hash": (64, 1537)}  # 1537: no whole vectors, and a last slice that is not full


@pytest.fixture
def eager(monkeypatch):
    """No kernel is compiled."""
    monkeypatch.setattr(module, "run_compiled", lambda *_: False)


@pytest.fixture
def graphs():
    """graphs(): how many kernels were made from here on."""
    torch._dynamo.reset()
    compiled._compiled.cache_clear()
    before = counters["stats"]["unique_graphs"]
    return lambda: counters["stats"]["unique_graphs"] - before


@pytest.fixture(params=SIZES)
def shape(request, eager):
    """A shape whose entries are told by a mask of bytes, and one by a hash."""
    assert (request.param == "hash") == (torch.Size(SIZES[request.param]).numel() >= COMPILE_FROM)
    return SIZES[request.param]


@pytest.mark.parametrize("p", [2**-16, 0.1, 0.5, 0.9, 1 - 2**-16])
def test_rate_is_kept_in_each_of_the_entries_that_share_a_draw(p):
    torch.manual_seed(0)
    kept = torch.cat([Dropout(p)(torch.ones(2**14, 4)) != 0 for _ in range(16)])
    assert_independent(kept, p, lags=[1, 2, 3])


@pytest.mark.parametrize("p", [2**-16, 0.1, 0.5, 0.9, 1 - 2**-16])
def test_rate_is_kept_by_the_hash_and_entries_drop_independently(p, eager):
    torch.manual_seed(0)
    kept = Dropout(p)(torch.ones(4096, 256)) != 0
    assert_independent(kept, p, lags=[1, 2, 3, 16, 64, 255])
    assert_independent(kept.T, p, lags=[1, 2, 64, 1024])
    again = Dropout(p)(torch.ones(4096, 256)) != 0  # under another key
    assert_independent(torch.stack([kept.flatten(), again.flatten()], dim=1), p, lags=[1])


def assert_independent(kept, p, lags):
    """Rows of entries: each column has rate 1 - p, any two columns so far apart the product of their rates."""
    sigma = (p * (1 - p) / len(kept)) ** 0.5
    assert (kept.double().mean(0) - (1 - p)).abs().max() < 5 * max(sigma, 1 / len(kept))
    for lag in lags:
        pairs = (kept[:, :-lag] & kept[:, lag:]).double().mean()
        sigma = 2 * (p * (1 - p) / kept[:, lag:].numel()) ** 0.5
        assert (pairs - (1 - p) ** 2).abs() < 5 * max(sigma, 1 / kept.numel())


def test_every_bit_of_the_hash_follows_every_bit_of_its_place_and_key():
    place = torch.arange(2**14, dtype=torch.int32)
    bits = hashed(place, KEY)
    assert bits.dtype == torch.int32 and len(bits.unique()) == len(place)
    for bit in range(31):
        flip = torch.tensor(1 << bit, dtype=torch.int32)
        for other in (hashed(place ^ flip, KEY), *(hashed(place, KEY ^ half * flip) for half in torch.eye(2).int())):
            changed = torch.stack([(bits ^ other) >> place_of & 1 for place_of in range(32)]).double().mean(1)
            assert (changed - 0.5).abs().max() < 0.03


@pytest.mark.parametrize("dropped", [1, 6554, LEVELS - 1])
def test_so_many_of_all_draws_are_dropped(dropped, monkeypatch):
    every = torch.arange(-LEVELS // 2, LEVELS // 2, dtype=torch.int16)
    assert (_mask(every, dropped) == 0).sum() == dropped
    monkeypatch.setattr(module, "hashed", lambda place, _: place << 16)
    kept = _kept(torch.ones(LEVELS), 0, None, torch.tensor(dropped, dtype=torch.int32), torch.tensor(1.0))
    assert (kept == 0).sum() == dropped


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_kept_entries_are_scaled_so_that_the_mean_stays(dtype, shape):
    x = torch.linspace(1, 2, shape[0] * shape[1], dtype=dtype).view(shape)
    dropped = Dropout(0.1)(x)
    assert dropped.dtype == dtype
    kept = dropped != 0
    assert 0 < kept.sum() < kept.numel()
    scale = LEVELS / (LEVELS - round(0.1 * LEVELS))
    assert scale == pytest.approx(1 / 0.9, rel=1e-5)
    assert torch.equal(dropped, (x * scale) * kept)


@pytest.mark.parametrize(("size", "kept"), [("mask", [64 * 512]), ("hash", [8])])
def test_backward_keeps_a_byte_per_entry_or_the_key_of_the_hash_and_nothing_else(size, kept, eager):
    saved, x = [], torch.randn(SIZES[size], requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.nbytes) or t, lambda t: t):
        y = Dropout(0.3)(x)
    assert saved == kept
    y.sum().backward()
    torch.testing.assert_close(x.grad, y.detach() / x.detach())


def test_seed_repeats_the_mask_and_the_next_call_draws_another(shape):
    x, dropout = torch.ones(shape), Dropout(0.5)
    torch.manual_seed(3)
    first, second = dropout(x), dropout(x)
    torch.manual_seed(3)
    assert torch.equal(dropout(x), first)
    assert not torch.equal(first, second)


@pytest.mark.parametrize(("p", "wanted"), [(0.0, 1.0), (1e-7, 1.0), (1.0, 0.0)])
def test_rates_at_the_ends(p, wanted, shape):
    torch.manual_seed(0)
    assert torch.allclose(Dropout(p)(torch.ones(shape)), torch.full(shape, wanted))


def test_a_default_device_of_another_kind_changes_nothing(shape):
    x = torch.ones(shape)
    with torch.device("meta"):
        assert Dropout(0.5)(x).device.type == "cpu"


def test_evaluation_and_empty_batches_pass():
    x = torch.randn(5)
    assert Dropout(0.5).eval()(x) is x
    assert Dropout(0.5)(torch.empty(0, 4)).shape == (0, 4)


def test_the_hash_goes_by_an_entrys_place_whatever_the_layout_and_the_slices(eager):
    x = torch.randn(3, 2 * SLICE + 5).T
    limit, scale = torch.tensor(6554, dtype=torch.int32), torch.tensor(1.0)
    whole = _kept(x.reshape(-1), 0, KEY, limit, scale) != 0
    assert torch.equal(_drop(x, KEY, 6554) != 0, whole.view(x.shape))


@pytest.mark.parametrize("size", SIZES)
def test_backward_makes_one_tensor(size, eager):
    x = torch.randn(SIZES[size], requires_grad=True)
    y, grad = Dropout(0.3)(x), torch.ones_like(x)
    slices = 0 if size == "mask" else 6 * 4 * SLICE
    with StorageMeter([grad], []) as meter:
        torch.autograd.grad(y, x, grad)
    assert grad.nbytes + x.nbytes <= meter.peak <= grad.nbytes + x.nbytes + slices


@pytest.mark.parametrize(
    "drop",
    [
        lambda x: _DropByMask.apply(x, torch.arange(12).remainder(2).to(torch.uint8).view(3, 4), 1.5),
        lambda x: _DropByHash.apply(x, KEY, LEVELS // 2),
    ],
)
def test_gradients_of_any_order_are_those_of_the_product(drop):
    x = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    assert 0 < (drop(x) == 0).sum() < x.numel()
    assert torch.autograd.gradcheck(lambda x: drop(x.square()), x)
    assert torch.autograd.gradgradcheck(lambda x: drop(x.square()), x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_compiled_kernel_drops_the_same_entries_in_sight_of_a_meter_too(dtype, graphs, monkeypatch):
    x = torch.randn(SIZES["hash"], dtype=dtype)
    with StorageMeter([x], []) as meter:
        found = _drop(x, KEY, 6554)
    if compiled._broken:
        pytest.skip("no compiler here")
    assert graphs() == 1
    assert meter.peak <= x.nbytes + found.nbytes + 32
    monkeypatch.setattr(module, "run_compiled", lambda *_: False)
    assert torch.equal(found, _drop(x, KEY, 6554))


def test_without_a_compiler_it_warns_once_and_drops_the_same_entries(monkeypatch):
    def fail(*args, **kwargs):
        raise RuntimeError("No working C++ compiler found")

    monkeypatch.setattr(torch, "compile", fail)
    monkeypatch.setattr(compiled, "_broken", set())
    compiled._compiled.cache_clear()
    x = torch.randn(SIZES["hash"])
    with pytest.warns(CompilerWarning, match=r"No working C.. compiler.*the same bits"):
        found = _drop(x, KEY, 6554)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(found, _drop(x, KEY, 6554))
    with pytest.raises(RuntimeError, match=r"stack\.kernel=eager"):  # a stack's own kernel is still asked for
        BdiaStack([nn.Identity() for _ in range(3)], kernel="compiled")(torch.randn(2, 3, 8, requires_grad=True))


@pytest.mark.slow
@pytest.mark.parametrize("dynamic", [None, True])
@pytest.mark.parametrize("size", SIZES)
def test_a_compiled_block_drops_and_scales_alike_both_ways(size, dynamic):
    torch._dynamo.reset()
    x = torch.ones(SIZES[size], requires_grad=True)
    y = torch.compile(Dropout(0.1), fullgraph=True, dynamic=dynamic)(x)
    y.sum().backward()
    assert torch.equal(x.grad, y.detach())
    assert (y == 0).float().mean() == pytest.approx(0.1, abs=0.01)
