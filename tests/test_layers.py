"""Imports point one way: config, data, models, reversible, tasks, measure, results, then the joining modules."""

import ast
from pathlib import Path

import pytest

import bdia

PACKAGE = Path(bdia.__file__).parent
MAY_IMPORT = {
    "reversible": {"reversible"},
    "data": {"data"},
    "models": {"models", "reversible"},
    "optim": {"optim"},
    "tasks": {"tasks", "optim", "models", "reversible", "data"},
    "measure": {"measure"},
    "results": {"results"},
    "plan": {"plan", "build", "cli", "config", "data", "measure", "reversible", "tasks", "workload"},
    "bench": {"bench", "build", "cli", "config", "measure", "results", "reversible", "workload"},
}


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


@pytest.mark.parametrize("layer", MAY_IMPORT)
def test_layer_imports_only_from_its_left(layer):
    for path in sorted((PACKAGE / layer).rglob("*.py")):
        used = {name.split(".")[1] for name in imports(path) if name.startswith("bdia.")}
        assert used <= MAY_IMPORT[layer], f"{path.name} imports {used - MAY_IMPORT[layer]}"


def test_the_engine_imports_torch_and_the_standard_library_only():
    allowed = {
        "bdia", "torch", "__future__", "collections", "contextlib", "copy", "enum", "fnmatch", "fractions", "functools",
        "inspect", "math", "re", "sys", "threading", "typing", "warnings", "weakref",
    }  # fmt: skip
    for path in (PACKAGE / "reversible").rglob("*.py"):
        assert {name.split(".")[0] for name in imports(path)} <= allowed, path.name


ROOMS = {"arithmetic": {"arithmetic"}, "engine": {"arithmetic", "engine"}, "stacks": {"arithmetic", "engine", "stacks"}}


@pytest.mark.parametrize("room", ROOMS)
def test_the_rooms_of_the_engine_import_only_from_those_before_them(room):
    for path in sorted((PACKAGE / "reversible" / room).rglob("*.py")):
        inside = [name.split(".") for name in imports(path) if name.startswith("bdia.")]
        assert all(name[1] == "reversible" and name[2] in ROOMS[room] for name in inside), path.name


def test_only_build_instantiates_from_config():
    users = {p.name for p in PACKAGE.rglob("*.py") if "hydra.utils" in imports(p)}
    assert users == {"build.py"}


def test_nothing_but_its_command_imports_the_bench():
    users = {p for p in PACKAGE.rglob("*.py") if any(name.startswith("bdia.bench") for name in imports(p))}
    assert {path.parent.name for path in users} == {"bench"}
