"""How a command ends when it cannot do what was asked: one line, exit code 2."""

import errno
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from bdia import BdiaError, MissingExtraError
from bdia.results.output import printable, silence

FULL = (errno.ENOSPC, errno.EDQUOT)
DEBUG = "BDIA_DEBUG"  # set to 1: the traceback of every error


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Say an error meant for the user in one line on stderr and exit with 2; an accident keeps its traceback.

    Meant for the user are `BdiaError`, a file that cannot be read or written, and a package that is not installed.
    If the reader of standard output has closed its pipe, the exit code is 141, as after SIGPIPE. A run prints with
    `bdia.results.output.say`, which lets it go on. After Ctrl-C it is 130, without a traceback.
    """
    try:
        yield
        sys.stdout.flush()  # here, where a closed pipe is still caught
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        silence(sys.stdout)
        sys.exit(128 + signal.SIGPIPE)
    except KeyboardInterrupt:
        if os.environ.get(DEBUG) == "1":
            raise
        sys.exit(128 + signal.SIGINT)
    except (BdiaError, OSError, ModuleNotFoundError) as error:
        if os.environ.get(DEBUG) == "1" or _is_accident(error):
            raise
        refuse(_text(error))


def refuse(text: str) -> None:
    """Print one line on stderr and exit with 2."""
    print("error:", printable(" ".join(text.split())), file=sys.stderr)
    sys.exit(2)


def _is_accident(error: Exception) -> bool:
    if isinstance(error, BdiaError):
        return False
    if isinstance(error, ModuleNotFoundError):
        return not error.name or error.name.partition(".")[0] == "bdia"
    return error.filename is None and error.errno not in FULL


def _text(error: Exception) -> str:
    if isinstance(error, ModuleNotFoundError) and not isinstance(error, BdiaError):
        return str(MissingExtraError.of(error, "this verb") or error)
    if isinstance(error, OSError) and error.errno in FULL:
        where = f" ({error.filename})" if error.filename else ""
        return (
            f"{os.strerror(error.errno)}{where}: make room, or set paths.runs and paths.results to another disk; the "
            "same command then goes on from the last checkpoint"
        )
    return str(error) or type(error).__name__
