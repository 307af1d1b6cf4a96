"""The reversible engine: grid, gamma laws, the BDIA step and the stacks that train with it. Imports torch only."""

from bdia.reversible.gamma import (
    Constant,
    Discrete,
    Gamma,
    GammaLaw,
    GammaMeanWarning,
    PerBlock,
    Ramp,
    TwoPoint,
    Uniform,
)
from bdia.reversible.grid import GridOverflowError, ReversibilityError
from bdia.reversible.side_info import pack_side_info, unpack_side_info
from bdia.reversible.stacks import BdiaStack, BlockStack, CheckpointStack, RevVitStack, StandardStack
from bdia.reversible.step import bdia_invert, bdia_step

__all__ = [
    "BdiaStack",
    "BlockStack",
    "CheckpointStack",
    "Constant",
    "Discrete",
    "Gamma",
    "GammaLaw",
    "GammaMeanWarning",
    "GridOverflowError",
    "PerBlock",
    "Ramp",
    "RevVitStack",
    "ReversibilityError",
    "StandardStack",
    "TwoPoint",
    "Uniform",
    "bdia_invert",
    "bdia_step",
    "pack_side_info",
    "unpack_side_info",
]
