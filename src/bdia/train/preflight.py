"""What a run will need at its end, checked before its data are read: a name, folders to write to, room on the disk."""

import os
import secrets
import shutil
from pathlib import Path

from omegaconf import DictConfig
from torch import nn

from bdia import InvalidValueError, UnsupportedError
from bdia.data.files import whole_file
from bdia.profiling.sizes import format_bytes
from bdia.results.store import NOT_EXPERIMENTS

LONGEST_NAME = 255  # bytes of a folder's name
FILES = 4  # checkpoints at most on the disk: last, the one before, final, and the one that is being written
STATES = 3  # a weight and two moments of it


def check_places(cfg: DictConfig) -> None:
    """Refuse a name that cannot be a folder's, and folders that cannot be written to. Nothing is left behind.

    Raises:
        InvalidValueError: names name, paths.results or paths.runs.
    """
    name = str(cfg.name)
    plain = name not in (".", "..") and not name.startswith(".") and Path(name).name == name and name.isprintable()
    if not plain or len(name.encode()) > LONGEST_NAME:
        raise InvalidValueError(
            f"name={name}: wanted a plain name of a folder of at most {LONGEST_NAME} bytes; set name"
        )
    if name in NOT_EXPERIMENTS:
        raise InvalidValueError(
            f"name={name}: that folder of results holds other things; wanted another name; set name"
        )
    for key in ("results", "runs"):
        _probe(Path(cfg.paths[key]).resolve() / name, f"paths.{key}", str(cfg.paths[key]))


def _probe(folder: Path, key: str, given: str) -> None:
    """Write a file into a folder and take everything away again."""
    made = [place for place in (folder, *folder.parents) if not place.exists()]
    file = folder / f".probe-{os.getpid()}-{secrets.token_hex(4)}"
    try:
        with whole_file(file) as opened:
            opened.write(b"probe")
        file.unlink()
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise InvalidValueError(f"{key}={given}: {folder.name} can't be written there ({reason}); set {key}") from error
    finally:
        for place in made:
            if place.is_dir() and not any(place.iterdir()):
                place.rmdir()


def check_room(run_dir: Path, net: nn.Module) -> None:
    """Refuse a run whose checkpoints do not fit on the disk.

    Raises:
        UnsupportedError: names what is needed and what is free.
    """
    weights = sum(parameter.numel() * parameter.element_size() for parameter in net.parameters())
    needed, free = FILES * STATES * weights, shutil.disk_usage(run_dir).free
    if needed > free:
        raise UnsupportedError(
            f"checkpoints need up to {format_bytes(needed)} and the disk has {format_bytes(free)} free: make room, or "
            "set paths.runs to another disk"
        )
