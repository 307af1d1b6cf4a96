"""Activation checkpointing, the baseline that people use: plain, and two-level for less memory at more time."""

import math
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from bdia import InvalidValueError
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

    def forward(self, x: Tensor, *args: object, **kwargs: object) -> Tensor:  # type: ignore[override] # more arguments
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


class TwoLevelCheckpointStack(BlockStack):
    """Checkpointing in two levels: stores the stream once per segment, a run of consecutive blocks.

    Backward recomputes one segment at a time and then stores the stream once per block of it. It recomputes each block
    again for its activations. At most about 2 sqrt(K) streams are held, where `CheckpointStack` holds K. The price is
    one more forward of every block but the last of each segment (Chen et al., 2016, arXiv 1604.06174, section 4).

    Args:
        blocks: residual blocks.
        segments: their number, from 1 to K. Their lengths differ by one block at most. None: the whole number nearest
            to sqrt(K).
    Raises:
        ValueError: no such number of segments.
    """

    def __init__(self, blocks: Iterable[nn.Module], segments: int | None = None) -> None:
        super().__init__(blocks)
        wanted = round(math.sqrt(len(self))) if segments is None else segments
        if type(wanted) is not int or not 1 <= wanted <= len(self):
            raise InvalidValueError(
                f"segments={segments!r}: wanted a whole number from 1 to {len(self)}, the number of blocks; set "
                "stack.segments"
            )
        self.segments = wanted

    def forward(self, x: Tensor, *args: object, **kwargs: object) -> Tensor:  # type: ignore[override] # more arguments
        """(B, T, D) -> (B, T, D)."""
        bounds = [part * len(self) // self.segments for part in range(self.segments + 1)]
        for start, stop in pairwise(bounds):
            x = _checkpointed(self[start:stop], partial(_run_checkpointed, self.blocks[start:stop], args, kwargs), x)
        return x

    def extra_repr(self) -> str:
        """Show the settings when printed."""
        return f"segments={self.segments}"


def _run_checkpointed(blocks: Sequence[nn.Module], args: tuple[Any, ...], kwargs: dict[str, Any], x: Tensor) -> Tensor:
    """Run blocks one after another, each checkpointed."""
    for block in blocks:
        x = _checkpointed(block, partial(_run, block, args, kwargs), x)
    return x


def _run(block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], x: Tensor) -> Any:
    return block(x, *args, **kwargs)


def _checkpointed(module: nn.Module, call: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Return call(x), which backward runs again; `module` holds the buffers that the second run must not change."""
    y: Tensor = checkpoint(call, x, use_reentrant=False, context_fn=partial(recompute_contexts, module, ()))
    return y
