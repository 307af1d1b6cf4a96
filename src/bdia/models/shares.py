"""Checkpoints in shares: a folder into which every process wrote its own part. Read here whole, by one process.

torch.distributed.checkpoint writes the parts. Beside them lie what is in no share, and the sum of every file.
"""

import json
import pickle
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

REST = "meta.pt"  # Lightning's name
SUMS = "sums.json"
METADATA = ".metadata"  # of torch.distributed.checkpoint
WEIGHTS = "state_dict"


def in_shares(path: Path) -> bool:
    """Tell whether a path is a checkpoint in shares."""
    return (path / REST).is_file()


def crc_of(path: Path) -> int:
    """Return the CRC-32 of a file, read in pieces."""
    total = 0
    with path.open("rb") as file:
        while piece := file.read(2**24):
            total = zlib.crc32(piece, total)
    return total


def damage(path: Path) -> str | None:
    """Return what is wrong with a checkpoint in shares, None for a whole one: every byte is read."""
    try:
        sums = json.loads((path / SUMS).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        return f"{SUMS}: {error}"
    for name, wanted in sums.items():
        if not (path / name).is_file():
            return f"{name} is missing"
        if crc_of(path / name) != wanted:
            return f"the sum of {name} is wrong"
    return None


class _MetadataOnly(pickle.Unpickler):
    """Reads what torch.distributed.checkpoint says of a checkpoint, and refuses any other pickle."""

    def find_class(self, module: str, name: str) -> Any:
        """Allow the classes of a description of tensors."""
        known = getattr(dcp.metadata, name, None) if module == dcp.metadata.__name__ else None
        is_dtype = module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)
        if (module, name) in _PARTS or is_dtype or getattr(known, "__module__", None) == dcp.metadata.__name__:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"{METADATA} names {module}.{name}, which describes no tensors")


_PARTS = {
    ("torch", "Size"), ("torch.serialization", "_get_layout"), ("pathlib", "PosixPath"), ("pathlib", "WindowsPath"),
    ("torch.distributed.checkpoint.filesystem", "_StorageInfo"),
}  # fmt: skip


def check_metadata(path: Path) -> None:
    """Refuse a description of a checkpoint that would run code when it is read.

    Raises:
        UnpicklingError: names what it would call.
    """
    with (path / METADATA).open("rb") as file:
        _MetadataOnly(file).load()


def read_weights_of(path: Path) -> dict[str, Any]:
    """Return a checkpoint of anyone's without its optimizers, on the CPU. No object but tensors is read."""
    rest = torch.load(path / REST, map_location="cpu", weights_only=True)
    return {**rest, WEIGHTS: {}} | _read(path, lambda keys, is_tensor: keys[0] == WEIGHTS and is_tensor)


def read_whole(path: Path) -> dict[str, Any]:
    """Return a checkpoint of one's own run as one process would have written it, on the CPU."""
    found = _read(path, lambda keys, is_tensor: True)
    rest = torch.load(path / REST, map_location="cpu", weights_only=True)
    optimizers = [_numbered(found[name]) for name in sorted(found) if name != WEIGHTS]
    return {**rest, WEIGHTS: found[WEIGHTS], "optimizer_states": optimizers}


def _read(path: Path, wanted: Callable[[tuple[Any, ...], bool], bool]) -> dict[str, Any]:
    """Gather the entries that are wanted, in their places in nested dicts.

    Args:
        wanted: asked with the keys of a place, and whether a tensor is there. Anything else is a pickle.
    """
    check_metadata(path)
    metadata = dcp.FileSystemReader(path).read_metadata()
    flat = {name: _empty(entry) for name, entry in metadata.state_dict_metadata.items()}
    places = {name: keys for name, keys in metadata.planner_data.items() if wanted(keys, flat[name] is not None)}
    flat = {name: flat[name] for name in places}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        dcp.load(flat, checkpoint_id=path, no_dist=True)
    tree: dict[Any, Any] = {}
    for name, (*groups, last) in places.items():
        node = tree
        for key in groups:
            node = node.setdefault(key, {})
        node[last] = flat[name]
    return tree


def _empty(entry: Any) -> torch.Tensor | None:
    """Return where an entry is read to; None: a value that is no tensor."""
    return torch.empty(entry.size, dtype=entry.properties.dtype) if isinstance(entry, TensorStorageMetadata) else None


def _numbered(state: dict[str, Any]) -> dict[str, Any]:
    """Return an optimizer's state as torch writes it: parameters have numbers instead of names."""
    groups = [{**group, "params": _listed(group["params"])} for group in _listed(state["param_groups"])]
    names = [name for group in groups for name in group["params"]]
    numbers = {name: number for number, name in enumerate(names)}
    of_parameters = {numbers[name]: value for name, value in state.get("state", {}).items()}
    numbered = [{**group, "params": [numbers[name] for name in group["params"]]} for group in groups]
    return {"state": dict(sorted(of_parameters.items())), "param_groups": numbered}


def _listed(items: Any) -> list[Any]:
    """Return a list that was gathered item by item."""
    return [items[number] for number in sorted(items)] if isinstance(items, dict) else list(items)
