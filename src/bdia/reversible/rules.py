"""Update rules: how x_next follows from x_prev, x_curr and y = block(x_curr). One class per rule.

A rule works on a slice of samples (`rows`), so the tape can bound temporaries; it keeps only gamma.
`advance` returns x_next, the residues (or None) and the largest magnitude in units u (or None off the grid);
`invert` is its inverse in x_prev; `grad_y` and `grad_skip` are its transpose, straight-through (dQ_l/dz = 1).
"""

from typing import Protocol

import torch
from torch import Tensor

from bdia.reversible.gamma import Gamma
from bdia.reversible.grid import largest_magnitude, quantize, units
from bdia.reversible.step import Coefficients, coefficients, column, exact_inverse, exact_step

Advanced = tuple[Tensor, Tensor | None, Tensor | None]


class Rule(Protocol):
    """One update x_prev, x_curr, y -> x_next. `side_bits` per activation; `exact` where `invert` is bit for bit."""

    side_bits: int
    exact: bool

    def advance(self, x_prev: Tensor | None, x_curr: Tensor, y: Tensor, rows: slice) -> Advanced:
        """Return x_next, side, peak."""
        ...

    def invert(self, x_next: Tensor, x_curr: Tensor, y: Tensor, side: Tensor | None, rows: slice) -> Tensor:
        """Return x_prev."""
        ...

    def grad_y(self, grad_x_next: Tensor) -> Tensor:
        """Return the gradient of y."""
        ...

    def grad_skip(self, grad_x_next: Tensor, grad_x_curr: Tensor) -> tuple[Tensor | None, Tensor]:
        """Return the gradient of x_prev, and `grad_x_curr` (through the block) plus the update's own share."""
        ...


def _round(x: Tensor, bits: int | None) -> tuple[Tensor, Tensor | None]:
    if bits is None:
        return x.to(torch.float32, copy=True), None
    rounded = quantize(x, bits)
    return rounded, largest_magnitude(rounded) * units(bits)


class EulerRule:
    """x_next = Q_l[y]: the standard transformer on the grid (on float32 with bits=None). No inverse in x_prev."""

    side_bits = 0
    exact = False

    def __init__(self, bits: int | None) -> None:
        self.bits = bits

    def advance(self, x_prev: Tensor | None, x_curr: Tensor, y: Tensor, rows: slice) -> Advanced:
        """x_next = Q_l[y]."""
        x_next, peak = _round(y, self.bits)
        return x_next, None, peak

    def invert(self, x_next: Tensor, x_curr: Tensor, y: Tensor, side: Tensor | None, rows: slice) -> Tensor:
        """x_next does not depend on x_prev."""
        raise NotImplementedError("the Euler step has no inverse in x_prev")

    def grad_y(self, grad_x_next: Tensor) -> Tensor:
        """Pass the gradient on."""
        return grad_x_next

    def grad_skip(self, grad_x_next: Tensor, grad_x_curr: Tensor) -> tuple[Tensor | None, Tensor]:
        """x_next depends on y only."""
        return None, grad_x_curr


class BdiaRule:
    """The exact BDIA step, paper section 4.3, with one fraction per sample."""

    exact = True

    def __init__(self, gamma: Gamma, bits: int, side_bits: int) -> None:
        self.gamma, self.bits, self.side_bits = gamma, bits, side_bits

    def coefficients(self, dims: int, rows: slice = slice(None)) -> Coefficients:
        """Return what the step multiplies with, for tensors of so many dimensions."""
        return coefficients(Gamma(self.gamma.numerator[rows], self.gamma.denominator[rows]), self.bits, dims)

    def advance(self, x_prev: Tensor | None, x_curr: Tensor, y: Tensor, rows: slice) -> Advanced:
        """See `bdia_step`."""
        return exact_step(x_prev, x_curr, y, self.coefficients(x_curr.dim(), rows))

    def invert(self, x_next: Tensor, x_curr: Tensor, y: Tensor, side: Tensor | None, rows: slice) -> Tensor:
        """See `bdia_invert`."""
        return exact_inverse(x_next, x_curr, y, 0 if side is None else side, self.coefficients(x_curr.dim(), rows))

    def grad_y(self, grad_x_next: Tensor) -> Tensor:
        """(1 + gamma) times the gradient."""
        return (1 + column(self.gamma.value, grad_x_next.dim())) * grad_x_next

    def grad_skip(self, grad_x_next: Tensor, grad_x_curr: Tensor) -> tuple[Tensor | None, Tensor]:
        """Gamma times the gradient for x_prev, -2 gamma times it for x_curr."""
        return _bdia_grad_skip(self.gamma.value, grad_x_next, grad_x_curr)


class FloatBdiaRule:
    """The float form x_next = gamma x_prev + (1 + gamma) y - 2 gamma x_curr (section 4.1), rounded where bits is set.

    Its inverse divides rounding errors by gamma: inexact, the paper's Fig. 2.
    """

    side_bits = 0
    exact = False

    def __init__(self, gamma: Tensor, bits: int | None) -> None:
        self.gamma, self.bits = gamma, bits

    def advance(self, x_prev: Tensor | None, x_curr: Tensor, y: Tensor, rows: slice) -> Advanced:
        """x_next = gamma x_prev + (1 + gamma) y - 2 gamma x_curr."""
        gamma = column(self.gamma[rows], x_curr.dim())
        x_next, peak = _round(gamma * x_prev + (1 + gamma) * y.float() - 2 * gamma * x_curr, self.bits)
        return x_next, None, peak

    def invert(self, x_next: Tensor, x_curr: Tensor, y: Tensor, side: Tensor | None, rows: slice) -> Tensor:
        """x_prev = (x_next - (1 + gamma) y + 2 gamma x_curr) / gamma."""
        gamma = column(self.gamma[rows], x_curr.dim())
        return (x_next - (1 + gamma) * y.float() + 2 * gamma * x_curr) / gamma

    def grad_y(self, grad_x_next: Tensor) -> Tensor:
        """(1 + gamma) times the gradient."""
        return (1 + column(self.gamma, grad_x_next.dim())) * grad_x_next

    def grad_skip(self, grad_x_next: Tensor, grad_x_curr: Tensor) -> tuple[Tensor | None, Tensor]:
        """Gamma times the gradient for x_prev, -2 gamma times it for x_curr."""
        return _bdia_grad_skip(self.gamma, grad_x_next, grad_x_curr)


def _bdia_grad_skip(gamma: Tensor, grad_x_next: Tensor, grad_x_curr: Tensor) -> tuple[Tensor, Tensor]:
    grad_x_prev = column(gamma, grad_x_next.dim()) * grad_x_next
    return grad_x_prev, torch.sub(grad_x_curr, grad_x_prev, alpha=2)


class CouplingRule:
    """RevViT's additive coupling x_next = x_prev + Q[y], y one branch of a block (Mangalam et al., CVPR 2022).

    Exact on a grid; in float (bits=None) the inverse is off by rounding.
    """

    side_bits = 0

    def __init__(self, bits: int | None) -> None:
        self.bits, self.exact = bits, bits is not None

    def advance(self, x_prev: Tensor | None, x_curr: Tensor, y: Tensor, rows: slice) -> Advanced:
        """x_next = x_prev + Q[y]."""
        update, _ = _round(y, self.bits)
        x_next = update.add_(x_prev)
        return x_next, None, None if self.bits is None else largest_magnitude(x_next) * units(self.bits)

    def invert(self, x_next: Tensor, x_curr: Tensor, y: Tensor, side: Tensor | None, rows: slice) -> Tensor:
        """x_prev = x_next - Q[y]."""
        update, _ = _round(y, self.bits)
        return update.neg_().add_(x_next)

    def grad_y(self, grad_x_next: Tensor) -> Tensor:
        """Pass the gradient on."""
        return grad_x_next

    def grad_skip(self, grad_x_next: Tensor, grad_x_curr: Tensor) -> tuple[Tensor | None, Tensor]:
        """Pass the gradient on to x_prev."""
        return grad_x_next, grad_x_curr
