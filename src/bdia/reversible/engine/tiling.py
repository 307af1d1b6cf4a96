"""A submodule of a block in parts that run one after another: tiles of tokens, or groups of heads.

Each part is checkpointed by itself, so one part's activations are alive at a time, forward and backward. The graph is
autograd's own: what parts share (weights, masks) gets the sum of their gradients once. The parts get weights through
`_PartOfWeight`, whose gradients are added in place and in float32, also where weights have 16 bits. Under autocast each
part casts a weight anew, for a copy from autocast's cache would add them in bfloat16.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.utils._pytree import tree_flatten, tree_unflatten

from bdia.reversible.engine.lean_checkpoint import checkpointed
from bdia.reversible.engine.token_wise import OWN_PARTS, is_cut, probe

AT_ONCE = 2**64 - 1  # as a node's number: it runs as soon as it can, as those of leaves do; else after its whole part


class Part(NamedTuple):
    """How the parts of one submodule run.

    Args:
        module: the submodule.
        parts: their number at most.
        token_dim: the dimension of its input that counts tokens.
        recomputed: whether a part keeps only its arguments for backward.
        before: what runs first in each part, a norm; None: nothing.
    """

    module: nn.Module
    parts: int
    token_dim: int
    recomputed: bool
    before: nn.Module | None = None

    @property
    def modules(self) -> list[nn.Module]:
        """What runs in a part."""
        return [self.module] if self.before is None else [self.before, self.module]


Run = Callable[..., Any]  # run(function, x, *others): one part, function(before(x), *others)


def in_parts(forward: Callable[..., Any], first: Callable[[Tensor], Tensor], part: Part) -> Callable[..., Any]:
    """Return `forward`, a submodule's, as a function that runs in parts.

    Args:
        forward: what the submodule computes.
        first: what runs in each part on its first tensor.
        part: how.
    """
    own = getattr(part.module, OWN_PARTS, None)
    if own is not None:
        return lambda *args, **kwargs: own(part.parts, _runner(first, part), *args, **kwargs)

    def run(*args: Any, **kwargs: Any) -> Any:
        leaves, spec = tree_flatten((args, kwargs))
        at = next(i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor))
        before, given = leaves[:at], leaves[at:]

        def tile(x: Tensor, *rest: Any) -> Any:  # lives until backward: it must not hold the tensors
            args, kwargs = tree_unflatten([*before, x, *rest], spec)
            return forward(*args, **kwargs)

        dim = min(part.token_dim, given[0].dim() - 2)
        probe(lambda x, *rest: tile(first(x), *rest), given, dim, part.module)
        return _in_tiles(tile, given, dim, part.parts, _runner(first, part))

    return run


def _in_tiles(tile: Callable[..., Any], given: Sequence[Any], dim: int, count: int, run: Run) -> Any:
    """Run tiles of tokens; tensors with the same leading dimensions as the first are cut as it is."""
    tokens = given[0].shape[dim]
    sizes = [(part + 1) * tokens // count - part * tokens // count for part in range(count)]
    sizes = [size for size in sizes if size]
    if len(sizes) < 2:
        return run(tile, *given)
    cut = [value.split(sizes, dim) if is_cut(value, given[0], dim) else [value] * len(sizes) for value in given]
    return torch.cat([run(tile, *values) for values in zip(*cut, strict=True)], dim)


def _runner(first: Callable[[Tensor], Tensor], part: Part) -> Run:
    """Return what runs one part. All parts of a call share the sums of weights' gradients."""
    shared = _shared(part.modules)

    def run(function: Callable[..., Any], x: Tensor, *others: Any) -> Any:
        def call(x: Tensor, *others: Any) -> Any:
            with _weights_of_part(part.modules, shared), _no_cached_casts():
                return function(first(x), *others)

        return checkpointed(call, part.module, x, *others) if part.recomputed else call(x, *others)

    return run


# --- weights ---


class _Sum:
    """The gradient of a weight in the making: what the parts of one call have sent it, in float32 or wider."""

    def __init__(self) -> None:
        self._sum: Tensor | None = None
        self._backward = -1

    def add(self, grad: Tensor) -> None:
        """Add a part's gradient in place; autograd would make a new sum of it. One whose backward broke off is lost."""
        backward = torch._C._current_graph_task_id()
        if self._sum is None or self._backward != backward:
            self._sum, self._backward = grad.to(torch.promote_types(grad.dtype, torch.float32), copy=True), backward
        else:
            self._sum.add_(grad)

    def take(self) -> Tensor | None:
        """Return the sum, once."""
        found, self._sum = self._sum, None
        return found


class _SharedWeight(Function):
    """A weight that parts share: one number in its place, so that autograd adds only numbers. See `_Sum`."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, total: _Sum) -> Tensor:
        ctx.total = total
        return weight.new_empty((), dtype=torch.float32)

    @staticmethod
    def backward(ctx: Any, nothing: Tensor) -> tuple[Tensor | None, None]:
        return ctx.total.take(), None


class _PartOfWeight(Function):
    """A weight for one part, whose gradient is added to the sum of all parts."""

    @staticmethod
    def forward(ctx: Any, shared: Tensor, weight: Tensor, total: _Sum) -> Tensor:
        ctx.total = total
        return weight.view_as(weight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        ctx.total.add(grad)
        return grad.new_zeros((), dtype=torch.float32), None, None


Shared = dict[nn.Parameter, tuple[Tensor, _Sum]]


def _shared(modules: Sequence[nn.Module]) -> Shared:
    """Return what stands for the modules' trained weights in all parts of one call."""
    weights = {p for module in modules for p in module.parameters() if p.requires_grad}
    return {weight: (_SharedWeight.apply(weight, total), total) for weight in weights for total in [_Sum()]}


@contextlib.contextmanager
def _weights_of_part(modules: Sequence[nn.Module], shared: Shared) -> Iterator[None]:
    """While it lasts, the modules compute with weights that send their gradients to the sums."""
    views = {p: _PartOfWeight.apply(number, p.detach(), total) for p, (number, total) in shared.items()}
    for view in views.values():
        view.grad_fn._set_sequence_nr(AT_ONCE)
    inner = {module for outer in modules for module in outer.modules()} if views else set()
    places = [(m, name, p) for m in inner for name, p in m._parameters.items() if p in views]
    for module, name, weight in places:
        module._parameters[name] = views[weight]
    try:
        yield
    finally:
        for module, name, weight in places:
            module._parameters[name] = weight


@contextlib.contextmanager
def _no_cached_casts() -> Iterator[None]:
    """While it lasts, autocast makes a copy of a weight for each use: a shared copy would add gradients in bfloat16."""
    before = torch.is_autocast_cache_enabled()
    torch.set_autocast_cache_enabled(False)
    try:
        yield
    finally:
        torch.set_autocast_cache_enabled(before)
