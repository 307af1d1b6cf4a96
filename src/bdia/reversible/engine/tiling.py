"""A submodule of a block in parts that run one after another: tiles of tokens, or groups of heads.

Each part is checkpointed by itself, so one part's activations are alive at a time, forward and backward. The graph is
autograd's own: what parts share (weights, masks) gets the sum of their gradients once. Two things keep the sums of
weights' gradients in float32: inside a part autocast casts anew and not from its cache, and a part gets weights of
lower precision through `_PartOfWeight`.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.utils._pytree import tree_flatten, tree_unflatten

from bdia.reversible.engine.lean_checkpoint import checkpointed
from bdia.reversible.engine.nodes import Handle
from bdia.reversible.engine.token_wise import OWN_PARTS, is_cut, probe


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
    """Return what runs one part. All parts of a call share the handles of low-precision weights."""
    handles = _low_precision(part.modules)

    def run(function: Callable[..., Any], x: Tensor, *others: Any) -> Any:
        def call(x: Tensor, *others: Any) -> Any:
            with _weights_of_part(part.modules, handles), _no_cached_casts():
                return function(first(x), *others)

        return checkpointed(call, part.module, x, *others) if part.recomputed else call(x, *others)

    return run


# --- weights ---


class _PartOfWeight(Function):
    """A weight for one part. Its gradient goes to the weight's handle in float32, where those of all parts add up."""

    @staticmethod
    def forward(ctx: Any, handle: Tensor, weight: Tensor) -> Tensor:
        return weight.view_as(weight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad.float(), None


def _low_precision(modules: Sequence[nn.Module]) -> dict[nn.Parameter, Tensor]:
    """Return float32 handles of the trained weights whose gradients have fewer bits."""
    weights = {p for module in modules for p in module.parameters() if p.requires_grad and p.dtype.itemsize < 4}
    return {weight: Handle.apply(weight) for weight in weights}


@contextlib.contextmanager
def _weights_of_part(modules: Sequence[nn.Module], handles: dict[nn.Parameter, Tensor]) -> Iterator[None]:
    """While it lasts, the modules compute with weights that hand their gradients on in float32."""
    views = {weight: _PartOfWeight.apply(handle, weight.detach()) for weight, handle in handles.items()}
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
