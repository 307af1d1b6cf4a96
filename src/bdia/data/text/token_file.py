"""Token streams on disk: flat files of uint16 token ids that are never half written, and unigram statistics of them."""

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from bdia.data.files import write_whole
from bdia.data.text.documents import Document, digest
from bdia.data.text.tokenizer import END_OF_DOCUMENT, fingerprint

TOKEN = np.dtype("<u2")
LARGEST_VOCABULARY = 2**16  # ids that fit
SUMS = "sha256.json"
CHUNK = 256  # documents encoded at a time


def streams_key(tokenizer: Tokenizer, splits: dict[str, list[Document]]) -> str:
    """Name everything the token files depend on: the tokenizer and the documents of each split, in their order."""
    key = hashlib.sha256(fingerprint(tokenizer).encode())
    for name, part in splits.items():
        key.update(f"{name} {len(part)}".encode() + b"".join(map(digest, part)))
    return key.hexdigest()[:16]


def encoded(tokenizer: Tokenizer, texts: Sequence[str]) -> Iterator[np.ndarray]:
    """Yield the ids of each text, (n,), with that of END_OF_DOCUMENT behind them."""
    end = tokenizer.token_to_id(END_OF_DOCUMENT)
    for start in range(0, len(texts), CHUNK):
        for encoding in tokenizer.encode_batch_fast(list(texts[start : start + CHUNK])):
            yield np.array([*encoding.ids, end])


def with_ends(tokenizer: Tokenizer, documents: Sequence[np.ndarray]) -> Iterator[np.ndarray]:
    """Yield the ids of each document, (n,), with that of END_OF_DOCUMENT behind them."""
    end = tokenizer.token_to_id(END_OF_DOCUMENT)
    for document in documents:
        yield np.append(document, end)


def cached_splits(folder: Path, pieces: Mapping[str, Callable[[], Iterable[np.ndarray]]]) -> dict[str, np.ndarray]:
    """Map the token file of every split, `<folder>/<split>.bin`; write all of them first if one is missing or changed.

    Args:
        folder: named after everything that the tokens depend on.
        pieces: split -> function that makes its tokens, in pieces of shape (n,); at least one token in all.
    Returns:
        Split -> (N,) uint16, mapped from the file, read-only.
    """
    if not _is_whole(folder, pieces):
        for name, make in pieces.items():
            write_whole(folder / f"{name}.bin", (np.asarray(piece, TOKEN) for piece in make()))
        sums = {name: _sha256(folder / f"{name}.bin") for name in pieces}
        write_whole(folder / SUMS, json.dumps(sums))  # last: without it nothing beside it counts
    return {name: np.memmap(folder / f"{name}.bin", dtype=TOKEN, mode="r") for name in pieces}


def _is_whole(folder: Path, names: Iterable[str]) -> bool:
    try:
        sums = json.loads((folder / SUMS).read_text())
        return sums == {name: _sha256(folder / f"{name}.bin") for name in names}
    except (FileNotFoundError, ValueError):
        return False


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def token_counts(tokens: np.ndarray, vocab_size: int) -> np.ndarray:
    """Count each token: (N,) uint16 -> (V,) int64; a bounded part of a mapped file is in memory at a time."""
    counts = np.zeros(vocab_size, np.int64)
    for start in range(0, len(tokens), 2**24):
        counts += np.bincount(tokens[start : start + 2**24], minlength=vocab_size)
    return counts


def unigram_perplexity(train: np.ndarray, val: np.ndarray, vocab_size: int) -> float:
    """Perplexity of `val` under the frequencies of the tokens in `train`, one added to every count of the vocabulary.

    What a model must beat to have learned more than which tokens are frequent.
    """
    log_share = np.log((token_counts(train, vocab_size) + 1) / (len(train) + vocab_size))
    return math.exp(-(token_counts(val, vocab_size) @ log_share) / len(val))
