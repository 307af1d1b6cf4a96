"""The variants of the study: how gamma is drawn while a pretrained model is fine-tuned."""

from collections.abc import Callable
from typing import NamedTuple

from bdia.reversible import GammaLaw, Growing, PerBlock, Ramp, TwoPoint

STANDARD = "standard"
MAGNITUDES = ("1/2", "1/4", "1/8", "1/16", "1/32")


class Variant(NamedTuple):
    """A row of the table: the standard model (no law), or a converted one.

    Args:
        law: called with (blocks, steps); a new law for every run, because a ramp counts.
    """

    name: str
    law: Callable[[int, int], GammaLaw] | None
    bits: int | None


def variants(bits: int, coarse_bits: int) -> list[Variant]:
    """All variants: standard, constant magnitudes, ramps, magnitudes per block, and 1/16 on a coarser grid."""
    constant = [Variant(f"±{value}", lambda blocks, steps, v=value: TwoPoint(v), bits) for value in MAGNITUDES]
    return [
        Variant(STANDARD, None, None),
        *constant,
        Variant("ramp ±1/32 to ±1/2", lambda blocks, steps: ramp_to("1/2", steps), bits),
        Variant("ramp ±1/32 to ±1/4", lambda blocks, steps: ramp_to("1/4", steps), bits),
        Variant("grows with the block, ±1/32 to ±1/4", lambda blocks, steps: per_block(blocks), bits),
        Variant("shrinks with the block, ±1/4 to ±1/32", lambda blocks, steps: per_block(blocks, shrinks=True), bits),
        Variant(f"±1/16 on {coarse_bits} bits", lambda blocks, steps: TwoPoint("1/16"), coarse_bits),
    ]


def ramp_to(largest: str, steps: int) -> Ramp:
    """Ramp from 1/32 to `largest` by factors of two; each value holds for a tenth of the steps."""
    values = MAGNITUDES[MAGNITUDES.index(largest) :]
    return Ramp(values[::-1], every=max(1, steps // 10))


def per_block(blocks: int, shrinks: bool = False) -> PerBlock:
    """1/32 at block 1 up to 1/4 at the last block, evenly spaced powers of two; the other way round if it shrinks."""
    growing = Growing(blocks, "1/32", "1/4")
    return PerBlock([growing.laws[0], *growing.laws[:0:-1]]) if shrinks else growing


def side_bits(law: GammaLaw | None, blocks: int) -> float | None:
    """Bits of side information per activation now, mean over the blocks that draw; None for the standard model."""
    if law is None:
        return None
    return sum(law.at(k).side_bits for k in range(1, blocks)) / (blocks - 1)
