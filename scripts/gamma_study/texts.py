"""Texts of the study, as bytes: what each model is pretrained on, and the small other text that it is fine-tuned on."""

import csv
import hashlib
import io
import random
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from bdia.data.errors import DataNotFoundError
from bdia.data.files import find, read_text
from bdia.data.text.documents import Pydoc

VOCABULARY = 256  # a token is a byte


class Text(NamedTuple):
    """A text with the name of the place that it was read from."""

    source: str
    text: str

    @property
    def sha256(self) -> str:
        """SHA-256 of the text in UTF-8: tells which version of a text a run has used."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    def tokens(self) -> Tensor:
        """Return the bytes of the text in UTF-8, int64 of shape (bytes,)."""
        return torch.frombuffer(bytearray(self.text.encode()), dtype=torch.uint8).long()


class Texts(NamedTuple):
    """What one model is pretrained on, and the train and validation pieces of its fine-tuning."""

    pretrain: Text
    train: Text
    val: Text


def shakespeare_then_restaurants(data_dir: Path, train_size: int, val_size: int) -> Texts:
    """Pretrain on the first 90 % of tinyshakespeare; fine-tune on E2E NLG sentences about restaurants.

    Without the data: pretrain on Python's help texts, fine-tune on the source of `argparse`.
    """
    plays = _first_of(lambda: _shakespeare(data_dir), _pydoc)
    domain = _first_of(lambda: _e2e(data_dir), lambda: _python_source("argparse"))
    return Texts(_share(plays, 0, 0.9), *_pieces(domain, train_size, val_size))


def web_then_shakespeare(data_dir: Path, train_size: int, val_size: int) -> Texts:
    """Pretrain on the first 90 % of an OpenWebText sample; fine-tune on the last 10 % of tinyshakespeare.

    Without the data: pretrain on Python's help texts, fine-tune on the source of `decimal`.
    """
    web = _first_of(lambda: _web(data_dir), _pydoc)
    domain = _first_of(lambda: _share(_shakespeare(data_dir), 0.9, 1), lambda: _python_source("_pydecimal"))
    return Texts(_share(web, 0, 0.9), *_pieces(domain, train_size, val_size))


def _first_of(wanted: Callable[[], Text], embedded: Callable[[], Text]) -> Text:
    try:
        return wanted()
    except DataNotFoundError:
        return embedded()


def _read(path: str, data_dir: Path) -> str:
    found = find(path, data_dir, "a text", "--data", "pydoc")
    return read_text(found, "put a readable file there").replace("\r\n", "\n")


def _shakespeare(data_dir: Path) -> Text:
    return Text("tinyshakespeare", _read("tinyshakespeare/input.txt", data_dir))


def _web(data_dir: Path) -> Text:
    name = "openwebtext_sample"
    return Text(name, _read(f"{name}/{name}_1000docs.txt.gz", data_dir))


def _e2e(data_dir: Path) -> Text:
    """Sentences of the E2E NLG devset, in a fixed random order of what they describe.

    All sentences about one meaning stay together, so that the validation piece shares none with the training piece.
    """
    sentences: dict[str, list[str]] = {}
    for row in csv.DictReader(io.StringIO(_read("e2e/devset.csv", data_dir))):
        sentences.setdefault(row["mr"], []).append(row["ref"])
    meanings = sorted(sentences)
    random.Random(0).shuffle(meanings)
    return Text("E2E NLG devset, references", "\n".join(ref for meaning in meanings for ref in sentences[meaning]))


def _pydoc() -> Text:
    return Text("pydoc", "\n\n".join(Pydoc().documents(Path())))


def _python_source(module: str) -> Text:
    import importlib
    import inspect

    return Text(f"source of Python's {module}", inspect.getsource(importlib.import_module(module)))


def _share(text: Text, start: float, stop: float) -> Text:
    first, last = int(start * len(text.text)), int(stop * len(text.text))
    return Text(f"{text.source}, {100 * start:g} to {100 * stop:g} %", text.text[first:last])


def _pieces(text: Text, train_size: int, val_size: int) -> tuple[Text, Text]:
    """Cut `train_size` characters off the start and `val_size` off the end; they never overlap."""
    if train_size + val_size > len(text.text):
        raise ValueError(
            f"{text.source} has {len(text.text)} characters, wanted {train_size} to train on and {val_size} to validate"
        )
    train, val = text.text[:train_size], text.text[len(text.text) - val_size :]
    return Text(f"{text.source}, first {train_size}", train), Text(f"{text.source}, last {val_size}", val)
