"""RevViT, the reversible baseline that changes the architecture (Mangalam et al., CVPR 2022)."""

from collections.abc import Collection, Iterable, Mapping
from typing import Literal

import torch
from torch import Tensor, nn
from torch._compile import _disable_dynamo  # torch.compiler.disable without its imports, which take seconds

from bdia import InvalidValueError
from bdia.reversible.arithmetic.grid import check_bits
from bdia.reversible.arithmetic.rules import CouplingRule
from bdia.reversible.engine import checks
from bdia.reversible.engine.layers import OpenPass
from bdia.reversible.engine.passes import PassLog, PassSettings
from bdia.reversible.engine.settings import RecomputeSettings
from bdia.reversible.stacks.base import BlockStack, LastForward, Recomputation, check_stream
from bdia.reversible.stacks.branches import branches
from bdia.reversible.stacks.calls import check_caches


class RevVitStack(BlockStack, Recomputation, LastForward):
    """RevViT: y1 = x1 + Attn(x2), y2 = x2 + MLP(y1), both streams start as x.

    As one sequence of states z: z_{j+1} = z_{j-1} + branch_j(z_j), attention and MLP in turn. The branches are called,
    not the block: hooks, `compile()` and `fully_shard` belong on a block's submodules here.

    Args:
        blocks: blocks whose two branches `branches` can read.
        grid_bits: None is RevViT as published, whose float inverse is approximate; an integer rounds every branch to
            the grid 2^-grid_bits, which makes the inverse exact.
        merge: "concat" hands both streams on, (B, T, 2 D); "mean" their mean, (B, T, D), for models with a fixed head.
        keep: trailing blocks that keep their activations.
        tile: as in `BdiaStack`.
        verify: as in `BdiaStack`; by default on with a grid (sums), off without (copies of every stream).
    """

    def __init__(
        self,
        blocks: Iterable[nn.Module],
        grid_bits: int | None = None,
        merge: Literal["concat", "mean"] = "concat",
        keep: int | Collection[int] = 0,
        verify: bool | None = None,
        tile: Mapping[str, int] | None = None,
    ) -> None:
        BlockStack.__init__(self, blocks)
        Recomputation.__init__(self, self.blocks, RecomputeSettings(keep, tile=tile))
        if merge not in ("concat", "mean"):
            raise InvalidValueError(f'merge={merge!r}: wanted "concat" or "mean"; set stack.merge')
        self.bits = None if grid_bits is None else check_bits(grid_bits, "stack.grid_bits")
        self.verify = grid_bits is not None if verify is None else verify
        self.merge, self.streams, self.log = merge, 2 if merge == "concat" else 1, PassLog()
        for block in self.blocks:
            branches(block)  # a block without branches is refused here, not in the first step

    @_disable_dynamo  # compile blocks (block.compile()), not the loop around them: checkpoint does not trace
    def forward(self, x: Tensor, *args: object, **kwargs: object) -> Tensor:  # type: ignore[override] # more arguments
        """(B, T, D) -> (B, T, streams * D) float32."""
        checks.refuse_transforms()
        depth = len(self)
        kept = self.kept(depth) if self.training else range(depth)
        settings = PassSettings(
            lambda j: j // 2 in kept, self.bits, self.verify, "eager", self.log, updates_per_block=2,
            training=self.training,
        )  # fmt: skip
        opened = OpenPass(settings, check_stream(x), lambda j, place, x: CouplingRule(self.bits), both=True)
        if torch.is_grad_enabled():
            checks.refuse_outer_checkpoint(0)
        if len(kept) < depth:
            check_caches(args, kwargs, self.prefix)
        x_prev = x_curr = x
        for k, block in enumerate(self.blocks):
            for branch in branches(block):
                run = self.bind(block, branch, k not in kept, args, kwargs)
                x_prev, x_curr = x_curr, opened.layer(run, x_curr, block)
        opened.streams.end_forward()
        return torch.cat([x_prev, x_curr], dim=-1) if self.merge == "concat" else (x_prev + x_curr) / 2

    def extra_repr(self) -> str:
        """Show the settings when printed."""
        return f"grid_bits={self.bits}, merge={self.merge!r}, {self.shown()}"
