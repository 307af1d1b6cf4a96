"""What a resumed training needs beside weights: the grid that was chosen, and how far gamma laws have come."""

from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn

from bdia.reversible.stacks.bdia import BdiaUpdates
from bdia.reversible.stacks.engage import engaged


def training_state(model: nn.Module) -> dict[str, Any]:
    """Return numbers and strings only, by the place of each BdiaStack and of each converted chain's first layer."""
    return {name: updates.training_state() for name, updates in _chains(model)}


def load_training_state(model: nn.Module, state: Mapping[str, Any]) -> None:
    """Restore what `training_state` gave, for the chains that both have: weights move between all stacks."""
    for name, updates in _chains(model):
        if name in state:
            updates.load_training_state(state[name])


def _chains(model: nn.Module) -> Iterator[tuple[str, BdiaUpdates]]:
    seen = set()
    for name, module in model.named_modules():
        forward = engaged(module)
        updates = module if isinstance(module, BdiaUpdates) else None if forward is None else forward.owner
        if isinstance(updates, BdiaUpdates) and id(updates) not in seen:
            seen.add(id(updates))
            yield name, updates
