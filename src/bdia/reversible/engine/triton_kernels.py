"""The fused kernels of an update in Triton: the update, its inverse, its gradients. The bits are those of the others.

A program works on BLOCK bytes of side information, so on 8 * BLOCK values: a tile of the eight lanes of one sample
(`residues`). n values in a sample, `length` = n / 8 in a lane. One kernel serves both forms of the stream: INTEGER says
that states are int32 numbers of units. Multiplications and additions must stay separate: every
launch switches off their fusion, which would round once instead of twice. Imported only where Triton is asked for.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"

import math
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from bdia.reversible.arithmetic.grid import INTEGER_LIMIT
from bdia.reversible.arithmetic.step import Coefficients

BLOCK = 256  # bytes of side information that a program works on
UNFUSED = {"enable_fp_fusion": False}


@triton.jit
def _rounded(v):
    """Round to the nearest integer, ties to even. Below 2^23 adding 2^23 does that; from there all are integers."""
    magnitude = tl.abs(v)
    nearest = (magnitude + 8388608.0) - 8388608.0
    return tl.where(magnitude < 8388608.0, tl.where(v < 0.0, -nearest, nearest), v)


@triton.jit
def _bracket(x_curr, y, y_scale, x_scale, unit, INTEGER: tl.constexpr):
    """`step.rounded_bracket` of what a layer saw."""
    seen = x_curr.to(tl.float32) * unit if INTEGER else x_curr
    return _rounded(y * y_scale - seen * x_scale)


@triton.jit
def _quotient(n, inverse):
    return _rounded(n.to(tl.float32) * inverse).to(tl.int32)


@triton.jit
def _divide(n, divisor, inverse):
    """`integers.divide`."""
    first = _quotient(n, inverse)
    rest = n - first * divisor
    second = _quotient(rest, inverse)
    return first + second, rest - second * divisor


@triton.jit
def _tile(length, BLOCK: tl.constexpr):
    """Return the sample, the bytes, where the lanes' values begin in memory, and which are there."""
    programs = tl.cdiv(length, BLOCK)
    sample = tl.program_id(0) // programs
    bytes_ = (tl.program_id(0) % programs) * BLOCK + tl.arange(0, BLOCK)
    lanes = tl.arange(0, 8)
    values = sample.to(tl.int64) * length * 8 + lanes[:, None] * length + bytes_[None, :]
    inside = (bytes_ < length)[None, :] & (lanes >= 0)[:, None]
    return sample, bytes_, lanes, values, inside


@triton.jit
def _forward(
    x_next, x_prev, x_curr, y, packed, peaks, sums,
    sign, p, q, q_inverse, y_scale, x_scale, units, unit, length,
    INTEGER: tl.constexpr, LIMIT: tl.constexpr,
    SIDE_BITS: tl.constexpr, NOTES: tl.constexpr, SUMS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """`step.exact_step` or `integers.integer_step` on a tile, packed; its largest magnitude; x_prev's sum of bits."""
    sample, bytes_, lanes, values, inside = _tile(length, BLOCK)
    before = tl.load(x_prev + values, mask=inside, other=0)
    here = tl.load(x_curr + values, mask=inside, other=0)
    out = tl.load(y + values, mask=inside, other=0.0).to(tl.float32)
    divisor = tl.load(q + sample)
    if INTEGER:
        quotient, remainder = _divide(-before, divisor, tl.load(q_inverse + sample))
    else:
        n = -(before * tl.load(units)).to(tl.int32)
        quotient = _quotient(n, tl.load(q_inverse + sample))
        remainder = n - quotient * divisor
    correction = remainder >> 31
    quotient = quotient + correction
    side = remainder - correction * divisor
    quotient = quotient * -tl.load(sign + sample)
    numerator = tl.load(p + sample)
    lifted = quotient.to(tl.float32) * numerator
    u = tl.load(unit)
    bracket = _bracket(here, out, tl.load(y_scale + sample), tl.load(x_scale + sample), u, INTEGER)
    total = bracket + lifted
    if INTEGER:
        found = quotient * numerator.to(tl.int32) + bracket.to(tl.int32)
        parts = tl.where(
            tl.abs(lifted) > tl.abs(bracket), tl.abs(lifted), tl.abs(bracket)
        )  # a NaN of the bracket stays
        reach = tl.where(parts < LIMIT, tl.abs(total), parts) * u
    else:
        found = tl.where(tl.abs(lifted) < 16777216.0, total, lifted) * u
        reach = tl.abs(found)
    tl.store(x_next + values, found, mask=inside)
    # As integers: the order of magnitudes is that of their bits, and a NaN is above all of them.
    magnitude = tl.where(inside, reach.to(tl.int32, bitcast=True), 0)
    largest = tl.max(tl.max(magnitude, axis=0), axis=0)
    tl.store(peaks + tl.program_id(0), largest.to(tl.float32, bitcast=True))
    if NOTES:
        for bit in tl.static_range(SIDE_BITS):
            byte = tl.sum(((side >> bit) & 1) << lanes[:, None], axis=0)
            place = (sample.to(tl.int64) * SIDE_BITS + bit) * length + bytes_
            tl.store(packed + place, byte.to(tl.uint8), mask=bytes_ < length)
    if SUMS:
        words = (before if INTEGER else before.to(tl.int32, bitcast=True)).to(tl.int64)
        tl.store(sums + tl.program_id(0), tl.sum(tl.sum(words, axis=0), axis=0))


@triton.jit
def _inverse(
    x, x_curr, y, packed, sign, p, p_inverse, q, y_scale, x_scale, units, unit, length,
    INTEGER: tl.constexpr, SIDE_BITS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """`step.exact_inverse` or `integers.integer_inverse` on a tile, in place."""
    sample, bytes_, lanes, values, inside = _tile(length, BLOCK)
    after = tl.load(x + values, mask=inside, other=0)
    here = tl.load(x_curr + values, mask=inside, other=0)
    out = tl.load(y + values, mask=inside, other=0.0).to(tl.float32)
    side = tl.zeros([8, BLOCK], dtype=tl.int32)
    for bit in tl.static_range(SIDE_BITS):
        place = (sample.to(tl.int64) * SIDE_BITS + bit) * length + bytes_
        byte = tl.load(packed + place, mask=bytes_ < length, other=0).to(tl.int32)
        side = side | (((byte[None, :] >> lanes[:, None]) & 1) << bit)
    u = tl.load(unit)
    bracket = _bracket(here, out, tl.load(y_scale + sample), tl.load(x_scale + sample), u, INTEGER)
    inverse = tl.load(p_inverse + sample)
    if INTEGER:
        divisor = tl.load(p + sample).to(tl.int32) * tl.load(sign + sample)
        quotient, _ = _divide(after - bracket.to(tl.int32), divisor, inverse)
        rebuilt = quotient * tl.load(q + sample) - side
    else:
        quotient = _quotient(after * tl.load(units) - bracket, inverse)
        rebuilt = (quotient * tl.load(q + sample) - side).to(tl.float32) * u
    tl.store(x + values, rebuilt, mask=inside)


@triton.jit
def _gradient(grad_x_curr, grad_x_prev, through_block, grad_x_next, to_curr, to_prev, length, BLOCK: tl.constexpr):
    """through_block + to_curr * grad_x_next, and to_prev * grad_x_next."""
    sample, _, _, values, inside = _tile(length, BLOCK)
    grad = tl.load(grad_x_next + values, mask=inside, other=0.0).to(tl.float32)
    through = tl.load(through_block + values, mask=inside, other=0.0).to(tl.float32)
    tl.store(grad_x_curr + values, through + tl.load(to_curr + sample) * grad, mask=inside)
    tl.store(grad_x_prev + values, tl.load(to_prev + sample) * grad, mask=inside)


def programs(x: Tensor) -> int:
    """Return how many programs work on one sample of x (B, ...)."""
    return math.ceil(math.prod(x.shape[1:]) / (8 * BLOCK))


def _launch(kernel: Any, out: Tensor, *arguments: object, **settings: object) -> None:
    with torch.cuda.device_of(out):
        kernel[(len(out) * programs(out),)](*arguments, out.shape[2], BLOCK=BLOCK, **settings, **UNFUSED)


def _dense(c: Coefficients) -> Coefficients:
    return Coefficients(*(part.contiguous() for part in c))


def forward(
    x_next: Tensor,
    x_prev: Tensor,
    x_curr: Tensor,
    y: Tensor,
    packed: Tensor | None,
    peaks: Tensor,
    sums: Tensor | None,
    c: Coefficients,
) -> None:
    """Write x_next, packed residues, and per program the largest magnitude and the sum of x_prev's bits.

    Args:
        x_next, x_prev, x_curr, y: (B, 8, n / 8), contiguous; states float32, or int32 in units.
        peaks: (B, programs) float32. sums: the same shape, int64; None: not asked for.
    """
    side_bits, c = 0 if packed is None else packed.shape[1], _dense(c)
    _launch(
        _forward, x_next, x_next, x_prev, x_curr, y, x_next if packed is None else packed, peaks,
        x_next if sums is None else sums, c.sign, c.p, c.q, c.q_inverse, c.y_scale, c.x_scale, c.units, c.unit,
        INTEGER=x_next.dtype == torch.int32, LIMIT=INTEGER_LIMIT,
        SIDE_BITS=side_bits, NOTES=packed is not None, SUMS=sums is not None,
    )  # fmt: skip


def inverse(x: Tensor, x_curr: Tensor, y: Tensor, packed: Tensor, c: Coefficients) -> None:
    """Write x_prev over x_next in x."""
    c = _dense(c)
    _launch(
        _inverse, x, x, x_curr, y, packed, c.sign, c.p, c.p_inverse, c.q, c.y_scale, c.x_scale, c.units, c.unit,
        INTEGER=x.dtype == torch.int32, SIDE_BITS=packed.shape[1],
    )  # fmt: skip


integer_forward, integer_inverse = forward, inverse  # the names of the compiled kernels of the int32 stream


def gradient(
    grad_x_curr: Tensor,
    grad_x_prev: Tensor,
    through_block: Tensor,
    grad_x_next: Tensor,
    to_curr: Tensor,
    to_prev: Tensor,
) -> None:
    """Write both gradients; factors of shape (B, 1, 1)."""
    factors = to_curr.contiguous(), to_prev.contiguous()
    _launch(_gradient, grad_x_curr, grad_x_curr, grad_x_prev, through_block, grad_x_next, *factors)
