"""The autograd nodes of the engine: entry to the grid, a block's skip connection, its update, the exit.

They hold no activations. What must survive between forward and backward is the tape's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor
from torch.autograd import Function

from bdia.reversible.arithmetic.grid import quantize
from bdia.reversible.arithmetic.rules import Rule

if TYPE_CHECKING:
    from bdia.reversible.engine.tape import Tape


class Enter(Function):
    """Q_l[x] (a copy with bits=None), straight-through."""

    @staticmethod
    def forward(ctx, x: Tensor, bits: int | None) -> Tensor:
        return x.clone() if bits is None else quantize(x, bits)

    @staticmethod
    def backward(ctx, grad_x: Tensor) -> tuple[Tensor, None]:
        return grad_x, None


class Skip(Function):
    """Identity on x_curr before its block; in backward adds what the updates send to x_curr past the block.

    Doing this after the block's backward rather than before it keeps fewer gradients alive while the block's
    activations are. What an update sends to x_prev waits for the Skip of the block below, which had that state as
    x_curr; only of states 0 and 1, RevViT's entering stream twice, the sum is autograd's.
    """

    @staticmethod
    def forward(ctx, x_prev: Tensor | None, x_curr: Tensor, tape: Tape, k: int) -> Tensor:
        ctx.tape, ctx.k = tape, k
        return x_curr.view_as(x_curr)

    @staticmethod
    def backward(ctx, through_block: Tensor) -> tuple:
        waits = ctx.k > 1
        grad_x_prev = ctx.tape.grad_x_prev(ctx.k) if ctx.needs_input_grad[0] and not waits else None
        return grad_x_prev, ctx.tape.grad_x_curr(ctx.k, through_block, ctx.needs_input_grad[0] and waits), None, None


class Update(Function):
    """One update rule as an autograd node, inside the checkpointed region of its block.

    It saves an empty tensor, so its backward reaches for it, and checkpoint recomputes the whole region first: the
    block, whatever it saves itself, and this node, which then inverts the update instead of taking it. `x_curr` is
    an input only to order the graph: `Skip` sends its gradient.
    """

    @staticmethod
    def forward(
        ctx,
        x_prev: Tensor | None,
        x_curr: Tensor,
        y: Tensor,
        rule: Rule,
        tape: Tape,
        k: int,
        again: bool,
    ) -> Tensor:
        ctx.rule, ctx.tape, ctx.k = rule, tape, k
        ctx.save_for_backward(y.new_empty(0))
        if again:
            tape.reconstruct(k, rule, y)
            return y.new_empty(0)
        return tape.advance(k, rule, x_prev, x_curr, y)

    @staticmethod
    def backward(ctx, grad_x_next: Tensor) -> tuple:
        ctx.tape.enter_backward(ctx.k)
        _ = ctx.saved_tensors
        return None, None, ctx.tape.grad_y(ctx.k, ctx.rule, grad_x_next), None, None, None, None


class Guard(Function):
    """Identity that saves its output: autograd then refuses a backward after the caller changed it in place."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        output = x.view_as(x)
        ctx.save_for_backward(output)
        return output

    @staticmethod
    def backward(ctx, grad_x: Tensor) -> Tensor:
        _ = ctx.saved_tensors
        return grad_x
