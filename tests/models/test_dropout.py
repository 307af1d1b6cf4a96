"""The CPU's quick dropout: its rate, its scale, what backward keeps of it."""

import pytest
import torch

from bdia.measure.storage_meter import StorageMeter
from bdia.models.dropout import LEVELS, Dropout, _Drop, _mask


@pytest.mark.parametrize("p", [2**-16, 0.1, 0.5, 0.9, 1 - 2**-16])
def test_rate_is_kept_in_each_of_the_entries_that_share_a_draw(p):
    torch.manual_seed(0)
    kept = Dropout(p)(torch.ones(250_000, 4)) != 0
    sigma = (p * (1 - p) / len(kept)) ** 0.5
    assert (kept.double().mean(0) - (1 - p)).abs().max() < 5 * sigma
    pairs = (kept[:, :3] & kept[:, 1:]).double().mean(0)  # neighbours drop independently
    assert (pairs - (1 - p) ** 2).abs().max() < 5 * sigma


@pytest.mark.parametrize("dropped", [1, 6554, LEVELS - 1])
def test_so_many_of_all_draws_are_dropped(dropped):
    every = torch.arange(-LEVELS // 2, LEVELS // 2, dtype=torch.int16)
    assert (_mask(every, dropped) == 0).sum() == dropped


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_kept_entries_are_scaled_so_that_the_mean_stays(dtype):
    x = torch.linspace(1, 2, 1003, dtype=dtype).view(17, 59)
    dropped = Dropout(0.1)(x)
    assert dropped.dtype == dtype
    kept = dropped != 0
    assert 0 < kept.sum() < kept.numel()
    scale = LEVELS / (LEVELS - round(0.1 * LEVELS))
    assert scale == pytest.approx(1 / 0.9, rel=1e-5)
    assert torch.equal(dropped, (x * scale) * kept)


def test_backward_keeps_a_byte_per_entry_and_nothing_else():
    saved, x = [], torch.randn(8, 32, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        y = Dropout(0.3)(x)
    assert [t.dtype for t in saved] == [torch.uint8]
    y.sum().backward()
    torch.testing.assert_close(x.grad, y.detach() / x.detach())


def test_seed_repeats_the_mask_and_the_next_call_draws_another():
    x, dropout = torch.ones(1000), Dropout(0.5)
    torch.manual_seed(3)
    first, second = dropout(x), dropout(x)
    torch.manual_seed(3)
    assert torch.equal(dropout(x), first)
    assert not torch.equal(first, second)


@pytest.mark.parametrize(("p", "wanted"), [(0.0, 1.0), (1e-7, 1.0), (1.0, 0.0)])
def test_rates_at_the_ends(p, wanted):
    torch.manual_seed(0)
    assert torch.allclose(Dropout(p)(torch.ones(64)), torch.full((64,), wanted))


def test_evaluation_and_empty_batches_pass():
    x = torch.randn(5)
    assert Dropout(0.5).eval()(x) is x
    assert Dropout(0.5)(torch.empty(0, 4)).shape == (0, 4)


def test_backward_makes_one_tensor():
    x = torch.randn(64, 512, requires_grad=True)
    y, grad = Dropout(0.3)(x), torch.ones(64, 512)
    with StorageMeter([grad], []) as meter:
        torch.autograd.grad(y, x, grad)
    assert meter.peak == grad.nbytes + x.nbytes


def test_gradients_of_any_order_are_those_of_the_product():
    x, keep = torch.randn(3, 4, dtype=torch.float64, requires_grad=True), torch.rand(3, 4).ge(0.5).to(torch.uint8)
    assert torch.autograd.gradcheck(lambda x: _Drop.apply(x.square(), keep, 1.5), x)
    assert torch.autograd.gradgradcheck(lambda x: _Drop.apply(x.square(), keep, 1.5), x)


@pytest.mark.slow
def test_a_compiled_block_drops_and_scales_alike_both_ways():
    x = torch.ones(400, 100, requires_grad=True)
    y = torch.compile(Dropout(0.1))(x)
    y.sum().backward()
    assert torch.equal(x.grad, y.detach())
    assert (y == 0).float().mean() == pytest.approx(0.1, abs=0.01)
