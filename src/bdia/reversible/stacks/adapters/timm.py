"""timm: stages whose first block changes the shape, and class attention."""

from typing import Any

from torch import nn

from bdia.reversible.stacks.adapters.spec import ChainSpec


def adapt(module: nn.Module) -> list[ChainSpec] | None:
    """Know MaxViT's stages (the first block halves the grid) and CaiT (the last blocks' stream is the class token)."""
    kind = type(module).__name__
    known: Any = module  # its class is known by name only
    if kind == "MaxxVitStage":
        return [ChainSpec("blocks", list(known.blocks)[1:])] if len(known.blocks) > 2 else []
    if kind == "Cait":
        return [ChainSpec("blocks", list(known.blocks))]
    return None
