"""The least that the models ask of a stack."""

from torch import nn


class PlainStack(nn.Sequential):
    """The blocks one after the other, with no engine: what the models may assume of a stack."""

    streams = 1

    def __init__(self, blocks):
        super().__init__(*blocks)
