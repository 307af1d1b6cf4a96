"""The zoo: one row per model family that `bdia.convert` is tried on, built small from its config class, random weights.

A row says how to build the model, what to feed it and which of its modules are the chains of layers, found by reading
the library's code. The checker (`check_family.py`) compares what `convert` finds with that. Nothing is downloaded.
"""

import fnmatch
import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

BATCH, TOKENS, WIDTH, VOCABULARY, IMAGE = 2, 32, 32, 64, 64


@dataclass(frozen=True)
class Family:
    """One row.

    Attributes:
        build: depth -> model; depth is the number of layers of every chain (of every stage in a hierarchical model).
        make_inputs: () -> positional and keyword arguments of one call, a batch of two, the same at every call.
        chains: names of the modules whose children are the layers, in call order. `*` stands for one part of a name;
            "[1:]" at the end leaves the first child out.
        arguments: what a user has to pass to `bdia.convert` beside the model.
        batch_dims: dimension of the batch in a chain's stream, where it is not 0: {pattern of the chain: dimension}.
        differentiable_inputs: False where the model refuses float inputs that need a gradient.
        refused: a part of the error with which `convert` refuses the family; empty where it has to work.
    """

    name: str
    library: str
    build: Callable[[int], nn.Module]
    make_inputs: Callable[[], tuple[tuple, dict]]
    chains: tuple[str, ...]
    depth: int = 3
    arguments: Mapping[str, object] = field(default_factory=dict)
    batch_dims: Mapping[str, int] = field(default_factory=dict)
    refused: str = ""
    differentiable_inputs: bool = True

    def model(self, depth: int | None = None) -> nn.Module:
        """The model with the same random weights at every call, in training mode."""
        torch.manual_seed(0)
        model = self.build(self.depth if depth is None else depth)
        randomize(model)
        return model.train()

    def layers(self, model: nn.Module) -> dict[str, list[nn.Module]]:
        """The layers of each chain: {name of the module that holds them: its children}."""
        found = {}
        for pattern in self.chains:
            path, _, tail = pattern.partition("[")
            for name, module in model.named_modules():
                if same_path(name, path):
                    found[name] = list(module.children())[1 if tail else 0 :]
        return found

    def batch_dim(self, chain: str) -> int:
        """Dimension of the batch in the stream of the chain of that name."""
        return next((dim for pattern, dim in self.batch_dims.items() if same_path(chain, pattern)), 0)


def same_path(name: str, pattern: str) -> bool:
    """True if the dotted name matches the pattern part by part."""
    parts, wanted = name.split("."), pattern.split(".")
    return len(parts) == len(wanted) and all(map(fnmatch.fnmatchcase, parts, wanted))


@torch.no_grad()
def randomize(model: nn.Module) -> None:
    """Give every parameter a value that matters: libraries start many at 0 or 1e-6, which hides a lost gradient."""
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        noise = torch.randn(parameter.shape, generator=generator).to(parameter.dtype)
        if parameter.dim() >= 2:
            parameter.copy_(noise / parameter[0].numel() ** 0.5)
        else:
            parameter.add_(0.1 * noise)


def loss_of(output: object) -> Tensor:
    """A loss that depends on every value of every float tensor of the output (logits, states, router losses)."""
    output = output.to_tuple() if hasattr(output, "to_tuple") else output
    tensors = [leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor) and leaf.requires_grad]
    return sum(_weighted(tensor.float()) for tensor in tensors)


def _weighted(out: Tensor) -> Tensor:
    return (out * torch.linspace(-1, 1, out.numel()).view_as(out)).sum() + out.square().mean()


def random_tensor(*shape: int, seed: int = 2) -> Tensor:
    """Normal numbers, the same at every call."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def random_tokens(tokens: int = TOKENS, low: int = 4, seed: int = 3) -> Tensor:
    """Token numbers from `low` up: the ones below it have a meaning in many configs (padding, start, end)."""
    return torch.randint(low, VOCABULARY, (BATCH, tokens), generator=torch.Generator().manual_seed(seed))


@functools.cache
def families() -> dict[str, Family]:
    """Every row by name; the libraries are imported when this is called first."""
    from helpers import zoo_audio, zoo_more, zoo_text, zoo_torch, zoo_vision

    rows = [row for zoo in (zoo_text, zoo_more, zoo_audio, zoo_vision, zoo_torch) for row in zoo.rows()]
    table = {row.name: row for row in rows}
    if len(table) < len(rows):
        raise ValueError("two rows have one name")
    return table
