"""What `convert` must know of models whose chains it can't find, or would read wrongly, by looking at them.

An adapter is a function: a module -> the chains in it, or None where it does not know the module. `register_adapter`
puts one of your own before those here, which are one small file per library.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from torch import nn


class ChainSpec(NamedTuple):
    """Layers that a model calls one after the other on one residual stream.

    Attributes:
        name: where they stand in the module that the adapter was given, "" for that module itself.
        layers: in the order of the calls. One layer that is called several times stands here once.
        length: number of calls, None for as many as there are layers.
        batch_dim: the dimension of the stream that counts samples.
    """

    name: str
    layers: Sequence[nn.Module]
    length: int | None = None
    batch_dim: int = 0


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
    from bdia.reversible.stacks.adapters import timm, transformers  # they need this module's names

    for adapter in (*_registered, transformers.adapt, timm.adapt):
        found = adapter(module)
        if found is not None:
            return found
    return None
