"""What is kept, and what is recomputed once more, inside a recomputed block. Changes memory and time, never a bit."""

import contextlib
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn.modules.batchnorm import _NormBase
from torch.utils._pytree import tree_flatten, tree_unflatten
from torch.utils.checkpoint import (
    CheckpointPolicy,
    SelectiveCheckpointContext,
    checkpoint,
    create_selective_checkpoint_contexts,
)

from bdia.reversible.engine.kernels import bit_sum

# Names of operations whose outputs can be saved inside a recomputed block, below the level of modules.
OPERATIONS = {
    "attention": (
        "_scaled_dot_product_flash_attention",
        "_scaled_dot_product_flash_attention_for_cpu",
        "_scaled_dot_product_efficient_attention",
        "_scaled_dot_product_cudnn_attention",
        "_scaled_dot_product_fused_attention_overrideable",
    ),
    "matmul": ("mm", "addmm", "bmm", "baddbmm"),
}

Contexts = tuple[contextlib.AbstractContextManager, contextlib.AbstractContextManager]


def kept_blocks(keep: int | Collection[int], depth: int, prefix: str = "stack.") -> frozenset[int]:
    """Return the indices of the blocks that keep their activations.

    Args:
        keep: number of trailing blocks (more than there are: all), or the indices themselves.
        depth: number of blocks.
        prefix: stands before the setting's name in messages, here and below.
    Raises:
        ValueError: a negative number, or an index of no block.
    """
    if isinstance(keep, int) and not isinstance(keep, bool) and keep >= 0:
        return frozenset(range(max(0, depth - keep), depth))
    if (
        isinstance(keep, Collection)
        and not isinstance(keep, str)
        and all(type(k) is int and 0 <= k < depth for k in keep)
    ):
        return frozenset(keep)
    raise ValueError(f"keep={keep!r}: wanted a number of blocks, or indices from 0 to {depth - 1}; set {prefix}keep")


def saved_operations(names: Sequence[str], prefix: str = "stack.") -> list[Any]:
    """Return torch's operators of the named kinds.

    Raises:
        ValueError: an unknown name.
    """
    if isinstance(names, str) or not set(names) <= set(OPERATIONS):
        raise ValueError(f"save={names!r}: wanted a list of {', '.join(OPERATIONS)}; set {prefix}save")
    known = (getattr(torch.ops.aten, name, None) for kind in names for name in OPERATIONS[kind])
    return [operator.default for operator in known if operator is not None]


def recompute_contexts(
    block: nn.Module | None, operators: Sequence[Any], differs: Callable[[Tensor], None] | None = None
) -> Contexts:
    """Return what to enter around a block the first time, and when it is recomputed.

    Args:
        block: the module that runs, for its batch norms.
        operators: torch's, see `saved_operations`; the second run reuses their outputs.
        differs: called with a 0-dim bool for each input of those operators that is watched; None: none is. A kept
            output is not computed again, so a block that does not repeat itself before it would go unnoticed.
    """
    if not (operators and torch.is_grad_enabled()):
        return contextlib.nullcontext(), _Recomputation(contextlib.nullcontext(), block)
    first, again = create_selective_checkpoint_contexts(_Policy(operators, differs))
    return first, _Recomputation(again, block)


class _Policy:
    """Keep the outputs of some operators, and compare the sums of bits of their inputs."""

    def __init__(self, operators: Sequence[Any], differs: Callable[[Tensor], None] | None) -> None:
        self._operators, self._differs = frozenset(operators), differs
        self._sums: list[Tensor] = []

    def __call__(self, ctx: SelectiveCheckpointContext, operator: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
        if operator not in self._operators:
            return CheckpointPolicy.PREFER_RECOMPUTE
        if self._differs is not None:
            for x in (x for x in args if isinstance(x, Tensor) and not isinstance(x, FakeTensor)):
                self._watch(x.detach(), ctx.is_recompute)
        return CheckpointPolicy.MUST_SAVE

    def _watch(self, x: Tensor, again: bool) -> None:
        total = bit_sum(x)
        if not again:
            self._sums.append(total)
        elif self._sums:
            self._differs(total != self._sums.pop(0))


class _Recomputation(contextlib.AbstractContextManager):
    """Around a block's second run, or third: a context, and throw-away statistics for its batch norms.

    The first run has updated the real statistics.
    """

    def __init__(self, context: contextlib.AbstractContextManager, block: nn.Module | None) -> None:
        self._context, self._block = context, block
        self._real: list[tuple[nn.Module, str, Tensor]] = []

    def __enter__(self) -> None:
        modules = () if self._block is None else self._block.modules()
        norms = [module for module in modules if isinstance(module, _NormBase) and module.training]
        buffers = ((norm, name, buffer) for norm in norms for name, buffer in norm._buffers.items())
        self._real = [(norm, name, buffer) for norm, name, buffer in buffers if buffer is not None]
        for norm, name, buffer in self._real:
            norm._buffers[name] = buffer.clone()
        self._context.__enter__()

    def __exit__(self, *error: Any) -> None:
        self._context.__exit__(*error)
        for norm, name, buffer in self._real:
            norm._buffers[name] = buffer
        self._real = []


def check_nested(blocks: Sequence[nn.Module], names: Sequence[str], prefix: str = "stack.") -> tuple[str, ...]:
    """Return the names of submodules to be checkpointed once more inside a recomputed block.

    Raises:
        ValueError: a block has no such submodule; one of them lies in another, which already recomputes it.
    """
    for k, block in enumerate(blocks):
        held = {name for name, _ in block.named_modules() if name}
        if isinstance(names, str) or not set(names) <= held:
            top = sorted(name for name in held if "." not in name)
            raise ValueError(f"nested={names!r}: wanted a list of submodules of block {k}: {top}; set {prefix}nested")
    for name in names:
        if any(name.startswith(f"{other}.") for other in names):
            raise ValueError(f"nested={names!r}: {name} lies in another of them: name only one; set {prefix}nested")
    return tuple(dict.fromkeys(names))


@contextlib.contextmanager
def nested_checkpoints(block: nn.Module, names: Sequence[str]) -> Iterator[None]:
    """Checkpoint the named submodules of a block while this context lasts."""
    modules = [block.get_submodule(name) for name in names] if torch.is_grad_enabled() else []
    before = [module.__dict__.get("forward") for module in modules]
    for module in modules:
        module.forward = _checkpointed(module.forward)
    try:
        yield
    finally:
        for module, forward in zip(modules, before, strict=True):
            del module.forward
            if forward is not None:
                module.forward = forward


def _checkpointed(forward: Callable[..., Any]) -> Callable[..., Any]:
    """Checkpoint a function so that tensors among its keyword arguments are saved as its other tensors are."""

    def run(*args: Any, **kwargs: Any) -> Any:
        flat, spec = tree_flatten((args, kwargs))

        def call(*leaves: Any) -> Any:
            args, kwargs = tree_unflatten(list(leaves), spec)
            return forward(*args, **kwargs)

        return checkpoint(call, *flat, use_reentrant=False)

    return run
