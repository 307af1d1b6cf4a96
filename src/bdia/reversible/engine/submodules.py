"""Named submodules of a block that run differently while the block runs: checkpointed once more, or in parts."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from bdia import UnsupportedError
from bdia.reversible.engine.lean_checkpoint import checkpointed
from bdia.reversible.engine.tiling import Part, in_parts


@contextlib.contextmanager
def changed_submodules(
    block: nn.Module, nested: Sequence[str] = (), tile: Mapping[str, int] | None = None, token_dim: int = 1,
    recomputed: bool = True,
) -> Iterator[None]:  # fmt: skip
    """While this context lasts, some submodules of a block run differently. Nothing changes without gradients.

    Args:
        nested: names of those that are checkpointed, if the block is recomputed.
        tile: name -> number of parts of those that run in parts; each part is checkpointed if the block is recomputed.
        token_dim: the dimension of the stream that counts tokens.
        recomputed: whether the block is.
    """
    changes = _Changes(block)
    try:
        if torch.is_grad_enabled():
            for name, count in (tile or {}).items():
                changes.run_in_parts(name, count, token_dim, recomputed)
            for name in nested if recomputed else ():
                changes.run_checkpointed(name)
        yield
    finally:
        changes.undo()


class _Changes:
    """Functions in the place of submodules' `forward`."""

    def __init__(self, block: nn.Module) -> None:
        self._block = block
        self._before: list[tuple[nn.Module, Any]] = []
        self._handed: dict[str, _Handed] = {}

    def run_in_parts(self, name: str, count: int, token_dim: int, recomputed: bool) -> None:
        """Let a submodule run in parts."""
        leading, _, last = name.rpartition("+")
        module, handed = self._block.get_submodule(last), self._hand(leading)
        before = None if handed is None else handed.module
        first = _as_it_is if handed is None else handed.forward
        run = in_parts(module.forward, first, Part(module, count, token_dim, recomputed, before))
        self._put(module, run if handed is None else partial(_on_source, run, handed, name))

    def run_checkpointed(self, name: str) -> None:
        """Let a submodule keep only its input; with a norm before it, only the norm's."""
        leading, _, last = name.rpartition("+")
        module, handed = self._block.get_submodule(last), self._hand(leading)
        self._put(module, partial(_run_checkpointed, module.forward, module, handed, name))

    def _hand(self, name: str) -> "_Handed | None":
        if not name:
            return None
        if name not in self._handed:
            module = self._block.get_submodule(name)
            self._handed[name] = _Handed(module)
            self._put(module, self._handed[name].run)
        return self._handed[name]

    def _put(self, module: nn.Module, forward: Callable[..., Any]) -> None:
        self._before.append((module, module.__dict__.get("forward")))
        module.forward = forward

    def undo(self) -> None:
        """Put everything back."""
        for module, forward in reversed(self._before):
            del module.forward
            if forward is not None:
                module.forward = forward
        for handed in self._handed.values():
            handed.forget()


class _Handed:
    """A norm that tells from what it computed its last output, so that its consumer can keep that instead."""

    def __init__(self, module: nn.Module) -> None:
        self.module, self.forward = module, module.forward
        self._last: tuple[Tensor, Tensor] | None = None

    def run(self, x: Tensor) -> Tensor:
        """Compute the norm."""
        y: Tensor = self.forward(x)
        self._last = y, x
        return y

    def forget(self) -> None:
        """Let go of the last output."""
        self._last = None

    def place(self, name: str, values: Sequence[Any]) -> tuple[int, Tensor]:
        """Return where among its consumer's arguments the norm's output is, and from what it was computed.

        Raises:
            RuntimeError: it is not the first tensor there.
        """
        last, self._last = self._last, None
        at = next((i for i, value in enumerate(values) if isinstance(value, Tensor)), None)
        if last is None or at is None or values[at] is not last[0]:
            leading, _, consumer = name.rpartition("+")
            raise UnsupportedError(
                f"{name}: {consumer} was not called with the output of {leading} as its first tensor. "
                f"Name {consumer} alone in stack.nested or stack.tile"
            )
        return at, last[1]


def _as_it_is(x: Tensor) -> Tensor:
    return x


def _on_source(run: Callable[..., Any], handed: _Handed, name: str, *args: Any, **kwargs: Any) -> Any:
    """Call a function of a norm's input with the arguments of one of its output."""
    leaves, spec = tree_flatten((args, kwargs))
    at, source = handed.place(name, leaves)
    leaves[at] = source
    args, kwargs = tree_unflatten(leaves, spec)
    return run(*args, **kwargs)


def _run_checkpointed(
    forward: Callable[..., Any], module: nn.Module, handed: _Handed | None, name: str, *args: Any, **kwargs: Any
) -> Any:
    """Checkpoint a submodule so that tensors among its keyword arguments are saved as its other tensors are."""
    leaves, spec = tree_flatten((args, kwargs))
    at = 0
    if handed is not None:
        at, source = handed.place(name, leaves)
        leaves[at] = source

    def call(*given: Any) -> Any:
        values = list(given)
        if handed is not None:
            values[at] = handed.run(values[at])
        args, kwargs = tree_unflatten(values, spec)
        return forward(*args, **kwargs)

    return checkpointed(call, module, *leaves)
