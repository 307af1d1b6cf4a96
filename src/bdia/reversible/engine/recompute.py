"""What is kept, and what is recomputed once more, inside a recomputed block. Changes memory and time, never a bit."""

import contextlib
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts

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


def kept_blocks(keep: int | Collection[int], depth: int) -> frozenset[int]:
    """Return the indices of the blocks that keep their activations.

    Args:
        keep: number of trailing blocks (more than there are: all), or the indices themselves.
        depth: number of blocks.
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
    raise ValueError(f"keep={keep!r}: wanted a number of blocks, or indices from 0 to {depth - 1}; set stack.keep")


def saved_operations(names: Sequence[str]) -> list[Any]:
    """Return torch's operators of the named kinds.

    Raises:
        ValueError: an unknown name.
    """
    if isinstance(names, str) or not set(names) <= set(OPERATIONS):
        raise ValueError(f"save={names!r}: wanted a list of {', '.join(OPERATIONS)}; set stack.save")
    known = (getattr(torch.ops.aten, name, None) for kind in names for name in OPERATIONS[kind])
    return [operator.default for operator in known if operator is not None]


def selective_contexts(operators: Sequence[Any]) -> Contexts:
    """Return what to enter around a block: the first time, keeping the operators' outputs, and again, reusing them."""
    if operators and torch.is_grad_enabled():
        return create_selective_checkpoint_contexts(list(operators))
    return contextlib.nullcontext(), contextlib.nullcontext()


def check_nested(blocks: Sequence[nn.Module], names: Sequence[str]) -> tuple[str, ...]:
    """Return the names of submodules to be checkpointed once more inside a recomputed block.

    Raises:
        ValueError: a block has no such submodule; one of them lies in another, which already recomputes it.
    """
    for k, block in enumerate(blocks):
        held = {name for name, _ in block.named_modules() if name}
        if isinstance(names, str) or not set(names) <= held:
            top = sorted(name for name in held if "." not in name)
            raise ValueError(f"nested={names!r}: wanted a list of submodules of block {k}: {top}; set stack.nested")
    for name in names:
        if any(name.startswith(f"{other}.") for other in names):
            raise ValueError(f"nested={names!r}: {name} lies in another of them: name only one; set stack.nested")
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
    return lambda *args, **kwargs: checkpoint(forward, *args, use_reentrant=False, **kwargs)
