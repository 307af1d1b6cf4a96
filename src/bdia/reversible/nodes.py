"""The autograd nodes of the engine: entry to the grid, a block's skip connection, its update, the exit.

They hold no activations. What must survive between forward and backward is the tape's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor
from torch.autograd import Function

from bdia.reversible.grid import quantize
from bdia.reversible.rules import Rule

if TYPE_CHECKING:
    from bdia.reversible.tape import Tape


class Enter(Function):
    """Q_l[x] (a copy with bits=None), straight-through."""

    @staticmethod
    def forward(ctx, x: Tensor, bits: int | None) -> Tensor:
        return x.clone() if bits is None else quantize(x, bits)

    @staticmethod
    def backward(ctx, grad_x: Tensor) -> tuple[Tensor, None]:
        return grad_x, None


class Link:
    """Hands the gradient of x_next from an update to the skip connection at its block's input."""

    grad_x_next: Tensor | None = None


class Skip(Function):
    """Identity on x_curr before its block; in backward adds what the update itself sends to x_prev and x_curr.

    Doing this after the block's backward rather than before it keeps two gradients alive instead of four while the
    block's activations are.
    """

    @staticmethod
    def forward(ctx, x_prev: Tensor | None, x_curr: Tensor, rule: Rule, link: Link) -> Tensor:
        ctx.rule, ctx.link = rule, link
        return x_curr.view_as(x_curr)

    @staticmethod
    def backward(ctx, grad_x_curr: Tensor) -> tuple:
        grad_x_next, ctx.link.grad_x_next = ctx.link.grad_x_next, None
        grad_x_prev, grad_x_curr = ctx.rule.grad_skip(grad_x_next, grad_x_curr)
        return grad_x_prev if ctx.needs_input_grad[0] else None, grad_x_curr, None, None


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
        link: Link,
        tape: Tape,
        k: int,
        again: bool,
    ) -> Tensor:
        ctx.rule, ctx.link, ctx.tape, ctx.k = rule, link, tape, k
        ctx.save_for_backward(y.new_empty(0))
        if again:
            tape.reconstruct(k, rule, y)
            return y.new_empty(0)
        return tape.advance(k, rule, x_prev, x_curr, y)

    @staticmethod
    def backward(ctx, grad_x_next: Tensor) -> tuple:
        ctx.tape.enter_backward(ctx.k)
        _ = ctx.saved_tensors
        ctx.link.grad_x_next = grad_x_next
        return None, None, ctx.rule.grad_y(grad_x_next), None, None, None, None, None


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
