"""Amounts of memory in words: "24GiB", "0.5" of something, and back."""

import math
import re

from bdia import InvalidValueError

UNITS = {
    "B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12,
    "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40,
}  # fmt: skip
MIB, GIB = UNITS["MiB"], UNITS["GiB"]
CATEGORIES = ("parameters", "gradients", "optimizer", "activations", "other")  # of a step's peak, which is their sum


def read_memory(value: str | float, key: str) -> int | float:
    """Return bytes for an amount ("24GiB", "512 MiB", "24GB"), or the fraction itself for a number up to 1.

    Args:
        key: config key or argument, for the error.
    Raises:
        ValueError: it is neither.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?|\.\d+)\s*([A-Za-z]*)\s*", str(value))
    number, unit = (float(found[1]), found[2]) if found else (0.0, "")
    if unit in UNITS and number > 0:
        return int(number * UNITS[unit])
    if found and not unit and 0 < number <= 1:
        return number
    raise InvalidValueError(
        f'{key}={value}: wanted an amount such as "24GiB" or "512MiB", or a fraction of the standard stack\'s peak '
        f"such as 0.5; set {key}"
    )


def format_bytes(size: int | float) -> str:
    """Return bytes with three digits, e.g. "1.21 GiB"."""
    unit = next((unit for unit in ("TiB", "GiB", "MiB", "KiB") if size >= UNITS[unit]), "B")
    number = size / UNITS[unit]
    digits = max(0, 2 - int(math.log10(number))) if number >= 1 and unit != "B" else 0
    return f"{number:.{digits}f} {unit}"
