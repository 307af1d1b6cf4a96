"""Batches of token sequences of similar length, on the device that trains: repeatable, resumable, a constant number."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bdia import InvalidValueError
from bdia.data.loader import EpochLoader, seeded_generator
from bdia.data.text.table import PAD_ID, TokenTable

CELL = 3  # lengths are rounded up to multiples of CELL tokens; pairs of equal rounded length are shuffled every epoch


class Bucket(NamedTuple):
    """Which pairs a batch holds: their numbers (B,) on the device, and S and T + 1, the longest on either side."""

    numbers: Tensor
    source_longest: int
    target_longest: int


class BucketLoader(EpochLoader):
    """Iterate over pairs of sequences as batches `(source (B, S), target (B, T + 1), index (B,))`, all int64.

    `index` is the pair's number. Every pair is in one batch of every epoch, and B (S + T + 1) <= token_budget.

    The plan: pairs are put into cells by their two lengths, rounded up to multiples of CELL, and the cells in order of
    length, one behind the other. This row is cut into batches once, from the rounded lengths alone. In training, every
    epoch shuffles the pairs inside each cell and the order of the batches. So the pairs meet others every time, while
    the number of batches, on which Lightning bases the schedule's length, never changes. In evaluation
    (`shuffle_seed=None`) lengths are not rounded and nothing is shuffled: batches come in order of length.

    Ranks: the plan is the same on all, and each takes every `world_size`-th batch of it. In training the list of
    batches wraps around, so that all ranks have equally many: an epoch repeats at most world_size - 1 batches. In
    evaluation no batch is repeated: the largest ones are halved until their number is a multiple of `world_size`.
    """

    plan_keys = "data.source, data.tokenizer, data.token_budget, data.max_length, data.seed"

    def __init__(
        self,
        source: TokenTable,
        target: TokenTable,
        token_budget: int,
        shuffle_seed: int | None,
        budget_key: str,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        """Plan the batches.

        Args:
            source, target: N >= 1 sequences each, with their control tokens.
            token_budget: elements of source and target tensor of a batch *and rank*, padding included, at most.
            shuffle_seed: seed of the order; None for evaluation.
            budget_key: config key of `token_budget`, for errors.
            rank, world_size: this process among those that share the pairs.
        Raises:
            ValueError: a pair is longer than the budget; too few pairs to give all ranks equally many batches.
        """
        super().__init__()
        self.rank, self.world_size = rank, world_size
        self.source, self.target, self.token_budget, self.shuffle_seed = source, target, token_budget, shuffle_seed
        lengths = torch.stack([source.lengths, target.lengths], dim=1)
        if (longest := int(lengths.sum(dim=1).max())) > token_budget:
            number = int(lengths.sum(dim=1).argmax())
            raise InvalidValueError(
                f"pair {number} has {longest} tokens, more than token_budget={token_budget}: set {budget_key} to at "
                f"least {longest}" + (" or data.max_length lower" if shuffle_seed is not None else "")
            )
        cell = 1 if shuffle_seed is None else CELL
        self.cells = (lengths + cell - 1) // cell * cell  # (N, 2)
        # By source length, then by target length: a stable sort by the second key goes first.
        order = self.cells[:, 1].argsort(stable=True)
        self.order = order[self.cells[order, 0].argsort(stable=True)]
        self.sizes = cut(self.cells[self.order].tolist(), token_budget)
        if shuffle_seed is None:
            self.sizes = halved(self.sizes, world_size, budget_key)

    @property
    def resident_bytes(self) -> int:
        """Bytes of both tables and of an epoch's order, held on the device."""
        return self.source.nbytes + self.target.nbytes + self.order.nbytes

    def __len__(self) -> int:
        """Count the batches of one epoch; the same on every rank and in every epoch."""
        return math.ceil(len(self.sizes) / self.world_size)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue there; a position saved before batches were dealt to ranks is that of one device."""
        super().load_state_dict({"world_size": 1, **state})

    def batch_indices(self, epoch: int) -> list[Bucket]:
        """Return the pairs of this rank's batches; one copy to the device per epoch, so that batches need none."""
        order, sizes = self._dealt(epoch)
        longest = [
            [int(part.max()) for part in table.lengths[order].split(sizes)] for table in (self.source, self.target)
        ]
        return list(map(Bucket, order.to(self.source.tokens.device).split(sizes), *longest))

    def collate(self, chosen: Bucket, epoch: int, index: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return (source (B, S), target (B, T + 1), the pairs' numbers (B,)), int64."""
        numbers, source, target = chosen
        return self.source.padded(numbers, source), self.target.padded(numbers, target), numbers

    def largest(self) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Return two batches of padding: one with the most elements, one with the most pairs of tokens (attention).

        Shapes are those of the cells, the largest that shuffling can make of a batch.
        """
        shapes = []
        for cells in self.cells[self.order].split(self.sizes):
            source, target = cells.amax(dim=0).tolist()
            shapes.append((len(cells), source, target))
        elements = max(shapes, key=lambda shape: shape[0] * (shape[1] + shape[2]))
        pairs = max(shapes, key=lambda shape: shape[0] * (shape[1] ** 2 + shape[1] * shape[2] + shape[2] ** 2))
        return [
            (torch.full((b, s), PAD_ID), torch.full((b, t), PAD_ID), torch.arange(b))
            for b, s, t in dict.fromkeys([elements, pairs])
        ]

    def _dealt(self, epoch: int) -> tuple[Tensor, list[int]]:
        """Return this rank's pairs in an epoch, batch behind batch on the CPU, and the sizes of its batches."""
        batches = self._shuffled(epoch)
        places = range(self.rank, len(self) * self.world_size, self.world_size)
        mine = [batches[place % len(batches)] for place in places]
        return torch.cat(mine), [len(batch) for batch in mine]

    def _shuffled(self, epoch: int) -> Sequence[Tensor]:
        """Return the pairs of every batch of an epoch, those of all ranks, on the CPU."""
        if self.shuffle_seed is None:
            return self.order.split(self.sizes)
        generator = seeded_generator("order", self.shuffle_seed, epoch)
        order = torch.randperm(len(self.order), generator=generator)
        for side in (1, 0):  # sorts a random order into the cells' order: random inside a cell
            order = order[self.cells[order, side].argsort(stable=True)]
        batches = order.split(self.sizes)
        return [batches[number] for number in torch.randperm(len(batches), generator=generator).tolist()]

    def plan(self) -> dict[str, Any]:
        """Number of pairs and of their tokens, budget, seed and number of devices."""
        return {
            "pairs": len(self.order),
            "source_tokens": int(self.source.lengths.sum()),
            "target_tokens": int(self.target.lengths.sum()),
            "token_budget": self.token_budget,
            "shuffle_seed": self.shuffle_seed,
            "world_size": self.world_size,
        }


def cut(lengths: Sequence[tuple[int, int]], budget: int) -> list[int]:
    """Cut a row of pairs into batches, each as large as fits: B (longest source + longest target) <= budget, or B = 1.

    Returns:
        The batches' sizes B.
    """
    sizes, widest = [], (0, 0)
    for source, target in lengths:
        wider = max(source, widest[0]), max(target, widest[1])
        if sizes and (sizes[-1] + 1) * sum(wider) <= budget:
            sizes[-1], widest = sizes[-1] + 1, wider
        else:
            sizes.append(1)
            widest = source, target
    return sizes


def halved(sizes: Sequence[int], count: int, budget_key: str) -> list[int]:
    """Halve the batch of the most pairs until the number of batches is a multiple of `count`.

    Raises:
        ValueError: every batch holds one pair, and their number is no such multiple.
    """
    found = list(sizes)
    while len(found) % count:
        place = max(range(len(found)), key=found.__getitem__)
        if (size := found[place]) == 1:
            raise InvalidValueError(
                f"{len(found)} batches of one pair for {count} devices: wanted equally many batches on each, no pair "
                f"twice; set {budget_key} higher, or trainer.devices=1"
            )
        found[place : place + 1] = [size - size // 2, size // 2]
    return found
