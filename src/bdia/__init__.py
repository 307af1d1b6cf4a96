"""BDIA-transformer: exact bit-level reversible training of standard transformers (arXiv 2407.09093)."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from importlib.util import resolve_name
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # for type checkers; at run time each is imported when it is asked for
    from bdia.reversible import BdiaStack, TwoPoint, checkpoint_two_level, convert, register_adapter, revert
    from bdia.train.export import export

__version__ = "0.2.0.dev0"


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


class MissingExtraError(BdiaError, ModuleNotFoundError):
    """A package that one of our extras installs is not there."""

    @classmethod
    def of(cls, error: ModuleNotFoundError, needed_by: str) -> MissingExtraError | None:
        """Say which extra brings the package that an import did not find; None where none does."""
        missing = (error.name or "").partition(".")[0]
        if missing not in _EXTRA_OF:
            return None
        return cls(
            f"{needed_by} needs the package {missing}, which is not installed: "
            f"pip install '.[{_EXTRA_OF[missing]}]' in bdia's checkout",
            name=missing,
        )


# What each extra of pyproject.toml brings, by the name that is imported; torch alone is always there.
_EXTRAS = {
    "train": (
        *("torchvision", "timm", "safetensors", "lightning", "hydra", "omegaconf", "yaml", "filelock", "wandb"),
        *("torchmetrics", "tokenizers", "sacrebleu", "num2words", "numpy", "scipy", "sklearn", "pydantic"),
        *("requests", "wandb_workspaces", "PIL"),
    ),
    "report": ("matplotlib", "plotly", "jinja2", "pandas", "statsmodels"),
    "hf": ("transformers", "peft", "accelerate"),
    "hub": ("datasets", "huggingface_hub"),
}
_EXTRA_OF = {package: extra for extra, packages in _EXTRAS.items() for package in packages}


def import_module(name: str, package: str | None = None) -> ModuleType:
    """Import a module of ours; where a package of an extra is not there, say which extra brings it.

    Args:
        name, package: as `importlib.import_module` takes them.
    Raises:
        MissingExtraError: an import inside needs an extra that is not installed.
    """
    try:
        return importlib.import_module(name, package)
    except MissingExtraError:
        raise
    except ModuleNotFoundError as error:
        named = MissingExtraError.of(error, resolve_name(name, package))
        if named is None:
            raise
        raise named from error


def lazy_names(package: str, modules: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return a package's `__getattr__` and `__dir__` (PEP 562).

    The first imports the module of a public name when it is asked for; the second lists the public names too.

    Args:
        package: the package's `__name__`.
        modules: public name -> its module, relative to the package (".cifar") or absolute.
    """

    def __getattr__(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(modules[name], package), name)

    def __dir__() -> list[str]:
        return sorted({*vars(sys.modules[package]), *modules})

    return __getattr__, __dir__


_MODULES = {
    **dict.fromkeys(
        ("BdiaStack", "TwoPoint", "checkpoint_two_level", "convert", "register_adapter", "revert"), "bdia.reversible"
    ),
    "export": "bdia.train.export",
}

__all__ = [
    "BdiaError",
    "BdiaStack",
    "ExistingFileError",
    "InvalidTypeError",
    "InvalidValueError",
    "MissingExtraError",
    "MissingFileError",
    "TwoPoint",
    "UnsupportedError",
    "__version__",
    "checkpoint_two_level",
    "convert",
    "export",
    "import_module",
    "lazy_names",
    "register_adapter",
    "revert",
]
__getattr__, __dir__ = lazy_names(__name__, _MODULES)
