"""Write a checkpoint in shares: every process its own part, the folder whole or not there."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.api import CheckpointException

from bdia.data.files import sync_folder, unfinished, whole_file, write_whole
from bdia.data.ranks import are_several, gathered, rank
from bdia.models.shares import METADATA, REST, SUMS, WEIGHTS, crc_of
from bdia.train.checkpoints import CheckpointError, make_way, remove


def save_shares(checkpoint: dict[str, Any], path: Path) -> None:
    """Write a checkpoint whose tensors are shared out; all processes call it, with a path on a disk that all see.

    The folder gets its name when all is on the disk. What was `last.ckpt` becomes `last_before.ckpt`.

    Raises:
        CheckpointError: in all processes: one of them could not write. The checkpoint before is still there.
    """
    making = Path(gathered(str(unfinished(path)))[0])
    shared = {WEIGHTS: checkpoint.pop(WEIGHTS)}
    shared |= {f"optimizer_{n}": state for n, state in enumerate(checkpoint.pop("optimizer_states", []))}
    sums: dict[str, int] = {}
    _together(lambda: dcp.save(shared, checkpoint_id=making, no_dist=not are_several()), path, making)
    _together(lambda: sums.update(_own_sums(making)), path, making)
    sums = {name: crc for part in gathered(sums) for name, crc in part.items()}
    _together(lambda: _finish(checkpoint, making, path, sums) if rank() == 0 else None, path, making)


def _together(step: Callable[[], None], path: Path, making: Path) -> None:
    """Take a step in all processes; where it fails in one of them, raise in all."""
    try:
        step()
        problem = None
    except (OSError, RuntimeError, CheckpointException) as error:
        first = next(iter(error.failures.values()))[0] if isinstance(error, CheckpointException) else error
        problem = " ".join(str(first).split())[:300] or type(first).__name__
    if problem := next(filter(None, gathered(problem)), None):
        if rank() == 0:
            remove(making)
        kept = "the one before is whole" if path.exists() else "there is none before it"
        raise CheckpointError(
            f"checkpoint {path} can't be written ({problem}); {kept}. Make room (or set paths.runs to another disk "
            "that all processes see) and give the same command: it goes on from there"
        )


def _own_sums(making: Path) -> dict[str, int]:
    return {file.name: crc_of(file) for file in making.glob(f"__{rank()}_*.distcp")}


def _finish(rest: dict[str, Any], making: Path, path: Path, sums: dict[str, int]) -> None:
    """Add what is in no share, and the sums; then give the folder its name."""
    with whole_file(making / REST) as file:
        torch.save(rest, file)
    sums |= {name: crc_of(making / name) for name in (REST, METADATA)}
    write_whole(making / SUMS, json.dumps(sums))
    make_way(path)
    path.unlink(missing_ok=True)  # a file: a folder can't take its name
    os.replace(making, path)
    sync_folder(path.parent)
