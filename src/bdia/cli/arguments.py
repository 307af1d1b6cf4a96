"""`key=value` arguments of the verbs that have their own, and what the verbs for trained models share."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from bdia import InvalidValueError

if TYPE_CHECKING:
    from bdia.tasks import Task

MISSING = "???"  # OmegaConf's word for a value that must be given
Arguments = TypeVar("Arguments")


def read_arguments(defaults: Arguments, argv: Sequence[str]) -> Arguments:
    """Return the defaults changed by `key=value` arguments: texts as they stand, everything else as YAML.

    Args:
        defaults: dataclass of all arguments; a field that is `MISSING` must be given.
    Raises:
        ValueError: an unknown key, a value of another type, a missing argument.
    """
    fields = {field.name: field for field in dataclasses.fields(defaults)}
    given: dict[str, Any] = {}
    for argument in argv:
        key, equals, text = argument.partition("=")
        if not equals or key not in fields:
            near = get_close_matches(key, fields, n=1)
            meant = f"{near[0]}={text}" if near else f"key=value with one of the keys {', '.join(fields)}"
            raise InvalidValueError(f"{argument}: wanted {meant}")
        given[key] = text if fields[key].type in (str, "str") else _read_value(defaults, key, text)
    for key in fields:
        if key not in given and getattr(defaults, key) == MISSING:
            raise InvalidValueError(f"{key} is missing: wanted {key}=..., see --help")
    return dataclasses.replace(defaults, **given)


def script_arguments(defaults: Arguments, text: str | None, argv: Sequence[str] | None = None) -> Arguments:
    """Return the arguments of a script, of the process where none are given; `--help` prints the text and ends."""
    given = list(sys.argv[1:] if argv is None else argv)
    if {"-h", "--help"} & set(given):
        print((text or "").strip())
        sys.exit(0)
    try:
        return read_arguments(defaults, given)
    except InvalidValueError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def _read_value(defaults: Any, key: str, text: str) -> Any:
    import yaml
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        value = OmegaConf.merge(OmegaConf.structured(defaults), OmegaConf.from_cli([f"{key}={text}"]))[key]
        return OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
    except (OmegaConfBaseException, yaml.YAMLError) as error:
        kind = next(field.type for field in dataclasses.fields(defaults) if field.name == key)
        raise InvalidValueError(f"{key}={text}: wanted {getattr(kind, '__name__', kind)}; set {key}") from error


def open_run(checkpoint: str, kind: type[Task], device: str, hint: str) -> Task:
    """Return the trained task of a checkpoint, on the device.

    Args:
        kind: class of task that the command can use.
        hint: what to do with another one, the end of the error.
    Raises:
        ValueError: another task, or no such device; and what `load_run` raises.
    """
    from bdia.build import load_run
    from bdia.profiling.device import read_device

    place = read_device(device)
    task = load_run(Path(checkpoint))
    if not isinstance(task, kind):
        raise InvalidValueError(
            f"checkpoint={checkpoint} is of {type(task).__name__}, wanted {kind.__name__}: set checkpoint to {hint}"
        )
    return task.to(place)
