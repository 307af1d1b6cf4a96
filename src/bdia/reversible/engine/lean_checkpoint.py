"""torch's checkpoint for many small regions: a random state is kept only where a region drew from it."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint, get_device_states, set_device_states

from bdia.reversible.engine.recompute import recompute_contexts


def checkpointed(function: Callable[..., Any], module: nn.Module, *values: Any) -> Any:
    """Run a function that keeps only its arguments for backward, where it runs again with the same random numbers.

    Unlike torch's own, a random state is kept only where the first run drew from it: on a CPU it has 5 KB.
    """
    state, own_buffers = _RandomState(values), recompute_contexts(module, ())[1]
    contexts = state, _Both(state.replayed, own_buffers)
    return checkpoint(function, *values, use_reentrant=False, preserve_rng_state=False, context_fn=lambda: contexts)


class _RandomState(contextlib.AbstractContextManager[None, None]):
    """Around the first run: notes the generators' state before it, if that run draws."""

    def __init__(self, values: Sequence[Any]) -> None:
        self._values = values
        self._before: tuple[Tensor, list[int], list[Tensor]] | None = None

    def __enter__(self) -> None:
        self._before = self._now()

    def __exit__(self, *error: Any) -> None:
        assert self._before is not None
        (cpu, _, devices), (cpu_now, _, devices_now) = self._before, self._now()
        self._values = ()
        if all(map(_same_bytes, [cpu, *devices], [cpu_now, *devices_now])):
            self._before = None

    def _now(self) -> tuple[Tensor, list[int], list[Tensor]]:
        return torch.get_rng_state(), *get_device_states(*self._values)

    @contextlib.contextmanager
    def replayed(self) -> Iterator[None]:
        """Around the second run: the same random numbers, and the state after it as it was."""
        if self._before is None:
            yield
            return
        cpu, numbers, devices = self._before
        with torch.random.fork_rng(numbers):
            torch.set_rng_state(cpu)
            set_device_states(numbers, devices)
            yield


def _same_bytes(a: Tensor, b: Tensor) -> bool:
    return a.numpy().tobytes() == b.numpy().tobytes()


class _Both(contextlib.AbstractContextManager[None, None]):
    """Two contexts, of which the first is made anew at every entry."""

    def __init__(
        self,
        make: Callable[[], contextlib.AbstractContextManager[None, bool | None]],
        second: contextlib.AbstractContextManager[Any, Any],
    ) -> None:
        self._make, self._second, self._stack = make, second, contextlib.ExitStack()

    def __enter__(self) -> None:
        self._stack.enter_context(self._make())
        self._stack.enter_context(self._second)

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)
