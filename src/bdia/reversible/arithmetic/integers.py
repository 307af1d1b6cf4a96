"""The BDIA step on a residual stream held as int32 numbers of units u = 2^-bits, and its inverse.

A layer sees n * u rounded to float32. The rounded bracket is computed from that, so it may be coarser than the grid
where values are large. It repeats itself bit for bit, which is all that the inverse needs; the gamma term is exact in
integers. Source of the step: Zhang, Lewis, Kleijn, ICML 2025 (PMLR 267), section 4.3; the int32 form is ours.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from bdia.reversible.arithmetic.grid import INTEGER_LIMIT
from bdia.reversible.arithmetic.step import Coefficients, rounded_bracket


class IntegerStep(NamedTuple):
    """x_next in units, int32; side in 0..q-1, int32; reach, float32: |x_next|, or what is past the range, or NaN."""

    x_next: Tensor
    side: Tensor
    reach: Tensor


def view_as_float(n: Tensor, unit: Tensor | float) -> Tensor:
    """Return n * u, rounded to float32: what a layer sees. One copy."""
    return n.to(torch.float32).mul_(unit)


def to_units(x: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Round x / u to int32, ties to even; return it and the float32 number, which tells what int32 cannot hold."""
    rounded = x.to(torch.float32, copy=True).mul_(2.0**bits).round_()
    return rounded.to(torch.int32), rounded


def divide(n: Tensor, divisor: Tensor, inverse: Tensor) -> tuple[Tensor, Tensor]:
    """Return n / divisor rounded to the nearest integer or the one beside it, and the remainder, at most the divisor.

    float32 holds 24 bits of n, so the first quotient can be wrong by 448 / divisor + 1. What it leaves is small, and
    its quotient is right up to the rounding of a tie; an exact multiple leaves nothing.

    Args:
        n: int32, |n| < INTEGER_LIMIT. divisor: int32, up to 2^16. inverse: float32, about 1 / divisor.
    """
    first = (n.float() * inverse).round_().to(torch.int32)
    rest = n - first * divisor
    second = (rest.float() * inverse).round_().to(torch.int32)
    return first + second, rest - second * divisor


def integer_step(n_prev: Tensor, n_curr: Tensor, y: Tensor, c: Coefficients) -> IntegerStep:
    """`exact_step` in units: n_prev, n_curr int32. Past the range `reach` is INTEGER_LIMIT or more.

    `reach` is the same sum in float32, or NaN. Its error is below 2^10, so below the limit no integer has wrapped.
    """
    quotient, remainder = divide(-n_prev, c.q, c.q_inverse)  # -(n + s) / q, s
    correction = remainder >> 31  # -1 where the remainder is negative: the floor is one less
    quotient, side = quotient + correction, remainder - correction * c.q
    bracket = rounded_bracket(view_as_float(n_curr, c.unit), y, c)
    quotient = quotient * -c.sign
    lifted = quotient.float() * c.p
    parts = torch.maximum(lifted.abs(), bracket.abs())
    reach = torch.where(parts < INTEGER_LIMIT, (lifted + bracket).abs(), parts)
    return IntegerStep(quotient * c.p.to(torch.int32) + bracket.to(torch.int32), side, reach * c.unit)


def integer_inverse(n_next: Tensor, n_curr: Tensor, y: Tensor, side: Tensor | int, c: Coefficients) -> Tensor:
    """Return n_prev of `integer_step`, bit for bit."""
    bracket = rounded_bracket(view_as_float(n_curr, c.unit), y, c)
    divisor = c.p.to(torch.int32) * c.sign
    quotient, _ = divide(n_next - bracket.to(torch.int32), divisor, c.p_inverse)
    return quotient * c.q - side
