"""Lines that a command prints while it works. A reader that has gone, such as `head`, never ends the work."""

import os
import re
import sys
from typing import TextIO

CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def say(line: str) -> None:
    """Print a line at once: the logs of a CI or a cluster show it while the run goes on."""
    _print(line, sys.stdout)


def say_on_stderr(line: str) -> None:
    """Report progress, apart from what the command prints as its result."""
    _print(line, sys.stderr)


def printable(text: str) -> str:
    """Return a text without what a terminal obeys: a record or a file may hold any character."""
    return CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", text)


def _print(line: str, stream: TextIO) -> None:
    try:
        print(printable(line), file=stream, flush=True)
    except BrokenPipeError:
        silence(stream)


def silence(stream: TextIO) -> None:
    """Discard what is written to a stream from now on, and what lies in its buffer."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
