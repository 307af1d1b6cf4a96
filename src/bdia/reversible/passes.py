"""One pass over the tensors of an update: the step, the packed side information, the range check, the integrity sum.

The eager pass works slice by slice, so that its temporaries stay in cache; the compiled one is a single kernel that
reads and writes every tensor once, and the integrity sum one more reading of one of them, at a tenth of the kernel's
time on a CPU. Both give the same bits. B batch.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from bdia.reversible.compiled import run_compiled, worth_compiling
from bdia.reversible.rules import BdiaRule, Rule
from bdia.reversible.side_info import pack_lanes, pack_side_info, packed_shape, unpack_lanes, unpack_side_info
from bdia.reversible.step import Coefficients, exact_inverse, exact_step

KERNELS = ("auto", "compiled", "eager")
SLICE_ELEMENTS = {"cpu": 2**18}  # temporaries of a step stay in cache; on an accelerator launches cost more
DEFAULT_SLICE_ELEMENTS = 2**21


class Passed(NamedTuple):
    """x_next; packed residues; peak, the largest magnitude in units u; sum of x_prev's bits (None: not asked for)."""

    x_next: Tensor
    packed: Tensor | None
    peak: Tensor | None
    bit_sum: Tensor | None


def bit_sum(x: Tensor) -> Tensor:
    """Sum the bit patterns of a float32 tensor as integers, modulo 2^64, in any order.

    One changed bit changes it for certain, many leave it as it was by a rare chance only.
    """
    words = torch.int32 if x.shape[-1] % 2 else torch.int64  # two values in a word where they pair up
    x = x.clone() if x.storage_offset() % 2 else x  # a word cannot begin there
    return x.contiguous().view(words).sum(dtype=torch.int64)


def forward_pass(
    rule: Rule, x_prev: Tensor | None, x_curr: Tensor, y: Tensor, note: bool, verify: bool, kernel: str
) -> Passed:
    """Take an update.

    Args:
        note: pack the residues: x_prev will be freed.
        verify: sum x_prev's bits.
        kernel: one of KERNELS.
    """
    x_next = torch.empty_like(x_curr, memory_format=torch.contiguous_format)
    packed = x_curr.new_empty(packed_shape(x_curr.shape, rule.side_bits), dtype=torch.uint8) if note else None
    if isinstance(rule, BdiaRule) and _fits_a_kernel(kernel, x_next):
        peak = x_next.new_empty(())
        tensors = (*map(_lanes, (x_next, x_prev, x_curr, y)), packed, peak, rule.coefficients(3))
        if run_compiled(_fused_forward, *tensors, required=kernel == "compiled"):
            return Passed(x_next, packed, peak, bit_sum(x_prev) if verify else None)
    peaks, sums = [], []
    for rows in _slices(x_curr):
        before = None if x_prev is None else x_prev[rows]
        x_next[rows], side, peak = rule.advance(before, x_curr[rows], y[rows], rows)
        if note and side is not None and rule.side_bits:
            packed[rows] = pack_side_info(side, rule.side_bits)
        peaks += [] if peak is None else [peak]
        sums += [bit_sum(before)] if verify else []
    return Passed(x_next, packed, torch.stack(peaks).amax() if peaks else None, sum(sums) if sums else None)


def inverse_pass(
    rule: Rule, x_prev: Tensor, x_next: Tensor, x_curr: Tensor, y: Tensor, packed: Tensor, verify: bool, kernel: str
) -> Tensor | None:
    """Invert an update into the memory of x_prev; return the sum of its bits if `verify`."""
    if isinstance(rule, BdiaRule) and _fits_a_kernel(kernel, x_prev):
        tensors = (*map(_lanes, (x_prev, x_next, x_curr, y)), packed, rule.coefficients(3))
        if run_compiled(_fused_inverse, *tensors, required=kernel == "compiled"):
            return bit_sum(x_prev) if verify else None
    sums = []
    for rows in _slices(x_curr):
        side = unpack_side_info(packed[rows], rule.side_bits, x_curr[rows].shape) if rule.side_bits else None
        x_prev[rows] = rule.invert(x_next[rows], x_curr[rows], y[rows], side, rows)
        sums += [bit_sum(x_prev[rows])] if verify else []
    return sum(sums) if sums else None


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
    peak: Tensor,
    c: Coefficients,
) -> None:
    found, side, largest = exact_step(x_prev, x_curr, y, c)
    x_next.copy_(found)
    peak.copy_(largest)
    if packed is not None:
        packed.copy_(pack_lanes(side, packed.shape[1]))


def _fused_inverse(x_prev: Tensor, x_next: Tensor, x_curr: Tensor, y: Tensor, packed: Tensor, c: Coefficients) -> None:
    x_prev.copy_(exact_inverse(x_next, x_curr, y, unpack_lanes(packed, packed.shape[1]), c))
