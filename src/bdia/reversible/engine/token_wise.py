"""Which submodules can run in tiles of tokens: those that compute each token from itself alone."""

import contextlib
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import _disable_current_modes

from bdia import InvalidValueError, UnsupportedError

OWN_PARTS = "forward_in_parts"  # method of a module that cuts its work itself
PROBED_TOKENS = 4
_mixing_norms = nn.modules.batchnorm._NormBase
_found_token_wise: "weakref.WeakSet[nn.Module]" = weakref.WeakSet()


def is_cut(value: Any, x: Tensor, dim: int) -> bool:
    """Whether a value has the leading dimensions of x, tokens included, so that it is cut as x is."""
    return isinstance(value, Tensor) and value.dim() > dim and value.shape[: dim + 1] == x.shape[: dim + 1]


def check_token_wise(name: str, module: nn.Module, prefix: str) -> None:
    """Refuse a submodule that is known to mix tokens.

    Raises:
        ValueError: it holds attention, or a norm over samples.
    """
    if hasattr(module, OWN_PARTS):
        return
    for inner in module.modules():
        kind = type(inner).__name__
        if isinstance(inner, _mixing_norms) or "attention" in kind.lower() or kind.lower().endswith("attn"):
            raise InvalidValueError(f"tile: {name} cannot run in tiles of tokens, {kind} mixes them: {_hint(prefix)}")


def probe(tile: Callable[..., Any], given: Sequence[Any], dim: int, module: nn.Module) -> None:
    """Compute a few tokens with those before them and without, once for each module, in evaluation mode.

    Raises:
        RuntimeError: they differ: the module mixes tokens.
    """
    if module in _found_token_wise or isinstance(given[0], FakeTensor) or given[0].shape[dim] < 2:
        return
    tokens = min(PROBED_TOKENS, given[0].shape[dim])
    with _evaluation(module), torch.no_grad(), _disable_current_modes():
        whole, part = (_some(tile, given, dim, start, tokens) for start in (0, tokens // 2))
    fits = isinstance(whole, Tensor) and whole.shape[: dim + 1] == given[0].narrow(dim, 0, tokens).shape[: dim + 1]
    if not fits or not _close(whole.narrow(dim, tokens // 2, part.shape[dim]), part):
        raise UnsupportedError(
            f"tile: {type(module).__name__} computes something else for a token where other tokens are there, so it "
            f"cannot run in tiles of tokens: {_hint()}"
        )
    _found_token_wise.add(module)


def _some(tile: Callable[..., Any], given: Sequence[Any], dim: int, start: int, stop: int) -> Any:
    return tile(*(v.narrow(dim, start, stop - start) if is_cut(v, given[0], dim) else v for v in given))


def _close(a: Tensor, b: Tensor) -> bool:
    bound = 1e-4 if a.dtype.itemsize >= 4 and not torch.is_autocast_enabled(a.device.type) else 5e-2
    scale = b.float().nan_to_num(0.0, 0.0, 0.0).abs().max().item()
    return torch.allclose(a.float(), b.float(), rtol=0.0, atol=bound * (scale + 1e-6), equal_nan=True)


@contextlib.contextmanager
def _evaluation(module: nn.Module) -> Iterator[None]:
    modes = {inner: inner.training for inner in module.modules()}
    module.eval()
    try:
        with torch.random.fork_rng():
            yield
    finally:
        for inner, mode in modes.items():
            inner.training = mode


def _hint(prefix: str = "") -> str:
    return f"leave it out of {prefix}tile, or name it in {prefix}nested, which recomputes it as a whole"
