"""Means over an epoch, gathered without asking the device or Lightning in every step."""

import torch
from torch import Tensor
from torchmetrics import Metric


class Mean(Metric):
    """Mean of values per batch, each weighted, in float32."""

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.zeros(()), dist_reduce_fx="sum")
        self.add_state("weight", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, value: Tensor, weight: int) -> None:
        """Add the value of a batch that counts for `weight` samples."""
        self.total += value.to(self.total.dtype) * weight
        self.weight += weight

    def compute(self) -> Tensor:
        """Return the mean."""
        return self.total / self.weight
