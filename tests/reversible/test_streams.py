"""The stream as int32 numbers of units: it inverts bit for bit, holds outliers, and never wraps."""

import math
from fractions import Fraction

import pytest
import torch
from torch import nn

import bdia
from bdia.reversible import BdiaStack, GridOverflowError, TwoPoint
from bdia.reversible.arithmetic.gamma import Uniform
from bdia.reversible.arithmetic.grid import INT32_RANGE, INTEGER_LIMIT, finest_grid
from bdia.reversible.arithmetic.integers import integer_inverse, integer_step
from bdia.reversible.arithmetic.reference import reference_forward
from bdia.reversible.arithmetic.rules import IntegerBdiaRule
from bdia.reversible.arithmetic.step import coefficients
from bdia.reversible.engine.kernels import inverse_kernel, update_kernel
from helpers.reversible_helpers import (
    HALF,
    assert_bit_equal,
    gamma_of,
    gradients,
    make_blocks,
    make_tokens,
)

GAMMAS = ["1/2", "-1/2", "1/4", "1/32", "-1/256", "3/5", "-7/3", "255/256", "1", "-5", "1/3", "-256"]


def step_inputs(gamma, bits, count, seed=0):
    """Coefficients, n_prev, n_curr and y: magnitudes of all sizes, up to what keeps the result in the range."""
    generator = torch.Generator().manual_seed(seed)
    value = gamma.value.view(-1, 1).abs()
    reach = INTEGER_LIMIT / (2 * (2 + 4 * value))
    shape = len(value), count

    def draw():
        return (
            torch.randn(shape, generator=generator).sign() * reach * 2 ** (-26 * torch.rand(shape, generator=generator))
        )

    return coefficients(gamma, bits, 2), draw().to(torch.int32), draw().to(torch.int32), draw() / 2**bits


def test_a_million_inversions_give_no_wrong_bit():
    gamma = gamma_of(*GAMMAS)
    count, tried = 5000, 0
    for bits in range(4, 21):
        c, n_prev, n_curr, y = step_inputs(gamma, bits, count, seed=bits)
        n_next, side, reach = integer_step(n_prev, n_curr, y, c)
        assert reach.max() * 2**bits < INTEGER_LIMIT and n_prev.abs().max() > 2**27
        assert bool(((side >= 0) & (side < c.q)).all())
        assert torch.equal(integer_inverse(n_next, n_curr, y, side, c), n_prev)
        tried += n_prev.numel()
    assert tried >= 10**6


def test_the_range_ends_just_below_the_edge_of_int32():
    edge = int(INTEGER_LIMIT) - 2**10
    gamma = gamma_of("1", "-1", "1/2", "-1/2", "1/256", "3/5")
    n_prev = torch.tensor([edge, -edge, edge - 1, 1 - edge, edge - 255], dtype=torch.int32).expand(6, 5).contiguous()
    zero, c = torch.zeros(6, 5), coefficients(gamma, 14, 2)
    n_next, side, reach = integer_step(n_prev, zero.to(torch.int32), zero, c)
    assert reach.max() * 2**14 < INTEGER_LIMIT
    assert torch.equal(integer_inverse(n_next, zero.to(torch.int32), zero, side, c), n_prev)


def test_the_step_is_the_papers_equation_in_rational_arithmetic():
    bits = 14
    for name in ("1/2", "-3/8", "3/5", "-7/3", "5"):
        gamma, fraction = gamma_of(name), Fraction(name)
        c, n_prev, n_curr, y = step_inputs(gamma, bits, 200)
        n_next, side, _ = integer_step(n_prev, n_curr, y, c)
        seen = n_curr.float()
        scales = c.y_scale.item(), 2 * gamma.value.item()
        for i in range(200):
            n, s = n_prev[0, i].item(), side[0, i].item()
            bracket = n_next[0, i].item() - fraction * (n + s)
            wanted = scales[0] * y[0, i].item() - scales[1] * seen[0, i].item()
            assert bracket.denominator == 1 and s == -n % fraction.denominator
            size = max(abs(scales[0] * y[0, i].item()), abs(scales[1] * seen[0, i].item()))
            assert abs(int(bracket) - wanted) <= 0.5 + size * 2**-22  # float32's rounding of the bracket


@pytest.mark.parametrize("past", ["sum", "gamma term", "bracket", "nan", "inf"])
@pytest.mark.parametrize("kernel", ["eager", pytest.param("compiled", marks=pytest.mark.slow)])
def test_what_int32_does_not_hold_shows_in_the_peak(past, kernel):
    gamma, bits = gamma_of("1", "7"), 14
    rule = IntegerBdiaRule(gamma, bits, 0)
    n_prev, n_curr, y = torch.zeros(2, 8, dtype=torch.int32), torch.zeros(2, 8, dtype=torch.int32), torch.zeros(2, 8)
    big = 2**30
    if past == "sum":  # the wrapped sum would be a small negative number
        n_prev[0, 1], y[0, 1] = 2**31 - 2**18, (2**31 - 2**18) / 2 / 2**bits
    elif past == "gamma term":
        n_prev[1, 1], y[1, 1] = big, -7 * big / 8 / 2**bits  # the sum is 0
    elif past == "bracket":
        n_prev[0, 1], y[0, 1] = -big, 3 * big / 2 / 2**bits  # the sum is 2^31
    else:
        y[1, 3] = math.nan if past == "nan" else math.inf
    peak = update_kernel(rule, n_prev, n_curr, y, True, True, kernel).peak
    assert not peak < INTEGER_LIMIT


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_compiled_and_eager_kernels_give_equal_bits(dtype):
    gamma = gamma_of(*GAMMAS)
    _, n_prev, n_curr, y = step_inputs(gamma, 14, 40)
    rule, found = IntegerBdiaRule(gamma, 14, 8), {}
    for kernel in ("eager", "compiled"):
        result = update_kernel(rule, n_prev, n_curr, y.to(dtype), True, True, kernel)
        rebuilt = result.x_next.clone()
        total = inverse_kernel(rule, rebuilt, n_curr, y.to(dtype), result.packed, True, kernel)
        assert torch.equal(rebuilt, n_prev)
        found[kernel] = [*result, total]
    assert all(torch.equal(a, b) for a, b in zip(*found.values(), strict=True))


@pytest.mark.parametrize("depth", [1, 2, 3, 4, 5])
@pytest.mark.parametrize(("dropout", "autocast"), [(0.0, None), (0.1, None), (0.1, torch.bfloat16)])
def test_reversible_gradients_equal_stored_gradients_bit_for_bit(depth, dropout, autocast):
    blocks, x = make_blocks(depth, dropout), make_tokens()
    settings = {"bits": 14, "stream": "int32"}
    wanted = gradients(BdiaStack(blocks, HALF, backward="stored", **settings), x, autocast=autocast)
    for keep in (0, 1):
        assert_bit_equal(gradients(BdiaStack(blocks, HALF, keep=keep, **settings), x, autocast=autocast), wanted)


@pytest.mark.parametrize("law", [HALF, TwoPoint("3/5")])
def test_streams_of_small_values_are_those_of_the_oracle_and_of_float32(law):
    blocks, x = make_blocks(4), make_tokens()
    found = gradients(BdiaStack(blocks, law, bits=12, stream="int32"), x)
    torch.manual_seed(0)
    gammas = [None, *(law.sample(len(x)) for _ in blocks[1:])]
    assert torch.equal(found[0], reference_forward(blocks, x, gammas, 12)[-1])
    assert_bit_equal(found, gradients(BdiaStack(blocks, law, bits=12), x))


def test_evaluation_is_that_of_the_float32_stream():
    blocks, x = make_blocks(3), make_tokens()
    for settings in ({}, {"eval_gamma": "1/2"}, {"eval_gamma": 0.3}, {"quantize_eval": False}):
        stacks = [BdiaStack(blocks, HALF, bits=12, stream=stream, **settings).eval() for stream in ("float32", "int32")]
        assert torch.equal(*(stack(x) for stack in stacks))


def test_a_law_without_an_inverse_trains_stored():
    blocks, x = make_blocks(3), make_tokens()
    law = Uniform(-0.5, 0.5)
    found = [
        gradients(BdiaStack(blocks, law, bits=12, backward="stored", stream=stream), x)
        for stream in ("int32", "float32")
    ]
    assert_bit_equal(*found)


class Outliers(nn.Module):
    """A residual layer on 16 values a token, of which one is as large as `size` and the others are of 10^-2."""

    def __init__(self, size):
        super().__init__()
        self.size, self.norm, self.mlp = size, nn.LayerNorm(16), nn.Linear(16, 16)

    def forward(self, x):
        small = x[..., 1:]
        scaled = torch.cat([x[..., :1] / self.size, small * 100], dim=-1)
        return x + torch.cat([self.mlp(scaled)[..., :1] * self.size / 4, self.mlp(scaled)[..., 1:] * 0.003], dim=-1)


def outlier_model(size, depth=5):
    """Layers, and tokens with one large value each."""
    torch.manual_seed(0)
    layers, x = [Outliers(size) for _ in range(depth)], 0.01 * torch.randn(2, 6, 16)
    x[..., 0] = size
    return layers, x.requires_grad_()


@pytest.mark.parametrize("size", [1e4, 6e4])
def test_outliers_beside_small_numbers_train_exactly_where_float32_overflows(size):
    layers, x = outlier_model(size)
    stacks = [BdiaStack(layers, TwoPoint("1/32"), 14, stream="int32", backward=b) for b in ("reversible", "stored")]
    assert_bit_equal(*(gradients(stack, x) for stack in stacks))
    with pytest.raises(GridOverflowError, match=r"block 0.*bits=14.*2\^\(24 - bits\).*stack\.stream=int32"):
        BdiaStack(layers, TwoPoint("1/32"), 14)(x)
    if size > 2**15:
        with pytest.raises(GridOverflowError):
            BdiaStack(layers, TwoPoint("1/32"), 9)(x)


def test_an_overflow_names_block_value_and_bits():
    layers, x = make_blocks(3), make_tokens()
    layers[1] = nn.Sequential(layers[1], Scale(1e5))
    pattern = r"block 1: residual stream reaches \|x\| = [1-9].*bits=14.*below 131072 = 2\^\(31 - bits\).*stack\.bits"
    with pytest.raises(GridOverflowError, match=pattern):
        BdiaStack(layers, bits=14, stream="int32")(x)


class Scale(nn.Module):
    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def forward(self, x):
        return x * self.factor


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_converted_models_train_to_the_bits_of_the_stored_backward(dtype):
    found = []
    for backward in ("reversible", "stored"):
        torch.manual_seed(0)
        layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, norm_first=True)
        model = nn.TransformerEncoder(layer, 4, enable_nested_tensor=False).to(dtype)
        x = torch.randn(2, 5, 16).to(dtype)
        wanted = model.eval()(x)
        bdia.convert(model, bits=16, backward=backward, stream="int32", keep=0)
        assert torch.equal(model.eval()(x), wanted)
        found.append(gradients(model.train(), x.requires_grad_()))
    assert_bit_equal(*found)


def test_automatic_bits_are_those_that_int32_holds():
    assert [finest_grid(x, INT32_RANGE) for x in (1e-3, 8.0, 1e4, 1e5)] == [24, 24, 15, 12]
    blocks, x = make_blocks(3), make_tokens()
    stack = BdiaStack(blocks, bits="auto", stream="int32")
    stack(x)
    stack(x)
    assert stack.bits == finest_grid(stack.log.largest, INT32_RANGE) > 20


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"stream": "int16"}, r"stream='int16'.*float32, int32.*stack\.stream"),
        ({"stream": "int32", "bits": None}, r"bits is null.*stack\.bits=14"),
        ({"stream": "int32", "bits": 25}, r"bits=25.*1 to 24.*stack\.bits"),
        ({"bits": 21}, r"bits=21.*1 to 20.*stack\.bits"),
    ],
)
def test_settings_that_do_not_go_together_are_refused_by_key(settings, message):
    with pytest.raises(ValueError, match=message):
        BdiaStack(make_blocks(2), **settings)
