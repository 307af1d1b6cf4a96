"""The BDIA update between blocks: settings, passes, and the stack. B batch, T tokens, D width, K blocks."""

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from fractions import Fraction
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch._compile import _disable_dynamo  # torch.compiler.disable without its imports, which take seconds

from bdia import InvalidTypeError, InvalidValueError, UnsupportedError
from bdia.reversible.arithmetic.gamma import Gamma, GammaLaw, TwoPoint, as_fraction, constant_gamma
from bdia.reversible.arithmetic.grid import check_bits, finest_grid
from bdia.reversible.arithmetic.rules import Rule
from bdia.reversible.arithmetic.streams import FLOAT32, Stream, stream_named
from bdia.reversible.engine import checks
from bdia.reversible.engine.layers import Chain, OpenPass
from bdia.reversible.engine.passes import PassLog, PassSettings
from bdia.reversible.engine.recompute import saved_operations
from bdia.reversible.engine.settings import RecomputeSettings
from bdia.reversible.stacks.base import (
    BlockStack,
    LastForward,
    Recomputation,
    check_kernel,
    check_stream,
    guard_blocks,
)
from bdia.reversible.stacks.calls import LayerCall, NotAStreamError, check_caches
from bdia.reversible.stacks.engage import disengage, engage

FIRST_BITS = 9  # of bits="auto", until a forward has shown the range; the paper's


class BdiaUpdates(Recomputation, LastForward):
    """Settings of the BDIA update for one chain of layers, and how a pass over them is opened.

    Args: as in `BdiaStack`; `layers` of the chain; what they `recompute`; `batch_dim` of the stream; `prefix` of
        settings' names in messages.

    Attributes:
        log: numbers of the last forward.
    """

    def __init__(
        self,
        layers: Sequence[nn.Module],
        gamma: GammaLaw | None,
        bits: int | Literal["auto"] | None,
        recompute: RecomputeSettings,
        backward: Literal["reversible", "stored"],
        eval_gamma: float | str | Fraction,
        quantize_eval: bool,
        verify: bool,
        kernel: Literal["auto", "compiled", "eager", "triton"],
        stream: Literal["float32", "int32"] = "float32",
        batch_dim: int = 0,
        prefix: str = "stack.",
    ) -> None:
        super().__init__(layers, recompute, prefix)
        self.gamma = TwoPoint("1/2") if gamma is None else gamma
        if not hasattr(self.gamma, "sample") or isinstance(self.gamma, type):
            raise InvalidTypeError(f'gamma={gamma!r}: wanted a law such as TwoPoint("1/2"); set {prefix}gamma')
        self.chooses_bits = self.auto_bits = bits == "auto"
        self.stream = stream_named(stream, bits, prefix)
        first, most = FIRST_BITS if bits == "auto" else bits, self.stream.range.max_bits
        self.bits = None if first is None else check_bits(first, f"{prefix}bits", most)
        if backward not in ("reversible", "stored"):
            raise InvalidValueError(f'backward={backward!r}: wanted "reversible" or "stored"; set {prefix}backward')
        if backward == "reversible" and not self.gamma.reversible:
            raise InvalidValueError(
                f"gamma law {self.gamma} has no inverse: set {prefix}backward=stored, or another {prefix}gamma"
            )
        self.backward, self.eval_gamma = backward, _read_eval_gamma(eval_gamma, prefix)
        self.quantize_eval, self.verify, self.kernel = quantize_eval, verify, check_kernel(kernel, prefix)
        self.batch_dim, self.log = batch_dim, PassLog()
        self.token_dim = 0 if batch_dim else 1
        self.chain = Chain(len(layers))

    def open_pass(self, x: Tensor, training: bool, dtype: torch.dtype = torch.float32, counts: bool = True) -> OpenPass:
        """Start a pass at the stream x; callers get streams in `dtype`. `counts`: it is a forward of its own."""
        self.choose_bits()
        bits = self.bits if training or self.quantize_eval else None
        keeps: Callable[[int], bool] = self.kept(self.chain.length or 1, training).__contains__
        if not training or self.backward == "stored" or not torch.is_grad_enabled():
            keeps = _all
        settings = PassSettings(
            keeps, bits, self.verify, self.kernel, self.log,
            batch_dim=self.batch_dim, training=training, prefix=self.prefix, stream=self._form(bits),
        )  # fmt: skip
        if counts and training and torch.is_grad_enabled():
            self.gamma.begin_pass()

        def draw(k: int, place: int, x: Tensor) -> Rule:
            return self._rule(k, place, x, bits, training)

        return OpenPass(settings, x, draw, dtype, operators=tuple(saved_operations(self.save, self.prefix)))

    def choose_bits(self) -> None:
        """With bits="auto": take the finest grid that holds what was seen, once something was.

        Raises:
            GridOverflowError: no grid does.
        """
        if self.chooses_bits and self.log.largest:
            self.bits, self.chooses_bits = finest_grid(self.log.largest, self.stream.range), False
            if torch.distributed.is_available() and torch.distributed.is_initialized():
                checks.tell(self.log.told, checks.own_grid(self.bits, self.prefix))

    def training_state(self) -> dict[str, Any]:
        """Return what a resumed training must restore beside weights, as plain numbers."""
        chosen = {"bits": self.bits, "chooses_bits": self.chooses_bits, "largest": self.log.largest}
        return {**chosen, "gamma": self.gamma.state_dict()}

    def load_training_state(self, state: dict[str, Any]) -> None:
        """Restore it."""
        if self.auto_bits:
            self.bits, self.chooses_bits, self.log.largest = state["bits"], state["chooses_bits"], state["largest"]
        self.gamma.load_state_dict(state["gamma"])

    def _rule(self, k: int, place: int, x: Tensor, bits: int | None, training: bool) -> Rule:
        """Draw gamma for update k, of the layer at this place, and choose the update that can hold it."""
        stream = self._form(bits)
        if k == 0 or not (training or self.eval_gamma):
            return stream.euler(bits)
        law, batch = self.gamma.at(place), x.shape[self.batch_dim]
        drawn = law.sample(batch, device=x.device) if training else None
        gamma = constant_gamma(self.eval_gamma, batch, x.device) if drawn is None else drawn
        rows = math.prod(x.shape[: self.batch_dim])
        if isinstance(gamma, Gamma) and bits is not None:
            return stream.bdia(gamma, bits, law.side_bits, rows)
        value = gamma.value if isinstance(gamma, Gamma) else gamma
        return stream.rounded(value.repeat(rows) if rows != 1 else value, bits)

    def _form(self, bits: int | None) -> Stream:
        """The form of the stream in one pass: off the grid, at inference, there is only float32."""
        return FLOAT32 if bits is None else self.stream

    def call_layer(
        self, layer: nn.Module, place: int, original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Run one layer that somebody else's loop calls, with its update.

        Args:
            place: of the layer in the chain.
            original: what the layer computes by itself.
        """
        training = layer.training
        if not (training or self.quantize_eval or self.eval_gamma):
            return self._plain(original, args, kwargs)
        call = LayerCall(original, args, kwargs, self.prefix, self.stream_dtype, self.batch_dim)
        flows = training and torch.is_grad_enabled()
        recomputes = self.backward == "reversible" and flows
        if flows:
            call.drop_caches(refuses_filled=recomputes)
        if recomputes and getattr(layer, "gradient_checkpointing", False):
            raise UnsupportedError(checks.OUTER_CHECKPOINT)
        run = self.bind(layer, call.run, recomputes, (), {})
        try:
            x = self.chain.call(
                lambda x, counts: self.open_pass(x, training, call.dtype, counts), run, call.take_stream(), place, layer
            )
        except NotAStreamError:
            return self.not_a_stream(layer, place, original, args, kwargs)
        return call.finish(x)

    def stream_dtype(self, x: Tensor) -> torch.dtype:
        """Return the dtype in which layers see the stream and hand it on."""
        return x.dtype

    def not_a_stream(
        self, layer: nn.Module, place: int, original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """A layer changed the stream's shape. A stack refuses it; a converted model lets it be an ordinary layer.

        Raises:
            TypeError: always, here.
        """
        raise InvalidTypeError(
            f"block {place} ({type(layer).__name__}) returned nothing of its residual stream's shape: wrap the block "
            "so that it does"
        )

    def _plain(self, original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The layer as it is, in evaluation mode; where gradients flow through it, say that it stores everything."""
        out = original(*args, **kwargs)
        y = out[0] if isinstance(out, tuple | list) and out else out
        if isinstance(y, Tensor) and y.requires_grad and "evaluation mode" not in self.log.told:
            y.register_hook(lambda _: checks.tell(self.log.told, checks.EVALUATION))
        return out


class BdiaStack(BlockStack, BdiaUpdates):
    """The BDIA update between blocks: exactly reversible in training, the standard transformer in `eval()`.

    It works where a model calls it as a whole, and where a model loops over it.

    Source: Zhang, Lewis, Kleijn, ICML 2025 (PMLR 267), section 4.3.

    Args:
        blocks: any residual blocks, y = block(x, *args, **kwargs) of x's shape.
        gamma: law of gamma_k in training.
        bits: grid 2^-bits; None is the float form, whose inverse is inexact (the paper's Fig. 2). "auto": 9 in the
            first training forward, then the finest grid that holds four times its largest value.
        keep: number of trailing blocks that keep their activations, or the indices of the blocks that do. Each saves
            its recomputation, a third of its forward and backward, and costs its activations.
        backward: "reversible" drops and rebuilds the streams; "stored" keeps every activation (same bits).
        eval_gamma: constant gamma at inference (the paper's Fig. 1); 0 is the standard transformer.
        quantize_eval: round the stream at inference; False is the plain float32 transformer.
        verify: compare an integer sum of every rebuilt stream with the forward's. With bits=None: keep the streams
            and measure `reconstruction_error` instead.
        kernel: which implementation computes the update. "eager"; "compiled", one kernel of torch.compile each for the
            update, its inverse and its gradients; "triton", the same kernels written in Triton, on a GPU; "auto",
            compiled where a stream is large and a compiler works. All give the same bits.
        stream: "float32" holds streams as values, exact below 2^(24 - bits). "int32" holds numbers of units, exact
            below 2^(31 - bits): for pretrained weights with few large activations. Layers see float32; one stream more
            is alive.
        memory_budget: peak memory of a whole training step for which `bdia.profiling.fit_to_memory` chooses `keep`,
            such as "12GiB", or a fraction of the standard stack's.
        save: kinds of operations ("attention", "matmul") whose outputs a recomputed block keeps.
        nested: submodules of a block ("attn", "mlp") that are recomputed once more, one at a time.
        tile: submodules of a block that run in parts, {"mlp": 8}: one part's activations are alive at a time. Both
            are told in full at `RecomputeSettings`.
    Raises:
        ValueError: the law has no inverse and backward is "reversible"; bits outside the grid's range.
        In forward or backward: GridOverflowError, ReversibilityError.
    Memory: with one fraction p/q per sample, ceil(log2 q) bits per activation per block and two streams.
    """

    def __init__(
        self,
        blocks: Iterable[nn.Module],
        gamma: GammaLaw | None = None,
        bits: int | Literal["auto"] | None = 9,
        keep: int | Collection[int] = 1,
        backward: Literal["reversible", "stored"] = "reversible",
        eval_gamma: float | str | Fraction = 0,
        quantize_eval: bool = True,
        verify: bool = True,
        kernel: Literal["auto", "compiled", "eager", "triton"] = "auto",
        stream: Literal["float32", "int32"] = "float32",
        memory_budget: str | float | None = None,
        save: Sequence[str] = (),
        nested: Sequence[str] = (),
        tile: Mapping[str, int] | None = None,
    ) -> None:
        BlockStack.__init__(self, blocks)
        BdiaUpdates.__init__(
            self, self.blocks, gamma, bits, RecomputeSettings(keep, memory_budget, save, nested, tile),
            backward=backward, eval_gamma=eval_gamma, quantize_eval=quantize_eval, verify=verify, kernel=kernel,
            stream=stream,
        )  # fmt: skip
        guard_blocks(self.blocks, self.log.told)

    @_disable_dynamo  # compile blocks (block.compile()), not the loop around them: checkpoint does not trace
    def forward(self, x: Tensor, *args: object, **kwargs: object) -> Tensor:  # type: ignore[override] # more arguments
        """(B, T, D) -> (B, T, D) float32, on the grid."""
        checks.refuse_transforms()
        if torch.is_grad_enabled():
            checks.refuse_outer_checkpoint(0)
        opened = self.open_pass(check_stream(x), self.training)
        if not all(map(opened.settings.keeps, range(len(self)))):
            check_caches(args, kwargs, self.prefix)
        for k, block in enumerate(self.blocks):
            recomputed = not opened.settings.keeps(k)
            x = opened.layer(self.bind(block, block, recomputed, args, kwargs), x, block)
        opened.streams.end_forward()
        return x

    def stream_dtype(self, x: Tensor) -> torch.dtype:
        """float32, as where the stack is called as a whole."""
        check_stream(x)
        return torch.float32

    def __iter__(self) -> Iterator[nn.Module]:
        """Yield the blocks. A block that the loop's body calls takes its update."""
        return _engaged(self, range(len(self)))

    def __getitem__(self, index: int | slice) -> nn.Module:  # type: ignore[override] # torch: a slice is of our class
        """One block, or several, over which a model may loop as over the stack."""
        return BdiaSlice(self, range(len(self))[index]) if isinstance(index, slice) else super().__getitem__(index)

    def extra_repr(self) -> str:
        """Show the settings when printed."""
        settings = f"backward={self.backward!r}, kernel={self.kernel!r}"
        return f"gamma={self.gamma}, bits={self.bits}, {self.shown()}, {settings}"


class BdiaSlice(nn.Sequential):
    """Some blocks of a stack; looping over them, or calling them, takes the stack's updates."""

    def __init__(self, stack: BdiaStack, places: Sequence[int]) -> None:
        super().__init__(*(stack.blocks[k] for k in places))
        self._stack, self._places = [stack], places  # in a list: the stack is no submodule of its slice

    def __iter__(self) -> Iterator[nn.Module]:
        """Yield the blocks, as the stack does."""
        return _engaged(self._stack[0], self._places)


def _engaged(stack: BdiaStack, places: Sequence[int]) -> Iterator[nn.Module]:
    """Yield blocks, each engaged until the next one is asked for."""
    for place in places:
        block = stack.blocks[place]
        engage(block, stack, place)
        try:
            yield block
        finally:
            disengage(block)


def _all(k: int) -> bool:
    return True


def _read_eval_gamma(value: float | str | Fraction, prefix: str) -> Fraction | float:
    """Read as an exact fraction where there is one; inference needs no inverse, so any finite float will do."""
    try:
        return as_fraction(value)
    except ValueError as error:
        if isinstance(value, float) and math.isfinite(value):
            return value
        raise InvalidValueError(
            f'eval_gamma={value!r}: wanted a number or a fraction "p/q"; set {prefix}eval_gamma'
        ) from error
