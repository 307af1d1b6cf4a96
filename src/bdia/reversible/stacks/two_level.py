"""Two-level checkpointing of any model's layers, in place: `checkpoint_two_level`; `revert` takes it out again.

The layers are called by the model's own loop, each with its own arguments. So a segment is no call of its own: each
layer is checkpointed alone, and of a segment's inputs only the first is kept. Backward runs the segment again up to the
layer that it needs, and keeps the inputs that it meets on the way.
"""

import contextlib
import math
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.checkpoint import checkpoint, get_device_states, set_device_states

from bdia import InvalidTypeError, InvalidValueError, UnsupportedError
from bdia.reversible.stacks.adapters import ChainSpec
from bdia.reversible.stacks.calls import LayerCall, NotAStreamError
from bdia.reversible.stacks.chains import find_chains
from bdia.reversible.stacks.checkpoint import recompute_around
from bdia.reversible.stacks.convert import switch_off_checkpointing
from bdia.reversible.stacks.engage import engage, engaged


def checkpoint_two_level(
    model: nn.Module, segments: int | None = None, layers: str | Sequence[str] | None = None
) -> dict[str, int]:
    """Checkpoint the layers of a model in two levels: about 2 sqrt(K) streams are held for K layers. In place.

    The training is the standard one, bit for bit. It costs one more forward of every layer but the last of each
    segment than checkpointing does (Chen et al., 2016, arXiv 1604.06174, section 4). `bdia.revert` undoes it.

    Args:
        model: any model with a list of layers, as `bdia.convert` takes it.
        segments: their number, from 1 to K. None: the whole number nearest to sqrt(K).
        layers: as in `bdia.convert`.
    Returns:
        The number of segments by the name of each chain.
    Raises:
        ValueError: no chain found, no such number of segments, converted already.

        >>> import bdia, torch
        >>> model = torch.nn.TransformerEncoder(torch.nn.TransformerEncoderLayer(16, 2, batch_first=True), 9)
        >>> bdia.checkpoint_two_level(model)
        {'layers': 3}
    """
    if not isinstance(model, nn.Module):
        raise InvalidTypeError(f"model={model!r}: wanted a torch.nn.Module")
    if any(engaged(module) is not None for module in model.modules()):
        raise InvalidValueError(f"{type(model).__name__} is converted already: call bdia.revert(model) first")
    specs = find_chains(model, layers)
    chains = [TwoLevelChain(spec, segments) for spec in specs]
    switch_off_checkpointing(model)
    for spec, chain in zip(specs, chains, strict=True):
        for place, layer in enumerate(spec.layers):
            engage(layer, chain, place)
    return {chain.name: len(chain.starts) for chain in chains}


class TwoLevelChain:
    """The segments of one chain.

    Attributes:
        name: where the chain stands in the model. starts: places of the first layer of each segment.
    """

    def __init__(self, spec: ChainSpec, segments: int | None) -> None:
        depth = len(spec.layers)
        wanted = round(math.sqrt(depth)) if segments is None else segments
        if type(wanted) is not int or not 1 <= wanted <= depth:
            raise InvalidValueError(
                f"segments={segments!r}: wanted a whole number from 1 to {depth}, the number of layers of {spec.name}"
            )
        self.name, self.starts = spec.name, frozenset(part * depth // wanted for part in range(wanted))
        self._batch_dim = spec.batch_dim or 0
        self._open: tuple[weakref.ref[_Segment], int, weakref.ref[Tensor], int] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_open": None}

    def call_layer(
        self, layer: nn.Module, place: int, original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Run one layer that somebody else's loop calls, checkpointed.

        Raises:
            TypeError: it returned nothing of its first argument's shape.
        """
        if not (layer.training and torch.is_grad_enabled()):
            return original(*args, **kwargs)
        call = LayerCall(original, args, kwargs, "", lambda x: x.dtype, self._batch_dim)
        call.drop_caches(refuses_filled=True)
        x = call.take_stream()
        segment = self._segment(place, x)
        try:
            y = segment.layer(call.run, layer, x)
        except NotAStreamError as error:
            raise InvalidTypeError(
                f"layer {place} ({type(layer).__name__}) of {self.name} returned no tensor of its first argument's "
                "shape: name another chain with layers="
            ) from error
        self._open = weakref.ref(segment), place + 1, weakref.ref(y), y._version
        return call.finish(y)

    def _segment(self, place: int, x: Tensor) -> "_Segment":
        """Return the open segment where the layer goes on from the last one's unchanged output, else a new one."""
        if self._open is not None and place not in self.starts:
            segment, following, handed, version = self._open[0](), self._open[1], self._open[2](), self._open[3]
            if segment is not None and handed is x and following == place and x._version == version:
                return segment
        return _Segment(x)


class _Segment:
    """Layers that were run one after another, and the input of the first. The graph holds it.

    Args:
        x: that input.
    """

    def __init__(self, x: Tensor) -> None:
        self._inputs = {0: x.detach()}
        self._version = x._version
        self._runs: list[_Run] = []

    def layer(self, call: Callable[[Tensor], Tensor], layer: nn.Module, x: Tensor) -> Tensor:
        """Run the next layer; backward runs it again, on an input that it finds here."""
        k, given = len(self._runs), [x.detach()]
        self._runs.append(_Run(call, layer, x))

        def region(handle: Tensor) -> Tensor:
            return call(_Input.apply(handle, given.pop() if given else self._input(k)))

        y: Tensor = checkpoint(
            region, _Handle.apply(x), use_reentrant=False, context_fn=lambda: recompute_around(layer, ())
        )
        return y

    def _input(self, k: int) -> Tensor:
        """Return the input of layer k; one that was rebuilt is given away."""
        if self._inputs[0]._version != self._version:
            raise UnsupportedError(
                "the input of a checkpointed layer was changed in place between forward and backward, so gradients "
                "would be wrong"
            )
        if k not in self._inputs:
            x = self._inputs[0]
            for at, run in enumerate(self._runs[:k], 1):
                x = self._inputs[at] = run.again(x)
        return self._inputs[0].detach() if k == 0 else self._inputs.pop(k)


class _Handle(Function):
    """Stand for a layer's input in the graph: one number, expanded to its shape, so that nothing keeps it alive."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.new_empty(()).expand(x.shape)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad


class _Input(Function):
    """Put the input's values in the handle's place."""

    @staticmethod
    def forward(ctx: Any, handle: Tensor, values: Tensor) -> Tensor:
        return values.view_as(values)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad, None


class _Run:
    """How a layer ran: it runs again in the same way, and nothing of the second run is kept but its output."""

    def __init__(self, call: Callable[[Tensor], Tensor], layer: nn.Module, x: Tensor) -> None:
        self._call, self._needs_gradient = call, x.requires_grad
        self._context = recompute_around(layer, ())[1]
        self._cpu_state, (self._devices, self._states) = torch.get_rng_state(), get_device_states(x)
        self._kind = x.device.type
        kinds = {"cpu", self._kind}
        self._autocast = {kind: (torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)) for kind in kinds}
        self._caches = torch.is_autocast_cache_enabled()

    def again(self, x: Tensor) -> Tensor:
        """Return the layer's output. As in the first run gradients are asked for, so that the same kernels run."""
        with self._as_first(), torch.enable_grad(), saved_tensors_hooks(lambda _: None, _refuse):
            return self._call(x.detach().requires_grad_(self._needs_gradient)).detach()

    @contextlib.contextmanager
    def _as_first(self) -> Iterator[None]:
        """Inside, random state, autocast and buffers are those of the first run."""
        with contextlib.ExitStack() as stack:
            stack.enter_context(torch.random.fork_rng(self._devices, device_type=_forked(self._kind)))
            torch.set_rng_state(self._cpu_state)
            if self._devices:
                set_device_states(self._devices, self._states, device_type=self._kind)
            for kind, (enabled, dtype) in self._autocast.items():
                stack.enter_context(torch.autocast(kind, dtype, enabled, cache_enabled=self._caches))
            stack.enter_context(self._context)
            yield


def _forked(kind: str) -> str:
    return "cuda" if kind == "cpu" else kind  # fork_rng's own default; the CPU's state is kept in any case


def _refuse(_: None) -> Tensor:
    raise UnsupportedError("a second run of a layer was differentiated, and keeps nothing for it")
