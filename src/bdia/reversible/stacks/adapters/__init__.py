"""What `convert` must know of models whose chains it can't find, or would read wrongly, by looking at them.

An adapter is a function: a module -> the chains in it, or None where it does not know the module. `register_adapter`
puts one of your own before those here, which are one small file per library.
"""

from collections.abc import Callable

from torch import nn

from bdia.reversible.stacks.adapters import timm, transformers
from bdia.reversible.stacks.adapters.spec import ChainSpec

__all__ = ["Adapter", "ChainSpec", "adapted", "register_adapter"]


Adapter = Callable[[nn.Module], list[ChainSpec] | None]
_registered: list[Adapter] = []


def register_adapter(adapter: Adapter) -> Adapter:
    """Let `convert` ask this adapter first. Usable as a decorator.

    >>> from bdia.reversible import ChainSpec, register_adapter
    >>> @register_adapter
    ... def mine(module):
    ...     if type(module).__name__ == "MyModel":
    ...         return [ChainSpec("stages.0", list(module.stages[0]))]
    """
    _registered.insert(0, adapter)
    return adapter


def adapted(module: nn.Module) -> list[ChainSpec] | None:
    """Return the chains that an adapter knows in this module, None where none knows it."""
    for adapter in (*_registered, transformers.adapt, timm.adapt):
        found = adapter(module)
        if found is not None:
            return found
    return None
