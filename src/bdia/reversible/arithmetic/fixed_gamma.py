"""Gamma laws that are the same in every pass and block: how gamma_k is drawn in training, per sample or per batch.

The paper draws +-1/2 with equal probability (section 4.3) and shows other magnitudes without quantisation
(Table 2). Any non-zero fraction p/q has an exact inverse on the grid with ceil(log2 q) bits of side information.
"""

import math
import warnings
from collections.abc import Mapping
from fractions import Fraction
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from bdia import InvalidTypeError, InvalidValueError

MAX_DENOMINATOR = 256  # eight bits of side information


class Gamma(NamedTuple):
    """One exact fraction per sample: integer tensors of shape (B,), denominators positive."""

    numerator: Tensor
    denominator: Tensor

    @property
    def value(self) -> Tensor:
        """gamma as float32, shape (B,)."""
        return self.numerator.float() / self.denominator.float()


class GammaMeanWarning(UserWarning):
    """The law's mean is not 0, but inference replaces gamma by 0."""


def as_fraction(value: str | int | float | Fraction) -> Fraction:
    """Read a gamma value as an exact fraction.

    A float is read as the nearest fraction with denominator at most 256.

    Raises:
        ValueError: not a number, or no such fraction.
    """
    try:
        fraction = Fraction(value)
    except (ValueError, TypeError, OverflowError, ZeroDivisionError) as error:
        raise InvalidValueError(f'gamma value {value!r}: wanted a fraction such as "1/2"; set stack.gamma') from error
    if isinstance(value, float):
        fraction = fraction.limit_denominator(MAX_DENOMINATOR)
        if abs(float(fraction) - value) > 1e-9 * abs(value):
            raise InvalidValueError(
                f"gamma value {value!r} is no fraction with a denominator up to {MAX_DENOMINATOR}; "
                'write stack.gamma as "p/q"'
            )
    if fraction.denominator > MAX_DENOMINATOR or abs(fraction) > MAX_DENOMINATOR:
        raise InvalidValueError(
            f"gamma value {value!r}: denominator and magnitude end at {MAX_DENOMINATOR} (8 bits); set stack.gamma"
        )
    return fraction


def constant_gamma(value: Fraction | float, batch: int, device: torch.device | str) -> Gamma | Tensor:
    """The same gamma for a whole batch, without drawing a random number: `Gamma`, or float32 (batch,) for a float."""
    if isinstance(value, float):
        return torch.full((batch,), value, device=device)
    parts = (value.numerator, value.denominator)
    return Gamma(*(torch.full((batch,), part, dtype=torch.int32, device=device) for part in parts))


def _check_per(per: str) -> str:
    if per not in ("sample", "batch"):
        raise InvalidValueError(f'per={per!r}: wanted "sample" or "batch"; set stack.gamma.per')
    return per


def _warn_unless_mean_is_zero(law: object, mean: float) -> None:
    if abs(mean) > 1e-9:
        warnings.warn(f"{law}: mean gamma is {mean:g}, but inference uses gamma = 0", GammaMeanWarning, stacklevel=3)


class GammaLaw:
    """How gamma_k is drawn. The engine calls `begin_pass` once per training pass, then `at(k).sample` before block k.

    Attributes:
        side_bits: bits of side information per activation that the next sample needs.
        reversible: False where gamma can be a value without an exact inverse.
    """

    if TYPE_CHECKING:  # an attribute of most laws, a property of those that change

        @property
        def side_bits(self) -> int: ...  # noqa: D102

    reversible: bool

    def sample(
        self, batch: int, generator: torch.Generator | None = None, device: torch.device | str = "cpu"
    ) -> Gamma | Tensor:
        """Draw one gamma per sample: `Gamma` where it is reversible, else float32; tensors of shape (batch,)."""
        raise NotImplementedError

    def at(self, k: int) -> "GammaLaw":
        """Return the law of block k (k >= 1: block 0 takes an Euler step and draws no gamma)."""
        return self

    def begin_pass(self) -> None:
        """Note that a training pass (a forward in training mode with gradients) starts. Most laws do nothing."""

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run must restore, as plain numbers; empty for a law that never changes."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` gave."""


class Discrete(GammaLaw):
    """gamma takes the fractions `weights.keys()` with probabilities `weights.values()`.

    Attributes:
        side_bits: bits of side information per activation, ceil(log2 q) of the largest denominator q.
        reversible: False where gamma can be 0, which has no inverse.
    """

    side_bits: int

    def __init__(self, weights: Mapping[str | float | Fraction, float], per: str = "sample") -> None:
        self.weights = {as_fraction(value): float(weight) for value, weight in weights.items()}
        self.per = _check_per(per)
        total = sum(self.weights.values())
        positive = all(weight >= 0 for weight in self.weights.values())
        if len(self.weights) < len(weights) or not positive or not abs(total - 1) <= 1e-6:
            raise InvalidValueError(
                f"weights={dict(weights)!r}: wanted distinct fractions with probabilities that sum to 1; "
                "set stack.gamma.weights"
            )
        self.side_bits = max(math.ceil(math.log2(f.denominator)) for f in self.weights)
        self.reversible = 0 not in self.weights
        # On the CPU whatever the default device is: inside `with torch.device("meta")` the numbers would be lost.
        bounds = torch.tensor(list(self.weights.values()), dtype=torch.float64, device="cpu").cumsum(0)[:-1].float()
        parts = torch.tensor([(f.numerator, f.denominator) for f in self.weights], dtype=torch.int32, device="cpu")
        self._tables = {torch.device("cpu"): (bounds, parts)}
        _warn_unless_mean_is_zero(self, float(sum(float(f) * w for f, w in self.weights.items())))

    def sample(self, batch: int, generator: torch.Generator | None = None, device: torch.device | str = "cpu") -> Gamma:
        """Draw one gamma per sample (one for all of them with per="batch"); tensors of shape (batch,)."""
        draws = batch if self.per == "sample" else 1
        bounds, parts = self._table(torch.device(device))
        index = torch.bucketize(torch.rand(draws, generator=generator, device=device), bounds, right=True).expand(batch)
        return Gamma(*parts[index].unbind(1))

    def _table(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Bounds of the fractions' shares of [0, 1), and (p, q) of each; copied to a device once, for a copy waits."""
        if device not in self._tables:
            bounds, parts = self._tables[torch.device("cpu")]
            self._tables[device] = bounds.to(device), parts.to(device)
        return self._tables[device]

    def __repr__(self) -> str:
        inside = ", ".join(f"{fraction}: {weight:g}" for fraction, weight in self.weights.items())
        return f"{type(self).__name__}({inside}; per {self.per})"


class TwoPoint(Discrete):
    """gamma = +value or -value with equal probability: the paper's law at value = "1/2" (section 4.3)."""

    def __init__(self, value: str | float | Fraction = "1/2", per: str = "sample") -> None:
        fraction = as_fraction(value)
        super().__init__({fraction: 0.5, -fraction: 0.5} if fraction else {fraction: 1.0}, per)


class Constant(Discrete):
    """gamma = value always. Constant("0") is the Euler step of a standard transformer and has no inverse."""

    def __init__(self, value: str | float | Fraction, per: str = "sample") -> None:
        super().__init__({as_fraction(value): 1.0}, per)


class Uniform(GammaLaw):
    """gamma uniform in [low, high], as float32: no exact inverse, so only with stored activations."""

    side_bits = 0
    reversible = False

    def __init__(self, low: float, high: float, per: str = "sample") -> None:
        if not -math.inf < low < high < math.inf:
            raise InvalidValueError(
                f"low={low!r}, high={high!r}: wanted finite low < high; set stack.gamma.low and stack.gamma.high"
            )
        self.low, self.high, self.per = float(low), float(high), _check_per(per)
        _warn_unless_mean_is_zero(self, (self.low + self.high) / 2)

    def sample(
        self, batch: int, generator: torch.Generator | None = None, device: torch.device | str = "cpu"
    ) -> Tensor:
        """Draw gamma as float32, shape (batch,)."""
        draws = batch if self.per == "sample" else 1
        return (torch.rand(draws, generator=generator, device=device) * (self.high - self.low) + self.low).expand(batch)

    def __repr__(self) -> str:
        return f"Uniform({self.low:g}, {self.high:g}; per {self.per})"


def as_law(value: GammaLaw | str | float | Fraction) -> GammaLaw:
    """Return a law as it is; a fraction becomes `TwoPoint` of it.

    Raises:
        TypeError: a class instead of a law. ValueError: not a fraction.
    """
    if isinstance(value, type):
        raise InvalidTypeError(f'gamma={value!r} is a class: wanted a law such as TwoPoint("1/2"); set stack.gamma')
    return value if isinstance(value, GammaLaw) else TwoPoint(value)
