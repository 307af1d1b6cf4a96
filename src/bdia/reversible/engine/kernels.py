"""The tensor work of an update: the step with its packed residues, its inverse, its gradients.

The eager kernels work slice by slice, so that their temporaries stay in cache. The fused ones are single kernels, of
torch.compile or written in Triton. All give the same bits. The step's kernel also computes the range peak and the sum
of bits. The inverse overwrites its input, so its sum is taken in a second pass. B batch.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from bdia.reversible.arithmetic.grid import largest_magnitude, units
from bdia.reversible.arithmetic.integers import integer_inverse, integer_step
from bdia.reversible.arithmetic.residues import pack_lanes, pack_residues, packed_shape, unpack_lanes, unpack_residues
from bdia.reversible.arithmetic.rules import BdiaRule, GradientFactors, IntegerBdiaRule, Rule
from bdia.reversible.arithmetic.step import Coefficients, exact_inverse, exact_step
from bdia.reversible.engine.compiled import run_compiled, worth_compiling
from bdia.reversible.engine.with_triton import run_triton, triton_partial_results

KERNELS = ("auto", "compiled", "eager", "triton")
SLICE_ELEMENTS = {"cpu": 2**18}  # temporaries of a step stay in cache; on an accelerator launches cost more
DEFAULT_SLICE_ELEMENTS = 2**21


class UpdateResult(NamedTuple):
    """x_next; packed residues; largest magnitude in units u (None off the grid); x_prev's `bit_sum`, if asked for."""

    x_next: Tensor
    packed: Tensor | None
    peak: Tensor | None
    bit_sum: Tensor | None


def bit_sum(x: Tensor) -> Tensor:
    """Sum the bit patterns of a tensor as integers, modulo 2^32 for float32, in any order: 0-dim, int32 for float32.

    The sum always changes if one bit changes, and almost always if many do. It misses swapped values and an even
    number of flipped signs.
    """
    integers = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[x.element_size()]
    return x.view(integers).sum(dtype=torch.int64 if x.element_size() == 8 else torch.int32)


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
    if isinstance(rule, BdiaRule) and x_prev is not None and _fits_a_kernel(kernel, x_next):
        peaks, sums = _partial_results(kernel, x_next, verify)
        out, *tensors = map(_lanes, (x_next, x_prev, x_curr, y))
        forward, _ = FUSED[type(rule)]
        if _fused(kernel, forward, out, *tensors, packed, peaks, sums, rule.coefficients(3)):
            total = None if sums is None else sums.sum(dtype=torch.int32)
            return UpdateResult(x_next, packed, peaks.amax() * units(rule.bits), total)
    reached = []
    for rows in _slices(x_curr):
        before = None if x_prev is None else x_prev[rows]
        x_next[rows], side, reach = rule.advance(before, x_curr[rows], y[rows], rows)
        reached += [] if reach is None else [reach]
        if packed is not None and side is not None and rule.side_bits:
            packed[rows] = pack_residues(side, rule.side_bits)
    peak = torch.stack(reached).amax() if reached else _peak(x_next, rule.bits)
    return UpdateResult(x_next, packed, peak, bit_sum(x_prev) if verify and x_prev is not None else None)


def _peak(x_next: Tensor, bits: int | None) -> Tensor | None:
    return largest_magnitude(x_next) * units(bits) if bits is not None and x_next.numel() else None


def inverse_kernel(
    rule: Rule, x: Tensor, x_curr: Tensor, y: Tensor, packed: Tensor, verify: bool, kernel: str
) -> Tensor | None:
    """Invert an update in place: `x` is x_next and becomes x_prev. Return the sum of its bits if `verify`."""
    if isinstance(rule, BdiaRule) and _fits_a_kernel(kernel, x):
        out, *tensors = map(_lanes, (x, x_curr, y))
        _, inverse = FUSED[type(rule)]
        if _fused(kernel, inverse, out, *tensors, packed, rule.coefficients(3)):
            return bit_sum(x) if verify else None
    for rows in _slices(x_curr):
        side = unpack_residues(packed[rows], rule.side_bits, x_curr[rows].shape) if rule.side_bits else None
        x[rows] = rule.invert(x[rows], x_curr[rows], y[rows], side, rows)
    return bit_sum(x) if verify else None


def scaled(factor: Tensor | int, grad: Tensor) -> Tensor:
    """Return factor * grad; the gradient itself for 1."""
    return grad if isinstance(factor, int) and factor == 1 else factor * grad


def gradient_kernel(
    through_block: Tensor, grad_x_next: Tensor, factors: GradientFactors, needs_prev: bool, kernel: str
) -> tuple[Tensor, Tensor | None]:
    """Return the gradients of x_curr and, if asked for, of x_prev.

    grad_x_curr = through_block + factors.x_curr * grad_x_next; grad_x_prev = factors.x_prev * grad_x_next.

    Args:
        through_block: what the block sends x_curr. All tensors (B, ...), factors (B, 1, ..., 1) or 0 or 1.
    """
    to_curr, to_prev = factors.x_curr, factors.x_prev
    needs_prev = needs_prev and not _is_zero(to_prev)
    if not (needs_prev and isinstance(to_curr, Tensor) and isinstance(to_prev, Tensor)) or torch.is_grad_enabled():
        zero = _is_zero(to_curr)  # RevViT's and Euler's: no sum
        grad_x_curr = through_block if zero else through_block + scaled(to_curr, grad_x_next)
        return grad_x_curr, scaled(to_prev, grad_x_next) if needs_prev else None
    found = [torch.empty_like(grad_x_next, memory_format=torch.contiguous_format) for _ in range(2)]
    if _fits_a_kernel(kernel, found[0]):
        tensors = [_lanes(x) for x in (*found, through_block, grad_x_next)]
        columns = [factor.view(-1, 1, 1) for factor in (to_curr, to_prev)]
        if _fused(kernel, _fused_gradient, *tensors, *columns):
            return found[0], found[1]
    for rows in _slices(grad_x_next):
        found[0][rows] = through_block[rows] + to_curr[rows] * grad_x_next[rows]
        found[1][rows] = to_prev[rows] * grad_x_next[rows]
    return found[0], found[1]


def _is_zero(factor: Tensor | int) -> bool:
    return isinstance(factor, int) and factor == 0


def _slices(x: Tensor) -> list[slice]:
    """Cut the batch so that a slice holds about SLICE_ELEMENTS values; all slices whole samples."""
    per_sample = max(1, x.numel() // max(1, x.shape[0]))
    rows = max(1, SLICE_ELEMENTS.get(x.device.type, DEFAULT_SLICE_ELEMENTS) // per_sample)
    starts = range(0, x.shape[0], rows)
    if isinstance(x, FakeTensor):  # a planner's tensors hold no values: one slice allocates what each of them does
        starts = starts[:1]
    return [slice(start, start + rows) for start in starts]


# --- the fused pass: tensors as (B, 8, n / 8), the lanes of the side information, so every access is a vector ---


def _fits_a_kernel(kernel: str, out: Tensor) -> bool:
    wanted = out.numel() > 0 if kernel in ("compiled", "triton") else kernel == "auto" and worth_compiling(out)
    return wanted and out.is_contiguous() and not math.prod(out.shape[1:]) % 8


def _lanes(x: Tensor) -> Tensor:
    lanes = x.reshape(x.shape[0], 8, -1).data  # not a view, whose base's shape would ask for another kernel
    torch._dynamo.mark_static(lanes, 1)
    return lanes


def _partial_results(kernel: str, x_next: Tensor, verify: bool) -> tuple[Tensor, Tensor | None]:
    """Return where a fused update writes largest magnitudes and, if `verify`, sums of bits: one a sample, or more."""
    shape: tuple[int, ...] = (len(x_next),)
    dtype = torch.int32
    if kernel == "triton":
        shape, dtype = triton_partial_results(x_next)
    return x_next.new_empty(shape, dtype=torch.float32), x_next.new_empty(shape, dtype=dtype) if verify else None


def _fused(kernel: str, function: Callable[..., None], out: Tensor, *arguments: object) -> bool:
    """Run a fused kernel that writes `out`; return whether it ran."""
    if kernel == "triton":
        return run_triton(function.__name__.removeprefix("_fused_"), out, *arguments)
    return run_compiled(function, out, *arguments, required=kernel == "compiled")


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
    _reduce(found.abs(), side, x_prev.view(torch.int32), packed, peaks, sums)


def _reduce(
    reach: Tensor, side: Tensor, words: Tensor, packed: Tensor | None, peaks: Tensor, sums: Tensor | None
) -> None:
    """Write what a forward kernel finds beside x_next, sample by sample; `words` are x_prev's bits."""
    peaks.copy_(reach.amax((1, 2)))
    if packed is not None:
        packed.copy_(pack_lanes(side, packed.shape[1]))
    if sums is not None:
        sums.copy_(words.sum((1, 2), dtype=torch.int32))  # `bit_sum`


def _fused_inverse(x: Tensor, x_curr: Tensor, y: Tensor, packed: Tensor, c: Coefficients) -> None:
    x.copy_(exact_inverse(x, x_curr, y, unpack_lanes(packed, packed.shape[1]), c))


def _fused_integer_forward(
    n_next: Tensor,
    n_prev: Tensor,
    n_curr: Tensor,
    y: Tensor,
    packed: Tensor | None,
    peaks: Tensor,
    sums: Tensor | None,
    c: Coefficients,
) -> None:
    found, side, reach = integer_step(n_prev, n_curr, y, c)
    n_next.copy_(found)
    _reduce(reach, side, n_prev, packed, peaks, sums)


def _fused_integer_inverse(n: Tensor, n_curr: Tensor, y: Tensor, packed: Tensor, c: Coefficients) -> None:
    n.copy_(integer_inverse(n, n_curr, y, unpack_lanes(packed, packed.shape[1]), c))


def _fused_gradient(
    grad_x_curr: Tensor,
    grad_x_prev: Tensor,
    through_block: Tensor,
    grad_x_next: Tensor,
    to_curr: Tensor,
    to_prev: Tensor,
) -> None:
    grad_x_curr.copy_(through_block + to_curr * grad_x_next)
    grad_x_prev.copy_(to_prev * grad_x_next)


FUSED: dict[type[Rule], tuple[Callable[..., None], Callable[..., None]]] = {
    BdiaRule: (_fused_forward, _fused_inverse),
    IntegerBdiaRule: (_fused_integer_forward, _fused_integer_inverse),
}
