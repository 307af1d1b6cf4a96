"""Every key of a config is read by something: checked when the config is composed."""

from collections.abc import Collection, Iterable, Mapping
from difflib import get_close_matches
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from bdia import InvalidValueError
from bdia.build.schema import check_values
from bdia.build.signature import check_annotated, signature

# Parts that name a class, and the rest of what a run reads. `weights` is there in some experiments only.
PARTS = ("data", "model", "stack", "optimizer", "scheduler", "trainer")
KEYS = (*PARTS, "callbacks", "logger", "name", "seed", "rerun", "paths", "weights", "scale")
PATHS = ("runs", "results")
WEIGHTS = ("from", "pretrain", "folder", "found")
# Arguments that the code passes. A config may not set them.
SUPPLIED = {
    "stack": ("blocks",),
    "model": ("optimizer", "scheduler"),
    "optimizer": ("params",),
    "scheduler": ("optimizer", "total_steps"),
    "trainer": ("callbacks", "logger", "default_root_dir", "plugins"),
}
OPTIMIZER = ("in_backward", "float32_master")  # keys of every optimizer, which `build` reads, not the class
_HYDRAS = ("_target_", "_partial_", "_convert_", "_recursive_", "_args_")


def check_keys(cfg: DictConfig) -> None:
    """Refuse a key that nothing reads, with the nearest one that something does, and a value of another type.

    Raises:
        ValueError: names key, value and what is wanted.
    """
    config = plain_values(OmegaConf.masked_copy(cfg, [key for key in cfg if key != "hydra"]))
    _check_run(config, "")
    weights = config.get("weights")
    if weights is not None:
        _check_names(weights, WEIGHTS, "weights.")
        if "from" not in weights:
            raise InvalidValueError("weights.from is missing: wanted a checkpoint, a folder or null; set +weights.from")
        first = weights.get("pretrain") or {}
        whole = {key: part if _names_a_class(part) else _merged(config.get(key), part) for key, part in first.items()}
        _check_run(whole, "weights.pretrain.")


def plain_values(cfg: DictConfig) -> dict[str, Any]:
    """Return a config as plain values; an interpolation of a whole node stays, for the node is checked at its place.

    Raises:
        InvalidValueError: an interpolation does not resolve; names its key.
    """
    try:
        found = OmegaConf.to_container(cfg, resolve=True)
    except OmegaConfBaseException as error:
        key, said = error.full_key or "the config", str(error).partition("\n")[0]
        raise InvalidValueError(f"{key}: {said}; set {key}") from error
    return cast("dict[str, Any]", _without_copies(OmegaConf.to_container(cfg, resolve=False), found))


def _without_copies(raw: Any, found: Any) -> Any:
    if isinstance(raw, str) and isinstance(found, dict | list):
        return raw
    if isinstance(raw, dict):
        return {key: _without_copies(raw[key], value) for key, value in found.items()}
    return [_without_copies(*pair) for pair in zip(raw, found, strict=True)] if isinstance(raw, list) else found


def _check_run(config: Mapping[str, Any], place: str) -> None:
    _check_names(config, KEYS, place)
    check_values("a run", config, place.rstrip("."))
    if "paths" in config:
        _check_names(config["paths"], PATHS, f"{place}paths.")
        check_values("paths", config["paths"], f"{place}paths")
    for key in PARTS:
        if key in config:
            _check_mapping(config[key], f"{place}{key}", f"a choice of configs/{key}")
            check_node(config[key], f"{place}{key}", OPTIMIZER if key == "optimizer" else ())
    if "optimizer" in config:
        check_values("an optimizer", config["optimizer"], f"{place}optimizer")
    for key in ("callbacks", "logger"):
        for name, node in (config.get(key) or {}).items():
            if not _names_a_class(node):
                raise InvalidValueError(f"{place}{key}.{name}={node}: nothing reads it; wanted a class, _target_=...")
            check_node(node, f"{place}{key}.{name}")


def check_node(node: Any, place: str, more: Collection[str] = ()) -> None:
    """Check a node that may name a class, and all inside it.

    Args:
        node: plain values. place: its key, for the error. more: keys that something else than its class reads.
    Raises:
        InvalidValueError: names key, value and what is wanted.
    """
    for index, item in enumerate(node if isinstance(node, list) else ()):
        check_node(item, f"{place}[{index}]")
    if not isinstance(node, Mapping):
        return
    if _names_a_class(node):
        target = node["_target_"]
        read = signature(target, f"{place}._target_")
        if not read.takes_any:
            known = [name for name in read.annotations if name not in SUPPLIED.get(place, ())]
            _check_names(node, (*_HYDRAS, *known, *more), f"{place}.", target)
        if not check_values(target, node, place):  # a class of the user's, or a library's
            check_annotated(read, node, place)
    for key, value in node.items():
        check_node(value, f"{place}.{key}")


def _check_names(found: Mapping[str, Any], known: Collection[str], place: str, reader: str = "") -> None:
    for key, value in found.items():
        if key not in known:
            shown = "..." if isinstance(value, Mapping) else value
            raise InvalidValueError(f"{place}{key}={shown}: {unread(key, known, place, reader)}")


def unread(key: str, known: Iterable[str], place: str, reader: str = "") -> str:
    """Say that nothing reads a key, and which one was meant; where none is near, what there is."""
    known = [name for name in known if not name.startswith("_")]
    nobody = f"{reader} reads no {key}" if reader else f"nothing reads {place}{key}"
    if near := get_close_matches(str(key), known, n=1, cutoff=0.6):
        return f"{nobody}; did you mean {place}{near[0]}?"
    return f"{nobody}; wanted {' or '.join(', '.join(sorted(known)).rsplit(', ', 1)) or 'none'}"


def _check_mapping(value: Any, key: str, wanted: str) -> None:
    if not isinstance(value, Mapping):
        raise InvalidValueError(f"{key}={value}: wanted {wanted}")


def _names_a_class(node: Any) -> bool:
    return isinstance(node, Mapping) and isinstance(node.get("_target_"), str)


def _merged(base: Any, over: Any) -> Any:
    if not (isinstance(base, Mapping) and isinstance(over, Mapping)):
        return over
    return {**base, **{key: _merged(base.get(key), value) for key, value in over.items()}}
