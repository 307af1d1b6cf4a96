"""The reversible engine: grid, gamma laws, the BDIA step and the stacks that train with it. Imports torch only."""

from bdia.reversible.arithmetic.gamma import Constant, Discrete, Gamma, GammaMeanWarning, TwoPoint, Uniform
from bdia.reversible.arithmetic.grid import GridOverflowError, ReversibilityError
from bdia.reversible.arithmetic.residues import pack_residues, unpack_residues
from bdia.reversible.arithmetic.step import bdia_invert, bdia_step
from bdia.reversible.stacks.base import BlockStack
from bdia.reversible.stacks.bdia import BdiaStack
from bdia.reversible.stacks.checkpoint import CheckpointStack
from bdia.reversible.stacks.revvit import RevVitStack
from bdia.reversible.stacks.standard import StandardStack

__all__ = [
    "BdiaStack",
    "BlockStack",
    "CheckpointStack",
    "Constant",
    "Discrete",
    "Gamma",
    "GammaMeanWarning",
    "GridOverflowError",
    "RevVitStack",
    "ReversibilityError",
    "StandardStack",
    "TwoPoint",
    "Uniform",
    "bdia_invert",
    "bdia_step",
    "pack_residues",
    "unpack_residues",
]
