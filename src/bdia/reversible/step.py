"""One BDIA step and its inverse, as pure functions of tensors.

Shape letters: B batch, T tokens, D width. Any trailing shape after B works.
Source: Zhang, Lewis, Kleijn, ICML 2025 (PMLR 267), section 4.3; general fractions p/q are ours (shared bits: section 2
of this project's notes on the paper).
"""

from typing import NamedTuple

import torch
from torch import Tensor

from bdia.reversible.gamma import Gamma
from bdia.reversible.grid import check_bits, check_range, largest_magnitude, units


class StepOutput(NamedTuple):
    """x_next on the grid; side in 0..q-1 (int32); peak, the largest magnitude in units u (0-dim)."""

    x_next: Tensor
    side: Tensor
    peak: Tensor


def column(per_sample: Tensor, like: Tensor) -> Tensor:
    """Reshape (B,) to (B, 1, ..., 1) so that it multiplies `like` (B, ...)."""
    return per_sample.view(-1, *[1] * (like.dim() - 1))


def rounded_bracket(x_curr: Tensor, y: Tensor, gamma: Tensor, bits: int) -> Tensor:
    """Return round(((1 + gamma) y - 2 gamma x_curr) / u) in units u: the term both directions share, bit for bit.

    The factor 1/u = 2^bits is a power of two, so folding it into the coefficients changes no bit. Products and
    difference are separate operations: a fused multiply-add could differ between kernels.
    """
    gamma = column(gamma, x_curr)
    bracket = y.float() * ((1 + gamma) * units(bits))
    return bracket.sub_(x_curr * (2 * gamma * units(bits))).round_()


def exact_step(x_prev: Tensor, x_curr: Tensor, y: Tensor, gamma: Gamma, bits: int) -> StepOutput:
    """`bdia_step` without the range check, which needs a device synchronisation.

    The largest magnitude of x_next and its terms is returned; x_prev is an earlier x_next and was checked as such.
    """
    p, q = column(gamma.numerator, x_curr), column(gamma.denominator, x_curr)
    n = (x_prev * units(bits)).to(torch.int32)
    quotient = torch.div(-n, q, rounding_mode="floor").neg_()  # ceil(n / q) = (n + s) / q
    side = quotient * q - n
    # Multiplied in float32, where a product past the range shows in `peak` (int32 would wrap); + 0.0 unsigns zeros.
    lifted = quotient.float().mul_(p).add_(0.0)
    bracket = rounded_bracket(x_curr, y, gamma.value, bits)
    peak = torch.maximum(largest_magnitude(bracket), largest_magnitude(lifted))
    total = bracket.add_(lifted)
    return StepOutput(total.mul(1.0 / units(bits)), side, torch.maximum(peak, largest_magnitude(total)))


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
        GridOverflowError: x_next or a term of it reaches 2^(24 - bits), where float32 stops being exact.
    Memory: allocates about six (B, T, D) tensors; keeps none.
    """
    result = exact_step(x_prev, x_curr, y, gamma, check_bits(bits))
    check_range([(0, torch.maximum(result.peak, largest_magnitude(x_prev) * units(bits)))], bits)
    return result.x_next, result.side


def bdia_invert(x_next: Tensor, x_curr: Tensor, y: Tensor, gamma: Gamma, side: Tensor, bits: int) -> Tensor:
    """Rebuild x_{k-1} exactly: x_{k-1} = (x_{k+1} - Q_l[(1 + gamma_k) y_k - 2 gamma_k x_k]) / gamma_k - s_{k-1} u.

    Source: section 4.3. Args as in `bdia_step`; `y` is recomputed, `side` is any integer dtype, gamma is non-zero.

    Returns:
        x_prev: (B, T, D) float32, bit for bit the `x_prev` given to `bdia_step`.
    """
    p, q = column(gamma.numerator, x_curr), column(gamma.denominator, x_curr)
    lifted = rounded_bracket(x_curr, y, gamma.value, bits).neg_().add_(x_next * units(bits)).to(torch.int32)
    n = lifted.div_(p, rounding_mode="floor").mul_(q).sub_(side)
    return n.float().mul_(1.0 / units(bits))
