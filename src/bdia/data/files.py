"""Files: where data are looked for, how text is read, how any file is written whole or not at all."""

import gzip
import os
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from bdia.data.errors import DataCorruptError, DataNotFoundError

if TYPE_CHECKING:
    import numpy as np


def find(path: str | Path, data_dir: Path, wanted: str, key: str, embedded: str, folder: bool = False) -> Path:
    """Return the first of `data_dir`/path, `data_dir`/text/path and path that exists.

    Args:
        path: of a file, or of a folder if `folder` is true.
        wanted, key, embedded: what belongs there, config key of `path`, name of data without files; for the error.
    Raises:
        DataNotFoundError: none is; names the places.
    """
    places = list(dict.fromkeys([data_dir / path, data_dir / "text" / path, Path(path)]))
    for place in places:
        if place.is_dir() if folder else place.is_file():
            return place
    looked = ", ".join(str(place) for place in places)
    raise DataNotFoundError(
        f"{path} was not found (looked for {looked}): put {wanted} there, set {key}, data.data_dir or BDIA_DATA, or "
        f"take the embedded data (data={embedded})"
    )


def read_text(path: Path, hint: str) -> str:
    """Read UTF-8, plain or `.gz`; a byte order mark is left out, line ends stay as they are.

    Args:
        hint: what to do about a damaged file, the end of the error.
    Raises:
        DataCorruptError: unreadable or not UTF-8; names the file.
    """
    try:
        data = path.read_bytes()
        return (gzip.decompress(data) if path.suffix == ".gz" else data).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataCorruptError(f"{path} is not UTF-8 ({error}): {hint}") from error
    except (OSError, EOFError, zlib.error) as error:  # a damaged .gz raises any of the three
        raise DataCorruptError(f"{path} cannot be read ({error}): {hint}") from error


def write_whole(path: Path, content: "str | Iterable[bytes | np.ndarray]") -> None:
    """Write a file under a temporary name, wait until it is on the disk, then rename it to `path`.

    A failure leaves what was there before: `path` is the old file, the new one, or not there. The folder is made.

    Args:
        content: a text, written as UTF-8, or pieces that are written one behind the other.
    """
    pieces = [content.encode()] if isinstance(content, str) else content
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")  # a rename within one folder cannot be half done
    try:
        with temporary.open("wb") as file:
            for piece in pieces:
                file.write(memoryview(piece))
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
