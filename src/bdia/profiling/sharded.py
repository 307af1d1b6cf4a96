"""A step on one of several devices under FSDP2, from the step on one device. Each device has a batch of its own."""

from dataclasses import dataclass, replace
from itertools import pairwise

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
            ValueError: fewer than one device; there is no such list.
        """
        if devices < 1:
            raise InvalidValueError(f"devices={devices}: wanted at least 1; set devices")
        lists = [[_bytes(layer) for layer in found] for found in model.modules() if isinstance(found, nn.ModuleList)]
        if not lists:
            raise InvalidValueError(
                f"{type(model).__name__}: wanted a model with its layers in a ModuleList; set hf.config"
            )
        layers = max(lists, key=sum)
        return cls(devices, _bytes(model) - sum(layers), max(layers))

    def on_one(self, moments: Moments) -> Moments:
        """Return what one device holds, moment by moment; of one device, the moments as they are.

        The phases of a step alternate, forward and backward; one more forward phase, if there is one, is the update.
        """
        if self.devices == 1:
            return moments
        alive: list[int] = []
        bounds = list(pairwise([*moments.phases, len(moments.alive)]))
        for phase, (start, stop) in enumerate(bounds):
            is_backward = phase % 2 == 1
            is_update = not is_backward and phase == len(bounds) - 1
            for at in range(start, stop):
                alive.append(self._in_update(moments, at) if is_update else self._in_pass(moments, at, is_backward))
        totals = moments.totals | {name: self._share(moments.totals[name]) for name in ("parameters", "optimizer")}
        return replace(moments, alive=alive, gradients=[*map(self._share, moments.gradients)], totals=totals)

    def _in_pass(self, moments: Moments, at: int, is_backward: bool) -> int:
        shared = moments.totals["parameters"] + moments.totals["optimizer"] + moments.gradients[at]
        whole = self.outside + TOGETHER * self.layer  # weights, and in backward their gradients too
        return moments.alive[at] - shared + self._share(shared) + (2 * whole if is_backward else whole)

    def _in_update(self, moments: Moments, at: int) -> int:
        shared = moments.alive[at] - moments.totals["other"]  # also what the update makes is of shares
        return moments.totals["other"] + self._share(shared)

    def _share(self, size: int) -> int:
        return -(-size // self.devices)


def _bytes(module: nn.Module) -> int:
    return sum(p.nbytes for p in module.parameters())
