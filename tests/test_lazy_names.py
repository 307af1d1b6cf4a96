"""Packages whose names are imported when asked for: a program, `dir` and a type checker see the same names."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import bdia

SOURCES = Path(bdia.__file__).parents[1]
PACKAGES = {
    ".".join(path.parent.relative_to(SOURCES).parts): path
    for path in sorted((SOURCES / "bdia").rglob("__init__.py"))
    if "= lazy_names(__name__" in path.read_text(encoding="utf-8")
}


def seen_by_type_checkers(path):
    """Public name -> its module, of the block `if TYPE_CHECKING:`."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    blocks = [node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    imports = [node for block in blocks for node in block.body]
    return {alias.asname or alias.name: node.module for node in imports for alias in node.names}


def test_the_lazy_packages_are_found():
    assert {"bdia", "bdia.data", "bdia.reversible", "bdia.results", "bdia.tasks", "bdia.train"} <= set(PACKAGES)


@pytest.mark.parametrize("name", PACKAGES)
def test_every_lazy_name_can_be_imported_and_stands_in_dir_and_all_and_before_a_type_checker(name):
    package = importlib.import_module(name)
    seen = seen_by_type_checkers(PACKAGES[name])
    for public, module in package._MODULES.items():
        defined_in = importlib.import_module(module, name).__name__
        line = f"from {defined_in} import {public} as {public}"
        assert seen.get(public) == defined_in, f"{PACKAGES[name]}, if TYPE_CHECKING: wanted the line `{line}`"
        assert getattr(package, public) is getattr(sys.modules[defined_in], public)
    assert set(seen) == set(package._MODULES) <= set(package.__all__) <= set(dir(package))
    assert "__name__" in dir(package)


def test_dir_imports_nothing():
    code = f"""
import importlib, sys
for name in {list(PACKAGES)}:
    dir(importlib.import_module(name))
print("torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
