"""What a model of the zoo keeps alive between its forward and its backward pass, per further layer."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from helpers.compared_steps import seed_everything
from helpers.families import Family, loss_of
from helpers.reversible_helpers import LiveStorages

MEASURED_DEPTHS = (4, 8)


@dataclass(frozen=True)
class Held:
    """What is alive between forward and backward per further layer: bytes of storages, values of the stream."""

    bytes: float
    activations: float

    @property
    def bits(self) -> float:
        """Bits held per activation."""
        return 8 * self.bytes / self.activations


def held_per_layer(family: Family, convert: Callable[[nn.Module], object] = lambda model: None) -> Held:
    """What a further layer holds between forward and backward, after `convert`: the difference of two depths."""
    few, many = MEASURED_DEPTHS
    small, large = held_between_passes(family, few, convert), held_between_passes(family, many, convert)
    return Held(*((more - less) / (many - few) for more, less in zip(large, small, strict=True)))


def held_between_passes(family: Family, depth: int, convert: Callable[[nn.Module], object]) -> tuple[int, int]:
    """Bytes of live storages between forward and backward, and values that went into the layers as the stream."""
    model = family.model(depth)
    convert(model)
    args, kwargs = family.make_inputs()
    held = LiveStorages(model, next(model.parameters()))
    given = [leaf for leaf in (*tree_leaves((args, kwargs)), *model.buffers()) if isinstance(leaf, Tensor)]
    held.known |= {tensor.untyped_storage()._cdata for tensor in given}
    seed_everything()
    with counted_streams(family, model) as values, held:
        output = model(*args, **kwargs)
        loss = loss_of(output)
        bytes_held = held.total()
        loss.backward()
    return bytes_held, sum(values)


@contextlib.contextmanager
def counted_streams(family: Family, model: nn.Module) -> Iterator[list[int]]:
    """Inside, every call of a layer adds the number of values of its stream to the list."""
    values = []

    def count(module: nn.Module, args: tuple, kwargs: dict) -> None:
        values.append((args[0] if args else next(iter(kwargs.values()))).numel())

    layers = [layer for chain in family.layers(model).values() for layer in chain]
    handles = [layer.register_forward_pre_hook(count, with_kwargs=True) for layer in layers]
    yield values
    for handle in handles:
        handle.remove()
