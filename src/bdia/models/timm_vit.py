"""Any vision transformer of timm on any stack."""

from collections.abc import Callable

import timm
from timm.models.vision_transformer import Block
from torch import nn

from bdia import InvalidValueError


def timm_vit(name: str, stack: Callable[[list[nn.Module]], nn.Module], num_classes: int, **kwargs: object) -> nn.Module:
    """Build timm's model `name` without pretrained weights and chain its blocks with `stack`.

    timm runs the blocks as `self.blocks(x)`, so the stack owns the loop over them; parameter names stay timm's.

    Args:
        name: a timm model, for example "vit_tiny_patch16_224".
        stack: called with the list of blocks, returns the stack, with one stream.
        num_classes: classes told apart.
        **kwargs: passed to timm.create_model (img_size, patch_size, drop_path_rate, ...).
    Raises:
        ValueError: the model is not made of timm's vision transformer blocks, or the stack returns two streams.
    """
    model = timm.create_model(name, pretrained=False, num_classes=num_classes, **kwargs)
    blocks = list(getattr(model, "blocks", []))
    if not blocks or not all(isinstance(block, Block) for block in blocks):
        raise InvalidValueError(
            f"timm model {name!r} ({type(model).__name__}) has no `blocks` of timm.models.vision_transformer.Block; "
            "set model.net.name to a plain vit_* model such as vit_tiny_patch16_224"
        )
    model.blocks = stack(blocks)
    if model.blocks.streams != 1:
        raise InvalidValueError(
            f"the stack returns {model.blocks.streams} streams, the head of {name!r} reads one; set stack.merge=mean"
        )
    model.timm_arguments = {"num_classes": num_classes, **kwargs}  # for `bdia.export`
    return model
