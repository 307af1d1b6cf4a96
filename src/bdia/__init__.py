"""BDIA-transformer: exact bit-level reversible training of standard transformers (arXiv 2407.09093)."""

from importlib import import_module
from typing import Any

# Public name -> its module. Each is imported when it is asked for: `import bdia` loads no torch.
_MODULES = {
    **dict.fromkeys(("BdiaStack", "TwoPoint", "convert", "register_adapter", "revert"), "bdia.reversible"),
    "export": "bdia.export",
}

__all__ = ["BdiaStack", "TwoPoint", "convert", "export", "register_adapter", "revert"]


def __getattr__(name: str) -> Any:
    """Import the module of a public name (PEP 562)."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)
