"""Self-attention in groups of heads, for a stack that lets it run in parts (`stack.tile`).

B batch, T tokens, D width, H heads.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bdia import UnsupportedError


def in_head_groups(
    attend: Callable[..., Tensor], qkv: nn.Linear, heads: int, groups: int, run: Callable[..., Any], x: Tensor,
    *others: Any,
) -> Tensor:  # fmt: skip
    """Return what all heads make of x, (B, T, heads * width of a head), group by group.

    A group projects x to its own queries, keys and values. Its part of the weight is a view, so the weight gets one
    gradient, whose parts lie side by side: they are not added.

    Args:
        attend: (q, k, v, *others), each (B, group, T, width of a head), -> the same shape.
        qkv: the projection to queries, keys and values of all heads.
        groups: their number, or as many as there are heads.
        run: run(function, x, *others) runs one part, see `bdia.reversible.engine.tiling`.
        x: (B, T, D), or what the norm before makes that of.
    Raises:
        RuntimeError: the projection is no plain linear layer, so its weight alone does not say what it computes.
    """
    if type(qkv) is not nn.Linear:
        raise UnsupportedError(
            f"tile: qkv is {type(qkv).__name__}, wanted a plain nn.Linear to cut into heads: leave attention out of "
            "stack.tile, or name it in stack.nested, which recomputes it as a whole"
        )
    count = min(groups, heads)
    sizes = [(group + 1) * heads // count - group * heads // count for group in range(count)]
    weights = qkv.weight.unflatten(0, (3, heads, -1)).split(sizes, 1)
    biases = [None] * count if qkv.bias is None else qkv.bias.unflatten(0, (3, heads, -1)).split(sizes, 1)

    def group(x: Tensor, weight: Tensor, bias: Tensor | None, *others: Any) -> Tensor:
        flat = F.linear(x, weight.flatten(0, 2), None if bias is None else bias.flatten())
        q, k, v = flat.unflatten(2, (3, weight.shape[1], -1)).permute(2, 0, 3, 1, 4).unbind(0)
        return attend(q, k, v, *others).transpose(1, 2).flatten(2)

    return torch.cat([run(group, x, *part, *others) for part in zip(weights, biases, strict=True)], 2)
