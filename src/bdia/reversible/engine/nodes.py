"""The autograd nodes of the engine: a stand-in for a residual stream, a block's input, a block's update.

They hold no activations. What must survive between forward and backward is held by the pass (`passes.py`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.utils.checkpoint import CheckpointError

if TYPE_CHECKING:
    from bdia.reversible.engine.passes import LayerUpdate


class Handle(Function):
    """Stand for x_k in the graph: one number, expanded to x_k's shape, so that nothing keeps x_k alive.

    The gradient passes unchanged: the grid is straight-through (dQ_l/dz = 1).
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.new_empty((), dtype=torch.float32).expand(x.shape)

    @staticmethod
    def backward(ctx: Any, grad_x: Tensor) -> Tensor:
        return grad_x


class BlockInput(Function):
    """Fetch the values of x_k from the pass. In backward, add the gradient that goes past the block.

    The sum is taken after the block's backward. Taken before, one more gradient would be alive beside the block's
    activations.
    """

    @staticmethod
    def forward(ctx: Any, handle_prev: Tensor | None, handle_curr: Tensor, update: LayerUpdate, again: bool) -> Tensor:
        ctx.update = update
        return update.fetch(again)

    @staticmethod
    def backward(ctx: Any, through_block: Tensor) -> tuple[Tensor | None, Tensor, None, None]:
        grad_x_curr, grad_x_prev = ctx.update.input_gradients(through_block, ctx.needs_input_grad[0])
        return grad_x_prev, grad_x_curr, None, None


class Update(Function):
    """Take the update of one block; when the block is recomputed, invert it.

    The node saves an empty tensor. When backward reads it, checkpoint reruns the block and this node. In that rerun
    (`again`) the node inverts the update, which rebuilds x_{k-1}.

    `x_curr` is an input only so that its node, `BlockInput`, is reached where y does not depend on it.
    """

    @staticmethod
    def forward(ctx: Any, x_curr: Tensor, y: Tensor, update: LayerUpdate, again: bool) -> Tensor:
        ctx.update = update
        ctx.save_for_backward(y.new_empty(0))
        if again:
            update.rebuild(y)
            return y.new_empty(0)
        return update.advance(y)

    @staticmethod
    def backward(ctx: Any, grad_x_next: Tensor) -> tuple[None, Tensor, None, None]:
        ctx.update.begin_backward(grad_x_next)
        try:
            _ = ctx.saved_tensors
        except CheckpointError as error:  # the block saved other tensors than in forward
            raise ctx.update.not_repeated(error) from error
        return None, ctx.update.grad_y(), None, None
