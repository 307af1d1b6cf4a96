"""Sources of sentence pairs: what can stand at `data.source`. Each is read with `load(data_dir)`.

No source changes a sentence beyond the white space around it: BLEU is computed against the text that is read here.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from bdia import InvalidValueError
from bdia.data.errors import DataCorruptError, DataNotFoundError
from bdia.data.files import find, read_text
from bdia.data.text.normal import is_blank
from bdia.data.text.splits import SPLITS, Pair, Pairs, check_fractions, keep_some, split_pairs


class PairSource(Protocol):
    """Reads pairs. The languages are codes such as "en"; their order is the direction of translation."""

    source_language: str
    target_language: str

    def load(self, data_dir: Path) -> Pairs:
        """Return the pairs of "train", "val" and "test"; the same in every call."""
        ...


class ParallelFiles:
    """Two files per split, `<stem>.<language>`, plain or `.gz`: line n of one translates line n of the other.

    The split is that of the files.

    Args:
        folder: of the files; a relative one is looked for in `data_dir`, in `data_dir`/text and as given.
        files: stem per split, keys "train", "val", "test".
        languages: source and target, endings of the file names.
        limit: training pairs kept; None keeps all. Fewer are part of more.
        seed: of that choice.
    """

    def __init__(
        self,
        folder: str,
        files: Mapping[str, str],
        languages: Sequence[str] = ("en", "fr"),
        limit: int | None = None,
        seed: int = 0,
    ) -> None:
        if set(files) != set(SPLITS):
            raise InvalidValueError(
                f"files names {', '.join(files)}, wanted {', '.join(SPLITS)}; set data.source.files"
            )
        self.source_language, self.target_language = two_languages(languages)
        self.folder, self.files, self.limit, self.seed = folder, dict(files), limit, seed

    def load(self, data_dir: Path) -> Pairs:
        """Read the files.

        Raises:
            DataNotFoundError: a folder or file is missing. DataCorruptError: a file cannot be read, is empty, has a
                blank line, or the two of a split have unequally many lines.
            ValueError: no file has the language; `limit` is out of range.
        """
        stems = [self.files[split] for split in SPLITS]
        names = [f"{stem}.{language}" for stem in stems for language in (self.source_language, self.target_language)]
        wanted = f"{', '.join(names)} (plain or .gz)"
        folder = find(self.folder, data_dir, wanted, "data.source.folder", "numbers", folder=True)
        pairs = {split: self._read(folder, self.files[split], split) for split in SPLITS}
        return {**pairs, "train": keep_some(pairs["train"], self.limit, self.seed)}

    def _read(self, folder: Path, stem: str, split: str) -> list[Pair]:
        paths = [self._path(folder, stem, language, split) for language in (self.source_language, self.target_language)]
        source, target = (read_lines(path, f"data.source.files.{split}") for path in paths)
        if len(source) != len(target):
            raise DataCorruptError(
                f"{paths[0]} has {len(source)} lines, {paths[1]} has {len(target)}: wanted equally many"
            )
        return list(zip(source, target, strict=True))

    def _path(self, folder: Path, stem: str, language: str, split: str) -> Path:
        for path in (folder / f"{stem}.{language}", folder / f"{stem}.{language}.gz"):
            if path.is_file():
                return path
        there = {path.name.removesuffix(".gz") for path in folder.iterdir() if path.is_file()}
        languages = sorted(name[len(stem) + 1 :] for name in there if name.startswith(f"{stem}."))
        if languages:
            pair = f"{self.source_language} -> {self.target_language}"
            raise InvalidValueError(
                f"languages {pair}: {folder}/{stem} has {', '.join(languages)}; set data.source.languages"
            )
        raise DataNotFoundError(
            f"{path} was not found, nor without .gz; {folder} holds {', '.join(sorted(there)) or 'nothing'}; "
            f"put it there or set data.source.files.{split}"
        )


class TabSeparated:
    """One file with a pair per line: columns separated by tabs, two of them sentences, as Tatoeba publishes it.

    Its pairs are split by `split_pairs`.

    Args:
        file: plain or `.gz`; a relative path is looked for in `data_dir`, in `data_dir`/text and as given.
        languages: source and target.
        columns: language of the first columns; further columns are not read.
        val_fraction, test_fraction: shares of the pairs.
        limit: training pairs kept; None keeps all.
        seed: of the split and of that choice.
    """

    def __init__(
        self,
        file: str,
        languages: Sequence[str] = ("en", "fr"),
        columns: Sequence[str] = ("en", "fr"),
        val_fraction: float = 0.05,
        test_fraction: float = 0.05,
        limit: int | None = None,
        seed: int = 0,
    ) -> None:
        check_fractions(val_fraction, test_fraction)
        self.source_language, self.target_language = two_languages(languages, columns)
        self.file, self.columns, self.limit, self.seed = file, tuple(columns), limit, seed
        self.fractions = val_fraction, test_fraction

    def load(self, data_dir: Path) -> Pairs:
        """Read and split.

        Raises:
            DataNotFoundError: no such file. DataCorruptError: it cannot be read, is empty or a line lacks a column.
        """
        wanted = f"lines of {' TAB '.join(self.columns)}"
        path = find(self.file, data_dir, wanted, "data.source.file", "numbers")
        first, second = (self.columns.index(name) for name in (self.source_language, self.target_language))
        pairs = []
        for number, line in enumerate(read_lines(path, "data.source.file"), 1):
            cells = [cell.strip() for cell in line.split("\t")[: len(self.columns)]]
            if len(cells) < len(self.columns) or not all(cells):
                raise DataCorruptError(f"{path}, line {number} is {line!r}: wanted {wanted}")
            pairs.append((cells[first], cells[second]))
        parts = split_pairs(pairs, *self.fractions, self.seed)
        return {**parts, "train": keep_some(parts["train"], self.limit, self.seed)}


def read_lines(path: Path, key: str) -> list[str]:
    """Read a UTF-8 text file, plain or `.gz`: its lines without the white space around them.

    Raises:
        DataCorruptError: unreadable, not UTF-8, empty, or a line is blank; names the file and `key`, its config key.
    """
    text = read_text(path, hint := f"mend it or set {key}")
    if is_blank(text):
        raise DataCorruptError(f"{path} is empty, wanted one sentence a line: {hint}")
    # Line feeds alone end a line: str.splitlines would also cut at characters that stand inside sentences.
    lines = [line.strip() for line in text.removesuffix("\n").split("\n")]
    blank = next((number for number, line in enumerate(lines, 1) if is_blank(line)), None)
    if blank is not None:
        raise DataCorruptError(f"{path}, line {blank} is blank, wanted a sentence: {hint}")
    return lines


def two_languages(languages: Sequence[str], there: Sequence[str] | None = None) -> tuple[str, str]:
    """Check a direction, against the languages that are there if these are known."""
    known = there is None or set(languages) <= set(there)
    if len(languages) != 2 or languages[0] == languages[1] or not known:
        wanted = f"two of {', '.join(there)}" if there else "two languages"
        raise InvalidValueError(f"languages {' -> '.join(languages)}: wanted {wanted}; set data.source.languages")
    return languages[0], languages[1]
