"""One BDIA step and its inverse, as pure functions of tensors.

Shape letters: B batch, T tokens, D width. Any trailing shape after B works.
Source: Zhang, Lewis, Kleijn, ICML 2025 (PMLR 267), section 4.3; general fractions p/q are ours
("Any fraction" in docs/theory.md).
"""

from typing import NamedTuple

import torch
from torch import Tensor

from bdia.reversible.arithmetic.gamma import Gamma
from bdia.reversible.arithmetic.grid import UNIT_LIMIT, check_bits, check_range, largest_magnitude, units


class StepOutput(NamedTuple):
    """x_next on the grid; side in 0..q-1 (int32)."""

    x_next: Tensor
    side: Tensor


class Coefficients(NamedTuple):
    """What the step multiplies with for gamma = sign * p / q on the grid u = 2^-bits: one number per sample each.

    Of shape (B, 1, ..., 1), the grid's of (1, ..., 1). As tensors, so that one compiled kernel serves every gamma and
    every grid.
    """

    sign: Tensor  # int32, that of gamma
    p: Tensor  # float32, not negative
    p_inverse: Tensor  # float32, about sign / p
    q: Tensor  # int32, positive
    q_inverse: Tensor  # float32, about 1 / q
    y_scale: Tensor  # float32, (1 + gamma) / u
    x_scale: Tensor  # float32, 2 gamma / u
    units: Tensor  # float32, 1 / u
    unit: Tensor  # float32, u


def column(per_sample: Tensor, dims: int) -> Tensor:
    """Reshape (B,) to (B, 1, ..., 1) of so many dimensions."""
    return per_sample.view(-1, *[1] * (dims - 1))


def coefficients(gamma: Gamma, bits: int, dims: int) -> Coefficients:
    """Return the coefficients of one fraction per sample for tensors of so many dimensions.

    The factor 1/u = 2^bits is a power of two, so folding it into them changes no bit.
    """
    p, q = gamma.numerator.float(), gamma.denominator.float()
    value, u = gamma.value, 1.0 / units(bits)
    parts = gamma.numerator.sign(), p.abs(), p.reciprocal(), gamma.denominator, q.reciprocal()
    scales = (1 + value) * units(bits), value * (2 * units(bits))
    grid = value.new_full((1,), units(bits)), value.new_full((1,), u)
    return Coefficients(*(column(part, dims) for part in (*parts, *scales, *grid)))


def rounded_bracket(x_curr: Tensor, y: Tensor, c: Coefficients) -> Tensor:
    """Return round(((1 + gamma) y - 2 gamma x_curr) / u) in units u: the term both directions share, bit for bit.

    Products and difference are separate operations: a fused multiply-add could differ between kernels.
    """
    return (y.float() * c.y_scale).sub_(x_curr * c.x_scale).round_()


def floor_divide(n: Tensor, divisor: Tensor, inverse: Tensor) -> tuple[Tensor, Tensor]:
    """Return floor(n / divisor) and the remainder in 0..divisor-1, exact for |n| < 2^24 and divisor up to 256.

    Integer division has no vector instruction, and float division is not rounded alike everywhere. The product with
    the rounded inverse is off by less than 2 / divisor, so the rounded quotient is the floor or one more: one more
    where the remainder comes out negative, and `remainder >> 31`, which is then -1, corrects both.

    Args:
        n: int32. divisor: int32. inverse: float32, about 1 / divisor.
    """
    quotient = (n.float() * inverse).round_().to(torch.int32)
    remainder = n - quotient * divisor
    correction = remainder >> 31
    return quotient + correction, remainder - correction * divisor


def exact_step(x_prev: Tensor, x_curr: Tensor, y: Tensor, c: Coefficients) -> StepOutput:
    """`bdia_step` without the range check, which needs a device synchronisation.

    While |x_next| stays below the limit, both it and its gamma term are exact integers in units u, and so is their
    difference, whatever the bracket was. If the gamma term overflows, it is returned as x_next, so that the range check
    reports it. x_prev is an earlier x_next and was checked as such.
    """
    quotient, side = floor_divide((x_prev * c.units).to(torch.int32).neg_(), c.q, c.q_inverse)  # -(n + s) / q, s
    # p in float32, where a product past the range shows (int32 would wrap); the sign in int32, where zero has none.
    lifted = (quotient * -c.sign).float().mul_(c.p)
    total = rounded_bracket(x_curr, y, c).add_(lifted)
    return StepOutput(torch.where(lifted.abs() < UNIT_LIMIT, total, lifted) * c.unit, side)


def exact_inverse(x_next: Tensor, x_curr: Tensor, y: Tensor, side: Tensor | int, c: Coefficients) -> Tensor:
    """`bdia_invert` on coefficients.

    The gamma term is p times an integer below 2^24 / |p|, so its product with about 1 / p is off by less than half.
    """
    lifted = (x_next * c.units).sub_(rounded_bracket(x_curr, y, c))
    quotient = lifted.mul_(c.p_inverse).round_().to(torch.int32)
    return (quotient * c.q).sub_(side).float().mul_(c.unit)


def bdia_step(x_prev: Tensor, x_curr: Tensor, y: Tensor, gamma: Gamma, bits: int) -> tuple[Tensor, Tensor]:
    """Advance the residual stream by one block on the fixed-point grid.

    x_{k+1} = gamma_k (x_{k-1} + s_{k-1} u) + Q_l[(1 + gamma_k) y_k - 2 gamma_k x_k],   u = 2^-l,  gamma_k = p/q,
    s_{k-1} = (-x_{k-1} / u) mod q.
    Source: Zhang, Lewis, Kleijn, ICML 2025 (PMLR 267), section 4.3. Our `y` is their x_k + h_k(x_k).

    Args:
        x_prev, x_curr: (B, T, D) float32, multiples of u (units of activation).
        y: (B, T, D), output of block k at x_curr, not yet rounded; any floating dtype.
        gamma: numerator and denominator of shape (B,): one exact fraction per sample.
        bits: l, the grid is 2^-l.
    Returns:
        x_next: (B, T, D) float32 on the grid; side: (B, T, D) int32 in 0..q-1, what x_prev / u lacks to the next
        multiple of q.
    Raises:
        GridOverflowError: x_next or its gamma term reaches 2^(24 - bits), where float32 stops being exact.
    Memory: allocates about six (B, T, D) tensors; keeps none.
    """
    result = exact_step(x_prev, x_curr, y, coefficients(gamma, check_bits(bits), x_curr.dim()))
    check_range([(0, largest_magnitude(result.x_next, x_prev).item() * units(bits))], bits)
    return result.x_next, result.side


def bdia_invert(x_next: Tensor, x_curr: Tensor, y: Tensor, gamma: Gamma, side: Tensor, bits: int) -> Tensor:
    """Rebuild x_{k-1} exactly: x_{k-1} = (x_{k+1} - Q_l[(1 + gamma_k) y_k - 2 gamma_k x_k]) / gamma_k - s_{k-1} u.

    Source: section 4.3. Args as in `bdia_step`; `y` is recomputed, `side` is any integer dtype, gamma is non-zero.

    Returns:
        x_prev: (B, T, D) float32, bit for bit the `x_prev` given to `bdia_step`.
    """
    return exact_inverse(x_next, x_curr, y, side, coefficients(gamma, bits, x_curr.dim()))


def float_step(x_prev: Tensor, x_curr: Tensor, y: Tensor, gamma: Tensor) -> Tensor:
    """Return x_next = gamma x_prev + (1 + gamma) y - 2 gamma x_curr, the float form of section 4.1, in their dtype.

    Args:
        gamma: (B, 1, ..., 1).
    """
    return gamma * x_prev + (1 + gamma) * y - 2 * gamma * x_curr


def float_inverse(x_next: Tensor, x_curr: Tensor, y: Tensor, gamma: Tensor) -> Tensor:
    """Return x_prev = (x_next - (1 + gamma) y + 2 gamma x_curr) / gamma, off by rounding."""
    return (x_next - (1 + gamma) * y + 2 * gamma * x_curr) / gamma
