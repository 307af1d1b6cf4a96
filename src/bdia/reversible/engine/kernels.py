"""One pass over the tensors of an update: the step with its packed side information, its inverse, its transpose.

The eager passes work slice by slice, so that their temporaries stay in cache; the compiled ones are single kernels.
Both give the same bits. The range check and the integrity sum ride in the step's kernel; in the inverse's, which works
in place, the sum would cost a copy, and is one more reading of the result. B batch.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from bdia.reversible.arithmetic.grid import largest_magnitude, units
from bdia.reversible.arithmetic.residues import pack_lanes, pack_residues, packed_shape, unpack_lanes, unpack_residues
from bdia.reversible.arithmetic.rules import BdiaRule, Rule
from bdia.reversible.arithmetic.step import Coefficients, exact_inverse, exact_step
from bdia.reversible.engine.compiled import run_compiled, worth_compiling

KERNELS = ("auto", "compiled", "eager")
SLICE_ELEMENTS = {"cpu": 2**18}  # temporaries of a step stay in cache; on an accelerator launches cost more
DEFAULT_SLICE_ELEMENTS = 2**21


Share = tuple[Tensor | int, Tensor]  # factor per sample, or 0 or 1 for all; the gradient it multiplies


class UpdateResult(NamedTuple):
    """x_next; packed residues; largest magnitude in units u (None off the grid); x_prev's `bit_sum`, if asked for."""

    x_next: Tensor
    packed: Tensor | None
    peak: Tensor | None
    bit_sum: Tensor | None


def bit_sum(x: Tensor) -> Tensor:
    """Sum the bit patterns of a float32 tensor as integers, modulo 2^32, in any order: 0-dim int32.

    One changed bit changes it for certain, values that differ in many ways all but certainly; values that trade places
    and an even number of changed signs do not.
    """
    return x.view(torch.int32).sum(dtype=torch.int32)


def update_kernel(
    rule: Rule, x_prev: Tensor | None, x_curr: Tensor, y: Tensor, note: bool, verify: bool, kernel: str
) -> UpdateResult:
    """Take an update.

    Args:
        note: pack the residues: x_prev will be freed.
        verify: sum x_prev's bits.
        kernel: one of KERNELS.
    """
    x_next = torch.empty_like(x_curr, memory_format=torch.contiguous_format)
    packed = x_curr.new_empty(packed_shape(x_curr.shape, rule.side_bits), dtype=torch.uint8) if note else None
    if isinstance(rule, BdiaRule) and _fits_a_kernel(kernel, x_next):
        peaks = x_next.new_empty(len(x_next))
        sums = x_next.new_empty(len(x_next), dtype=torch.int32) if verify else None
        tensors = (*map(_lanes, (x_next, x_prev, x_curr, y)), packed, peaks, sums, rule.coefficients(3))
        if run_compiled(_fused_forward, *tensors, required=kernel == "compiled"):
            total = sums.sum(dtype=torch.int32) if verify else None
            return UpdateResult(x_next, packed, peaks.amax() * units(rule.bits), total)
    for rows in _slices(x_curr):
        before = None if x_prev is None else x_prev[rows]
        x_next[rows], side = rule.advance(before, x_curr[rows], y[rows], rows)
        if note and side is not None and rule.side_bits:
            packed[rows] = pack_residues(side, rule.side_bits)
    on_grid = rule.bits is not None and x_next.numel()
    peak = largest_magnitude(x_next) * units(rule.bits) if on_grid else None
    return UpdateResult(x_next, packed, peak, bit_sum(x_prev) if verify else None)


def inverse_kernel(
    rule: Rule, x: Tensor, x_curr: Tensor, y: Tensor, packed: Tensor, verify: bool, kernel: str
) -> Tensor | None:
    """Invert an update in place: `x` is x_next and becomes x_prev. Return the sum of its bits if `verify`."""
    if isinstance(rule, BdiaRule) and _fits_a_kernel(kernel, x):
        tensors = (*map(_lanes, (x, x_curr, y)), packed, rule.coefficients(3))
        if run_compiled(_fused_inverse, *tensors, required=kernel == "compiled"):
            return bit_sum(x) if verify else None
    for rows in _slices(x_curr):
        side = unpack_residues(packed[rows], rule.side_bits, x_curr[rows].shape) if rule.side_bits else None
        x[rows] = rule.invert(x[rows], x_curr[rows], y[rows], side, rows)
    return bit_sum(x) if verify else None


def scaled(factor: Tensor | int, grad: Tensor) -> Tensor:
    """Return factor * grad; the gradient itself for 1."""
    return grad if isinstance(factor, int) and factor == 1 else factor * grad


def gradient_kernel(through_block: Tensor, shares: Sequence[Share], kernel: str) -> Tensor:
    """Return the gradient of a state: `through_block`, what its block sends it, plus factor * gradient of each share.

    Args:
        shares: what the one or two updates that read the state send it past their blocks.
    """
    shares = [(factor, grad) for factor, grad in shares if isinstance(factor, Tensor) or factor]
    if not shares:
        return through_block
    if len(shares) == 1 or torch.is_grad_enabled():  # create_graph: every operation is to be differentiated
        return sum((scaled(factor, grad) for factor, grad in shares), through_block)
    found = torch.empty_like(through_block, memory_format=torch.contiguous_format)
    if all(isinstance(factor, Tensor) for factor, _ in shares) and _fits_a_kernel(kernel, found):
        factors = [factor.view(-1, 1, 1) for factor, _ in shares]
        tensors = [_lanes(x) for x in (found, through_block, *(grad for _, grad in shares))]
        if run_compiled(_fused_gradient, *tensors, *factors, required=kernel == "compiled"):
            return found
    for rows in _slices(found):
        parts = ((factor[rows] if isinstance(factor, Tensor) else factor, grad[rows]) for factor, grad in shares)
        found[rows] = sum((scaled(*part) for part in parts), through_block[rows])
    return found


def _slices(x: Tensor) -> list[slice]:
    """Cut the batch so that a slice holds about SLICE_ELEMENTS values; all slices whole samples."""
    per_sample = max(1, x.numel() // max(1, x.shape[0]))
    rows = max(1, SLICE_ELEMENTS.get(x.device.type, DEFAULT_SLICE_ELEMENTS) // per_sample)
    starts = range(0, x.shape[0], rows)
    if isinstance(x, FakeTensor):  # a planner's tensors hold no values: one slice allocates what each of them does
        starts = starts[:1]
    return [slice(start, start + rows) for start in starts]


# --- the compiled pass: tensors as (B, 8, n / 8), the lanes of the side information, so every access is a vector ---


def _fits_a_kernel(kernel: str, out: Tensor) -> bool:
    wanted = out.numel() > 0 if kernel == "compiled" else kernel == "auto" and worth_compiling(out)
    return wanted and out.is_contiguous() and not math.prod(out.shape[1:]) % 8


def _lanes(x: Tensor) -> Tensor:
    lanes = x.reshape(x.shape[0], 8, -1).data  # not a view, whose base's shape would ask for another kernel
    torch._dynamo.mark_static(lanes, 1)
    return lanes


def _fused_forward(
    x_next: Tensor,
    x_prev: Tensor,
    x_curr: Tensor,
    y: Tensor,
    packed: Tensor | None,
    peaks: Tensor,
    sums: Tensor | None,
    c: Coefficients,
) -> None:
    found, side = exact_step(x_prev, x_curr, y, c)
    found = torch.as_strided(found, found.shape, found.stride())  # one tensor to the compiler: made once, then reduced
    x_next.copy_(found)
    peaks.copy_(found.abs().amax((1, 2)))
    if packed is not None:
        packed.copy_(pack_lanes(side, packed.shape[1]))
    if sums is not None:
        sums.copy_(x_prev.view(torch.int32).sum((1, 2), dtype=torch.int32))  # `bit_sum`, sample by sample


def _fused_inverse(x: Tensor, x_curr: Tensor, y: Tensor, packed: Tensor, c: Coefficients) -> None:
    x.copy_(exact_inverse(x, x_curr, y, unpack_lanes(packed, packed.shape[1]), c))


def _fused_gradient(
    grad: Tensor, through_block: Tensor, grad_x_next: Tensor, grad_after: Tensor, to_curr: Tensor, to_prev: Tensor
) -> None:
    grad.copy_(through_block + to_curr * grad_x_next + to_prev * grad_after)
