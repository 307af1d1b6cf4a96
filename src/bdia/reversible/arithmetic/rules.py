"""Update rules: how x_next follows from x_prev, x_curr and y = block(x_curr). One class per rule.

A rule works on a slice of samples (`rows`), so that kernels can bound temporaries; it keeps only gamma.
`advance` returns x_next, the residues and the peak (either may be None); `invert` is its inverse in x_prev;
`gradient_factors` returns what the gradient of x_next is multiplied with on its way to each input, straight-through
(dQ_l/dz = 1).
"""

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from bdia.reversible.arithmetic.gamma import Gamma
from bdia.reversible.arithmetic.grid import largest_magnitude, quantize, units
from bdia.reversible.arithmetic.integers import integer_inverse, integer_step, to_units, view_as_float
from bdia.reversible.arithmetic.step import (
    Coefficients,
    coefficients,
    column,
    exact_inverse,
    exact_step,
    float_inverse,
    float_step,
)


class Advanced(NamedTuple):
    """x_next; residues; largest magnitude in units u, 0-dim, where x_next itself does not tell it."""

    x_next: Tensor
    side: Tensor | None
    peak: Tensor | None = None


class GradientFactors(NamedTuple):
    """What the gradient of x_next is multiplied with on its way to each input: (B, 1, ..., 1), or 0 or 1 for all."""

    y: Tensor | int
    x_curr: Tensor | int
    x_prev: Tensor | int


class Rule(Protocol):
    """One update x_prev, x_curr, y -> x_next on the grid 2^-bits (None: off it).

    `side_bits` per activation; `invertible` where `invert` exists, `exact` where it is bit for bit.
    """

    @property
    def bits(self) -> int | None: ...  # noqa: D102
    @property
    def side_bits(self) -> int: ...  # noqa: D102
    @property
    def invertible(self) -> bool: ...  # noqa: D102
    @property
    def exact(self) -> bool: ...  # noqa: D102

    def advance(self, x_prev: Tensor | None, x_curr: Tensor, y: Tensor, rows: slice) -> Advanced:
        """Return x_next and side, and the peak where x_next cannot tell it."""
        ...

    def invert(self, x_next: Tensor, x_curr: Tensor, y: Tensor, side: Tensor | None, rows: slice) -> Tensor:
        """Return x_prev."""
        ...

    def gradient_factors(self, dims: int) -> GradientFactors:
        """Return the factors for gradients of so many dimensions."""
        ...


def _round(x: Tensor, bits: int | None) -> Tensor:
    return x.to(torch.float32, copy=True) if bits is None else quantize(x, bits)


class EulerRule:
    """x_next = Q_l[y]: the standard transformer on the grid (on float32 with bits=None). No inverse in x_prev."""

    side_bits = 0
    invertible = False
    exact = False

    def __init__(self, bits: int | None) -> None:
        self.bits = bits

    def advance(self, x_prev: Tensor | None, x_curr: Tensor, y: Tensor, rows: slice) -> Advanced:
        """x_next = Q_l[y]."""
        return Advanced(_round(y, self.bits), None)

    def invert(self, x_next: Tensor, x_curr: Tensor, y: Tensor, side: Tensor | None, rows: slice) -> Tensor:
        """x_next does not depend on x_prev."""
        raise NotImplementedError("the Euler step has no inverse in x_prev")

    def gradient_factors(self, dims: int) -> GradientFactors:
        """x_next depends on y only."""
        return GradientFactors(1, 0, 0)


class BdiaRule:
    """The exact BDIA step, paper section 4.3, with one fraction per sample."""

    invertible = True
    exact = True

    def __init__(self, gamma: Gamma, bits: int, side_bits: int, repeats: int = 1) -> None:
        self.bits, self.side_bits = bits, side_bits
        self._gamma, self._repeats = gamma, repeats

    @property
    def gamma(self) -> Gamma:
        """One fraction per row of the stream: the samples', again and again where a dimension comes before theirs."""
        if self._repeats == 1:
            return self._gamma
        return Gamma(*(part.repeat(self._repeats) for part in self._gamma))

    def coefficients(self, dims: int, rows: slice = slice(None)) -> Coefficients:
        """Return what the step multiplies with, for tensors of so many dimensions."""
        gamma = self.gamma
        return coefficients(Gamma(gamma.numerator[rows], gamma.denominator[rows]), self.bits, dims)

    def advance(self, x_prev: Tensor | None, x_curr: Tensor, y: Tensor, rows: slice) -> Advanced:
        """See `bdia_step`."""
        assert x_prev is not None
        return Advanced(*exact_step(x_prev, x_curr, y, self.coefficients(x_curr.dim(), rows)))

    def invert(self, x_next: Tensor, x_curr: Tensor, y: Tensor, side: Tensor | None, rows: slice) -> Tensor:
        """See `bdia_invert`."""
        return exact_inverse(x_next, x_curr, y, 0 if side is None else side, self.coefficients(x_curr.dim(), rows))

    def gradient_factors(self, dims: int) -> GradientFactors:
        """See `bdia_gradient_factors`."""
        return bdia_gradient_factors(self.gamma.value, dims)


class IntegerBdiaRule(BdiaRule):
    """The exact BDIA step on int32 numbers of units."""

    def advance(self, x_prev: Tensor | None, x_curr: Tensor, y: Tensor, rows: slice) -> Advanced:
        """See `integer_step`."""
        assert x_prev is not None
        found = integer_step(x_prev, x_curr, y, self.coefficients(x_curr.dim(), rows))
        peak = largest_magnitude(found.reach) * units(self.bits) if y.numel() else None
        return Advanced(found.x_next, found.side, peak)

    def invert(self, x_next: Tensor, x_curr: Tensor, y: Tensor, side: Tensor | None, rows: slice) -> Tensor:
        """See `integer_inverse`."""
        return integer_inverse(x_next, x_curr, y, 0 if side is None else side, self.coefficients(x_curr.dim(), rows))


class FloatBdiaRule:
    """The float form x_next = gamma x_prev + (1 + gamma) y - 2 gamma x_curr (section 4.1), rounded where bits is set.

    Its inverse divides rounding errors by gamma: inexact, the paper's Fig. 2.
    """

    side_bits = 0
    invertible = True
    exact = False

    def __init__(self, gamma: Tensor, bits: int | None) -> None:
        self.gamma, self.bits = gamma, bits

    def advance(self, x_prev: Tensor | None, x_curr: Tensor, y: Tensor, rows: slice) -> Advanced:
        """See `float_step`."""
        assert x_prev is not None
        gamma = column(self.gamma[rows], x_curr.dim())
        return Advanced(_round(float_step(x_prev, x_curr, y.float(), gamma), self.bits), None)

    def invert(self, x_next: Tensor, x_curr: Tensor, y: Tensor, side: Tensor | None, rows: slice) -> Tensor:
        """See `float_inverse`."""
        gamma = column(self.gamma[rows], x_curr.dim())
        return float_inverse(x_next, x_curr, y.float(), gamma)

    def gradient_factors(self, dims: int) -> GradientFactors:
        """See `bdia_gradient_factors`."""
        return bdia_gradient_factors(self.gamma, dims)


def bdia_gradient_factors(gamma: Tensor, dims: int) -> GradientFactors:
    """1 + gamma for y, -2 gamma for x_curr, gamma for x_prev: the factors of the update of section 4.1."""
    gamma = column(gamma, dims)
    return GradientFactors(1 + gamma, -2 * gamma, gamma)


class CouplingRule:
    """RevViT's additive coupling x_next = x_prev + Q[y], y one branch of a block (Mangalam et al., CVPR 2022).

    Exact on a grid; in float (bits=None) the inverse is off by rounding.
    """

    side_bits = 0
    invertible = True

    def __init__(self, bits: int | None) -> None:
        self.bits, self.exact = bits, bits is not None

    def advance(self, x_prev: Tensor | None, x_curr: Tensor, y: Tensor, rows: slice) -> Advanced:
        """x_next = x_prev + Q[y]."""
        assert x_prev is not None
        return Advanced(_round(y, self.bits).add_(x_prev), None)

    def invert(self, x_next: Tensor, x_curr: Tensor, y: Tensor, side: Tensor | None, rows: slice) -> Tensor:
        """x_prev = x_next - Q[y]."""
        return _round(y, self.bits).neg_().add_(x_next)

    def gradient_factors(self, dims: int) -> GradientFactors:
        """Pass the gradient on to y and x_prev."""
        return GradientFactors(1, 0, 1)


class RoundedToUnits:
    """A rule off the grid, its result rounded to int32 numbers of units. It has no inverse."""

    side_bits = 0
    invertible = False
    exact = False

    def __init__(self, rule: Rule, bits: int) -> None:
        self.rule, self.bits = rule, bits

    def advance(self, x_prev: Tensor | None, x_curr: Tensor, y: Tensor, rows: slice) -> Advanced:
        """As the rule, on what layers see."""
        before, here = (None if x is None else view_as_float(x, 1.0 / units(self.bits)) for x in (x_prev, x_curr))
        assert here is not None
        n, rounded = to_units(self.rule.advance(before, here, y, rows).x_next, self.bits)
        return Advanced(n, None, largest_magnitude(rounded) if y.numel() else None)

    def invert(self, x_next: Tensor, x_curr: Tensor, y: Tensor, side: Tensor | None, rows: slice) -> Tensor:
        """Refuse: what rounding took is not kept."""
        raise NotImplementedError("a rule off the grid, rounded to units, has no inverse")

    def gradient_factors(self, dims: int) -> GradientFactors:
        """As the rule: rounding is straight-through."""
        return self.rule.gradient_factors(dims)
