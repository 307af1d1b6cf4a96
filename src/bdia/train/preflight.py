"""What a run will need at its end, checked before its data are read: a name, folders to write to, room on the disk
and in memory."""

import os
import secrets
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from torch import nn

from bdia import InvalidValueError, UnsupportedError
from bdia.build import build_net
from bdia.data.files import whole_file
from bdia.profiling.machine import free_bytes
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


def check_memory(cfg: DictConfig, net_arguments: Mapping[str, Any]) -> None:
    """Refuse a model whose weights, gradients and moments alone are larger than the memory that is free.

    The model is built on torch's meta device: no memory, no random numbers.

    Args:
        net_arguments: as for `build_net`.
    Raises:
        UnsupportedError: names the parameters, what they need and what is free.
    """
    cfg = cfg.copy()
    if "weights" in cfg.model.net:
        cfg.model.net.weights = None  # a file
    with warnings.catch_warnings(), torch.device("meta"):
        warnings.simplefilter("ignore")  # the run itself warns
        net = build_net(cfg, net_arguments)
    count, size = sum(p.numel() for p in net.parameters()), _bytes(net)
    with_gradients = 1 if cfg.optimizer.get("in_backward") else 2
    needed = size * (with_gradients + 2 * ("Adam" in str(cfg.optimizer._target_)))
    uses_gpu = cfg.trainer.get("accelerator") != "cpu" and torch.cuda.is_available()
    for place, need, free in (
        ("the machine", size if uses_gpu else needed, free_bytes()),
        ("the GPU", needed, torch.cuda.mem_get_info()[0] if uses_gpu else None),
    ):
        if free is not None and need > free:
            raise UnsupportedError(
                f"model.net has {count:,} parameters: {'weights' if need == size else 'weights, gradients and moments'}"
                f" need {format_bytes(need)} and {place} has {format_bytes(free)} free; set a smaller model.net.width "
                "or depth"
            )


def _bytes(net: nn.Module) -> int:
    return sum(parameter.numel() * parameter.element_size() for parameter in net.parameters())


def check_room(run_dir: Path, net: nn.Module) -> None:
    """Refuse a run whose checkpoints do not fit on the disk.

    Raises:
        UnsupportedError: names what is needed and what is free.
    """
    needed, free = FILES * STATES * _bytes(net), shutil.disk_usage(run_dir).free
    if needed > free:
        raise UnsupportedError(
            f"checkpoints need up to {format_bytes(needed)} and the disk has {format_bytes(free)} free: make room, or "
            "set paths.runs to another disk"
        )
