"""What all image data modules share: checks, the split into train and validation, subsets, loaders."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bdia import InvalidValueError
from bdia.data.errors import DataCorruptError
from bdia.data.images.augment import AUGMENTATIONS, Compose, Normalize
from bdia.data.images.loader import ResidentLoader
from bdia.data.loader import seeded_generator
from bdia.data.module import DataModule, sha256_of

Arrays = tuple[np.ndarray, np.ndarray]  # images (N, 3, 32, 32) uint8, labels (N,) integer


def check_images(images: np.ndarray, labels: np.ndarray, count: int, num_classes: int, source: Path | str) -> None:
    """Check one split.

    Args:
        images, labels: what was read from `source`, the file or package that an error names.
        count: number of images wanted.
        num_classes: labels must lie in 0..num_classes - 1.
    Raises:
        DataCorruptError: shape, type, number or a label is wrong.
    """
    wanted = (count, 3, 32, 32)
    if images.shape != wanted or images.dtype != np.uint8:
        raise DataCorruptError(f"{source}: images are {images.shape} {images.dtype}, wanted {wanted} uint8")
    if labels.shape != (count,) or not np.issubdtype(labels.dtype, np.integer):
        raise DataCorruptError(f"{source}: labels are {labels.shape} {labels.dtype}, wanted ({count},) integers")
    if labels.min() < 0 or labels.max() >= num_classes:
        found = f"{labels.min()}..{labels.max()}"
        raise DataCorruptError(f"{source}: labels lie in {found}, wanted 0..{num_classes - 1}")


def pick_per_class(labels: Tensor, counts: Tensor, generator: torch.Generator) -> Tensor:
    """Mark a random choice of counts[c] images of every class c.

    Args:
        labels: (N,) int64. counts: (classes,) int64, at most what the class has.
    Returns:
        (N,) bool, True where chosen.
    """
    chosen = torch.zeros(len(labels), dtype=torch.bool)
    for label, count in enumerate(counts.tolist()):
        members = (labels == label).nonzero().flatten()
        chosen[members[torch.randperm(len(members), generator=generator)[:count]]] = True
    return chosen


class ImageDataModule(DataModule):
    """Images of 3 x 32 x 32 with one label each, resident on the device that trains.

    A subclass sets `name`, `class_names`, `mean`, `std` (per channel, units of 255 grey levels) and writes
    `load() -> ((train_images, train_labels), (test_images, test_labels))`; `prepare_data` where there is a download.

    Split: a share `val_fraction` of every class of the training set is held out for validation; what remains is reduced
    to `train_per_class` images of every class. The test set is left whole. `val_fraction=0` is the paper's protocol:
    train on all training images, no validation (`val_dataloader()` is empty), test once at the end.
    """

    kind = "images"
    name: str
    class_names: tuple[str, ...]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __init__(
        self,
        batch_size: int = 128,
        eval_batch_size: int = 512,
        val_fraction: float = 0.1,
        train_per_class: int | None = None,
        augmentation: str = "crop_flip",
        seed: int = 0,
    ):
        """Set the protocol; nothing is read yet.

        Args:
            batch_size, eval_batch_size: images per batch and device.
            val_fraction: share of the training set held out, 0 <= val_fraction < 1; per class, rounded to whole images.
            train_per_class: training images kept per class; None keeps all.
            augmentation: of training batches, a key of `bdia.data.images.augment.AUGMENTATIONS`.
            seed: seeds which images are held out, which are kept, the order of every epoch, and the augmentation.
        Raises:
            ValueError: a value out of range; names the config key.
        """
        super().__init__()
        if not 0 <= val_fraction < 1:
            raise InvalidValueError(
                f"val_fraction is {val_fraction}, wanted 0 <= val_fraction < 1: change data.val_fraction"
            )
        if augmentation not in AUGMENTATIONS:
            known = ", ".join(AUGMENTATIONS)
            raise InvalidValueError(
                f"augmentation is {augmentation!r}, wanted one of {known}: change data.augmentation"
            )
        self.batch_size, self.eval_batch_size = batch_size, eval_batch_size
        self.val_fraction, self.train_per_class = val_fraction, train_per_class
        self.augmentation, self.seed = augmentation, seed
        self.splits: dict[str, tuple[Tensor, Tensor]] = {}
        self.loaded_sha256: dict[str, str] = {}

    def load(self) -> tuple[Arrays, Arrays]:
        """Read and check the official training and test set, in their official order."""
        raise NotImplementedError

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    @property
    def net_arguments(self) -> dict[str, Any]:
        """The number of classes."""
        return {"num_classes": self.num_classes}

    @property
    def sizes(self) -> dict[str, int]:
        """Number of images in "train", "val" and "test"; known after setup()."""
        return {split: len(labels) for split, (_, labels) in self.splits.items()}

    @property
    def checksums(self) -> dict[str, str]:
        """Of the training and test set as `load` gives them, before any split: images (uint8), then labels (int64)."""
        return self.loaded_sha256

    def setup(self, stage: str | None = None) -> None:
        """Read the images once, whatever the stage, and split them; they stay on the CPU until a loader is made.

        Raises:
            DataNotFoundError, DataCorruptError: from `load`.
            ValueError: a class has fewer training images than `train_per_class`.
        """
        if self.splits:
            return
        loaded = dict(zip(("train", "test"), self.load(), strict=True))
        self.loaded_sha256 = {split: sha256_of(x, y.astype(np.int64)) for split, (x, y) in loaded.items()}
        train, test = ((torch.from_numpy(x), torch.from_numpy(y).long()) for x, y in loaded.values())
        held_out = self._held_out(train[1])
        kept = self._kept(train[1], ~held_out)
        self.splits = {"train": _select(train, kept), "val": _select(train, held_out), "test": test}

    def train_dataloader(self) -> ResidentLoader:
        """Return shuffled, augmented training batches."""
        return self._loader("train", self.batch_size, self.seed, AUGMENTATIONS[self.augmentation])

    def val_dataloader(self) -> ResidentLoader | list:
        """Return validation batches in stored order, or an empty list if nothing is held out."""
        return self._loader("val", self.eval_batch_size, None, ()) if self.sizes["val"] else []

    def test_dataloader(self) -> ResidentLoader:
        """Return test batches in official order."""
        return self._loader("test", self.eval_batch_size, None, ())

    def _held_out(self, labels: Tensor) -> Tensor:
        counts = torch.bincount(labels, minlength=self.num_classes)
        generator = seeded_generator("validation", self.seed)
        return pick_per_class(labels, (counts * self.val_fraction).round().long(), generator)

    def _kept(self, labels: Tensor, available: Tensor) -> Tensor:
        if self.train_per_class is None:
            return available
        counts = torch.bincount(labels[available], minlength=self.num_classes)
        if not 1 <= self.train_per_class <= counts.min():
            smallest, left = self.class_names[int(counts.argmin())], counts.min()
            raise InvalidValueError(
                f"train_per_class is {self.train_per_class}, wanted 1..{left}: class {smallest!r} of {self.name} has "
                f"{left} training images at val_fraction {self.val_fraction}. Change data.train_per_class."
            )
        kept = torch.zeros_like(available)
        wanted = torch.full_like(counts, self.train_per_class)
        kept[available] = pick_per_class(labels[available], wanted, seeded_generator("subset", self.seed))
        return kept

    def _loader(self, split: str, batch_size: int, shuffle_seed: int | None, augmentation: tuple) -> ResidentLoader:
        images, labels = (tensor.to(self._device) for tensor in self.splits[split])
        transform = Compose(*augmentation, Normalize(self.mean, self.std, self._device))
        return ResidentLoader(images, labels, batch_size, shuffle_seed, transform, **self._share)


def _select(arrays: tuple[Tensor, Tensor], chosen: Tensor) -> tuple[Tensor, Tensor]:
    return arrays[0][chosen], arrays[1][chosen]
