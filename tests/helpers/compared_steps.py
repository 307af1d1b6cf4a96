"""One training step or evaluation of a model of the zoo, and how two of them are compared."""

from dataclasses import dataclass

import numpy
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from helpers.families import Family, loss_of


@dataclass(frozen=True)
class Step:
    """What one forward and backward pass gave: output tensors, gradients by name, the state dict after it."""

    outputs: list[Tensor]
    gradients: dict[str, Tensor | None]
    state: dict[str, Tensor]


def training_step(model: nn.Module, family: Family) -> Step:
    """One forward and backward pass with seed 0."""
    args, kwargs = family.make_inputs()
    floats = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor) and leaf.is_floating_point()]
    inputs = [leaf.requires_grad_() for leaf in floats] if family.differentiable_inputs else []
    seed_everything()
    output = model(*args, **kwargs)
    loss_of(output).backward()
    gradients = {f"input {index}": leaf.grad for index, leaf in enumerate(inputs)}
    gradients |= {name: parameter.grad for name, parameter in model.named_parameters()}
    return Step(output_tensors(output), gradients, {key: value.clone() for key, value in model.state_dict().items()})


def seed_everything() -> None:
    """Seed torch, and numpy, from which speech models draw their masks."""
    torch.manual_seed(0)
    numpy.random.seed(0)


def output_tensors(output: object) -> list[Tensor]:
    """The tensors of a model's output; caches, which are objects, are left out."""
    output = output.to_tuple() if hasattr(output, "to_tuple") else output
    return [leaf.detach().clone() for leaf in tree_leaves(output) if isinstance(leaf, Tensor)]


def same_step(found: Step, wanted: Step) -> bool:
    """True if two steps are equal bit for bit and some gradient is not zero."""
    names = found.gradients.keys() == wanted.gradients.keys() and found.state.keys() == wanted.state.keys()
    pairs = [
        (found.outputs, wanted.outputs),
        (found.gradients.values(), wanted.gradients.values()),
        (found.state.values(), wanted.state.values()),
    ]
    moved = any(gradient is not None and gradient.abs().sum() > 0 for gradient in found.gradients.values())
    return names and moved and all(equal_tensors(list(a), list(b)) for a, b in pairs)


def equal_tensors(found: list[Tensor | None], wanted: list[Tensor | None]) -> bool:
    """True if every pair is equal bit for bit, or None on both sides."""
    same = [a is b if a is None or b is None else torch.equal(a, b) for a, b in zip(found, wanted, strict=False)]
    return len(found) == len(wanted) and all(same)


def largest_difference(found: dict[str, Tensor | None], wanted: dict[str, Tensor | None]) -> float:
    """The largest difference of two gradients relative to the largest value of that gradient.

    Sums are taken in another order here and there, so a gradient that is zero in exact arithmetic (a bias of keys)
    is noise; no gradient is therefore held to less than a hundredth of the largest one.
    """
    peaks = [gradient.abs().max().item() for gradient in wanted.values() if gradient is not None and gradient.numel()]
    floor, worst = max(peaks) / 100, 0.0
    for name, gradient in wanted.items():
        other = found.get(name)
        if gradient is None or other is None:
            if gradient is not other:
                return float("inf")
            continue
        if gradient.numel():
            scale = max(gradient.abs().max().item(), floor)
            worst = max(worst, (other - gradient).abs().max().item() / scale)
    return worst


@torch.no_grad()
def eval_output(model: nn.Module, family: Family) -> list[Tensor]:
    """Outputs in eval mode; the model goes back to training mode."""
    args, kwargs = family.make_inputs()
    seed_everything()
    output = output_tensors(model.eval()(*args, **kwargs))
    model.train()
    return output
