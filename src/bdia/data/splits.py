"""Splits of sentence pairs in which no sentence stands on two sides."""

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from bdia.data.loader import seeded_generator

Pair = tuple[str, str]  # source sentence, target sentence
Pairs = dict[str, list[Pair]]  # by split: "train", "val", "test"
SPLITS = ("train", "val", "test")


def check_fractions(val_fraction: float, test_fraction: float) -> None:
    """Raise ValueError unless both shares and what remains for training are positive."""
    if not (val_fraction > 0 and test_fraction > 0 and val_fraction + test_fraction < 1):
        raise ValueError(
            f"val_fraction={val_fraction}, test_fraction={test_fraction}: wanted both above 0 and a sum below 1; "
            "set data.source.val_fraction and data.source.test_fraction"
        )


def split_pairs(pairs: list[Pair], val_fraction: float, test_fraction: float, seed: int) -> Pairs:
    """Split pairs so that no sentence of one part, source or target, occurs in another part.

    Pairs that share a sentence form a group and stay together. The groups are visited in a random order that depends on
    `seed`; each joins the test set if it fits into what is left of `test_fraction`, else the validation set by the same
    rule, else the training set. So a group larger than that share is training data. Equal pairs are kept once; no pairs
    give empty parts.
    """
    check_fractions(val_fraction, test_fraction)
    pairs = list(dict.fromkeys(pairs))
    if not pairs:
        return {split: [] for split in SPLITS}
    groups = _groups(pairs)
    sizes = np.bincount(groups).tolist()
    order = torch.randperm(len(sizes), generator=seeded_generator("split", seed)).tolist()
    room = {"test": int(test_fraction * len(pairs)), "val": int(val_fraction * len(pairs)), "train": len(pairs)}
    part_of_group = {}
    for group in order:
        part = next(part for part, left in room.items() if sizes[group] <= left)
        part_of_group[group], room[part] = part, room[part] - sizes[group]
    parts: Pairs = {split: [] for split in SPLITS}
    for pair, group in zip(pairs, groups.tolist(), strict=True):
        parts[part_of_group[group]].append(pair)
    return parts


def _groups(pairs: list[Pair]) -> np.ndarray:
    """Number the groups: (N,) integers, equal where pairs are joined by shared sentences."""
    numbers: dict[str, int] = {}
    edges = np.array([[numbers.setdefault(text, len(numbers)) for text in pair] for pair in pairs])
    graph = coo_array((np.ones(len(edges)), edges.T), shape=(len(numbers), len(numbers)))
    return connected_components(graph, directed=False)[1][edges[:, 0]]


def keep_some(pairs: list[Pair], limit: int | None, seed: int) -> list[Pair]:
    """Return the first `limit` pairs of a permutation that depends on `seed`, so that fewer are part of more.

    Raises:
        ValueError: fewer than one wanted, or more than there are.
    """
    if limit is None:
        return pairs
    if not 1 <= limit <= len(pairs):
        raise ValueError(f"limit={limit}: wanted 1..{len(pairs)} training pairs; set data.source.limit")
    order = torch.randperm(len(pairs), generator=seeded_generator("limit", seed))
    return [pairs[number] for number in order[:limit].tolist()]
