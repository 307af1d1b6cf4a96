"""Hydra's launchers: what `hydra/launcher=` starts a sweep's jobs with, and what it cannot start."""

from collections.abc import Mapping
from difflib import get_close_matches
from importlib.util import find_spec
from shutil import which
from typing import Any

from hydra.core.config_store import ConfigStore

from bdia import InvalidValueError, UnsupportedError
from bdia.build.together import device_count

EXTRAS = {"submitit": "launchers", "joblib": "launchers", "ray": "ray"}  # of hydra_plugins.hydra_<this>_launcher


def starts_processes(launcher: Mapping[str, Any]) -> bool:
    """Tell whether a launcher hands the jobs to a cluster, which starts their processes."""
    return _kind(launcher) == "submitit"


def check_launcher(launcher: Mapping[str, Any], trainer: Mapping[str, Any]) -> None:
    """Refuse a launcher that is not installed, or that would start another number of processes than the run needs.

    Raises:
        UnsupportedError: it is not installed, or this machine is of no cluster.
        InvalidValueError: submitit reads no such key; two numbers do not fit together, and it names both.
    """
    kind = _kind(launcher)
    if kind and not _installed(f"hydra_{kind}_launcher"):
        raise UnsupportedError(
            f"hydra/launcher: the package hydra-{kind}-launcher is not installed: pip install 'bdia[{EXTRAS[kind]}]', "
            "or leave hydra/launcher out"
        )
    if starts_processes(launcher):
        _check_keys(launcher)
        _check_processes(launcher, trainer)


def _check_keys(launcher: Mapping[str, Any]) -> None:
    """Refuse a key that was added with + and that submitit would fail on, after the sweep has begun."""
    name = "submitit_local" if _is_local(launcher) else "submitit_slurm"
    known = list(ConfigStore.instance().load(f"hydra/launcher/{name}.yaml").node)
    for key in launcher:
        if key not in known:
            near = get_close_matches(key, known, n=1)
            meant = (
                f"; did you mean hydra.launcher.{near[0]}?" if near else f"; leave it out; it reads {', '.join(known)}"
            )
            raise InvalidValueError(f"hydra.launcher.{key}: hydra/launcher={name} reads no {key}{meant}")


def _is_local(launcher: Mapping[str, Any]) -> bool:
    return str(launcher["_target_"]).endswith("LocalLauncher")


def _check_processes(launcher: Mapping[str, Any], trainer: Mapping[str, Any]) -> None:
    given, nodes = trainer.get("devices", 1), int(trainer.get("num_nodes", 1))
    devices = device_count(trainer)
    if devices * nodes > 1 and _is_local(launcher):
        raise InvalidValueError(
            f"trainer.devices={given} with hydra/launcher=submitit_local: its processes do not find each other; set "
            "trainer.devices=1, or hydra/launcher=submitit_slurm"
        )
    if not str(given).isdecimal():
        raise InvalidValueError(
            f"trainer.devices={given} with hydra/launcher=submitit_slurm: SLURM gives each process its own; wanted a "
            f"number; set trainer.devices={devices}"
        )
    _check_counts(launcher, devices, nodes)
    if not _is_local(launcher) and which("srun") is None:
        raise UnsupportedError(
            "hydra/launcher=submitit_slurm: srun was not found; give the command on a machine of the cluster, or set "
            "hydra/launcher=submitit_local"
        )


def _check_counts(launcher: Mapping[str, Any], devices: int, nodes: int) -> None:
    for key, wanted, of in (("tasks_per_node", devices, "trainer.devices"), ("nodes", nodes, "trainer.num_nodes")):
        if (found := int(launcher.get(key) or 1)) != wanted:
            raise InvalidValueError(
                f"hydra.launcher.{key}={found} with {of}={wanted}: wanted one process a device; set "
                f"hydra.launcher.{key}={wanted}"
            )


def _kind(launcher: Mapping[str, Any]) -> str:
    """Return "submitit", "joblib", "ray", or "" for Hydra's own."""
    return next((kind for kind in EXTRAS if f"hydra_{kind}_launcher" in str(launcher["_target_"])), "")


def _installed(plugin: str) -> bool:
    return find_spec("hydra_plugins") is not None and find_spec(f"hydra_plugins.{plugin}") is not None
