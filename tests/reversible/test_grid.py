"""The fixed-point grid."""

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bdia.reversible import GridOverflowError
from bdia.reversible.arithmetic.grid import check_bits, check_range, largest_magnitude, quantize


@settings(max_examples=200, deadline=None, derandomize=True)
@given(x=st.floats(-1000, 1000, width=32), bits=st.integers(1, 12))
def test_quantize_rounds_to_the_nearest_multiple_ties_to_even(x, bits):
    wanted = Fraction(round(Fraction(x) * 2**bits), 2**bits)
    assert Fraction(quantize(torch.tensor(x), bits).item()) == wanted


def test_ties_go_to_the_even_multiple():
    ties = torch.tensor([0.25, 0.75, 1.25, -0.25, -0.75])
    assert quantize(ties, 1).tolist() == [0.0, 1.0, 1.0, 0.0, -1.0]


def test_a_zero_on_the_grid_has_no_sign():
    assert not quantize(torch.tensor([-0.0, -1e-9, 1e-9]), 9).signbit().any()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_the_grid_is_float32_whatever_comes_in(dtype):
    assert quantize(torch.ones(2, dtype=dtype), 9).dtype == torch.float32


def test_quantize_leaves_its_input_alone_and_is_idempotent():
    x = torch.randn(50)
    before = x.clone()
    once = quantize(x, 9)
    assert torch.equal(x, before)
    assert torch.equal(quantize(once, 9), once) and once.data_ptr() != x.data_ptr()


@pytest.mark.parametrize("bits", [0, -1, 21, 9.0, "9", None, True])
def test_unusable_bits_are_refused_by_config_key(bits):
    with pytest.raises(ValueError, match=r"stack\.bits"):
        check_bits(bits)


def test_usable_bits_are_returned():
    assert [check_bits(bits) for bits in (1, 9, 20)] == [1, 9, 20]


def test_largest_magnitude_sees_both_signs_and_nan():
    assert largest_magnitude(torch.tensor([1.0, -3.0, 2.0])).item() == 3
    assert math.isnan(largest_magnitude(torch.tensor([1.0, math.nan])).item())


def test_the_first_block_out_of_range_is_named_with_value_limit_and_remedy():
    peaks = [(0, 2.0**24 - 1), (1, 2.0**24), (2, math.nan)]
    with pytest.raises(GridOverflowError, match=r"block 1:.*= 32768; with bits=9.*below 32768.*stack\.bits"):
        check_range(peaks, 9)
    check_range(peaks[:1], 9)
    check_range([], 9)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_values_that_are_not_finite_are_out_of_range(bad):
    with pytest.raises(GridOverflowError, match="block 4"):
        check_range([(4, bad)], 9)
