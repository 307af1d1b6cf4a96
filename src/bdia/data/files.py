"""Files: where data are looked for, how text is read, how any file is written whole or not at all."""

import codecs
import contextlib
import gzip
import os
import platform
import secrets
import shutil
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from bdia.data.errors import DataCorruptError, DataNotFoundError

if TYPE_CHECKING:
    import numpy as np

BYTE_ORDER_MARKS = {codecs.BOM_UTF32_LE: "UTF-32", codecs.BOM_UTF32_BE: "UTF-32", codecs.BOM_UTF16_LE: "UTF-16"}
BYTE_ORDER_MARKS |= {codecs.BOM_UTF16_BE: "UTF-16"}
LEFTOVER = ".unfinished-"  # how the name of a temporary file begins


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
    """Read UTF-8, plain or `.gz`, see `decoded`.

    Args:
        hint: what to do about a damaged file, the end of the error.
    Raises:
        DataCorruptError: unreadable or not UTF-8; names the file, the line and the byte.
    """
    try:
        data = path.read_bytes()
        data = gzip.decompress(data) if path.suffix == ".gz" else data
        return decoded(data, str(path), hint)
    except (OSError, EOFError, zlib.error) as error:  # a damaged .gz raises any of the three
        raise DataCorruptError(f"{path} cannot be read ({error}): {hint}") from error


def decoded(data: bytes, name: str, hint: str) -> str:
    """Return UTF-8 as text: without a byte order mark, every line ended by a line feed.

    Lines end at CR LF, or at CR where no line feed is there, as in old files of the Mac; a CR in a line stays.

    Raises:
        DataCorruptError: another encoding, or a zero byte; names the line and the byte.
    """
    for mark, encoding in BYTE_ORDER_MARKS.items():
        if data.startswith(mark):
            raise DataCorruptError(f"{name} is {encoding}, wanted UTF-8: save it as UTF-8, or {hint}")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line, byte = data.count(b"\n", 0, error.start) + 1, data[error.start]
        raise DataCorruptError(
            f"{name} is not UTF-8: line {line} has the byte 0x{byte:02x} ({error.reason}): {hint}"
        ) from error
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise DataCorruptError(f"{name} is no text: line {line} has a zero byte: {hint}")
    text = text.replace("\r\n", "\n")
    return text if "\n" in text else text.replace("\r", "\n")


@contextlib.contextmanager
def whole_file(path: Path, before: Callable[[], None] | None = None) -> Iterator[BinaryIO]:
    """Open a temporary file beside `path` for writing; at the end it is on the disk and takes the name `path`.

    The one writer of files. A failure or a kill at any moment leaves `path` as it was, the new file, or not there. The
    folder is made.

    Args:
        before: called between the two, when the new file is on the disk and the old one still has its name.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Beside its target: only within one file system is a rename never half done. Short, for names of 255 bytes.
    temporary = unfinished(path)
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if before is not None:
            before()
        os.replace(temporary, path)
        sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def unfinished(path: Path) -> Path:
    """Return a new name beside `path` for what is being written; `remove_leftovers` knows it."""
    return path.with_name(f"{_mine()}{secrets.token_hex(4)}")


def write_whole(path: Path, content: "str | Iterable[bytes | np.ndarray]") -> None:
    """Write a file whole or not at all, see `whole_file`.

    Args:
        content: a text, written as UTF-8, or pieces that are written one behind the other.
    """
    with whole_file(path) as file:
        for piece in [content.encode()] if isinstance(content, str) else content:
            file.write(memoryview(piece))


def remove_leftovers(folder: Path) -> None:
    """Remove what killed writers of this machine left in a folder and those inside; the files of living ones stay."""
    for path in list(folder.rglob(f"{LEFTOVER}{_host()}-*")):
        pid = path.name.split("-")[2]
        if pid.isdigit() and not Path(f"/proc/{pid}").exists():
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def _mine() -> str:
    return f"{LEFTOVER}{_host()}-{os.getpid()}-"


def _host() -> str:
    return zlib.crc32(platform.node().encode()).to_bytes(4).hex()


def sync_folder(folder: Path) -> None:
    """Wait until the new name is on the disk; some file systems can't tell and need not."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
