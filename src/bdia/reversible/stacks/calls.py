"""One call of a layer by a model: which argument is the stream, what else the layer returns, key/value caches."""

import inspect
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from bdia import InvalidTypeError, UnsupportedError

CACHES = ("past_key_values", "past_key_value", "layer_past", "cache_params", "cache")


class NotAStreamError(Exception):
    """A layer returned nothing of its stream's shape."""


class LayerCall:
    """A call `original(*args, **kwargs)` seen as a function of the residual stream.

    The stream is the first positional argument, or else the keyword that stands first in the layer's signature. It is
    the layer's result, or the first tensor of the same shape in a tuple or mapping that the layer returns.
    """

    def __init__(
        self,
        original: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        prefix: str,
        stream_dtype: Callable[[Tensor], torch.dtype],
        batch_dim: int,
    ) -> None:
        self._original, self._args, self._kwargs, self._prefix = original, args, dict(kwargs), prefix
        self._name: str | None = None
        self._rest: list[Callable[[Tensor], Any]] = []
        self._ran = False
        if args:
            stream, self._args = args[0], args[1:]
        else:
            self._name = _stream_name(original, tuple(kwargs))
            stream = self._kwargs.pop(self._name, None)
        if not isinstance(stream, Tensor) or not stream.is_floating_point():
            seen = str(stream.dtype) if isinstance(stream, Tensor) else type(stream).__name__
            raise InvalidTypeError(
                f"{_describe(original)} was called with {seen} in the place of its residual "
                "stream: the stream must be the first argument; name another chain with layers="
            )
        if stream.dim() <= batch_dim:
            raise InvalidTypeError(f"batch_dim={batch_dim}: the stream has the shape {tuple(stream.shape)}")
        self.dtype = stream_dtype(stream)
        self._stream = [stream]

    def take_stream(self) -> Tensor:
        """Return the stream, once: what is recomputed in backward must not keep it alive."""
        return self._stream.pop()

    def run(self, x: Tensor) -> Any:
        """Call the layer with the stream's values x, float32. Returns y alone; the first run keeps the rest."""
        x = x.to(self.dtype)
        out = self._original(*self._args, **self._kwargs, **{self._name: x}) if self._name else self._positional(x)
        y, rest = split_output(out, x)
        if not self._ran:
            if not isinstance(y, Tensor) or y.shape != x.shape:
                raise NotAStreamError(out)
            self._ran = True
            self._rest.append(rest)
        return y

    def _positional(self, x: Tensor) -> Any:
        return self._original(x, *self._args, **self._kwargs)

    def finish(self, x_next: Tensor) -> Any:
        """Return what the layer would have returned, with x_{k+1} in the place of y_k."""
        return self._rest.pop()(x_next)

    def drop_caches(self, refuses_filled: bool) -> None:
        """Switch empty key/value caches off: a layer that is recomputed would append to them twice.

        Raises:
            RuntimeError: the cache holds something already, and the layer will be recomputed.
        """
        self._kwargs = {n: self._without_cache(n, value, refuses_filled) for n, value in self._kwargs.items()}
        names = [*_positional_names(self._original), *[""] * len(self._args)]
        behind_stream = zip(names[1:], self._args, strict=False)
        self._args = tuple(self._without_cache(n, value, refuses_filled) for n, value in behind_stream)

    def _without_cache(self, name: str, value: Any, refuses_filled: bool) -> Any:
        if name == "use_cache":
            return False
        if not _is_cache(name, value):
            return value
        if not _is_filled(value):
            return None
        if refuses_filled:
            raise UnsupportedError(_cache_refusal(name or type(value).__name__, self._prefix))
        return value


def check_caches(args: tuple[Any, ...], kwargs: Mapping[str, Any], prefix: str) -> None:
    """Refuse key/value caches among what a stack gives its blocks.

    Raises:
        RuntimeError: there is one.
    """
    for name, value in (*(("", value) for value in args), *kwargs.items()):
        if _is_cache(name, value):
            raise UnsupportedError(_cache_refusal(name or type(value).__name__, prefix))


def split_output(out: Any, x: Tensor) -> tuple[Any, Callable[[Tensor], Any]]:
    """Return a layer's stream, and a function that puts another in its place."""
    if isinstance(out, tuple | list):
        at = next((i for i, value in enumerate(out) if isinstance(value, Tensor) and value.shape == x.shape), None)
        if at is not None:
            before, after, kind = out[:at], out[at + 1 :], type(out)
            return out[at], lambda x: _rebuilt(kind, [*before, x, *after])
    elif isinstance(out, Mapping):
        key = next((k for k, value in out.items() if isinstance(value, Tensor) and value.shape == x.shape), None)
        if key is not None:
            others, y = {**out, key: None}, out[key]
            mapping: Callable[[dict[Any, Any]], Any] = type(out)
            return y, lambda x: mapping({**others, key: x})
    return out, lambda x: x


def _rebuilt(kind: type[Any], values: list[Any]) -> Any:
    return kind(*values) if hasattr(kind, "_fields") else kind(values)


@lru_cache(maxsize=1024)
def _names_of(function: Callable[..., Any]) -> tuple[str, ...]:
    kinds = inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD
    return tuple(n for n, p in inspect.signature(function).parameters.items() if p.kind in kinds and n != "self")


def _positional_names(original: Callable[..., Any]) -> tuple[str, ...]:
    return _names_of(getattr(original, "__func__", original))


def _stream_name(original: Callable[..., Any], given: tuple[str, ...]) -> str:
    names = _positional_names(original)
    return names[0] if names and names[0] in given else next(iter(given), "")


def _describe(original: Callable[..., Any]) -> str:
    owner = getattr(original, "__self__", None)
    return type(owner).__name__ if owner is not None else getattr(original, "__qualname__", repr(original))


def _is_cache(name: str, value: Any) -> bool:
    if value is None or isinstance(value, Tensor | bool | int | float | str):
        return False
    return name in CACHES or hasattr(value, "get_seq_length") or type(value).__name__.endswith("Cache")


def _is_filled(cache: Any) -> bool:
    length = getattr(cache, "get_seq_length", None)
    try:
        return bool(length() if callable(length) else len(cache) if hasattr(cache, "__len__") else True)
    except (TypeError, ValueError, IndexError, AttributeError):  # of an empty one, in some versions
        return False


def _cache_refusal(name: str, prefix: str) -> str:
    return (
        f"{name}: a key/value cache in training, where layers are recomputed and would append to it twice. Train "
        f"without it (use_cache=False), generate in eval(), or set {prefix}backward=stored"
    )
