"""Where documents of text come from. A source is chosen by config; reading is all it does.

A document is a text, or an array of token ids where the source is already tokenised (`end_of_document` is then its id).
"""

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from bdia import InvalidValueError
from bdia.data.errors import DataCorruptError, DataNotFoundError
from bdia.data.files import find, read_text
from bdia.data.text.normal import is_blank, normal
from bdia.data.text.tokenizer import END_OF_DOCUMENT

BLANK_LINE, LINE_END, WORD, ANYWHERE = r"(?<=\n\n)(?!\n)|(?<=\n)(?=[^\S\n]+\n)", r"(?<=\n)", r"(?<=\s)(?=\S)", ""
FEWEST, SHORTEST = 12, 100  # sections of a text, of which a tenth is some; characters of one
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
    a blank line, so that there is something to split; None leaves it whole. Where no blank line comes for twice as
    long, the cut is at a line's end, else between two words, else anywhere. A short text gets shorter sections.

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
            raise InvalidValueError("no text file is named: set data.source.paths=[my.txt]")
        if section is not None and section < 1:
            raise InvalidValueError(f"section={section}: wanted at least 1 character or null; set data.source.section")
        self.separator, self.section = separator, section

    def documents(self, data_dir: Path) -> list[str]:
        """Read all files, in the order given.

        Raises:
            DataNotFoundError: a file is missing. DataCorruptError: it is empty, damaged or not UTF-8.
        """
        paths = [find(path, data_dir, "a text", "data.source.paths", "pydoc") for path in self.paths]
        return [text for path in paths for text in self._read(path)]

    def _read(self, path: Path) -> list[str]:
        text = read_text(path, "mend it or set data.source.paths")
        pieces = re.split(rf"^{re.escape(self.separator)}$", text, flags=re.MULTILINE)
        texts = [piece.removeprefix("\n").removesuffix("\n") for piece in pieces]
        texts = [text for text in texts if not is_blank(text)]
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
        path = find(self.path, data_dir, "uint16 tokens", "data.source.path", "pydoc")
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


def digest(document: Document) -> bytes:
    """Return what tells two documents apart: SHA-256 of the text in its `normal` form, or of the ids."""
    content = normal(document).encode() if isinstance(document, str) else document.tobytes()
    return hashlib.sha256(content).digest()


def _sections(text: str, size: int) -> list[str]:
    """Cut into pieces of at least `size` characters; a shorter rest stays with the piece before it.

    A text that would give fewer than `FEWEST` sections is cut into smaller ones.
    """
    size = min(size, max(SHORTEST, len(text) // FEWEST))
    sections, length = [[]], 0
    for piece in _pieces(text, size):
        if length >= size:
            sections.append([])
            length = 0
        sections[-1].append(piece)
        length += len(piece)
    if len(sections) > 1 and length < size:
        rest = sections.pop()
        sections[-1] += rest
    return ["".join(section) for section in sections]


def _pieces(text: str, size: int) -> list[str]:
    """Cut at blank lines; what is longer than two sections at line ends, what still is at spaces, then anywhere."""
    pieces = [part for part in re.split(BLANK_LINE, text) if part]
    for cut in (LINE_END, WORD, ANYWHERE):
        pieces = [part for piece in pieces for part in ([piece] if len(piece) <= 2 * size else _cut(piece, cut, size))]
    return pieces


def _cut(piece: str, pattern: str, size: int) -> list[str]:
    if not pattern:
        return [piece[start : start + size] for start in range(0, len(piece), size)]
    return [part for part in re.split(pattern, piece) if part]
