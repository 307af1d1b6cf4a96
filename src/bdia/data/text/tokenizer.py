"""Tokenizers: byte-level, so that every text has tokens and decoding gives it back; each is one `tokenizers.Tokenizer`.

A builder is chosen by config and called with the training texts; what it returns is saved as one JSON file.
"""

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from bdia import InvalidValueError
from bdia.data.errors import DataCorruptError, DataNotFoundError
from bdia.data.files import write_whole

PAD, BOS, EOS = "<pad>", "<s>", "</s>"  # of translation, ids 0, 1, 2 in a vocabulary trained here
PROBE = "One two, été 3."
END_OF_DOCUMENT = "<|endoftext|>"  # of language modelling, GPT-2's name for it


class TokenizerBuilder(Protocol):
    """Makes a tokenizer. `data_dir` is the folder of local data, `specials` the control tokens the data need."""

    def build(self, texts: Iterable[str], specials: Sequence[str], data_dir: Path) -> Tokenizer:
        """Return the tokenizer; the same texts give the same one."""
        ...


class CorpusBpe:
    """Byte-pair encoding trained on the training texts.

    Args:
        vocab_size: tokens wanted, control tokens and the 256 bytes included; a small corpus may yield fewer.
    Raises:
        ValueError: fewer than 256 bytes and the control tokens need.
    """

    def __init__(self, vocab_size: int) -> None:
        if vocab_size < 260:
            raise InvalidValueError(f"vocab_size={vocab_size}: wanted at least 260; set data.tokenizer.vocab_size")
        self.vocab_size = vocab_size

    def build(self, texts: Iterable[str], specials: Sequence[str], data_dir: Path) -> Tokenizer:
        """Train on the texts."""
        tokenizer = _byte_level(models.BPE())
        trainer = trainers.BpeTrainer(
            vocab_size=self.vocab_size,
            special_tokens=list(specials),
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        )
        tokenizer.train_from_iterator(texts, trainer)
        return tokenizer


class Bytes:
    """One token per byte, after the control tokens."""

    def build(self, texts: Iterable[str], specials: Sequence[str], data_dir: Path) -> Tokenizer:
        """Return the tokenizer; the texts are not looked at."""
        names = [*specials, *sorted(pre_tokenizers.ByteLevel.alphabet())]
        tokenizer = _byte_level(models.BPE({name: index for index, name in enumerate(names)}, []))
        tokenizer.add_special_tokens(list(specials))
        return tokenizer


class Gpt2Bpe:
    """GPT-2's 50,257 tokens from `encoder.json` and `vocab.bpe`, in `folder` or `<data_dir>/bpe`.

    Control tokens that GPT-2 does not have are added behind its own.
    """

    def __init__(self, folder: str | Path | None = None) -> None:
        self.folder = None if folder is None else Path(folder)

    def build(self, texts: Iterable[str], specials: Sequence[str], data_dir: Path) -> Tokenizer:
        """Read the two files; the texts are not looked at.

        Raises:
            DataNotFoundError: a file is missing. DataCorruptError: it cannot be read.
        """
        folder = self.folder or data_dir / "bpe"
        vocabulary, merges = folder / "encoder.json", folder / "vocab.bpe"
        for path in (vocabulary, merges):
            if not path.exists():
                raise DataNotFoundError(
                    f"{path} was not found: put GPT-2's encoder.json and vocab.bpe there, set data.tokenizer.folder or "
                    "BDIA_DATA, or take another tokenizer (tokenizer@data.tokenizer=bpe or bytes)"
                )
        try:
            model = models.BPE.from_file(str(vocabulary), str(merges))
        except Exception as error:  # the library raises a bare Exception
            raise DataCorruptError(f"{vocabulary} and {merges} cannot be read as GPT-2's BPE: {error}") from error
        tokenizer = _byte_level(model)
        tokenizer.add_special_tokens([END_OF_DOCUMENT, *(name for name in specials if name != END_OF_DOCUMENT)])
        return tokenizer


class SavedTokenizer:
    """A tokenizer that was saved as `tokenizer.json`, for instance beside the weights that training starts from.

    Args:
        path: of the file.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def build(self, texts: Iterable[str], specials: Sequence[str], data_dir: Path) -> Tokenizer:
        """Read the file; the texts are not looked at.

        Raises:
            DataNotFoundError: no such file. DataCorruptError: it is no tokenizer. ValueError: it lacks a control token.
        """
        tokenizer = load_tokenizer(self.path)
        if missing := [name for name in specials if tokenizer.token_to_id(name) is None]:
            raise InvalidValueError(
                f"{self.path} has no {', '.join(missing)}: set data.tokenizer.path to another tokenizer"
            )
        return tokenizer


def _byte_level(model: models.Model) -> Tokenizer:
    """Spaces belong to the word after them, nothing is normalised: decode(encode(text)) == text."""
    tokenizer = _plain_text(Tokenizer(model))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _plain_text(tokenizer: Tokenizer) -> Tokenizer:
    """Treat a control token's name inside a text as ordinary letters, never as the token."""
    tokenizer.encode_special_tokens = True
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, path: Path) -> None:
    """Write the tokenizer as JSON, whole or not at all."""
    write_whole(path, tokenizer.to_str())


def load_tokenizer(path: Path) -> Tokenizer:
    """Read what `save_tokenizer` wrote.

    Raises:
        DataNotFoundError: no such file. DataCorruptError: it is no tokenizer.
    """
    if not path.exists():
        raise DataNotFoundError(f"{path} was not found: the tokenizer of a run lies beside its checkpoint")
    try:
        found = _plain_text(Tokenizer.from_file(str(path)))
        found.encode(PROBE)  # a damaged one can be read, and fails when it is used
    except Exception as error:  # the library raises a bare Exception
        raise DataCorruptError(f"{path} is no tokenizer: {error}") from error
    return found


def fingerprint(tokenizer: Tokenizer) -> str:
    """Return what tells two tokenizers apart: SHA-256 of their JSON text."""
    return hashlib.sha256(tokenizer.to_str().encode()).hexdigest()
