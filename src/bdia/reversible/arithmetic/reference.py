"""The slow oracle for the engine: one line per equation, plain autograd, everything stored.

Source: Zhang, Lewis, Kleijn, ICML 2025 (PMLR 267), section 4.3. Shape letters: B batch, K blocks.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from bdia.reversible.arithmetic.gamma import Gamma


class _RoundStraightThrough(Function):
    """Q_l[z] = u * round(z / u), u = 2^-l, with dQ_l/dz = 1."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, bits: int) -> Tensor:
        return torch.round(z.float() / 2.0**-bits) * 2.0**-bits + 0.0  # + 0.0: the grid has one zero, without a sign

    @staticmethod
    def backward(ctx: Any, grad_q: Tensor) -> tuple[Tensor, None]:
        return grad_q, None


def reference_forward(
    blocks: Sequence[Callable[[Tensor], Tensor]], x: Tensor, gammas: Sequence[Gamma | None], bits: int
) -> list[Tensor]:
    """Return the residual streams x_0..x_K of a BDIA-transformer in training.

    Args:
        blocks: K callables, `y_k = blocks[k](x_k)`, which is x_k + h_k(x_k).
        x: (B, ...) float32, not yet on the grid.
        gammas: K fractions gamma_k of shape (B,) each; gammas[0] is not read (the first block takes an Euler step).
        bits: l, the grid is 2^-l.

    The float32 product gamma (x_prev + s u) is a multiple of u up to rounding; Q_l removes the rounding while
    |x| < 2^(22 - l). The engine, in integers, reaches 2^(24 - l).
    """

    def q_l(z: Tensor) -> Tensor:
        rounded: Tensor = _RoundStraightThrough.apply(z, bits)
        return rounded

    u = 2.0**-bits
    states = [q_l(x)]
    states.append(q_l(blocks[0](states[0])))
    for k in range(1, len(blocks)):
        x_prev, x_curr, y, fraction = states[k - 1], states[k], blocks[k](states[k]), gammas[k]
        assert fraction is not None
        gamma, q = (part.view(-1, *[1] * (x.dim() - 1)) for part in (fraction.value, fraction.denominator))
        side = torch.remainder(-x_prev.detach() / u, q)
        states.append(q_l(gamma * (x_prev + side * u)) + q_l((1 + gamma) * y.float() - 2 * gamma * x_curr))
    return states
