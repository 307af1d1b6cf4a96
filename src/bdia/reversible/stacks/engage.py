"""Put a chain's updates into a layer's own call, and take them out again.

The layer's class, attributes and state_dict stay as they are: one entry of its instance dictionary, `forward`, stands
before the class's method. So hooks, wrappers and hand-written loops call the layer as they always did.
"""

import functools
import inspect
import weakref
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import nn
from torch._C._dynamo.eval_frame import set_eval_frame

OUTSIDE = "the BDIA update between layers runs outside compiled code: compile without fullgraph=True, or compile layers"


class OwnsLayers(Protocol):
    """What gives layers their updates: `BdiaUpdates`."""

    def call_layer(
        self, layer: nn.Module, place: int, original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Return what the layer's caller gets from one call of it, the update done."""
        ...


class EngagedForward:
    """The `forward` of an engaged layer. It is copied and pickled with the layer, and then belongs to the copy.

    Args:
        layer: held weakly, so that a model is freed as soon as nobody has it.
        owner: the chain that the layer belongs to; None after revert, if another library has wrapped this forward.
        place: of the layer in the chain.
        before: a `forward` that the instance had already, None for the class's.
    """

    def __init__(
        self, layer: nn.Module, owner: OwnsLayers | None, place: int, before: Callable[..., Any] | None
    ) -> None:
        self._layer, self.owner, self.place, self.before = weakref.ref(layer), owner, place, before
        _keep_out_of_compiled_code()

    @property
    def layer(self) -> nn.Module:
        """The layer; whoever calls its forward holds it."""
        layer = self._layer()
        assert layer is not None
        return layer

    @property
    def original(self) -> Callable[..., Any]:
        """What the layer computes by itself: its instance's own `forward`, or its class's."""
        layer: Any = self._layer()
        return type(layer).forward.__get__(layer) if self.before is None else self.before

    @property
    def __signature__(self) -> inspect.Signature:
        return inspect.signature(self.original)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the layer, with its update."""
        if self.owner is None:
            return self.original(*args, **kwargs)
        compiler = set_eval_frame(None)
        try:
            call = self.original if compiler is None else CompiledBy(compiler, self.original)
            return self.owner.call_layer(self.layer, self.place, call, args, kwargs)
        finally:
            set_eval_frame(compiler)

    def __reduce__(self) -> tuple[Any, ...]:
        return EngagedForward, (self._layer(), self.owner, self.place, self.before)


@functools.cache
def _keep_out_of_compiled_code() -> None:
    """Let torch.compile leave calls of engaged forwards alone: checkpoint does not trace.

    Called before the first one is made, and not when the class is: it imports the compiler, which takes seconds.
    """
    outside = torch.compiler.disable(EngagedForward.__call__, recursive=False, reason=OUTSIDE)
    EngagedForward.__call__ = outside  # type: ignore[method-assign]


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


def engaged(layer: nn.Module) -> EngagedForward | None:
    """Return a layer's engaged forward, None where it has none. It may lie in a wrapper that names what it wraps."""
    forward = layer.__dict__.get("forward")
    while forward is not None and not (isinstance(forward, EngagedForward) and forward.owner is not None):
        forward = getattr(forward, "__wrapped__", None)
    return forward


def engage(layer: nn.Module, owner: OwnsLayers, place: int) -> None:
    """Let the layer's calls take the owner's updates."""
    disengage(layer)
    layer.__dict__["forward"] = EngagedForward(layer, owner, place, layer.__dict__.get("forward"))


def disengage(layer: nn.Module) -> None:
    """Undo `engage`; nothing where the layer is not engaged."""
    forward = engaged(layer)
    if forward is None:
        return
    if layer.__dict__["forward"] is not forward:  # in a wrapper, such as accelerate's hooks: it stays there
        forward.owner = None
        return
    del layer.__dict__["forward"]
    if forward.before is not None:
        layer.__dict__["forward"] = forward.before
