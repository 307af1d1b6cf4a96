"""Stacks: how the same blocks are chained, and what backward keeps of them.

A stack is an `nn.Sequential` of its blocks, so weights move freely between stacks and plain models. Each is called as
`stack(x, *args, **kwargs)` with x of shape (B, T, D); extra arguments go to every block.
Shape letters: B batch, T tokens, D width, K blocks.
"""

import math
from collections.abc import Callable, Collection, Iterable, Sequence
from fractions import Fraction
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from bdia.reversible.arithmetic.gamma import Gamma, GammaLaw, TwoPoint, as_fraction, constant_gamma
from bdia.reversible.arithmetic.grid import check_bits
from bdia.reversible.arithmetic.rules import BdiaRule, CouplingRule, EulerRule, FloatBdiaRule, Rule
from bdia.reversible.engine.kernels import KERNELS
from bdia.reversible.engine.recompute import (
    check_nested,
    kept_blocks,
    nested_checkpoints,
    saved_operations,
    selective_contexts,
)
from bdia.reversible.engine.tape import Tape
from bdia.reversible.stacks.branches import branches


class BlockStack(nn.Sequential):
    """Base of all stacks. `streams`: the output is (B, T, streams * D)."""

    streams = 1

    def __init__(self, blocks: Iterable[nn.Module]) -> None:
        super().__init__(*blocks)
        if not len(self):
            raise ValueError("a stack needs at least one block; set model.net.depth")

    def __getitem__(self, index: int | slice) -> nn.Module:
        """One block, or a plain `nn.Sequential` of several."""
        return nn.Sequential(*list(self)[index]) if isinstance(index, slice) else super().__getitem__(index)


class StandardStack(BlockStack):
    """x_{k+1} = block_k(x_k); autograd stores every activation."""

    def forward(self, x: Tensor, *args: object, **kwargs: object) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        for block in self:
            x = block(x, *args, **kwargs)
        return x


class _RecomputingStack(BlockStack):
    """Base of the stacks that recompute blocks in backward; `keep` can be changed between steps.

    Args:
        blocks: residual blocks.
        keep: number of trailing blocks that keep their activations (the last one's backward runs first anyway), or
            the indices of the blocks that do.
        memory_budget: peak memory of a whole training step that `keep` is to be chosen for, such as "12GiB", or a
            fraction of the standard stack's; `bdia.plan.fit_to_memory` does that before training.
        save: kinds of operations ("attention", "matmul") whose outputs a recomputed block keeps.
        nested: names of a block's submodules ("attn", "mlp") that are recomputed once more, one at a time, while the
            block's gradients are computed: less memory than one whole block, for a second recomputation.
    Raises:
        ValueError: no such block, operation or submodule. RuntimeError: training before the budget was resolved.
    """

    def __init__(
        self,
        blocks: Iterable[nn.Module],
        keep: int | Collection[int],
        memory_budget: str | float | None = None,
        save: Sequence[str] = (),
        nested: Sequence[str] = (),
    ) -> None:
        super().__init__(blocks)
        kept_blocks(keep, len(self))
        saved_operations(save)
        self.keep, self.memory_budget, self.save = keep, memory_budget, tuple(save)
        self.nested = check_nested(list(self), nested)

    def _kept(self) -> frozenset[int]:
        """Blocks of this forward that keep their activations; all where nothing is to be recomputed."""
        if not torch.is_grad_enabled() or not self.training:
            return frozenset(range(len(self)))
        if self.memory_budget is not None:
            raise RuntimeError(
                f"memory_budget={self.memory_budget!r}: no number of kept blocks was chosen for it yet. Call "
                "bdia.plan.fit_to_memory (bdia.train does), or set stack.memory_budget=null and stack.keep"
            )
        return kept_blocks(self.keep, len(self))

    def extra_repr(self) -> str:
        """Show the settings when printed."""
        chosen = {"memory_budget": self.memory_budget, "save": self.save, "nested": self.nested}
        return ", ".join([f"keep={self.keep}", *(f"{name}={value!r}" for name, value in chosen.items() if value)])

    def _bind(self, block: nn.Module, recomputed: bool, args: tuple, kwargs: dict) -> Callable[[Tensor], Tensor]:
        if not (recomputed and self.nested):
            return _bind(block, args, kwargs)

        def call(x: Tensor) -> Tensor:
            with nested_checkpoints(block, self.nested):
                return block(x, *args, **kwargs)

        return call


class CheckpointStack(_RecomputingStack):
    """The standard stack with activation checkpointing: stores x_k per block, recomputes the rest.

    Args:
        blocks: residual blocks.
        keep, memory_budget, save, nested: what is kept and recomputed, as in `BdiaStack`.
    """

    def __init__(
        self,
        blocks: Iterable[nn.Module],
        keep: int | Collection[int] = 1,
        memory_budget: str | float | None = None,
        save: Sequence[str] = (),
        nested: Sequence[str] = (),
    ) -> None:
        super().__init__(blocks, keep, memory_budget, save, nested)

    def forward(self, x: Tensor, *args: object, **kwargs: object) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        kept, operators = self._kept(), saved_operations(self.save)
        for k, block in enumerate(self):
            call = self._bind(block, k not in kept, args, kwargs)
            if k in kept:
                x = call(x)
            else:
                x = checkpoint(call, x, use_reentrant=False, context_fn=partial(selective_contexts, operators))
        return x


class _TapedStack(_RecomputingStack):
    """A stack whose backward rebuilds the residual stream.

    Args:
        kernel: how an update passes over its tensors: "eager"; "compiled", one kernel of torch.compile each for the
            update, its inverse and its gradient; "auto", compiled where a stream is large and a compiler works. All
            give the same bits.
    Attributes:
        verify: check (or, without a grid, measure) the rebuilt streams in the next forwards' backward.
        reconstruction_error: of the last forward, update -> max |rebuilt - true| once its backward ran; off the grid
            and with `verify` only. On the grid a difference raises ReversibilityError instead.
        side_bytes: bytes of side information that the last forward stored.
        rebuilt: number of streams that the backward of the last forward rebuilds.
    """

    verify: bool
    reconstruction_error: dict[int, Tensor]
    side_bytes: int
    rebuilt: int

    def __init__(self, blocks: Iterable[nn.Module], verify: bool, kernel: str, **recompute: Any) -> None:
        super().__init__(blocks, **recompute)
        if kernel not in KERNELS:
            raise ValueError(f"kernel={kernel!r}: wanted one of {', '.join(KERNELS)}; set stack.kernel")
        self.kernel, self.verify = kernel, verify
        self.reconstruction_error, self.side_bytes, self.rebuilt = {}, 0, 0

    def _note(self, tape: Tape) -> None:
        self.reconstruction_error, self.side_bytes, self.rebuilt = tape.errors, tape.side_bytes(), len(tape.sides)


def _residual_stream(x: Tensor) -> Tensor:
    """Return x as float32; raise TypeError where that would silently change the precision asked for."""
    if x.dtype != torch.float32 and not torch.is_autocast_enabled(x.device.type):
        raise TypeError(
            f"residual stream is {x.dtype}: the grid needs float32. Use trainer.precision=32-true or bf16-mixed"
        )
    return x.float()


class BdiaStack(_TapedStack):
    """The BDIA update between blocks: exactly reversible in training, the standard transformer in `eval()`.

    Source: Zhang, Lewis, Kleijn, ICML 2025 (PMLR 267), section 4.3.

    Args:
        blocks: any residual blocks, y = block(x, *args, **kwargs) of x's shape.
        gamma: law of gamma_k in training.
        bits: grid 2^-bits; None is the float form, whose inverse is inexact (the paper's Fig. 2).
        keep: number of trailing blocks that keep their activations, or the indices of the blocks that do. Each saves
            its recomputation, a third of its forward and backward, and costs its activations.
        backward: "reversible" frees and rebuilds the streams; "stored" keeps every activation (same bits).
        eval_gamma: constant gamma at inference (the paper's Fig. 1); 0 is the standard transformer.
        quantize_eval: round the stream at inference; False is the plain float32 transformer.
        verify: compare an integer sum of every rebuilt stream with the forward's. With bits=None: keep copies of the
            streams and measure `reconstruction_error` instead.
        kernel: "auto", "compiled" or "eager" update, see `bdia.reversible.engine.kernels`; the same bits.
        memory_budget: peak memory of a whole training step for which `bdia.plan.fit_to_memory` chooses `keep`, such
            as "12GiB", or a fraction of the standard stack's.
        save: kinds of operations ("attention", "matmul") whose outputs a recomputed block keeps.
        nested: submodules of a block ("attn", "mlp") that are recomputed once more, one at a time.
    Raises:
        ValueError: the law has no inverse and backward is "reversible"; bits outside the grid's range.
        In forward or backward: GridOverflowError, ReversibilityError.
    Memory: with one fraction p/q per sample, ceil(log2 q) bits per activation per block and two streams.
    """

    def __init__(
        self,
        blocks: Iterable[nn.Module],
        gamma: GammaLaw | None = None,
        bits: int | None = 9,
        keep: int | Collection[int] = 1,
        backward: Literal["reversible", "stored"] = "reversible",
        eval_gamma: float | str | Fraction = 0,
        quantize_eval: bool = True,
        verify: bool = True,
        kernel: Literal["auto", "compiled", "eager"] = "auto",
        memory_budget: str | float | None = None,
        save: Sequence[str] = (),
        nested: Sequence[str] = (),
    ) -> None:
        super().__init__(blocks, verify, kernel, keep=keep, memory_budget=memory_budget, save=save, nested=nested)
        self.gamma = TwoPoint("1/2") if gamma is None else gamma
        if not hasattr(self.gamma, "sample") or isinstance(self.gamma, type):
            raise TypeError(f'gamma={gamma!r}: wanted a law such as TwoPoint("1/2"); set stack.gamma')
        self.bits = None if bits is None else check_bits(bits)
        if backward not in ("reversible", "stored"):
            raise ValueError(f'backward={backward!r}: wanted "reversible" or "stored"; set stack.backward')
        if backward == "reversible" and not self.gamma.reversible:
            raise ValueError(
                f"gamma law {self.gamma} has no inverse: set stack.backward=stored, or another stack.gamma"
            )
        self.backward = backward
        self.eval_gamma = _read_eval_gamma(eval_gamma)
        self.quantize_eval = quantize_eval

    @torch.compiler.disable  # compile blocks (block.compile()), not the loop around them: checkpoint does not trace
    def forward(self, x: Tensor, *args: object, **kwargs: object) -> Tensor:
        """(B, T, D) -> (B, T, D) float32, on the grid."""
        bits = self.bits if self.training or self.quantize_eval else None
        kept = self._kept()
        tape = Tape(
            len(self), kept, outputs=1, bits=bits, verify=self.verify, kernel=self.kernel,
            save=saved_operations(self.save),
        )  # fmt: skip
        x_prev, x_curr = None, tape.enter(_residual_stream(x))
        for k, block in enumerate(self):
            call = self._bind(block, k not in kept, args, kwargs)
            x_next = tape.run(k, call, self._rule(k, x_curr, bits), x_prev, x_curr)
            x_prev, x_curr = x_curr, x_next
        tape.finish_forward(x_curr)
        self._note(tape)
        return x_curr

    def _rule(self, k: int, x: Tensor, bits: int | None) -> Rule:
        """Draw gamma for block k and choose the update that can hold it."""
        if k == 0 or not (self.training or self.eval_gamma):
            return EulerRule(bits)
        if self.training:
            gamma = self.gamma.sample(x.shape[0], device=x.device)
        else:
            gamma = constant_gamma(self.eval_gamma, x.shape[0], x.device)
        if isinstance(gamma, Gamma) and bits is not None:
            return BdiaRule(gamma, bits, self.gamma.side_bits)
        return FloatBdiaRule(gamma.value if isinstance(gamma, Gamma) else gamma, bits)

    def _kept(self) -> frozenset[int]:
        return super()._kept() if self.backward == "reversible" else frozenset(range(len(self)))

    def extra_repr(self) -> str:
        """Show the settings when printed."""
        settings = f"backward={self.backward!r}, kernel={self.kernel!r}"
        return f"gamma={self.gamma}, bits={self.bits}, {super().extra_repr()}, {settings}"


class RevVitStack(_TapedStack):
    """RevViT (Mangalam et al., CVPR 2022): y1 = x1 + Attn(x2), y2 = x2 + MLP(y1), both streams start as x.

    As one sequence of states z: z_{j+1} = z_{j-1} + branch_j(z_j), attention and MLP in turn. The branches are called,
    not the block: hooks, `compile()` and `fully_shard` belong on a block's submodules here.

    Args:
        blocks: blocks whose two branches `bdia.reversible.stacks.branches` can read.
        grid_bits: None is RevViT as published, whose float inverse is approximate; an integer rounds every branch to
            the grid 2^-grid_bits, which makes the inverse exact.
        merge: "concat" hands both streams on, (B, T, 2 D); "mean" their mean, (B, T, D), for models with a fixed head.
        keep: trailing blocks that keep their activations.
        verify: as in `BdiaStack`; by default on with a grid (sums), off without (copies of every stream).
    """

    def __init__(
        self,
        blocks: Iterable[nn.Module],
        grid_bits: int | None = None,
        merge: Literal["concat", "mean"] = "concat",
        keep: int | Collection[int] = 0,
        verify: bool | None = None,
    ) -> None:
        super().__init__(blocks, grid_bits is not None if verify is None else verify, "eager", keep=keep)
        if merge not in ("concat", "mean"):
            raise ValueError(f'merge={merge!r}: wanted "concat" or "mean"; set stack.merge')
        self.bits = None if grid_bits is None else check_bits(grid_bits, "stack.grid_bits")
        self.merge, self.streams = merge, 2 if merge == "concat" else 1
        for block in self:
            branches(block)  # a block without branches is refused here, not in the first step

    @torch.compiler.disable  # compile blocks (block.compile()), not the loop around them: checkpoint does not trace
    def forward(self, x: Tensor, *args: object, **kwargs: object) -> Tensor:
        """(B, T, D) -> (B, T, streams * D) float32."""
        calls = [_bind(branch, args, kwargs) for block in self for branch in branches(block)]
        kept = [2 * k + half for k in self._kept() for half in (0, 1)]
        tape = Tape(len(calls), kept, outputs=0, bits=self.bits, verify=self.verify, updates_per_block=2)
        x_prev = x_curr = tape.enter(_residual_stream(x))
        for j, call in enumerate(calls):
            x_next = tape.run(j, call, CouplingRule(self.bits), x_prev, x_curr)
            x_prev, x_curr = x_curr, x_next
        tape.finish_forward(x_curr)
        self._note(tape)
        return torch.cat([x_prev, x_curr], dim=-1) if self.merge == "concat" else (x_prev + x_curr) / 2

    def extra_repr(self) -> str:
        """Show the settings when printed."""
        return f"grid_bits={self.bits}, merge={self.merge!r}, {super().extra_repr()}"


def _bind(block: Callable[..., Tensor], args: tuple, kwargs: dict) -> Callable[[Tensor], Tensor]:
    return lambda x: block(x, *args, **kwargs)


def _read_eval_gamma(value: float | str | Fraction) -> Fraction | float:
    """Read as an exact fraction where there is one; inference needs no inverse, so any finite float will do."""
    try:
        return as_fraction(value)
    except ValueError as error:
        if isinstance(value, float) and math.isfinite(value):
            return value
        raise ValueError(f'eval_gamma={value!r}: wanted a number or a fraction "p/q"; set stack.eval_gamma') from error
