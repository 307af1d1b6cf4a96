"""Splits in which no sentence of a pair, and no document, is in two parts."""

import hashlib
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from bdia import InvalidValueError
from bdia.data.errors import DataCorruptError
from bdia.data.loader import seeded_generator
from bdia.data.text.documents import Document, digest
from bdia.data.text.normal import normal

log = logging.getLogger("bdia")

Pair = tuple[str, str]  # source sentence, target sentence
Pairs = dict[str, list[Pair]]  # by split: "train", "val", "test"
SPLITS = ("train", "val", "test")


def pairs_sha256(pairs: Sequence[Pair]) -> str:
    """Return the SHA-256 of pairs in their order, as JSON in UTF-8."""
    return hashlib.sha256(json.dumps(list(map(list, pairs)), ensure_ascii=False).encode()).hexdigest()


class LoadsPairs(Protocol):
    """A source of pairs, whatever they are pairs of."""

    def load(self, data_dir: Path) -> Pairs:
        """Return the pairs of "train", "val" and "test"."""
        ...


def load_pairs(source: LoadsPairs, data_dir: Path) -> Pairs:
    """Return the pairs of a source.

    Raises:
        DataCorruptError: a split is empty, besides what the source raises.
    """
    pairs = source.load(data_dir)
    for split in SPLITS:
        if not pairs[split]:
            keys = "data.source's sizes or fractions"
            raise DataCorruptError(f"the {split} split of {type(source).__name__} is empty: change {keys}")
    for split in ("val", "test"):
        tell_leaks(pairs["train"], pairs[split], split)
    return pairs


def tell_leaks(train: list[Pair], held_out: list[Pair], split: str) -> int:
    """Warn of held-out texts that are in the training data, and return how many; given splits are left as they are."""
    seen = {normal(source) for source, _ in train}
    known = [source for source, _ in held_out if normal(source) in seen]
    if known:
        log.warning(
            "%d of %d sources of the %s split are in the training data too, such as %r: its numbers say less",
            len(known), len(held_out), split, known[0][:80],
        )  # fmt: skip
    return len(known)


def check_fractions(val_fraction: float, test_fraction: float, keys: str = "data.source") -> None:
    """Raise ValueError unless both shares and what remains for training are positive; `keys`: where they are set."""
    if not (val_fraction > 0 and test_fraction > 0 and val_fraction + test_fraction < 1):
        raise InvalidValueError(
            f"val_fraction={val_fraction}, test_fraction={test_fraction}: wanted both above 0 and a sum below 1; "
            f"set {keys}.val_fraction and {keys}.test_fraction"
        )


def split_pairs(pairs: list[Pair], val_fraction: float, test_fraction: float, seed: int) -> Pairs:
    """Split pairs so that no sentence of one part, source or target, occurs in another part.

    Pairs that share a sentence form a group and stay together. The groups are visited in a random order that depends on
    `seed`; each joins the test set if it fits into what is left of `test_fraction`, else the validation set by the same
    rule, else the training set. So a group larger than that share is training data. Equal pairs are kept once; no pairs
    give empty parts. Sentences are the same where their `normal` forms are: NFC or NFD, upper or lower case.
    """
    check_fractions(val_fraction, test_fraction)
    pairs = list({(normal(source), normal(target)): (source, target) for source, target in reversed(pairs)}.values())[
        ::-1
    ]
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
    edges = np.array([[numbers.setdefault(normal(text), len(numbers)) for text in pair] for pair in pairs])
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
        raise InvalidValueError(f"limit={limit}: wanted 1..{len(pairs)} training pairs; set data.source.limit")
    order = torch.randperm(len(pairs), generator=seeded_generator("limit", seed))
    return [pairs[number] for number in order[:limit].tolist()]


def split_documents(
    documents: Sequence[Document], val_fraction: float, test_fraction: float, fraction: float, seed: int
) -> dict[str, list[Document]]:
    """Deal documents at random to test, val and train; of those that are the same, the first is kept.

    Args:
        val_fraction, test_fraction: shares of the different documents, rounded to whole ones.
        fraction: share of the training documents kept, at least one; a smaller share is part of a larger.
        seed: of both choices.
    Returns:
        Documents of "train", "val" and "test", each in the order given.
    Raises:
        ValueError: a part gets none; names the config keys of `TokenDataModule`.
    """
    different = list({digest(document): document for document in documents}.values())
    order = torch.randperm(len(different), generator=seeded_generator("documents", seed)).tolist()
    chosen = {}
    for name, share in {"test": test_fraction, "val": val_fraction}.items():
        size = round(share * len(different))
        if size == 0:
            raise InvalidValueError(
                f"{name}_fraction={share} of {len(different)} different documents is none: raise data.{name}_fraction, "
                "give more documents (data.source) or, for one long text, lower data.source.section"
            )
        chosen[name], order = order[:size], order[size:]
    if not order:
        raise InvalidValueError(
            f"none of {len(different)} documents is left for training: lower data.val_fraction, data.test_fraction"
        )
    chosen["train"] = order[: max(1, round(fraction * len(order)))]
    return {name: [different[i] for i in sorted(chosen[name])] for name in SPLITS}
