"""BDIA-transformer: exact bit-level reversible training of standard transformers (arXiv 2407.09093)."""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


class BdiaError(Exception):
    """Base of every error meant for users: its text names the value seen, the value wanted and what to change."""


class InvalidValueError(BdiaError, ValueError):
    """A setting, an argument or an input that cannot be used."""


class InvalidTypeError(BdiaError, TypeError):
    """A thing of another type than the one wanted."""


class UnsupportedError(BdiaError, RuntimeError):
    """A combination, or a state of the program, in which the call cannot be done."""


class MissingFileError(BdiaError, FileNotFoundError):
    """A file or folder that is not there."""


class ExistingFileError(BdiaError, FileExistsError):
    """A file or folder that is there and would be overwritten."""


def lazy_names(package: str, modules: Mapping[str, str]) -> Callable[[str], Any]:
    """Return a package's `__getattr__` (PEP 562), which imports the module of a public name when it is asked for.

    Args:
        package: the package's `__name__`.
        modules: public name -> its module, relative to the package (".cifar") or absolute.
    """

    def __getattr__(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(modules[name], package), name)

    return __getattr__


_MODULES = {
    **dict.fromkeys(("BdiaStack", "TwoPoint", "convert", "register_adapter", "revert"), "bdia.reversible"),
    "export": "bdia.train.export",
}

__all__ = [
    "BdiaError",
    "ExistingFileError",
    "InvalidTypeError",
    "InvalidValueError",
    "MissingFileError",
    "UnsupportedError",
    "lazy_names",
    *_MODULES,
]
__getattr__ = lazy_names(__name__, _MODULES)
