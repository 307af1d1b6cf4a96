"""The fixed-point grid of the residual stream: multiples of u = 2^-bits, held exactly in float32 or int32.

Every value on the grid is an integer number of units u. float32 holds integers exactly below 2^24, so sums on
the grid are exact while |x| < 2^(24 - bits): 32768 at the paper's 9 bits. int32 holds them below 2^31 (`streams`).
Source: Zhang, Lewis, Kleijn, ICML 2025 (PMLR 267), section 4.3 (Q_l).
"""

from functools import reduce
from typing import NamedTuple

import torch
from torch import Tensor

from bdia import BdiaError, InvalidValueError

MARGIN = 4  # of `finest_grid`: training moves activations, and gamma lets them grow
UNIT_LIMIT = 2.0**24  # first integer beyond which float32 skips integers
INTEGER_LIMIT = 2.0**31 - 2.0**17  # of int32, less what roundings of its checks and quotients may be off


class GridRange(NamedTuple):
    """What a form of the stream holds.

    Attributes:
        limit: first magnitude in units u past it. exponent: of the power of two that messages name for it.
        max_bits: of the finest grid. remedy: besides fewer bits, for messages; {prefix} is that of settings' names.
    """

    limit: float
    exponent: int
    max_bits: int
    remedy: str


FLOAT32_RANGE = GridRange(UNIT_LIMIT, 24, 20, "set {prefix}stream=int32 (BDIA)")
INT32_RANGE = GridRange(INTEGER_LIMIT, 31, 24, "look for a value that is no activation")
MAX_BITS = FLOAT32_RANGE.max_bits


class ReversibilityError(BdiaError, RuntimeError):
    """A reconstructed residual stream differs from the one seen in the forward pass."""


class GridOverflowError(BdiaError, ArithmeticError):
    """A residual stream left the range in which float32 is exact on the grid, or is not finite."""


def check_bits(bits: int, key: str = "stack.bits", most: int = MAX_BITS) -> int:
    """Return `bits` if the grid 2^-bits is usable; raise ValueError naming the config `key` otherwise."""
    if isinstance(bits, bool) or not isinstance(bits, int) or not 1 <= bits <= most:
        raise InvalidValueError(f"bits={bits!r}: the grid 2^-bits needs an integer from 1 to {most}; set {key}")
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


def check_range(
    peaks: list[tuple[int, float]], bits: int, prefix: str = "stack.", held: GridRange = FLOAT32_RANGE
) -> float:
    """Return the largest |x|; raise GridOverflowError for the first block outside the grid's exact range.

    Args:
        peaks: (block index, largest magnitude in units u), in block order.
        bits: the grid's `bits`.
        prefix: stands before the setting's name in the message. held: what the form of the stream holds.
    """
    largest = 0.0
    for block, peak in peaks:
        if not peak < held.limit:  # also catches NaN
            value, limit = peak / units(bits), 2.0**held.exponent / units(bits)
            raise GridOverflowError(
                f"block {block}: residual stream reaches |x| = {value:g}; with bits={bits} it must stay below "
                f"{limit:g} = 2^({held.exponent} - bits) to be exact. Lower {prefix}bits (RevViT: "
                f"{prefix}grid_bits), {held.remedy.format(prefix=prefix)}, or lower the learning rate if it diverges"
            )
        largest = max(largest, peak / units(bits))
    return largest


def finest_grid(largest: float, held: GridRange = FLOAT32_RANGE) -> int:
    """Return the bits of the finest grid that holds MARGIN times the largest |x| seen, from 1 to `held.max_bits`.

    Raises:
        GridOverflowError: not even the coarsest does.
    """
    for bits in range(held.max_bits, 0, -1):
        if largest * MARGIN * units(bits) < held.limit:
            return bits
    raise GridOverflowError(f"|x| = {largest:g} times a margin of {MARGIN}: no grid holds it")
