"""Loaders for data that already sit in memory, on the device that trains: repeatable, resumable, no worker processes.

A `torch.utils.data.DataLoader` with worker processes would starve a GPU on a model this small, and on a CPU its workers
would compete with the training. Here a batch is one gather and a few tensor operations.
"""

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from bdia import InvalidValueError


def seeded_generator(*key: str | int, device: torch.device | str = "cpu") -> torch.Generator:
    """Return a generator whose numbers depend on the key alone: a purpose, then integers such as seed and epoch."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=4).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest, "little"))


class EpochSampler:
    """Holds the epoch. Lightning looks for `loader.sampler.set_epoch` and calls it before each training epoch."""

    def __init__(self):
        """Start at epoch 0."""
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch that the next pass over the loader belongs to."""
        self.epoch = epoch


class EpochLoader(ABC):
    """A loader whose batches depend on (seed, epoch, batch index, rank) only, and which continues in mid-epoch.

    A subclass says which items each batch of an epoch holds (`batch_indices`), how a batch is made of them (`collate`)
    and what the plan of an epoch depends on (`plan`).
    """

    batch_sampler = None  # Lightning asks whoever has a `sampler` for this one too
    plan_keys = "data.batch_size, data.seed"  # what to keep for a resume inside an epoch

    def __init__(self) -> None:
        """Start at epoch 0, batch 0."""
        self.sampler = EpochSampler()
        self._position = {"epoch": 0, "batch": 0}
        self._resume: dict[str, Any] | None = None

    @property
    @abstractmethod
    def resident_bytes(self) -> int:
        """Bytes of data held on the device; part of its peak memory, but not of the model's."""

    @abstractmethod
    def __len__(self) -> int:
        """Count the batches of one epoch; the same on every rank and in every epoch."""

    @abstractmethod
    def batch_indices(self, epoch: int) -> Sequence[Any]:
        """Return the item numbers of each of this rank's batches in an epoch, as `collate` wants them."""

    @abstractmethod
    def collate(self, chosen: Any, epoch: int, index: int) -> tuple[Tensor, ...]:
        """Return batch `index` of an epoch: a tuple of tensors made of the chosen items."""

    @abstractmethod
    def plan(self) -> dict[str, Any]:
        """Return what the plan of an epoch depends on, as plain values; a resume inside an epoch must find it again."""

    def largest(self) -> list[tuple[Tensor, ...]]:
        """Return the batches that take the most memory of all epochs'; the loader's position stays."""
        return [self.collate(self.batch_indices(0)[0], 0, 0)]

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        """Yield the batches from the position loaded last, else from batch 0."""
        # A generator: nothing below runs before the first batch is asked for. Lightning calls iter() first (once only
        # to test that it can) and set_epoch() afterwards.
        epoch = self.sampler.epoch
        batches = self.batch_indices(epoch)
        for index in range(self._take_start(epoch), len(batches)):
            # Set before the yield: a checkpoint written while this batch is in use must name the next one.
            self._position = {"epoch": epoch, "batch": index + 1}
            yield self.collate(batches[index], epoch, index)

    def state_dict(self) -> dict[str, Any]:
        """Return the position as "next batch to yield is `batch` of `epoch`", with the plan it belongs to.

        A batch counts as used once it was yielded. Lightning fetches none ahead from a loader with a length.
        """
        return dict(self._resume) if self._resume else {**self._position, **self.plan()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue there: the next pass skips the used batches if it is of the saved epoch, and none otherwise.

        Raises:
            ValueError: the next pass resumes inside the saved epoch, and batch size or seed have changed.
        """
        self._resume = dict(state)
        self.sampler.set_epoch(state["epoch"])

    def _take_start(self, epoch: int) -> int:
        resume, self._resume = self._resume, None
        # A checkpoint from the end of an epoch is resumed at the next one: Lightning has then set another epoch.
        if resume is None or resume["epoch"] != epoch or resume["batch"] == 0:
            return 0
        plan = self.plan()
        saved = {key: resume.get(key) for key in plan}
        if saved != plan:
            raise InvalidValueError(
                f"cannot resume inside epoch {epoch}: the checkpoint was written with {saved}, this run has {plan}. "
                f"Keep {self.plan_keys} and the number of devices, or resume from a checkpoint written at the end of "
                "an epoch."
            )
        return resume["batch"]


class DealtLoader(EpochLoader):
    """A loader of items that are all alike, dealt out to ranks.

    Training (`shuffle_seed` an int): every rank takes every `world_size`-th item of one permutation, which wraps
    around so that all ranks have equally many; batches hold `batch_size` items, the last one what is left.
    Evaluation (`shuffle_seed=None`): stored order, each item on exactly one rank; all ranks have the same *number* of
    batches, because a sharded model on one rank would otherwise wait for the others for ever.

    Args:
        batch_size: items per batch *and rank*; the largest batch in evaluation.
        shuffle_seed: seed of the order; None for evaluation.
        rank, world_size: this process among those that share the items.
    """

    def __init__(self, batch_size: int, shuffle_seed: int | None, rank: int, world_size: int) -> None:
        super().__init__()
        self.batch_size, self.shuffle_seed = batch_size, shuffle_seed
        self.rank, self.world_size = rank, world_size

    @property
    @abstractmethod
    def items(self) -> int:
        """Count the items of one epoch, all ranks together."""

    def __len__(self) -> int:
        """Count the batches of one epoch; the same on every rank and in every epoch."""
        return math.ceil(math.ceil(self.items / self.world_size) / self.batch_size)

    def batch_indices(self, epoch: int) -> Sequence[Tensor]:
        """Return the item numbers of each of this rank's batches in an epoch, on the CPU."""
        count = self.items
        if self.shuffle_seed is None:
            return torch.arange(self.rank, count, self.world_size).tensor_split(len(self))
        order = torch.randperm(count, generator=seeded_generator("order", self.shuffle_seed, epoch))
        places = torch.arange(self.rank, math.ceil(count / self.world_size) * self.world_size, self.world_size)
        return order[places % count].split(self.batch_size)

    def plan(self) -> dict[str, Any]:
        """Batch size, seed and number of devices."""
        return {"batch_size": self.batch_size, "shuffle_seed": self.shuffle_seed, "world_size": self.world_size}
