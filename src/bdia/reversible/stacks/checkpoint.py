"""Activation checkpointing, the baseline that people use."""

from collections.abc import Collection, Iterable, Sequence
from functools import partial

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from bdia.reversible.engine.recompute import RecomputeSettings, recompute_contexts, saved_operations
from bdia.reversible.stacks.base import BlockStack, Recomputation


class CheckpointStack(BlockStack, Recomputation):
    """The standard stack with activation checkpointing: stores x_k per block, recomputes the rest.

    Args:
        blocks: residual blocks.
        keep, memory_budget, save, nested: what is kept and recomputed, as in `BdiaStack`.
    """

    def __init__(
        self,
        blocks: Iterable[nn.Module],
        keep: int | Collection[int] = 1,
        memory_budget: str | float | None = None,
        save: Sequence[str] = (),
        nested: Sequence[str] = (),
    ) -> None:
        BlockStack.__init__(self, blocks)
        Recomputation.__init__(self, self.blocks, RecomputeSettings(keep, memory_budget, save, nested))

    def forward(self, x: Tensor, *args: object, **kwargs: object) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        kept = self.kept(len(self), self.training)
        operators = saved_operations(self.save)
        for k, block in enumerate(self):
            call = self.bind(block, block, k not in kept, args, kwargs)
            contexts = partial(recompute_contexts, block, operators)
            x = call(x) if k in kept else checkpoint(call, x, use_reentrant=False, context_fn=contexts)
        return x

    def extra_repr(self) -> str:
        """Show the settings when printed."""
        return self.shown()
