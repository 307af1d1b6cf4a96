"""Where documents of text come from. A source is chosen by config; reading is all it does.

A document is a text, or an array of token ids where the source is already tokenised (`end_of_document` is then its id).
"""

import gzip
import json
import os
import re
import zlib
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Protocol

import numpy as np

from bdia.data.errors import DataCorruptError, DataNotFoundError
from bdia.data.tokenizer import END_OF_DOCUMENT

Document = str | np.ndarray


class Source(Protocol):
    """Gives documents. `end_of_document` is None where they are texts."""

    end_of_document: int | None

    def documents(self, data_dir: Path) -> Sequence[Document]:
        """Return all documents, in the same order every time; none is empty."""
        ...


class Pydoc:
    """What Python's `help()` says about its topics: 0.46 MB of English prose in every CPython, one topic a document.

    The text differs a little between Python versions.
    """

    end_of_document = None

    def documents(self, data_dir: Path) -> list[str]:
        """Return one text per topic; `data_dir` is not looked at.

        Raises:
            DataNotFoundError: this Python was installed without the texts.
        """
        try:
            from pydoc_data.topics import topics
        except ImportError as error:
            raise DataNotFoundError("this Python has no module pydoc_data: take other data (data=text_file)") from error
        return list(topics.values())


class TextFiles:
    """UTF-8 text files, plain or .gz. A document ends at a line that is `separator`; line ends become \\n.

    A file that holds one document only is cut into contiguous sections of at least `section` characters, each up to
    a blank line, so that there is something to split; None leaves it whole.

    Args:
        paths: one path or several; a relative one is looked for in `data_dir`, in `data_dir`/text and as given.
        separator: the line between documents.
        section: characters.
    """

    end_of_document = None

    def __init__(
        self, paths: str | Path | Sequence[str | Path], separator: str = END_OF_DOCUMENT, section: int | None = 10_000
    ) -> None:
        self.paths = [paths] if isinstance(paths, str | Path) else list(paths)
        if not self.paths:
            raise ValueError("no text file is named: set data.source.paths=[my.txt]")
        if section is not None and section < 1:
            raise ValueError(f"section={section}: wanted at least 1 character or null; set data.source.section")
        self.separator, self.section = separator, section

    def documents(self, data_dir: Path) -> list[str]:
        """Read all files, in the order given.

        Raises:
            DataNotFoundError: a file is missing. DataCorruptError: it is empty, damaged or not UTF-8.
        """
        return [text for path in self.paths for text in self._read(find_file(path, data_dir, "data.source.paths"))]

    def _read(self, path: Path) -> list[str]:
        pieces = re.split(rf"^{re.escape(self.separator)}$", _read_text(path), flags=re.MULTILINE)
        texts = [piece.removeprefix("\n").removesuffix("\n") for piece in pieces]
        texts = [text for text in texts if text.strip()]
        if not texts:
            raise DataCorruptError(f"{path} holds no text: put some there or change data.source.paths")
        return _sections(texts[0], self.section) if len(texts) == 1 and self.section is not None else texts


class TokenFile:
    """A flat file of little-endian uint16 token ids, as GPT-2's tokenizer makes them.

    Args:
        path: a relative one is looked for in `data_dir`, in `data_dir`/text and as given.
        end_of_document: id that ends a document; it belongs to no document.
    """

    def __init__(self, path: str | Path, end_of_document: int = 50256) -> None:
        self.path, self.end_of_document = path, end_of_document

    def documents(self, data_dir: Path) -> list[np.ndarray]:
        """Return one array of ids per document, views of the mapped file.

        Raises:
            DataNotFoundError: the file is missing. DataCorruptError: it is empty, cut off inside a token, or has
                no end of a document.
        """
        path = find_file(self.path, data_dir, "data.source.path")
        try:
            tokens = np.memmap(path, dtype="<u2", mode="r")
        except ValueError as error:
            raise DataCorruptError(f"{path} is no file of uint16 tokens: {error}; see data.source.path") from error
        ends = np.flatnonzero(tokens == self.end_of_document)
        if len(ends) == 0:
            raise DataCorruptError(
                f"{path} has no token {self.end_of_document}, which ends a document: set data.source.end_of_document"
            )
        starts, stops = [0, *(ends + 1)], [*ends, len(tokens)]
        return [tokens[start:stop] for start, stop in zip(starts, stops, strict=True) if stop > start]


class HubText:
    """The first `count` texts of a data set of the Hugging Face hub, streamed once and kept as a file in `data_dir`.

    Args:
        name: of the data set. count: texts taken, in the order of the data set.
        split, column: where in the data set the texts are.
    """

    end_of_document = None

    def __init__(self, name: str, count: int, split: str = "train", column: str = "text") -> None:
        if count < 1:
            raise ValueError(f"count={count}: wanted at least 1 document; set data.source.count")
        self.name, self.count, self.split, self.column = name, count, split, column

    def documents(self, data_dir: Path) -> list[str]:
        """Return the texts that are not blank, fetching them first if they are not there yet.

        Raises:
            DataNotFoundError: no package `datasets`, no network, no such data set.
            DataCorruptError: the kept file is damaged, or the data set has fewer than `count` texts.
        """
        name = re.sub(r"[^\w.-]", "--", f"{self.name}_{self.split}_{self.column}_{self.count}")
        path = data_dir / "text" / f"{name}.json.gz"
        if not path.exists():
            _write_texts(path, self._fetch())
        try:
            texts = json.loads(_read_text(path))
        except ValueError as error:
            raise DataCorruptError(f"{path} cannot be read: {error}. Delete it: it is fetched again") from error
        return [text for text in texts if text.strip()]

    def _fetch(self) -> list[str]:
        try:
            from datasets import load_dataset

            rows = load_dataset(self.name, split=self.split, streaming=True)
            texts = [row[self.column] for row in islice(rows, self.count)]
        except Exception as error:  # the library and its transports raise many kinds
            raise DataNotFoundError(
                f"{self.name!r} could not be fetched: {type(error).__name__}: {error}. Wanted: the extra `hub` "
                "(pip install 'bdia[hub]'), a network, and data.source.name, split and column as on the hub; "
                "without them take local text: data=text_file data.source.paths=[my.txt]"
            ) from error
        if len(texts) < self.count:
            raise DataCorruptError(f"{self.name!r} has {len(texts)} texts, wanted {self.count}: set data.source.count")
        return texts


def find_file(path: str | Path, data_dir: Path, key: str) -> Path:
    """Return the first that exists of `data_dir`/path, `data_dir`/text/path and path.

    Raises:
        DataNotFoundError: none does; names the places and the config key.
    """
    places = list(dict.fromkeys([data_dir / path, data_dir / "text" / path, Path(path)]))
    for place in places:
        if place.is_file():
            return place
    looked = ", ".join(str(place) for place in places)
    raise DataNotFoundError(f"{path} was not found (looked for {looked}): change {key}, data.data_dir or BDIA_DATA")


def _read_text(path: Path) -> str:
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        return data.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise DataCorruptError(f"{path} is not UTF-8 ({error}): convert it or change data.source.paths") from error
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataCorruptError(f"{path} is no whole gzip file ({error}): mend it, or set data.source.paths") from error


def _write_texts(path: Path, texts: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_bytes(gzip.compress(json.dumps(texts).encode(), mtime=0))
    temporary.replace(path)


def _sections(text: str, size: int) -> list[str]:
    """Cut after blank lines; a rest shorter than `size` stays with the section before it."""
    sections, length = [[]], 0
    for paragraph in re.split(r"(?<=\n\n)(?!\n)", text):
        if length >= size:
            sections.append([])
            length = 0
        sections[-1].append(paragraph)
        length += len(paragraph)
    if len(sections) > 1 and length < size:
        rest = sections.pop()
        sections[-1] += rest
    return ["".join(section) for section in sections]
