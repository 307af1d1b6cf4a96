"""Which classes a config that lies beside a checkpoint may name: such a file can come from anyone.

The config that somebody types is theirs, and may name any class. One that is read from a run's folder may name the
classes of `SCHEMAS`, optimizers of torch, and reads no environment variable but BDIA_DATA.
"""

import os
import re
from collections.abc import Iterator
from typing import Any

from bdia import InvalidValueError
from bdia.build.schema import SCHEMAS

TRUST = "BDIA_TRUST"  # packages of the user's own, with commas between
OPTIMIZERS = re.compile(r"torch\.optim\.[A-Z]\w*")
RESOLVERS = re.compile(r"\$\{\s*([\w.]+)\s*:\s*([^,}]*)")
ARGUMENTS = ("_args_", "_recursive_")  # of Hydra: what our configs never need, and what hides calls


def check_trusted(config: Any, source: str) -> None:
    """Refuse a config that calls what is on no list, at any depth.

    Args:
        config: plain values, interpolations not resolved. source: the file, for the error.
    Raises:
        InvalidValueError: names the key and the class, and how to allow it.
    """
    own = tuple(name.strip() for name in os.environ.get(TRUST, "").split(",") if name.strip())
    for key, value in _entries(config):
        name = key.rpartition(".")[2]
        if name in ARGUMENTS:
            raise InvalidValueError(f"{source}: {key}: a saved config has no {name}; it was changed")
        if name == "_target_" and not _is_trusted(value, own):
            raise InvalidValueError(
                f"{source}: {key}={value}: not a class that a saved config may name. If you trust this file, set "
                f"{TRUST}={str(value).partition('.')[0]}"
            )
        for resolver, argument in RESOLVERS.findall(value) if isinstance(value, str) else ():
            if (resolver, argument.strip()) != ("oc.env", "BDIA_DATA"):
                raise InvalidValueError(f"{source}: {key}={value}: a saved config reads nothing from its surroundings")


def _is_trusted(target: Any, own: tuple[str, ...]) -> bool:
    if not isinstance(target, str):
        return False
    package = target.partition(".")[0]
    return target in SCHEMAS or bool(OPTIMIZERS.fullmatch(target)) or package in own


def _entries(node: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every key and value, in lists too."""
    pairs = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in pairs:
        path = f"{place}.{key}".lstrip(".")
        yield path, value
        yield from _entries(value, path)
