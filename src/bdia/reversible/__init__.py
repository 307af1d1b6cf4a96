"""The reversible engine: grid, gamma laws, the BDIA step, stacks, and `convert` for any model. Needs torch only.

A name is imported when it is asked for: the registry of stacks is read by programs that need no torch.
"""

from typing import TYPE_CHECKING

from bdia import lazy_names
from bdia.reversible.stacks.registry import STACKS

if TYPE_CHECKING:  # what a type checker or an editor reads
    from bdia.reversible.arithmetic.gamma import Constant as Constant
    from bdia.reversible.arithmetic.gamma import Discrete as Discrete
    from bdia.reversible.arithmetic.gamma import Gamma as Gamma
    from bdia.reversible.arithmetic.gamma import GammaLaw as GammaLaw
    from bdia.reversible.arithmetic.gamma import GammaMeanWarning as GammaMeanWarning
    from bdia.reversible.arithmetic.gamma import Growing as Growing
    from bdia.reversible.arithmetic.gamma import PerBlock as PerBlock
    from bdia.reversible.arithmetic.gamma import Ramp as Ramp
    from bdia.reversible.arithmetic.gamma import TwoPoint as TwoPoint
    from bdia.reversible.arithmetic.gamma import Uniform as Uniform
    from bdia.reversible.arithmetic.grid import GridOverflowError as GridOverflowError
    from bdia.reversible.arithmetic.grid import ReversibilityError as ReversibilityError
    from bdia.reversible.arithmetic.residues import pack_residues as pack_residues
    from bdia.reversible.arithmetic.residues import unpack_residues as unpack_residues
    from bdia.reversible.arithmetic.step import bdia_invert as bdia_invert
    from bdia.reversible.arithmetic.step import bdia_step as bdia_step
    from bdia.reversible.engine.checks import EngineWarning as EngineWarning
    from bdia.reversible.stacks.adapters import ChainSpec as ChainSpec
    from bdia.reversible.stacks.adapters import register_adapter as register_adapter
    from bdia.reversible.stacks.base import BlockStack as BlockStack
    from bdia.reversible.stacks.bdia import BdiaStack as BdiaStack
    from bdia.reversible.stacks.checkpoint import CheckpointStack as CheckpointStack
    from bdia.reversible.stacks.checkpoint import TwoLevelCheckpointStack as TwoLevelCheckpointStack
    from bdia.reversible.stacks.convert import convert as convert
    from bdia.reversible.stacks.convert import revert as revert
    from bdia.reversible.stacks.revvit import RevVitStack as RevVitStack
    from bdia.reversible.stacks.standard import StandardStack as StandardStack
    from bdia.reversible.stacks.state import load_training_state as load_training_state
    from bdia.reversible.stacks.state import training_state as training_state
    from bdia.reversible.stacks.two_level import checkpoint_two_level as checkpoint_two_level

_MODULES = {
    **dict.fromkeys(("Constant", "Discrete", "Gamma", "GammaLaw", "GammaMeanWarning", "Growing"), ".arithmetic.gamma"),
    **dict.fromkeys(("PerBlock", "Ramp", "TwoPoint", "Uniform"), ".arithmetic.gamma"),
    **dict.fromkeys(("GridOverflowError", "ReversibilityError"), ".arithmetic.grid"),
    **dict.fromkeys(("pack_residues", "unpack_residues"), ".arithmetic.residues"),
    **dict.fromkeys(("bdia_invert", "bdia_step"), ".arithmetic.step"),
    "EngineWarning": ".engine.checks",
    **dict.fromkeys(("ChainSpec", "register_adapter"), ".stacks.adapters"),
    "BlockStack": ".stacks.base",
    **dict.fromkeys(("convert", "revert"), ".stacks.convert"),
    "checkpoint_two_level": ".stacks.two_level",
    **dict.fromkeys(("load_training_state", "training_state"), ".stacks.state"),
    **{row.class_name: f".stacks.{row.module}" for row in STACKS},
}

__all__ = list(_MODULES)
__getattr__, __dir__ = lazy_names(__name__, _MODULES)
