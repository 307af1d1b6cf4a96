"""The loader of images that sit on the device that trains."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from bdia.data.loader import DealtLoader, seeded_generator


class ResidentLoader(DealtLoader):
    """Iterate over resident uint8 images as normalised float32 batches, repeatably and resumably.

    The order depends on (shuffle_seed, epoch) and the augmentation on (shuffle_seed, epoch, batch index, rank), never
    on how many random numbers anything else drew. So a run resumed in mid-epoch sees bit-identical batches.
    """

    plan_keys = "data.batch_size, data.seed, data.train_per_class, data.val_fraction"

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        batch_size: int,
        shuffle_seed: int | None,
        transform: Callable[[Tensor, torch.Generator | None], Tensor],
        rank: int = 0,
        world_size: int = 1,
    ):
        """Set what to iterate over.

        Args:
            images: (N, 3, 32, 32) uint8, on the device where batches are wanted.
            labels: (N,) int64, on the same device.
            batch_size, rank, world_size: as in `DealtLoader`.
            shuffle_seed: seed of order and augmentation; None for evaluation.
            transform: `(uint8 batch, generator) -> float32 batch`; the generator is None in evaluation.
        """
        super().__init__(batch_size, shuffle_seed, rank, world_size)
        self.images, self.labels, self.transform = images, labels, transform

    @property
    def resident_bytes(self) -> int:
        """Bytes of images and labels held on the device."""
        return self.images.nbytes + self.labels.nbytes

    @property
    def items(self) -> int:
        """Count the images."""
        return len(self.images)

    def batch_indices(self, epoch: int) -> Sequence[Tensor]:
        """Return the image numbers of each batch on the device of the images: one copy an epoch."""
        batches = super().batch_indices(epoch)
        return torch.cat(batches).to(self.images.device).split([len(batch) for batch in batches])

    def collate(self, chosen: Tensor, epoch: int, index: int) -> tuple[Tensor, Tensor]:
        """Return (images (B, 3, 32, 32) float32, labels (B,) int64)."""
        return self.transform(self.images[chosen], self._batch_generator(epoch, index)), self.labels[chosen]

    def plan(self) -> dict[str, Any]:
        """Number of images too."""
        return {"images": len(self.images), **super().plan()}

    def _batch_generator(self, epoch: int, index: int) -> torch.Generator | None:
        if self.shuffle_seed is None:
            return None
        key = ("augment", self.shuffle_seed, epoch, index, self.rank)
        return seeded_generator(*key, device=self.images.device)
