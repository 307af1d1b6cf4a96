"""What is kept, and what is recomputed once more, inside a recomputed block. Changes memory and time, never a bit."""

import contextlib
import functools
from collections import defaultdict, deque
from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from bdia import InvalidValueError, UnsupportedError
from bdia.reversible.engine.checks import own_state, tell
from bdia.reversible.engine.kernels import bit_sum

# Names of operations whose outputs can be saved inside a recomputed block, below the level of modules.
OPERATIONS = {
    "attention": (
        "_scaled_dot_product_flash_attention",
        "_scaled_dot_product_flash_attention_for_cpu",
        "_scaled_dot_product_efficient_attention",
        "_scaled_dot_product_cudnn_attention",
        "_scaled_dot_product_fused_attention_overrideable",
    ),
    "matmul": ("mm", "addmm", "bmm", "baddbmm"),
}

BUFFER_ELEMENTS = 2**20
Context = contextlib.AbstractContextManager[Any, Any]
Contexts = tuple[Context, Context]


def saved_operations(names: Sequence[str], prefix: str = "stack.") -> list[Any]:
    """Return torch's operators of the named kinds.

    Raises:
        ValueError: an unknown name.
    """
    if isinstance(names, str) or not set(names) <= set(OPERATIONS):
        raise InvalidValueError(f"save={names!r}: wanted a list of {', '.join(OPERATIONS)}; set {prefix}save")
    known = (getattr(torch.ops.aten, name, None) for kind in names for name in OPERATIONS[kind])
    return [operator.default for operator in known if operator is not None]


def recompute_contexts(
    block: nn.Module | None,
    operators: Collection[Any],
    differs: Callable[[Tensor], None] | None = None,
    told: set[str] | None = None,
) -> Contexts:
    """Return what to enter around a block the first time, and when it is recomputed.

    Args:
        block: the module that runs, for its buffers.
        operators: torch's, see `saved_operations`; the second run reuses their outputs.
        differs: called with a 0-dim bool for each input of those operators; None: they are not compared. Without the
            comparison, a change before a kept output would not be noticed.
        told: what the user was warned of already; None: nothing is told.
    """
    if not (operators and torch.is_grad_enabled()):
        return contextlib.nullcontext(), _Recomputation(contextlib.nullcontext(), block, told)
    kept = _KeptOutputs(frozenset(operators), differs)
    return _Keep(kept), _Recomputation(_Reuse(kept), block, told)


class _KeptOutputs:
    """Outputs of some operators in the order of their calls, with the sums of bits of their inputs."""

    def __init__(self, operators: frozenset[Any], differs: Callable[[Tensor], None] | None) -> None:
        self.operators, self._differs = operators, differs
        self._calls: dict[Any, deque[tuple[Any, list[int], list[Tensor]]]] = defaultdict(deque)

    def put(self, operator: Any, inputs: Any, output: Any) -> None:
        """Keep the output of one call."""
        output = tree_map_only(Tensor, Tensor.detach, output)
        self._calls[operator].append((output, self._versions(output), self._sums(inputs)))

    def take(self, operator: Any, inputs: Any) -> Any:
        """Return the output of the next call, once."""
        if not self._calls[operator]:
            raise UnsupportedError(f"save: {operator} runs more often than in forward, or for a second backward")
        output, versions, sums = self._calls[operator].popleft()
        if versions != self._versions(output):
            raise UnsupportedError(f"save: the kept output of {operator} was changed in place. Leave it out of save")
        if self._differs is not None:
            for total, again in zip(sums, self._sums(inputs), strict=True):
                self._differs(total != again)
        return output

    def _sums(self, inputs: Any) -> list[Tensor]:
        if self._differs is None:
            return []
        return [bit_sum(x) for x in tree_leaves(inputs) if isinstance(x, Tensor) and not isinstance(x, FakeTensor)]

    @staticmethod
    def _versions(output: Any) -> list[int]:
        return [x._version for x in tree_leaves(output) if isinstance(x, Tensor)]


class _Watch(TorchDispatchMode):
    @classmethod
    def ignore_compile_internals(cls) -> bool:
        """Let a compiled block run inside."""
        return True

    def __init__(self, kept: _KeptOutputs) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._kept = kept


class _Keep(_Watch):
    def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = operator(*args, **(kwargs or {}))
        if operator in self._kept.operators:
            self._kept.put(operator, (args, kwargs), output)
        return output


class _Reuse(_Watch):
    def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if operator in self._kept.operators:
            return self._kept.take(operator, (args, kwargs))
        return operator(*args, **(kwargs or {}))


class _Recomputation(contextlib.AbstractContextManager[None, None]):
    """Around a block's second run, or third: a context, and throw-away copies of its buffers.

    The first run has updated the real ones, such as a batch norm's statistics. Other state that the second run changes
    (a frozen parameter, an attribute, a buffer of more than BUFFER_ELEMENTS values) is told.
    """

    def __init__(self, context: Context, block: nn.Module | None, told: set[str] | None) -> None:
        self._context, self._block, self._told = context, block, told
        self._real: list[tuple[nn.Module, str, Tensor]] = []
        self._state: dict[str, Callable[[], bool]] = {}

    def __enter__(self) -> None:
        modules = [] if self._block is None else [module for module in self._block.modules() if module.training]
        buffers = ((module, name, buffer) for module in modules for name, buffer in module._buffers.items())
        self._real = [(m, name, b) for m, name, b in buffers if b is not None and b.numel() <= BUFFER_ELEMENTS]
        for module, name, buffer in self._real:
            module._buffers[name] = buffer.clone()
        self._state = _own_state(modules)
        self._context.__enter__()

    def __exit__(self, *error: Any) -> None:
        self._context.__exit__(*error)
        for module, name, buffer in self._real:
            module._buffers[name] = buffer
        changed = next((name for name, is_same in self._state.items() if not is_same()), None)
        if changed is not None and self._told is not None:
            tell(self._told, own_state(changed))
        self._real, self._state = [], {}


def _own_state(modules: Sequence[nn.Module]) -> dict[str, Callable[[], bool]]:
    """Return, by name, whether a number or a tensor that the modules hold beside weights and buffers is as it was."""
    state: dict[str, Callable[[], bool]] = {}
    for module in modules:
        kind = type(module).__name__
        frozen = ((n, p) for n, p in module._parameters.items() if p is not None and not p.requires_grad)
        large = ((n, b) for n, b in module._buffers.items() if b is not None and b.numel() > BUFFER_ELEMENTS)
        plain = ((n, v) for n, v in module.__dict__.items() if isinstance(v, Tensor | int | float))
        for name, value in (*frozen, *large, *plain):
            if isinstance(value, Tensor):
                version = None if value.is_inference() else value._version
                if version is not None:
                    state[f"{kind}.{name}"] = functools.partial(_has_version, value, version)
            elif name != "training":
                state[f"{kind}.{name}"] = functools.partial(_has_value, module, name, value)
    return state


def _has_version(tensor: Tensor, version: int) -> bool:
    return tensor._version == version


def _has_value(module: nn.Module, name: str, value: object) -> bool:
    return bool(module.__dict__.get(name) == value)
