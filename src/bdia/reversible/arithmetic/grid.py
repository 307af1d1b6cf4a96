"""The fixed-point grid of the residual stream: multiples of u = 2^-bits, held exactly in float32.

Every value on the grid is an integer number of units u. float32 holds integers exactly below 2^24, so sums on
the grid are exact while |x| < 2^(24 - bits): 32768 at the paper's 9 bits.
Source: Zhang, Lewis, Kleijn, ICML 2025 (PMLR 267), section 4.3 (Q_l).
"""

from functools import reduce

import torch
from torch import Tensor

from bdia import BdiaError, InvalidValueError

MAX_BITS = 20
MARGIN = 4  # of `finest_grid`: training moves activations, and gamma lets them grow
UNIT_LIMIT = 2.0**24  # first integer beyond which float32 skips integers


class ReversibilityError(BdiaError, RuntimeError):
    """A reconstructed residual stream differs from the one seen in the forward pass."""


class GridOverflowError(BdiaError, ArithmeticError):
    """A residual stream left the range in which float32 is exact on the grid, or is not finite."""


def check_bits(bits: int, key: str = "stack.bits") -> int:
    """Return `bits` if the grid 2^-bits is usable; raise ValueError naming the config `key` otherwise."""
    if isinstance(bits, bool) or not isinstance(bits, int) or not 1 <= bits <= MAX_BITS:
        raise InvalidValueError(f"bits={bits!r}: the grid 2^-bits needs an integer from 1 to {MAX_BITS}; set {key}")
    return bits


def units(bits: int) -> float:
    """Return 2^bits, the number of grid units in 1.0."""
    return float(2**bits)


def quantize(x: Tensor, bits: int) -> Tensor:
    """Round to the grid, ties to even: Q_l[x] = u * round(x / u), u = 2^-bits. Any shape; float32 out.

    Zeros come out positive: the inverse step cannot know the sign of a zero, and streams are compared bit by bit.
    """
    return torch.round(x.float() * units(bits)).add_(0.0).mul_(1.0 / units(bits))


def largest_magnitude(*tensors: Tensor) -> Tensor:
    """Return the largest |x| in tensors of one shape, 0-dim, NaN where one holds a NaN; no temporary of that shape."""
    peaks = []
    for x in tensors:
        low, high = torch.aminmax(x)
        peaks.append(torch.maximum(-low, high))
    return reduce(torch.maximum, peaks)


def check_range(peaks: list[tuple[int, float]], bits: int, prefix: str = "stack.") -> float:
    """Return the largest |x|; raise GridOverflowError for the first block outside the grid's exact range.

    Args:
        peaks: (block index, largest magnitude in units u), in block order.
        bits: the grid's `bits`.
        prefix: stands before the setting's name in the message.
    """
    largest = 0.0
    for block, peak in peaks:
        if not peak < UNIT_LIMIT:  # also catches NaN
            value, limit = peak / units(bits), UNIT_LIMIT / units(bits)
            raise GridOverflowError(
                f"block {block}: residual stream reaches |x| = {value:g}; with bits={bits} it must stay below "
                f"{limit:g} = 2^(24 - bits) to be exact. Lower {prefix}bits (RevViT: "
                f"{prefix}grid_bits), or the learning rate if it diverges"
            )
        largest = max(largest, peak / units(bits))
    return largest


def finest_grid(largest: float) -> int:
    """Return the bits of the finest grid that holds MARGIN times the largest |x| seen, from 1 to MAX_BITS.

    Raises:
        GridOverflowError: not even the coarsest does.
    """
    for bits in range(MAX_BITS, 0, -1):
        if largest * MARGIN * units(bits) < UNIT_LIMIT:
            return bits
    raise GridOverflowError(f"|x| = {largest:g} times a margin of {MARGIN}: no grid in float32 holds it")
