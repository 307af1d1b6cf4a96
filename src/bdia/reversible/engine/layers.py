"""The engine's one entry: the call of a layer. It takes one update of a pass that goes on from call to call."""

import contextlib
import threading
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from bdia import InvalidTypeError, UnsupportedError
from bdia.reversible.arithmetic.rules import Rule
from bdia.reversible.engine import checks
from bdia.reversible.engine.memory_errors import out_of_memory
from bdia.reversible.engine.nodes import BlockInput, Handle, Update
from bdia.reversible.engine.passes import LayerUpdate, Pass, PassSettings
from bdia.reversible.engine.recompute import Contexts, recompute_contexts

DrawRule = Callable[[int, int, Tensor], Rule]


class _Flag(contextlib.AbstractContextManager[None, None]):
    """True inside the `with`: tells checkpoint's recomputation from the first forward."""

    active = False

    def __enter__(self) -> None:
        self.active = True

    def __exit__(self, *_: object) -> None:
        self.active = False


Region = Callable[[Tensor | None, Tensor], Tensor]


def _checkpoint(region: Region, handle_prev: Tensor | None, handle: Tensor, flag: _Flag) -> Tensor:
    """Run a region under torch's checkpoint, which sets the flag where backward runs it again.

    An error of the first run is raised when checkpoint has ended. Raised inside, it would leave checkpoint's hooks in
    place (seen in torch 2.11, mended by 2.14) as long as its traceback lives, and layers called until then be refused.
    """
    raised: list[BaseException] = []

    def run(handle_prev: Tensor | None, handle: Tensor) -> Tensor | None:
        try:
            return region(handle_prev, handle)
        except BaseException as error:
            if flag.active:
                raise
            raised.append(error)
            return None

    contexts = contextlib.nullcontext(), flag
    x_next: Tensor | None = checkpoint(
        run, handle_prev, handle, use_reentrant=False, early_stop=False, context_fn=lambda: contexts
    )
    if x_next is None:
        raise raised.pop()
    return x_next


class OpenPass:
    """State of an unfinished forward. It is kept outside the graph, so that the graph keeps no stream alive.

    Args:
        x: the stream that enters the first layer.
        draw: k, place, x -> the rule of update k, of the layer at that place; it draws gamma.
        dtype: of the streams that callers get; the pass itself holds float32.
        both: x_{-1} = x_0, for rules whose first update reads x_prev (RevViT).
        operators: what recomputed layers keep the outputs of.
    """

    def __init__(
        self,
        settings: PassSettings,
        x: Tensor,
        draw: DrawRule,
        dtype: torch.dtype = torch.float32,
        both: bool = False,
        operators: tuple[Any, ...] = (),
    ) -> None:
        self.settings = settings
        self._streams: Pass | None = Pass(settings, x)
        self.taken, self.with_gradients = 0, torch.is_grad_enabled()
        self._draw, self._dtype, self._operators = draw, dtype, operators
        self._handle_prev: Tensor | None = Handle.apply(x) if both else None
        self._handed: weakref.ref[Tensor] | None = None
        self._memory: tuple[Any, ...] = ()
        self._has_gradient = False
        if both:
            self.streams.states[-1] = self.streams.states[0]

    @property
    def streams(self) -> Pass:
        """The streams, while somebody has the tensor that goes on."""
        assert self._streams is not None
        return self._streams

    def layer(
        self, call: Callable[[Tensor], object], x: Tensor, block: nn.Module | None = None, place: int | None = None
    ) -> Tensor:
        """Run the next layer and its update.

        Args:
            call: x_k -> y_k; runs again in backward unless the layer keeps its activations.
            x: x_k as the caller has it; its values are the pass's.
            block: the module that `call` runs, for what a second run must not touch.
            place: of the layer in its chain; None: layers are called in order.
        Returns:
            x_{k+1}, in the dtype that callers get.
        """
        k, pass_ = self.taken, self.streams
        place = k if place is None else place
        self.taken += 1
        update = pass_.begin_update(place, self._draw(k, place, x))
        recomputed = pass_.recomputes(k)
        handle_prev = self._handle_prev
        handle = handle_prev if k == 0 and handle_prev is not None else Handle.apply(x)  # x_{-1} = x_0: one handle
        flag = _Flag()
        differs = (lambda wrong: pass_.note_difference(k, wrong)) if pass_.settings.verify else None
        around = recompute_contexts(block, self._operators if recomputed else (), differs, pass_.settings.log.told)

        def region(handle_prev: Tensor | None, handle: Tensor) -> Tensor:
            again = flag.active
            x = BlockInput.apply(handle_prev, handle, update, again)
            y = _again(call, x, update, around) if again else _first(call, x, update, around)
            if pass_.taped_from is None and (y.requires_grad or x.requires_grad):
                pass_.taped_from = k
            updated: Tensor = Update.apply(x, y, update, again)
            return updated

        x_next = _checkpoint(region, handle_prev, handle, flag) if recomputed else region(handle_prev, handle)
        self._handle_prev = handle
        return self._hand_out(x_next)

    def _hand_out(self, x: Tensor) -> Tensor:
        x = x.to(self._dtype)
        self._memory, self._has_gradient = _memory(x), x.requires_grad
        mine = weakref.ref(self)  # the callback must not keep the pass alive
        self._handed = weakref.ref(x, lambda _: _forget(mine()))
        return x

    def forget(self) -> None:
        """Let go of the graph and of the streams: nobody has the tensor any more that would go on."""
        self._handle_prev = self._streams = None

    def goes_on(self, x: Tensor, training: bool) -> bool:
        """Whether x is what the last layer returned, unchanged: the same memory, not always the same object.

        A stream that was detached, or that comes in another mode than the pass was opened in, starts anew.
        """
        if self._handed is None or self._handed() is None or self.streams.backward_began:
            return False
        modes = self.with_gradients == torch.is_grad_enabled() and self.settings.training == training
        return modes and x.requires_grad == self._has_gradient and _memory(x) == self._memory

    def why_not(self, x: Tensor) -> str:
        """Say in what x differs from what the last layer returned."""
        storage, _, shape = self._memory[:3]
        if x.shape != shape:
            return f"the stream's shape changes from {tuple(shape)} to {tuple(x.shape)} between two layers"
        if self._handed is not None and self._handed() is not None and x.untyped_storage()._cdata == storage:
            return "the stream is changed in place between two layers"
        return "something is computed from the stream between two layers"


def _forget(opened: OpenPass | None) -> None:
    if opened is not None:
        opened.forget()


def _memory(x: Tensor) -> tuple[Any, ...]:
    """What stays the same where a wrapper hands on another tensor object on the same memory."""
    version = None if x.is_inference() else x._version
    return x.untyped_storage()._cdata, x.storage_offset(), x.shape, x.stride(), x.dtype, version


def _first(call: Callable[[Tensor], object], x: Tensor, update: LayerUpdate, around: Contexts) -> Tensor:
    version = None if x.is_inference() else x._version
    with around[0]:
        y = call(x)
    if not isinstance(y, Tensor) or y.shape != x.shape:
        seen = tuple(y.shape) if isinstance(y, Tensor) else type(y).__name__
        raise InvalidTypeError(
            f"block {update.block} returned {seen}, wanted the residual stream, a tensor of shape {tuple(x.shape)}: "
            "wrap the block so that it returns only that"
        )
    if version is not None and x._version != version:
        raise UnsupportedError(f"block {update.block} changes its input in place: clone it there")
    return y


def _again(call: Callable[[Tensor], object], x: Tensor, update: LayerUpdate, around: Contexts) -> Tensor:
    try:
        with around[1]:
            y = call(x)
    except Exception as error:  # the first run raised nothing: the block does not repeat itself
        if out_of_memory(error):
            raise
        raise update.not_repeated(error) from error
    if not isinstance(y, Tensor) or y.shape != x.shape:
        raise update.not_repeated()
    return y


class Chain:
    """Layers that somebody else's loop calls one by one: each call goes on with the open pass, or starts a new one.

    Args:
        length: number of layers; None: one layer that is called again and again.
    """

    def __init__(self, length: int | None) -> None:
        self.length = length
        self._thread = threading.local()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_thread"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _thread=threading.local())

    @property
    def open(self) -> OpenPass | None:
        """The pass that this thread's last call belongs to."""
        return getattr(self._thread, "open", None)

    def call(
        self,
        begin: Callable[[Tensor, bool], OpenPass],
        call: Callable[[Tensor], object],
        x: Tensor,
        place: int,
        block: nn.Module,
    ) -> Tensor:
        """Take one update.

        Args:
            begin: the first stream, and whether a new forward starts with it, not only a new pass -> a new pass.
            place: of the layer in the chain. The rest as in `OpenPass.layer`.
        """
        checks.refuse_transforms()
        before, last = self.open, getattr(self._thread, "place", place)
        wraps = self.length is not None and place == 0 and last == self.length - 1
        opened = before if before is not None and not wraps and before.goes_on(x, block.training) else None
        if torch.is_grad_enabled():
            checks.refuse_outer_checkpoint(place if opened is None else None)
        if opened is None:
            self._warn_of_short_passes(before, x, place)
            self._thread.open = None  # also where the layer raises
            before = opened = begin(x, place <= last)  # `before` too: an old pass must not outlive the new one's start
        self._thread.open, self._thread.place = None, place
        x_next = opened.layer(call, x, block, place)
        self._thread.open = opened
        if self.length is None or place == self.length - 1:
            opened.streams.end_forward()
        return x_next

    def _warn_of_short_passes(self, before: OpenPass | None, x: Tensor, place: int) -> None:
        """A pass of one layer frees nothing: the model trains as the standard one, checkpointed."""
        if before is None:
            return
        alone = before.taken == 1 and before.with_gradients and torch.is_grad_enabled()
        if alone and self.length != 1 and (place > 0 or self.length is None):
            checks.tell(before.settings.log.told, checks.short_pass(before.why_not(x)))
