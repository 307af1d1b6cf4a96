"""What an adapter says of a chain."""

from collections.abc import Sequence
from typing import NamedTuple

from torch import nn


class ChainSpec(NamedTuple):
    """Layers that a model calls one after the other on one residual stream.

    Attributes:
        name: where they stand in the module that the adapter was given, "" for that module itself.
        layers: in the order of the calls. One layer that is called several times stands here once.
        length: number of calls, None for as many as there are layers.
        batch_dim: the dimension of the stream that counts samples.
    """

    name: str
    layers: Sequence[nn.Module]
    length: int | None = None
    batch_dim: int = 0
