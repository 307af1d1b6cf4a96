"""Tell the variants of one experiment apart by the config entries in which their records differ."""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from bdia.results.record import RunRecord
from bdia.reversible.stacks.registry import BY_CLASS, STANDARD

# Two runs that differ only in these entries are one variant: the seed, places on the disk, loggers, callbacks.
IGNORED_GROUPS = {"seed", "name", "experiment", "paths", "logger", "callbacks"}
IGNORED_NAMES = {"seed", "data_dir", "cache_dir", "download", "default_root_dir", "accelerator", "devices"}
IGNORED_NAMES |= {"enable_progress_bar", "enable_model_summary", "log_every_n_steps"}
UNSET = "unset"

Settings = tuple[tuple[str, Any], ...]


def class_name(node: Any) -> str:
    """Return the name of the class in a config node's `_target_`, without its module; "" if it has none."""
    return str(node.get("_target_", "")).rpartition(".")[2] if isinstance(node, Mapping) else ""


def stack_class(config: Mapping[str, Any]) -> str:
    """Return the class name of the stack, e.g. "BdiaStack"."""
    return class_name(config.get("stack"))


def task_class(config: Mapping[str, Any]) -> str:
    """Return the class name of the task, e.g. "ImageClassification"."""
    return class_name(config.get("model"))


def stack_name(config: Mapping[str, Any]) -> str:
    """Return the stack's label of the registry, e.g. "BDIA"; the name of the class if it is not there."""
    name = stack_class(config)
    if (name, task_class(config)) == (STANDARD.class_name, "ImageClassification"):
        return "standard (ViT)"  # as in the paper's tables
    return BY_CLASS[name].label if name in BY_CLASS else name or "no stack"


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return {"a.b.c": scalar} of the entries in which variants can differ; lists become their JSON text."""
    flat: dict[str, Any] = {}
    for name, value in config.items():
        key = f"{prefix}{name}"
        copy_of_stack = name == "stack" and prefix != ""  # model.net.stack repeats the group `stack`
        if key in IGNORED_GROUPS or name in IGNORED_NAMES or copy_of_stack:
            continue
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{key}.")
        else:
            flat[key] = json.dumps(value) if isinstance(value, list | tuple) else value
    return flat


def differing_settings(records: Sequence[RunRecord]) -> list[Settings]:
    """Return, for each record, the (key, value) pairs in which it differs from the experiment's other records.

    A key is compared among those records only whose nodes around it name the same classes. So `stack.bits` differs if
    two BDIA runs have different bits; that a baseline has no bits does not count. The stack's class is always among the
    pairs.
    """
    flats = [flatten(record.config) for record in records]
    values: dict[tuple[str, Settings], set[Any]] = defaultdict(set)
    keys = sorted({key for flat in flats for key in flat})
    for flat in flats:
        for key in keys:
            values[key, _enclosing_classes(flat, key)].add(flat.get(key, UNSET))
    return [
        tuple(
            (key, flat.get(key, UNSET))
            for key in keys
            if key == "stack._target_" or len(values[key, _enclosing_classes(flat, key)]) > 1
        )
        for flat in flats
    ]


def _enclosing_classes(flat: Mapping[str, Any], key: str) -> Settings:
    parts = key.split(".")
    if parts[-1] == "_target_":  # to compare the class of a node, look at the nodes around it
        parts = parts[:-1]
    prefixes = [".".join(parts[:depth]) for depth in range(1, len(parts))]
    return tuple((prefix, flat.get(f"{prefix}._target_")) for prefix in prefixes)


def label(record: RunRecord, settings: Settings) -> str:
    """Return the row's name: the stack, then what differs, e.g. "BDIA, bits 7, gamma ±1/4"."""
    parts = [stack_name(record.config)]
    if any(key.startswith("stack.gamma.") for key, _ in settings):
        parts.append(f"gamma {gamma_text(record.config['stack'].get('gamma'))}")
    for key, value in settings:
        if key == "stack._target_" or key.startswith("stack.gamma."):
            continue
        if key.endswith("._target_"):
            key, value = key.removesuffix("._target_"), str(value).rpartition(".")[2]
        if value != UNSET:
            parts.append(f"{key.rpartition('.')[2]} {value}")
    return ", ".join(parts)


def gamma_text(gamma: Any) -> str:
    """Return a gamma law in the paper's notation where it has one: ±1/2, else the class and its arguments."""
    if not isinstance(gamma, Mapping):
        return str(gamma)
    name = class_name(gamma)
    arguments = {key: value for key, value in gamma.items() if not key.startswith("_")}
    if arguments.get("per") == "sample":  # as in the paper, so it is not shown
        del arguments["per"]
    if name == "TwoPoint" and set(arguments) == {"value"}:
        return f"±{arguments['value']}"
    return f"{name.lower()} {', '.join(map(_argument_text, arguments.values()))}".strip()


def _argument_text(value: Any) -> str:
    """Return a law's argument: values with their shares, as "1/2: 0.333", a list in brackets, others as they are."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {share:.3g}" for key, share in value.items())
    return f"[{', '.join(map(str, value))}]" if isinstance(value, list) else str(value)
