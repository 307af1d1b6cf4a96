"""Import a library without the packages that it only looks for."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.abc import Loader
from importlib.machinery import ModuleSpec
from importlib.metadata import Distribution, DistributionFinder, PackageNotFoundError
from types import ModuleType


class _Absent(DistributionFinder, Loader):
    """Answers for some packages, before anyone else is asked: their import fails, and they have no version."""

    def __init__(self, names: frozenset[str]) -> None:
        self.names = names

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> ModuleSpec | None:
        """Take on the packages to be hidden, and no other."""
        return ModuleSpec(fullname, self) if fullname in self.names else None

    def exec_module(self, module: ModuleType) -> None:
        """Refuse the import."""
        raise ModuleNotFoundError(f"No module named {module.__name__!r}", name=module.__name__)

    def find_distributions(self, context: DistributionFinder.Context | None = None) -> list[Distribution]:
        """Refuse to tell the version."""
        if context is not None and context.name in self.names:
            raise PackageNotFoundError(context.name)
        return []


@contextmanager
def without(*names: str) -> Iterator[None]:
    """Let packages be absent for what is imported inside: libraries then do without them in this process.

    A package that is imported already stays; afterwards every package can be imported as ever.
    """
    finder = _Absent(frozenset(names) - set(sys.modules))
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
