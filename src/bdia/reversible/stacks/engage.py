"""Put a chain's updates into a layer's own call, and take them out again.

The layer's class, attributes and state_dict stay as they are: one entry of its instance dictionary, `forward`, stands
before the class's method. So hooks, wrappers and hand-written loops call the layer as they always did.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch._C._dynamo.eval_frame import set_eval_frame

if TYPE_CHECKING:
    from bdia.reversible.stacks.bdia import BdiaUpdates


class EngagedForward(functools.partial):
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
    """Return what a layer computes by itself: its instance's own `forward`, or its class's."""
    if before is not None:
        return before
    return type(layer).forward.__get__(layer)


OUTSIDE = "the BDIA update between layers runs outside compiled code: compile the model without fullgraph=True, or layers"


@functools.partial(torch.compiler.disable, recursive=False, reason=OUTSIDE)  # checkpoint does not trace
def _run(
    layer: nn.Module, owner: BdiaUpdates, place: int, before: Callable[..., Any] | None, *args: Any, **kwargs: Any
) -> Any:
    compiler = set_eval_frame(None)
    try:
        call = original(layer, before)
        return owner.call_layer(layer, place, call if compiler is None else CompiledBy(compiler, call), args, kwargs)
    finally:
        set_eval_frame(compiler)


class CompiledBy:
    """A layer's own forward, compiled by whoever compiles the layer's call: `layer.compile()` or the whole model's.

    The update around it stays eager. When backward recomputes the layer, nobody compiles its call any more: the same
    compiler is put in place again, and finds the code that it made in forward.

    Args:
        compiler: torch.compile's callback for Python frames, as `set_eval_frame` returned it.
        call: a bound method, or another callable.
    """

    def __init__(self, compiler: Any, call: Callable[..., Any]) -> None:
        self._compiler, self._call = compiler, call
        self.__self__, self.__func__ = getattr(call, "__self__", None), getattr(call, "__func__", call)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the forward, compiled."""
        before = set_eval_frame(self._compiler)
        try:
            return self._call(*args, **kwargs)
        finally:
            set_eval_frame(before)


def _run_alone(layer: nn.Module, before: Callable[..., Any] | None, *args: Any, **kwargs: Any) -> Any:
    return original(layer, before)(*args, **kwargs)


def engaged(layer: nn.Module) -> EngagedForward | None:
    """Return a layer's engaged forward, None where it has none. It may lie in a wrapper that names what it wraps."""
    forward = layer.__dict__.get("forward")
    while forward is not None and not (isinstance(forward, EngagedForward) and forward.func is _run):
        forward = getattr(forward, "__wrapped__", None)
    return forward


def engage(layer: nn.Module, owner: BdiaUpdates, place: int) -> None:
    """Let the layer's calls take the owner's updates."""
    disengage(layer)
    layer.__dict__["forward"] = EngagedForward(_run, layer, owner, place, layer.__dict__.get("forward"))


def disengage(layer: nn.Module) -> None:
    """Undo `engage`; nothing where the layer is not engaged."""
    forward = engaged(layer)
    if forward is None:
        return
    before = forward.args[3]
    if layer.__dict__["forward"] is not forward:  # in a wrapper, such as accelerate's hooks: it stays there
        forward.__setstate__((_run_alone, (layer, before), {}, None))
        return
    del layer.__dict__["forward"]
    if before is not None:
        layer.__dict__["forward"] = before
