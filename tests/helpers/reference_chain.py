"""The slow oracle for converted models: BDIA in plain autograd, driven by the model's own loop over its layers.

Everything is stored, rounding is straight-through. Nothing of the engine is used; the gamma law comes as an argument.
Source: Zhang, Lewis, Kleijn, ICML 2025 (PMLR 267), section 4.3.
"""

import contextlib
import inspect
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.autograd import Function

CACHES = ("past_key_values", "past_key_value", "layer_past", "cache_params", "state", "use_cache")
SWITCHED_OFF = {"use_cache": False}  # the other caches become None


class RoundStraightThrough(Function):
    """Q_l[z] = u * round(z / u), u = 2^-bits, ties to even; dQ_l/dz = 1."""

    @staticmethod
    def forward(ctx, z: Tensor, bits: int) -> Tensor:
        rounded = torch.round(z.float() * 2.0**bits) / 2.0**bits
        return (rounded + 0.0).contiguous()  # + 0.0: a zero has no sign

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        return grad, None


class NotAStreamError(Exception):
    """A layer changes the shape of the stream: it is no part of the chain."""


class ReferenceChain:
    """The streams of one chain: x_{k-1} and x_k in float32 with their whole graph, k, and what the model was handed."""

    def __init__(self, law: object, bits: int, batch_dim: int) -> None:
        self.law, self.bits, self.batch_dim = law, bits, batch_dim
        self.handed, self.passes = None, []

    def quantize(self, z: Tensor) -> Tensor:
        """Q_l[z]."""
        return RoundStraightThrough.apply(z, self.bits)

    def start(self, x: Tensor) -> None:
        """Begin a pass at the stream x: x_0 = Q_l[x]."""
        self.x_prev, self.x_curr, self.k, self.dtype = None, self.quantize(x), 0, x.dtype
        self.passes.append(0)

    def update(self, x: Tensor, layer: Callable[[Tensor], Tensor]) -> Tensor:
        """Take the update of one layer, called by the model with the stream x; return the new stream in its dtype."""
        if x is not self.handed:
            self.start(x)
        gamma = self.draw() if self.k else None
        y = layer(self.x_curr.to(self.dtype))
        if y.shape != x.shape:
            raise NotAStreamError
        x_next = self.quantize(y) if gamma is None else self.combine(y, *gamma)
        self.x_prev, self.x_curr, self.k = self.x_curr, x_next, self.k + 1
        self.passes[-1] = self.k
        self.handed = x_next.to(self.dtype) if self.dtype != torch.float32 else x_next
        return self.handed

    def draw(self) -> tuple[Tensor, Tensor]:
        """One gamma = p / q per sample, as float32 values and denominators that broadcast over the stream."""
        x = self.x_curr
        shape = [1] * x.dim()
        shape[self.batch_dim] = -1
        gamma = self.law.sample(x.shape[self.batch_dim], device=x.device)
        return gamma.value.view(shape), gamma.denominator.view(shape)

    def combine(self, y: Tensor, gamma: Tensor, q: Tensor) -> Tensor:
        """x_{k+1} = gamma (x_{k-1} + s u) + Q_l[(1 + gamma) y - 2 gamma x_k], where s = -x_{k-1}/u modulo q."""
        units = 2.0**self.bits
        side = torch.remainder(-self.x_prev.detach() * units, q)
        skipped = self.quantize(gamma * (self.x_prev + side / units))
        return skipped + self.quantize((1 + gamma) * y.float() - 2 * gamma * self.x_curr)


@contextlib.contextmanager
def reference_bdia(layers: Sequence[nn.Module], law: object, bits: int, batch_dim: int = 0) -> Iterator[ReferenceChain]:
    """Inside, the layers take BDIA updates in training mode; on leaving they are as before.

    A layer's stream is its first positional argument, else its first keyword argument. A pass goes on while a layer
    gets the tensor that the last one returned; any other tensor starts a new pass. A layer that changes the stream's
    shape runs as it is. Caches are switched off. gamma is
    drawn from torch's default generator just before layers k >= 1 run.

    Args:
        layers: the layers of one chain; a shared layer may stand there once or several times.
        law: a gamma law of exact fractions.
        bits: l, the grid is 2^-l.
        batch_dim: dimension of the stream that counts the samples.
    Yields:
        the chain; its `passes` lists the number of updates of every pass.
    """
    chain = ReferenceChain(law, bits, batch_dim)
    with contextlib.ExitStack() as stack:
        for layer in dict.fromkeys(layers):
            stack.enter_context(_replaced_forward(layer, chain))
        yield chain


@contextlib.contextmanager
def _replaced_forward(layer: nn.Module, chain: ReferenceChain) -> Iterator[None]:
    before = layer.__dict__.get("forward")
    original = layer.forward

    def forward(*args, **kwargs):
        if not layer.training:
            return original(*args, **kwargs)
        args, kwargs = without_caches(original, args, kwargs)
        rest = []

        def call(z: Tensor) -> Tensor:
            out = original(z, *args[1:], **kwargs) if args else original(**{**kwargs, next(iter(kwargs)): z})
            if not isinstance(out, tuple | list):
                return out
            rest.append((type(out), out[1:]))
            return out[0]

        try:
            x_next = chain.update(args[0] if args else next(iter(kwargs.values())), call)
        except NotAStreamError:
            return original(*args, **kwargs)
        return rest[0][0]([x_next, *rest[0][1]]) if rest else x_next

    layer.forward = forward
    try:
        yield
    finally:
        del layer.forward
        if before is not None:
            layer.forward = before


def without_caches(function: Callable, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
    """The arguments with every key-value or state cache switched off, given by position or by name."""
    names = list(inspect.signature(function).parameters)
    args = tuple(
        SWITCHED_OFF.get(name) if name in CACHES else value
        for name, value in zip(names + [""] * len(args), args, strict=False)
    )
    return args, {name: SWITCHED_OFF.get(name) if name in CACHES else value for name, value in kwargs.items()}
