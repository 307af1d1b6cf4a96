"""What all stacks share: a stack is an `nn.Sequential` of its blocks, so weights move freely to and from plain models.

Each is called as `stack(x, *args, **kwargs)` with x of shape (B, T, D); extra arguments go to every block.
Shape letters: B batch, T tokens, D width, K blocks.
"""

import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from bdia import InvalidTypeError, InvalidValueError, UnsupportedError
from bdia.reversible.engine import checks
from bdia.reversible.engine.kernels import KERNELS
from bdia.reversible.engine.passes import PassLog
from bdia.reversible.engine.settings import RecomputeSettings, kept_blocks
from bdia.reversible.engine.submodules import changed_submodules
from bdia.reversible.stacks.engage import engaged

_calling = threading.local()


@contextlib.contextmanager
def calling_blocks() -> Iterator[None]:
    """Inside, a stack calls its blocks: `BlockGuard` lets them pass."""
    before = getattr(_calling, "by_stack", False)
    _calling.by_stack = True
    try:
        yield
    finally:
        _calling.by_stack = before


class BlockGuard:
    """A pre-hook of a reversible stack's block: notices a model that calls it past the stack.

    timm's `set_grad_checkpointing` does, and so does `model.blocks[k](x)`.
    """

    def __init__(self, place: int, told: set[str]) -> None:
        self._place, self._told = place, told

    def __call__(self, block: nn.Module, args: tuple[Any, ...]) -> None:
        """Refuse somebody else's checkpointing; warn of any other call in training."""
        if torch.compiler.is_compiling() or not (block.training and torch.is_grad_enabled()):
            return
        if getattr(_calling, "by_stack", False) or engaged(block) is not None:
            return
        checks.refuse_outer_checkpoint(self._place)
        checks.tell(self._told, checks.PAST_THE_STACK)


def guard_blocks(blocks: Sequence[nn.Module], told: set[str]) -> None:
    """Give each block a guard."""
    for place, block in enumerate(blocks):
        block.register_forward_pre_hook(BlockGuard(place, told))


def _take_guards_off(blocks: Sequence[nn.Module]) -> None:
    """The blocks belong to another stack now."""
    for block in blocks:
        for key, hook in list(block._forward_pre_hooks.items()):
            if isinstance(hook, BlockGuard):
                del block._forward_pre_hooks[key]


class BlockStack(nn.Sequential):
    """Base of all stacks. `streams`: the output is (B, T, streams * D)."""

    streams = 1

    def __init__(self, blocks: Iterable[nn.Module]) -> None:
        super().__init__(*blocks)
        if not len(self):
            raise InvalidValueError("a stack needs at least one block; set model.net.depth")
        _take_guards_off(self.blocks)

    @property
    def blocks(self) -> list[nn.Module]:
        """The blocks, as they are."""
        return list(self._modules.values())

    def __getitem__(self, index: int | slice) -> nn.Module:  # type: ignore[override] # torch: a slice is of our class
        """One block, or a plain `nn.Sequential` of several."""
        return nn.Sequential(*self.blocks[index]) if isinstance(index, slice) else super().__getitem__(index)


class Recomputation:
    """A stack or chain whose layers are recomputed; `keep` can be changed between steps.

    Args:
        layers: the layers of the chain.
        settings: what they keep and what is recomputed once more.
        prefix: stands before a setting's name in messages: "stack." for config keys, "" for arguments.
    """

    token_dim = 1  # of the stream

    def __init__(self, layers: Sequence[nn.Module], settings: RecomputeSettings, prefix: str = "stack.") -> None:
        settings = settings.checked(layers, prefix)
        self.keep, self.memory_budget = settings.keep, settings.memory_budget
        self.save, self.nested, self.tile, self.prefix = settings.save, settings.nested, settings.tile, prefix

    def kept(self, depth: int, training: bool = True) -> frozenset[int]:
        """Return the blocks of this forward that keep their activations; all where no gradient will flow.

        Raises:
            RuntimeError: training before the memory budget was resolved.
        """
        if not torch.is_grad_enabled():
            return frozenset(range(depth))
        if self.memory_budget is not None and training:
            raise UnsupportedError(
                f"memory_budget={self.memory_budget!r}: no number of kept blocks was chosen for it yet. Call "
                f"bdia.profiling.fit_to_memory (bdia.train does), or set {self.prefix}memory_budget=null and "
                f"{self.prefix}keep"
            )
        return kept_blocks(self.keep, depth, self.prefix)

    def bind(
        self,
        block: nn.Module,
        call: Callable[..., Any],
        recomputed: bool,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Callable[[Tensor], Any]:
        """Return x -> call(x, *args, **kwargs), with its submodules checkpointed and in parts as the settings say."""
        tile = self.tile if block.training else {}

        def run(x: Tensor) -> Any:
            with calling_blocks(), changed_submodules(block, self.nested, tile, self.token_dim, recomputed):
                return call(x, *args, **kwargs)

        return run

    def shown(self) -> str:
        """The settings, as a stack prints them."""
        chosen = {"memory_budget": self.memory_budget, "save": self.save, "nested": self.nested, "tile": self.tile}
        return ", ".join([f"keep={self.keep}", *(f"{name}={value!r}" for name, value in chosen.items() if value)])


class LastForward:
    """What a reversible stack tells of its last forward, from its `log`."""

    log: PassLog

    @property
    def reconstruction_error(self) -> dict[int, Tensor]:
        """Update -> max |rebuilt - true|, once the backward ran; without a grid and with `verify`."""
        return self.log.errors

    @property
    def side_bytes(self) -> int:
        """Bytes of side information held for backward."""
        return self.log.side_bytes

    @property
    def rebuilt(self) -> int:
        """Number of streams that backward rebuilds."""
        return self.log.rebuilt


def check_kernel(kernel: str, prefix: str = "stack.") -> str:
    """Return the name of an implementation of the update.

    Raises:
        ValueError: there is no such one.
    """
    if kernel not in KERNELS:
        raise InvalidValueError(f"kernel={kernel!r}: wanted one of {', '.join(KERNELS)}; set {prefix}kernel")
    return kernel


def check_stream(x: Tensor, prefix: str = "stack.") -> Tensor:
    """Return x, the residual stream.

    Raises:
        TypeError: not float32, and no autocast, where float32 would silently change the precision asked for.
    """
    if x.dtype != torch.float32 and not torch.is_autocast_enabled(x.device.type):
        key = "trainer.precision=32-true or bf16-mixed" if prefix else "float32 parameters, or autocast"
        raise InvalidTypeError(f"residual stream is {x.dtype}: the grid needs float32. Use {key}")
    return x
