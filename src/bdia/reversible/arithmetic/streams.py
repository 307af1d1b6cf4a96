"""The forms in which a pass holds its residual streams: what a state is, what a layer sees of it, and how far it goes.

`FLOAT32` holds values: float32 is exact on the grid below 2^24 units. `INT32` holds numbers of units, below about 2^31.
"""

from typing import Protocol

import torch
from torch import Tensor

from bdia import InvalidValueError
from bdia.reversible.arithmetic.gamma import Gamma
from bdia.reversible.arithmetic.grid import (
    FLOAT32_RANGE,
    INT32_RANGE,
    GridRange,
    largest_magnitude,
    quantize,
    units,
)
from bdia.reversible.arithmetic.integers import to_units, view_as_float
from bdia.reversible.arithmetic.rules import (
    BdiaRule,
    EulerRule,
    FloatBdiaRule,
    IntegerBdiaRule,
    RoundedToUnits,
    Rule,
)


class Stream(Protocol):
    """A form of the stream.

    Attributes:
        name: value of `stack.stream`. range: what it holds.
    """

    name: str
    range: GridRange

    def enter(self, x: Tensor, bits: int | None) -> tuple[Tensor, Tensor | None]:
        """Return the state Q_l[x], never x itself, and its largest magnitude in units (None off the grid)."""
        ...

    def seen(self, state: Tensor, bits: int | None) -> Tensor:
        """Return what a layer sees of a state, float32."""
        ...

    def euler(self, bits: int | None) -> Rule:
        """Return the rule x_next = Q_l[y]."""
        ...

    def bdia(self, gamma: Gamma, bits: int, side_bits: int, repeats: int) -> Rule:
        """Return the exact BDIA step."""
        ...

    def rounded(self, gamma: Tensor, bits: int | None) -> Rule:
        """Return the float form of the BDIA update, rounded to the grid."""
        ...


class FloatStream:
    """States are float32 multiples of u, which layers see as they are."""

    name, range = "float32", FLOAT32_RANGE

    def enter(self, x: Tensor, bits: int | None) -> tuple[Tensor, Tensor | None]:
        """Off the grid a copy."""
        if bits is None:
            return x.to(torch.float32, copy=True), None
        state = quantize(x, bits)
        return state, largest_magnitude(state) * units(bits) if x.numel() else None

    def seen(self, state: Tensor, bits: int | None) -> Tensor:
        """Return the state, on its own memory."""
        return state.detach()

    def euler(self, bits: int | None) -> Rule:
        """See `EulerRule`."""
        return EulerRule(bits)

    def bdia(self, gamma: Gamma, bits: int, side_bits: int, repeats: int) -> Rule:
        """See `BdiaRule`."""
        return BdiaRule(gamma, bits, side_bits, repeats)

    def rounded(self, gamma: Tensor, bits: int | None) -> Rule:
        """See `FloatBdiaRule`."""
        return FloatBdiaRule(gamma, bits)


class IntegerStream:
    """States are int32 numbers of u; layers see them rounded to float32, in memory of its own."""

    name, range = "int32", INT32_RANGE

    def enter(self, x: Tensor, bits: int | None) -> tuple[Tensor, Tensor | None]:
        """On the grid only."""
        assert bits is not None
        state, rounded = to_units(x, bits)
        return state, largest_magnitude(rounded) if x.numel() else None

    def seen(self, state: Tensor, bits: int | None) -> Tensor:
        """Return a rounded copy."""
        assert bits is not None
        return view_as_float(state, 1.0 / units(bits))

    def euler(self, bits: int | None) -> Rule:
        """See `EulerRule`."""
        assert bits is not None
        return RoundedToUnits(EulerRule(None), bits)

    def bdia(self, gamma: Gamma, bits: int, side_bits: int, repeats: int) -> Rule:
        """See `IntegerBdiaRule`."""
        return IntegerBdiaRule(gamma, bits, side_bits, repeats)

    def rounded(self, gamma: Tensor, bits: int | None) -> Rule:
        """See `FloatBdiaRule`."""
        assert bits is not None
        return RoundedToUnits(FloatBdiaRule(gamma, None), bits)


FLOAT32, INT32 = FloatStream(), IntegerStream()
STREAMS: dict[str, Stream] = {stream.name: stream for stream in (FLOAT32, INT32)}


def stream_named(name: str, bits: int | str | None, prefix: str = "stack.") -> Stream:
    """Return a form by its name.

    Raises:
        ValueError: there is no such one, or it has no grid.
    """
    if name not in STREAMS:
        raise InvalidValueError(f"stream={name!r}: wanted one of {', '.join(STREAMS)}; set {prefix}stream")
    if name == INT32.name and bits is None:
        raise InvalidValueError(f"stream=int32 counts units of a grid, and bits is null: set {prefix}bits=14")
    return STREAMS[name]
