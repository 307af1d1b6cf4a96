"""Activation checkpointing, the baseline that people use: plain, and two-level for less memory at more time."""

import contextlib
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from bdia import InvalidValueError, UnsupportedError
from bdia.reversible.engine.recompute import Context, Contexts, recompute_contexts, saved_operations
from bdia.reversible.engine.settings import RecomputeSettings
from bdia.reversible.stacks.base import BlockStack, Recomputation


class CheckpointStack(BlockStack, Recomputation):
    """The standard stack with activation checkpointing: stores x_k per block, recomputes the rest.

    Args:
        blocks: residual blocks.
        keep, memory_budget, save, nested, tile: what is kept and recomputed, as in `BdiaStack`.
    """

    def __init__(
        self,
        blocks: Iterable[nn.Module],
        keep: int | Collection[int] = 1,
        memory_budget: str | float | None = None,
        save: Sequence[str] = (),
        nested: Sequence[str] = (),
        tile: Mapping[str, int] | None = None,
    ) -> None:
        BlockStack.__init__(self, blocks)
        Recomputation.__init__(self, self.blocks, RecomputeSettings(keep, memory_budget, save, nested, tile))

    def forward(self, x: Tensor, *args: object, **kwargs: object) -> Tensor:  # type: ignore[override] # more arguments
        """(B, T, D) -> (B, T, D)."""
        kept = self.kept(len(self), self.training)
        operators = saved_operations(self.save)
        for k, block in enumerate(self):
            call = self.bind(block, block, k not in kept, args, kwargs)
            contexts = partial(recompute_around, block, operators)
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
    y: Tensor = checkpoint(call, x, use_reentrant=False, context_fn=partial(recompute_around, module, ()))
    return y


def recompute_around(module: nn.Module, operators: Collection[Any]) -> Contexts:
    """Return what to enter around the first run, and around the second."""
    first, second = recompute_contexts(module, operators)
    return first, _SameWeights(second, module) if torch.is_grad_enabled() else second


class _SameWeights(contextlib.AbstractContextManager[None, None]):
    """Around a second run: refuse it where a trained weight was changed since the first.

    Autograd refuses it itself for a tensor that it stored, and a reversible stack compares what it rebuilds. A weight
    that another block trains, and that is read here without its gradient, is stepped too early by an optimizer that
    steps in backward.
    """

    def __init__(self, context: Context, module: nn.Module) -> None:
        self._context, self._name = context, type(module).__name__
        self._versions = [(p, p._version) for p in module.parameters() if p.requires_grad]

    def __enter__(self) -> None:
        if any(p._version != version for p, version in self._versions):
            raise UnsupportedError(
                f"a weight of {self._name} was changed between its forward and its recomputation in backward, so its "
                "gradients would be wrong: change weights after backward; set optimizer.in_backward=false"
            )
        self._context.__enter__()

    def __exit__(self, *error: Any) -> None:
        self._context.__exit__(*error)
