"""The reversible engine: grid, gamma laws, the BDIA step, stacks, and `convert` for any model. Imports torch only."""

from bdia.reversible.arithmetic.gamma import (
    Constant,
    Discrete,
    Gamma,
    GammaLaw,
    GammaMeanWarning,
    Growing,
    PerBlock,
    Ramp,
    TwoPoint,
    Uniform,
)
from bdia.reversible.arithmetic.grid import GridOverflowError, ReversibilityError
from bdia.reversible.arithmetic.residues import pack_residues, unpack_residues
from bdia.reversible.arithmetic.step import bdia_invert, bdia_step
from bdia.reversible.engine.checks import EngineWarning
from bdia.reversible.stacks.adapters import ChainSpec, register_adapter
from bdia.reversible.stacks.base import BlockStack
from bdia.reversible.stacks.bdia import BdiaStack
from bdia.reversible.stacks.checkpoint import CheckpointStack
from bdia.reversible.stacks.convert import convert, revert
from bdia.reversible.stacks.revvit import RevVitStack
from bdia.reversible.stacks.standard import StandardStack
from bdia.reversible.stacks.state import load_training_state, training_state

__all__ = [
    "BdiaStack",
    "BlockStack",
    "ChainSpec",
    "CheckpointStack",
    "Constant",
    "Discrete",
    "EngineWarning",
    "Gamma",
    "GammaLaw",
    "GammaMeanWarning",
    "GridOverflowError",
    "Growing",
    "PerBlock",
    "Ramp",
    "RevVitStack",
    "ReversibilityError",
    "StandardStack",
    "TwoPoint",
    "Uniform",
    "bdia_invert",
    "bdia_step",
    "convert",
    "load_training_state",
    "pack_residues",
    "register_adapter",
    "revert",
    "training_state",
    "unpack_residues",
]
