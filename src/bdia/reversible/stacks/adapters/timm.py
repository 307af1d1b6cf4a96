"""timm: stages whose first block changes the shape, and class attention."""

from torch import nn

from bdia.reversible.stacks.adapters.spec import ChainSpec


def adapt(module: nn.Module) -> list[ChainSpec] | None:
    """Know MaxViT's stages (the first block halves the grid) and CaiT (the last blocks' stream is the class token)."""
    kind = type(module).__name__
    if kind == "MaxxVitStage":
        return [ChainSpec("blocks", list(module.blocks)[1:])] if len(module.blocks) > 2 else []
    if kind == "Cait":
        return [ChainSpec("blocks", list(module.blocks))]
    return None
