"""Choose how many blocks keep their activations so that a training step stays within an amount of memory."""

import copy
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import nn
from torch._guards import detect_fake_mode
from torch._subclasses.fake_tensor import unset_fake_temporarily

from bdia import InvalidValueError, reversible
from bdia.profiling.search import largest_that_fits
from bdia.profiling.sizes import format_bytes, read_memory
from bdia.profiling.traced_step import StepCost, TrainingStep, trace_step
from bdia.reversible import StandardStack, revert
from bdia.reversible.stacks.convert import ConvertedChain
from bdia.reversible.stacks.engage import engaged
from bdia.reversible.stacks.registry import STACKS

KEY = "stack.memory_budget"
BUDGETED = [row for row in STACKS if row.memory_budget]
STACK_CLASSES = tuple(getattr(reversible, row.class_name) for row in BUDGETED)


class Fit(NamedTuple):
    """What was chosen: trailing blocks kept, all stacks together; the step's predicted cost; the budget in bytes."""

    kept_blocks: int
    cost: StepCost
    budget: int

    def __str__(self) -> str:
        kept = f"{KEY}: {self.kept_blocks} blocks keep their activations"
        return f"{kept}, predicted peak {format_bytes(self.cost.peak)} of {format_bytes(self.budget)}"


def fit_to_memory(
    model: nn.Module,
    make_step: Callable[[nn.Module], TrainingStep],
    budget: str | float | None = None,
    reserved: int = 0,
    device: str | None = None,
) -> Fit:
    """Set `keep` to the largest number of trailing blocks with which a training step fits.

    It is set on the model's stacks, or on the chains of a model that `bdia.convert` has converted.

    The step is traced on a copy of the model without data, for a few values of `keep`: nothing is computed, the model's
    weights and torch's random state stay as they are. A model with several stacks (encoder and decoder) gets the same
    number in each, as far as one has so many blocks. What a trace leaves out, `trace_step` says; on CUDA leave the
    budget below the card's memory by that much.

    Args:
        model: holds stacks that take a memory budget (BdiaStack, CheckpointStack), or is converted.
        make_step: called with a copy of the model, makes an optimizer and the largest batch of the training, and
            returns them with the step.
        budget: peak of the whole step, e.g. "12GiB", or a fraction, e.g. 0.5, of the standard stack's; None takes the
            stacks' own `memory_budget`.
        reserved: bytes on the device beside the step, such as a resident data set.
        device: of the training, "cpu" or "cuda", see `trace_step`; None: where the model's parameters are.
    Raises:
        ValueError: nothing to choose for; not even keep=0 fits.

        >>> import torch
        >>> from torch import nn
        >>> from bdia.profiling.traced_step import TrainingStep
        >>> from bdia.profiling import fit_to_memory
        >>> from bdia.reversible import BdiaStack
        >>> model = BdiaStack([nn.TransformerEncoderLayer(64, 4, batch_first=True) for _ in range(12)])
        >>> def make_step(model):
        ...     optimizer = torch.optim.AdamW(model.parameters(), fused=True)
        ...     x = torch.randn(32, 50, 64)
        ...     def run():
        ...         model(x).square().mean().backward()
        ...         optimizer.step()
        ...         optimizer.zero_grad()
        ...     return TrainingStep(model, optimizer, [x], run)
        >>> fit = fit_to_memory(model, make_step, budget=0.5)
        >>> model.keep == fit.kept_blocks, 0 < fit.kept_blocks < 12, fit.cost.peak <= fit.budget
        (True, True, True)
    """
    names = _places(model)
    stacks = [_chain(model, name) for name in names]
    if not stacks:
        known = " or ".join(row.name for row in BUDGETED)
        raise InvalidValueError(
            f"{type(model).__name__} holds no stack that keeps blocks, and is not converted: set stack={known}, or "
            "call bdia.convert"
        )
    device = device or next(model.parameters()).device.type
    value = stacks[0].memory_budget if budget is None else budget
    if value is None:
        raise InvalidValueError(f"{KEY}=null: wanted an amount such as 12GiB, or a fraction such as 0.5; set {KEY}")
    wanted = read_memory(value, KEY)
    if isinstance(wanted, float):
        wanted = int(wanted * (_cost(model, make_step, _standard(names), device).peak + reserved))
    costs: dict[int, StepCost] = {}

    def need(keep: int) -> int:
        costs[keep] = _cost(model, make_step, _keeping(names, keep), device)
        return costs[keep].peak + reserved

    keep = largest_that_fits(need, wanted, starts=[1], least=0, most=max(map(_length, stacks)))
    if keep < 0:
        least = min(costs, key=lambda keep: costs[keep].peak)
        raise InvalidValueError(
            f"{KEY}={value} ({format_bytes(wanted)}): keep={least} needs "
            f"{format_bytes(costs[least].peak + reserved)}, the least of all. Set {KEY} to that or more, a smaller "
            "batch (data.batch_size, data.token_budget) or a smaller model"
        )
    for stack in stacks:
        stack.keep, stack.memory_budget = min(keep, _length(stack)), None
    return Fit(sum(stack.keep for stack in stacks), costs[keep], wanted)


def _places(model: nn.Module) -> list[str]:
    """Return the names of the stacks, and of the first layer of each converted chain."""
    found: dict[int, str] = {}
    for name, module in model.named_modules():
        forward = engaged(module)
        if isinstance(module, STACK_CLASSES):
            found[id(module)] = name
        elif forward is not None and isinstance(forward.owner, ConvertedChain):
            found.setdefault(id(forward.owner), name)
    return list(found.values())


def _chain(model: nn.Module, name: str) -> Any:
    """Return the stack of this name, or the chain of the layer of this name."""
    module = model.get_submodule(name)
    forward = engaged(module)
    return module if isinstance(module, STACK_CLASSES) or forward is None else forward.owner


def _length(chain: Any) -> int:
    return chain.layers if isinstance(chain, ConvertedChain) else len(chain)


def _cost(
    model: nn.Module,
    make_step: Callable[[nn.Module], TrainingStep],
    change: Callable[[nn.Module], nn.Module],
    device: str,
) -> StepCost:
    return trace_step(lambda: make_step(change(_without_data(model))), device)


def _keeping(names: list[str], keep: int) -> Callable[[nn.Module], nn.Module]:
    def change(model: nn.Module) -> nn.Module:
        for name in names:
            chain = _chain(model, name)
            chain.keep, chain.memory_budget = min(keep, _length(chain)), None
        return model

    return change


def _standard(names: list[str]) -> Callable[[nn.Module], nn.Module]:
    def change(model: nn.Module) -> nn.Module:
        for name in names:
            if not isinstance(model.get_submodule(name), STACK_CLASSES):
                revert(model)
                return model
            stack = StandardStack(list(model.get_submodule(name)))
            if not name:
                return stack
            model.set_submodule(name, stack)
        return model

    return change


def _without_data(model: nn.Module) -> nn.Module:
    """Copy a model under fake tensors: its parameters and buffers take no memory."""
    mode = detect_fake_mode()
    memo: dict[int, torch.Tensor | nn.Parameter] = {}
    for p in model.parameters():
        memo[id(p)] = nn.Parameter(mode.from_tensor(p.detach()), requires_grad=p.requires_grad)
    memo |= {id(buffer): mode.from_tensor(buffer) for buffer in model.buffers()}
    with unset_fake_temporarily():  # what else the model holds (tables of constants) stays real
        return copy.deepcopy(model, memo)
