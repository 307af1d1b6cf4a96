"""Checkpoints that no kill and no full disk destroys: written whole, two generations of the last one kept.

One is a file, or a folder of shares (`callbacks.checkpoint.sharded`), and each form takes the other's place.
"""

import errno
import logging
import os
import shutil
import zipfile
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from typing_extensions import override

from bdia import BdiaError
from bdia.data.files import whole_file
from bdia.models.shares import damage, in_shares, read_whole

log = logging.getLogger("bdia")

LAST, PREVIOUS, FINAL = "last.ckpt", "last_before.ckpt", "final.ckpt"
DAMAGED = ".damaged"  # what the name of a file ends in that was found damaged and set aside
UNREADABLE = (OSError, RuntimeError, ValueError, EOFError, KeyError, UnpicklingError, zipfile.BadZipFile)


class CheckpointError(BdiaError, OSError):
    """A checkpoint can't be written, or none of those there can be read."""


class WholeCheckpointIO(TorchCheckpointIO):
    """Write a checkpoint beside its target, wait for the disk, rename; what was `last.ckpt` becomes `last_before.ckpt`.

    Lightning's own writes into the system's temporary folder and moves: between file systems that is a copy over the
    good file.
    """

    @override
    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """Write it.

        Raises:
            CheckpointError: the disk is full or can't be written; the checkpoint before is still there.
        """
        path = Path(path)
        try:
            with whole_file(path, before=lambda: make_way(path)) as file:
                torch.save(checkpoint, file)
        except (OSError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and not _failed_to_write(error):
                raise
            reason = os.strerror(errno.ENOSPC) if _failed_to_write(error) else error.strerror or error
            kept = "the one before is whole" if path.exists() else "there is none before it"
            raise CheckpointError(
                f"checkpoint {path} can't be written ({reason}); {kept}. Make room (or set paths.runs to another disk) "
                "and give the same command: it goes on from there"
            ) from error

    @override
    def load_checkpoint(self, path: str | Path, *arguments: Any, **settings: Any) -> dict[str, Any]:
        """Read it whole, also where several processes wrote it in shares."""
        if in_shares(Path(path)):
            return read_whole(Path(path))
        return super().load_checkpoint(path, *arguments, **settings)


def _failed_to_write(error: BaseException) -> bool:
    """Tell a full disk behind torch.save, which raises a RuntimeError of its own."""
    chain = [error, error.__cause__, error.__context__]
    full = any(isinstance(each, OSError) and each.errno == errno.ENOSPC for each in chain)
    return full or (isinstance(error, RuntimeError) and "PytorchStreamWriter failed" in str(error))


def make_way(path: Path) -> None:
    """Free the name of a checkpoint for a new one that is on the disk; a file may stay, for it is replaced."""
    if path.name == LAST:
        _keep_before(path)
    elif path.is_dir():
        remove(path)


def remove(path: Path) -> None:
    """Remove a checkpoint, if there is one."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _keep_before(path: Path) -> None:
    """Give the last checkpoint its second name; at no moment is there none under one of the two."""
    before = path.with_name(PREVIOUS)
    if not path.exists():
        return
    if before.is_dir() or path.is_dir():  # no links, and no replacing of a folder that holds something
        remove(before)
        os.replace(path, before)
        return
    link = path.with_name(f"{PREVIOUS}.link")
    link.unlink(missing_ok=True)
    try:
        os.link(path, link)
        os.replace(link, before)
    except OSError:  # a file system without links
        os.replace(path, before)


def newest_whole(run_dir: Path, finished: bool) -> Path | None:
    """Return the checkpoint from which a run goes on, None where there is none.

    A damaged one is named in a warning and set aside, and the older one is taken.

    Args:
        finished: whether the run's record is there: then `final.ckpt` belongs to it, and a new run starts anew.
    Raises:
        CheckpointError: there are some, and none is whole.
    """
    names = (LAST, PREVIOUS) if finished else (FINAL, LAST, PREVIOUS)
    there = [path for name in names if (path := run_dir / name).exists()]
    damaged: list[str] = []
    for path in there:
        if (reason := _damage(path)) is None:
            return path
        aside = path.with_name(path.name + DAMAGED)
        os.replace(path, aside)
        damaged.append(f"{aside} ({reason})")
        log.warning("checkpoint %s is damaged (%s): it is now %s; going on from an older one", path, reason, aside.name)
    if damaged:
        raise CheckpointError(
            f"no checkpoint in {run_dir} can be read: {', '.join(damaged)}. Give the same command again to train from "
            "the start, or put a good last.ckpt there"
        )
    return None


def _damage(path: Path) -> str | None:
    """Return what is wrong with a checkpoint, None for a whole one: every byte is read and its sum compared."""
    if path.is_dir():
        return damage(path)
    try:
        with zipfile.ZipFile(path) as archive:
            if (name := archive.testzip()) is not None:
                return f"the sum of {name} is wrong"
        stored = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        stored["state_dict"], stored["loops"]
    except UNREADABLE as error:
        return " ".join(str(error).split())[:200] or type(error).__name__
    return None


def remove_resumable(run_dir: Path) -> None:
    """Remove the checkpoints that an interrupted run needs: its record is on the disk."""
    for name in (LAST, PREVIOUS):
        remove(run_dir / name)
