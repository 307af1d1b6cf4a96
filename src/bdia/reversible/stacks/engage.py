"""Put a chain's updates into a layer's own call, and take them out again.

The layer's class, attributes and state_dict stay as they are: one entry of its instance dictionary, `forward`, stands
before the class's method. So hooks, wrappers and hand-written loops call the layer as they always did.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:
    from bdia.reversible.stacks.bdia import BdiaUpdates


class EngagedForward(partial):
    """The `forward` of an engaged layer: `EngagedForward(run, layer, owner, place, before)`.

    A partial, so that it is copied and pickled with the layer, and then names the copy. `before` is a `forward` that
    the instance had already, None for the class's.
    """

    @property
    def owner(self) -> BdiaUpdates:
        """The chain that the layer belongs to."""
        return self.args[1]

    @property
    def original(self) -> Callable[..., Any]:
        """What the layer computes by itself."""
        return original(self.args[0], self.args[3])


def original(layer: nn.Module, before: Callable[..., Any] | None) -> Callable[..., Any]:
    """Return what a layer computes by itself: its instance's own `forward`, or its class's, compiled if it was."""
    if before is not None:
        return before
    return type(layer).forward.__get__(layer)


@torch.compiler.disable  # checkpoint does not trace; compile what is inside the layer
def _run(
    layer: nn.Module, owner: BdiaUpdates, place: int, before: Callable[..., Any] | None, *args: Any, **kwargs: Any
) -> Any:
    return owner.call_layer(layer, place, original(layer, before), args, kwargs)


def engaged(layer: nn.Module) -> EngagedForward | None:
    """Return a layer's engaged forward, None where it has none."""
    forward = layer.__dict__.get("forward")
    return forward if isinstance(forward, EngagedForward) else None


def engage(layer: nn.Module, owner: BdiaUpdates, place: int) -> None:
    """Let the layer's calls take the owner's updates."""
    disengage(layer)
    layer.__dict__["forward"] = EngagedForward(_run, layer, owner, place, layer.__dict__.get("forward"))


def disengage(layer: nn.Module) -> None:
    """Undo `engage`; nothing where the layer is not engaged."""
    forward = engaged(layer)
    if forward is not None:
        del layer.__dict__["forward"]
        if forward.args[3] is not None:
            layer.__dict__["forward"] = forward.args[3]
