"""A step on one of several devices under FSDP2, from the step on one device. Each device has a batch of its own."""

from bisect import bisect_right
from dataclasses import dataclass, replace

from torch import nn

from bdia import InvalidValueError
from bdia.profiling.moments import Moments

TOGETHER = 2  # layers whose weights are whole at once: while one is used, the next is fetched; their gradients likewise


@dataclass(frozen=True)
class Shards:
    """FSDP2 (`fully_shard`) of every layer and then of the model.

    A device holds its share of weights, gradients and optimizer state. Whole are, besides, from the first forward to
    the end of backward the weights outside the layers, and those of `TOGETHER` layers; in backward the gradients of
    both until they are exchanged. Gradients that are exchanged after every batch are meant.

    Args:
        devices: that share. outside, layer: bytes of weights outside the layers and of the largest layer.
    """

    devices: int
    outside: int
    layer: int

    @classmethod
    def of(cls, devices: int, model: nn.Module) -> "Shards":
        """Read the sizes from a model, which may be one without data; its largest ModuleList holds the layers.

        Raises:
            ValueError: fewer than one device.
        """
        if devices < 1:
            raise InvalidValueError(f"devices={devices}: wanted at least 1; set devices")
        lists = [[_bytes(layer) for layer in found] for found in model.modules() if isinstance(found, nn.ModuleList)]
        layers = max(lists, key=sum)
        return cls(devices, _bytes(model) - sum(layers), max(layers))

    def on_one(self, moments: Moments) -> Moments:
        """Return what one device holds, moment by moment; of one device, the moments as they are."""
        if self.devices == 1:
            return moments
        state, update = moments.totals["parameters"] + moments.totals["optimizer"], len(moments.phases) - 1
        whole = self.outside + TOGETHER * self.layer
        alive = []
        for at, (size, gradients) in enumerate(zip(moments.alive, moments.gradients, strict=True)):
            phase = bisect_right(moments.phases, at) - 1
            shared = state + gradients
            if phase == update and phase % 2 == 0:  # its temporaries are of weights
                shared = size - moments.totals["other"]
            alive.append(size - shared + self._share(shared) + (1 + phase % 2) * whole * (phase != update))
        totals = moments.totals | {name: self._share(moments.totals[name]) for name in ("parameters", "optimizer")}
        return replace(moments, alive=alive, gradients=[*map(self._share, moments.gradients)], totals=totals)

    def _share(self, size: int) -> int:
        return -(-size // self.devices)


def _bytes(module: nn.Module) -> int:
    return sum(p.nbytes for p in module.parameters())
