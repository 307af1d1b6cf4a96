"""Where the records lie, how they are named in a marker, and the error for a marker that names nothing."""

import re
from pathlib import Path
from typing import Any

from bdia.profiling.sizes import MIB as MIB

RESULTS = Path(__file__).resolve().parents[2] / "results"


class UnknownNumberError(Exception):
    """A marker names nothing that the records hold."""


def word(label: str) -> str:
    """Return a label as one word: "standard, dropout 0.1" -> "standard_dropout_0_1"."""
    return re.sub(r"[^a-z0-9]+", "_", label.lower()).strip("_")


def pick(found: dict[str, Any], name: str, where: str) -> Any:
    """Return the entry of this name, or say which names there are."""
    if name not in found:
        raise UnknownNumberError(f"{where}: {name!r} is not one of {', '.join(found)}")
    return found[name]


def known(value: Any, where: str) -> Any:
    """Return the value, which must be there."""
    if value is None:
        raise UnknownNumberError(f"{where}: not measured")
    return value
