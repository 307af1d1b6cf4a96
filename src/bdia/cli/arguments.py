"""What the commands for trained models share: `key=value` arguments, errors of one line, opening a run."""

import dataclasses
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from hydra.errors import InstantiationException
from omegaconf import MISSING, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from bdia import InvalidValueError
from bdia.build import load_run
from bdia.profiling.device import read_device
from bdia.tasks import Task

Arguments = TypeVar("Arguments")

# What a wrong argument, file or text raises below; one line of it says enough.
_REFUSALS = (ValueError, OSError, ArithmeticError, InstantiationException, OmegaConfBaseException)


def command(run: Callable[[Arguments], None], defaults: Arguments, usage: str, argv: Sequence[str] | None) -> None:
    """Read the arguments and call `run` with them.

    Args:
        run: the command.
        defaults: dataclass of all arguments; a field of OmegaConf's MISSING must be given.
        usage: printed for --help.
        argv: arguments; None takes those of the process.
    Raises:
        SystemExit: 0 after --help; 2 after an error, of which stderr then shows one line.
    """
    argv = sys.argv[1:] if argv is None else argv
    if {"-h", "--help"} & set(argv):
        print(usage.strip())
        sys.exit(0)
    try:
        run(read_arguments(defaults, argv))
    except _REFUSALS as error:
        print("error:", " ".join(str(error).split()), file=sys.stderr)
        sys.exit(2)


def read_arguments(defaults: Arguments, argv: Sequence[str]) -> Arguments:
    """Return the defaults changed by `key=value` arguments: texts as they stand, everything else as YAML.

    Raises:
        ValueError: an unknown key, a value of another type, a missing argument.
    """
    fields = {field.name: field for field in dataclasses.fields(defaults)}
    given: dict[str, Any] = {}
    for argument in argv:
        key, equals, text = argument.partition("=")
        if not equals or key not in fields:
            raise InvalidValueError(f"{argument}: wanted key=value with one of the keys {', '.join(fields)}")
        given[key] = text if fields[key].type is str else _read_value(defaults, key, text)
    for key in fields:
        if key not in given and getattr(defaults, key) == MISSING:
            raise InvalidValueError(f"{key} is missing: wanted {key}=..., see --help")
    return dataclasses.replace(defaults, **given)


def _read_value(defaults: Any, key: str, text: str) -> Any:
    try:
        value = OmegaConf.merge(OmegaConf.structured(defaults), OmegaConf.from_cli([f"{key}={text}"]))[key]
        return OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
    except (OmegaConfBaseException, yaml.YAMLError) as error:
        kind = next(field.type for field in dataclasses.fields(defaults) if field.name == key)
        raise InvalidValueError(f"{key}={text}: wanted {getattr(kind, '__name__', kind)}; set {key}") from error


def open_run(checkpoint: str, kind: type[Task], device: str, way_out: str) -> Task:
    """Return the trained task of a checkpoint, on the device.

    Args:
        kind: class of task that the command can use.
        way_out: what to do with another one, the end of the error.
    Raises:
        ValueError: another task, or no such device; and what `load_run` raises.
    """
    place = read_device(device)
    task = load_run(Path(checkpoint))
    if not isinstance(task, kind):
        raise InvalidValueError(
            f"checkpoint={checkpoint} is of {type(task).__name__}, wanted {kind.__name__}: set checkpoint to {way_out}"
        )
    return task.to(place)
