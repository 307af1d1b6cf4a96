"""Gamma laws: those that change with the training passes or from block to block, and the names of the fixed ones."""

import math
from collections.abc import Iterable, Mapping
from fractions import Fraction
from typing import Any

import torch

from bdia import InvalidTypeError, InvalidValueError
from bdia.reversible.arithmetic.fixed_gamma import MAX_DENOMINATOR as MAX_DENOMINATOR
from bdia.reversible.arithmetic.fixed_gamma import Constant as Constant
from bdia.reversible.arithmetic.fixed_gamma import Discrete as Discrete
from bdia.reversible.arithmetic.fixed_gamma import Gamma as Gamma
from bdia.reversible.arithmetic.fixed_gamma import GammaLaw as GammaLaw
from bdia.reversible.arithmetic.fixed_gamma import GammaMeanWarning as GammaMeanWarning
from bdia.reversible.arithmetic.fixed_gamma import TwoPoint as TwoPoint
from bdia.reversible.arithmetic.fixed_gamma import Uniform as Uniform
from bdia.reversible.arithmetic.fixed_gamma import as_fraction as as_fraction
from bdia.reversible.arithmetic.fixed_gamma import as_law as as_law
from bdia.reversible.arithmetic.fixed_gamma import constant_gamma as constant_gamma


class Ramp(GammaLaw):
    """gamma = +value or -value with equal probability; the value changes with the training passes.

    The first value holds for `every` passes, then the second, and so on; the last one holds from then on. A weight
    that was pretrained with gamma = 0 so meets small values first. Every training forward is a pass, also each
    of those that gradients are accumulated over. A law shared by two stacks counts the passes of both.

    Copies and pickles keep the count. `repr` shows the settings only, so that it does not change during a run.

    Args:
        values: fractions, in the order in which they hold.
        every: passes that each value holds for.
        per: as in `Discrete`.
    Attributes:
        passes: training passes begun so far; `state_dict` holds it.
        current: the law of the present pass.
        side_bits: those of `current`.
        reversible: False where one of the values is 0.
    """

    def __init__(self, values: Iterable[str | float | Fraction], every: int, per: str = "sample") -> None:
        if isinstance(values, str):
            raise InvalidValueError(f"values={values!r}: wanted a list of fractions; set stack.gamma.values")
        self.laws = [TwoPoint(value, per) for value in values]
        if not self.laws:
            raise InvalidValueError("values=[]: wanted at least one fraction; set stack.gamma.values")
        if not isinstance(every, int) or every < 1:
            raise InvalidValueError(f"every={every!r}: wanted a number of passes, at least 1; set stack.gamma.every")
        self.every, self.per, self.passes = every, per, 0
        self.reversible = all(law.reversible for law in self.laws)

    @property
    def current(self) -> TwoPoint:
        """Law of the present pass; before the first pass that of the first value."""
        return self.laws[min(max(self.passes - 1, 0) // self.every, len(self.laws) - 1)]

    @property
    def side_bits(self) -> int:
        """Bits of side information per activation in the present pass."""
        return self.current.side_bits

    def begin_pass(self) -> None:
        """Count a training pass."""
        self.passes += 1

    def sample(self, batch: int, generator: torch.Generator | None = None, device: torch.device | str = "cpu") -> Gamma:
        """Draw one gamma per sample, with the magnitude of the present pass; tensors of shape (batch,)."""
        return self.current.sample(batch, generator, device)

    def state_dict(self) -> dict[str, Any]:
        """Return the number of passes begun."""
        return {"passes": self.passes}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from the number of passes in `state`."""
        self.passes = int(state["passes"])

    def __repr__(self) -> str:
        values = ", ".join(str(next(iter(law.weights))) for law in self.laws)
        return f"Ramp({values}; every {self.every}; per {self.per})"


class PerBlock(GammaLaw):
    """A law for each block: block k draws from `laws[k]`.

    Args:
        laws: one law per block; a fraction stands for `TwoPoint` of it. `laws[0]` is never drawn from, because block 0
            takes an Euler step. It is there so that indices are those of the blocks.
    Attributes:
        side_bits: largest number of all blocks that draw; that of block k is `at(k).side_bits`.
        reversible: whether the laws of all blocks that draw are.
    """

    def __init__(self, laws: Iterable[GammaLaw | str | float | Fraction]) -> None:
        if isinstance(laws, str):
            raise InvalidValueError(f"laws={laws!r}: wanted a list with one law per block; set stack.gamma.laws")
        self.laws = [as_law(law) for law in laws]
        if not self.laws:
            raise InvalidValueError("laws=[]: wanted one law per block; set stack.gamma.laws")
        self.reversible = all(law.reversible for law in self.laws[1:])

    @property
    def side_bits(self) -> int:
        """Largest number of bits of side information per activation over the blocks that draw."""
        return max((law.side_bits for law in self.laws[1:]), default=0)

    def at(self, k: int) -> GammaLaw:
        """Return the law of block k.

        Raises:
            ValueError: there is no law for block k.
        """
        if not 0 <= k < len(self.laws):
            raise InvalidValueError(f"block {k} has no gamma law: {len(self.laws)} were given; set stack.gamma.laws")
        return self.laws[k].at(k)

    def begin_pass(self) -> None:
        """Tell every law, once also where one law stands for several blocks."""
        for law in self._distinct():
            law.begin_pass()

    def sample(self, batch: int, generator: torch.Generator | None = None, device: torch.device | str = "cpu") -> Gamma:
        """Refuse: which law draws depends on the block.

        Raises:
            TypeError: always.
        """
        raise InvalidTypeError(f"{self}: the law depends on the block; ask at(k).sample(...)")

    def state_dict(self) -> dict[str, Any]:
        """Return the states of the distinct laws, in the order of their first block."""
        return {"laws": [law.state_dict() for law in self._distinct()]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the states of the distinct laws.

        Raises:
            ValueError: `state` has another number of laws.
        """
        for law, own in zip(self._distinct(), state["laws"], strict=True):
            law.load_state_dict(own)

    def _distinct(self) -> list[GammaLaw]:
        return list({id(law): law for law in self.laws}.values())

    def __repr__(self) -> str:
        return f"PerBlock({', '.join(map(repr, self.laws))})"


class Growing(PerBlock):
    """gamma = +-value whose magnitude grows from block to block, in powers of two: small where the model is young.

    The default for pretrained weights (`results/tables/finetune_gamma.md`). Blocks past the last draw as the last does.

    Args:
        blocks: number of blocks.
        first, last: magnitudes at block 1 and at the last block, powers of two.
    Raises:
        ValueError: another magnitude, or no block.
    """

    def __init__(
        self, blocks: int, first: str | float | Fraction = "1/32", last: str | float | Fraction = "1/4"
    ) -> None:
        if not isinstance(blocks, int) or blocks < 1:
            raise InvalidValueError(f"blocks={blocks!r}: wanted a number of blocks, at least 1; set stack.gamma.blocks")
        ends = [as_fraction(value) for value in (first, last)]
        if any(end <= 0 or 1 not in end.as_integer_ratio() or end.denominator & (end.denominator - 1) for end in ends):
            raise InvalidValueError(
                f"first={first!r}, last={last!r}: wanted powers of two such as 1/32; set stack.gamma"
            )
        start, end = (math.log2(value) for value in ends)
        steps = max(1, blocks - 2)
        exponents = [start + round((end - start) * place / steps) for place in range(max(0, blocks - 1))]
        super().__init__([ends[0], *(Fraction(2) ** int(exponent) for exponent in exponents)])
        self.ends = ends

    def at(self, k: int) -> GammaLaw:
        """Return the law of block k."""
        return super().at(min(k, len(self.laws) - 1))

    def __repr__(self) -> str:
        return f"Growing({self.ends[0]} at block 1 to {self.ends[1]} at block {len(self.laws) - 1})"
