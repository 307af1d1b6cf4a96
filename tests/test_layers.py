"""Imports point one way: what CONTRIBUTING.md says of the rooms of src/bdia holds."""

import ast
import re
from collections.abc import Mapping, Set
from graphlib import CycleError, TopologicalSorter
from importlib import import_module
from importlib.util import resolve_name
from pathlib import Path

import pytest

import bdia
from bdia.cli.main import VERBS
from helpers.places import ROOT

PACKAGE = Path(bdia.__file__).parent
# Every entry of src/bdia and what it may import besides itself and the package's root (names and BdiaError).
MAY_IMPORT = {
    "reversible": set(),
    "data": set(),
    "optim": set(),
    "results": {"data", "reversible"},  # three modules of them: see below
    "models": {"reversible"},
    "tasks": {"data", "models", "optim", "reversible"},
    "build": {"data", "models", "results", "reversible", "tasks"},
    "profiling": {"build", "data", "models", "reversible", "tasks"},
    "callbacks": {"data", "profiling"},
    "train": {"build", "callbacks", "data", "models", "profiling", "results", "reversible", "tasks"},
    "bench": {"build", "callbacks", "data", "models", "profiling", "results", "reversible"},
    "cli": {"bench", "build", "data", "models", "profiling", "results", "tasks", "train"},
}  # CONTRIBUTING.md has the same as a table
ROOMS = {"arithmetic": {"arithmetic"}, "engine": {"arithmetic", "engine"}, "stacks": {"arithmetic", "engine", "stacks"}}


def imports(path: Path) -> set[str]:
    """Absolute names of what a file imports, inside functions too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def modules() -> dict[str, Path]:
    """Every module of the package by its dotted name."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def asked_for(name: str, path: Path) -> set[str]:
    """The modules that a module imports by their names when they are asked for: lazy names, verbs of the command."""
    if name == "bdia.cli.main":
        return {f"bdia.cli.{verb.replace('-', '_')}" for verb in VERBS}
    table = import_module(name)._MODULES if "\n_MODULES = " in path.read_text(encoding="utf-8") else {}
    return {resolve_name(module, name) for module in table.values()}


def own_imports(name: str, known: dict[str, Path]) -> set[str]:
    """The modules of the package that a module of it imports, at once, inside functions or when they are asked for."""
    names = {used for used in imports(known[name]) if used.split(".")[0] == "bdia"}
    names = {bdia._MODULES.get(used.removeprefix("bdia."), used) for used in names}  # `from bdia import convert`
    found = {used if used in known else used.rpartition(".")[0] for used in names}
    return found | asked_for(name, known[name])


def rooms(known: dict[str, Path]) -> dict[str, set[str]]:
    """Room -> the other rooms that it imports; of the package's root, where a room may ask for any, none."""
    graph: dict[str, set[str]] = {}
    for name in known.keys() - {"bdia", "bdia.train.__main__"}:  # the second is `bdia train` by another name
        room = name.split(".")[1]
        graph.setdefault(room, set()).update(
            used.split(".")[1] for used in own_imports(name, known) - {"bdia"} if used.split(".")[1] != room
        )
    return graph


def test_the_package_has_at_most_fourteen_entries_and_all_are_listed():
    entries = {  # a folder without a file, such as a pull leaves behind, is none
        path.name for path in PACKAGE.iterdir() if path.is_file() or any(path.rglob("*.py"))
    }
    assert len(entries) <= 14
    assert {name.removesuffix(".py") for name in entries} == {*MAY_IMPORT, "__init__", "py.typed"}


@pytest.mark.parametrize("layer", MAY_IMPORT)
def test_a_room_imports_only_what_it_may(layer):
    known = modules()
    for name in known.keys() - {"bdia.train.__main__"}:
        if name.split(".")[1:2] == [layer]:
            used = {used.split(".")[1] for used in own_imports(name, known) if used != "bdia"} - {layer}
            assert used <= MAY_IMPORT[layer], f"{name} imports {used - MAY_IMPORT[layer]}"


def test_the_table_in_contributing_is_this_list():
    """The rooms in an order of imports, each with what it may import; what is in brackets is a remark."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    (table,) = re.findall(r"^\| room \| may import \|\n\|[- |]+\|\n((?:\|.*\n)+)", text, re.MULTILINE)
    rows = [row.strip("| \n").split(" | ") for row in table.splitlines()]
    found = {room.strip("`"): set(re.findall(r"`(\w+)`", re.sub(r"\(.*?\)", "", names))) for room, names in rows}
    assert found == MAY_IMPORT
    above: set[str] = set()
    for room, names in found.items():
        assert names <= above, room
        above.add(room)


def test_the_rooms_have_an_order():
    graph = rooms(modules())
    assert graph.keys() == MAY_IMPORT.keys()
    check_order(graph)
    check_order(MAY_IMPORT)


def test_no_module_imports_itself_through_others():
    known = modules()
    graph = {name: own_imports(name, known) - {name, "bdia"} for name in known}
    graph["bdia.cli.completion"].remove("bdia.cli.main")  # a verb that reads the table of verbs
    check_order(graph)


def check_order(graph: Mapping[str, Set[str]]) -> None:
    """Fail with the circle if there is one."""
    try:
        tuple(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(f"a circle of imports: {' -> '.join(error.args[1])}")


def test_the_engine_imports_torch_and_the_standard_library_only():
    allowed = {
        "bdia", "torch", "__future__", "collections", "contextlib", "copy", "dataclasses", "enum", "fnmatch",
        "fractions", "functools", "importlib", "inspect", "itertools", "math", "os", "re", "sys", "threading",
        "types", "typing", "warnings", "weakref",
    }  # fmt: skip
    for path in (PACKAGE / "reversible").rglob("*.py"):
        optional = {"triton"} if path.name == "triton_kernels.py" else set()  # which is imported where it is asked for
        assert {name.split(".")[0] for name in imports(path)} <= allowed | optional, path.name


@pytest.mark.parametrize("room", ROOMS)
def test_the_rooms_of_the_engine_import_only_from_those_before_them(room):
    for path in sorted((PACKAGE / "reversible" / room).rglob("*.py")):
        inside = [name.split(".") for name in imports(path) if name.startswith("bdia.reversible.")]
        assert all(name[2] in ROOMS[room] for name in inside), path.name


def test_only_build_instantiates_from_config():
    users = {p for p in PACKAGE.rglob("*.py") if any(name.startswith("hydra.utils.") for name in imports(p))}
    assert users == {PACKAGE / "build" / "__init__.py"}


def test_of_other_rooms_results_import_three_modules_alone_which_need_no_torch():
    known = modules()
    engine = {"bdia.reversible.engine.memory_errors", "bdia.reversible.stacks.registry"}
    allowed = {"bdia", "bdia.data.files", *engine}
    assert not {used.split(".")[0] for name in engine for used in imports(known[name])} - {"typing"}
    for name in known:
        if name.startswith("bdia.results"):
            used = {used for used in own_imports(name, known) if not used.startswith("bdia.results")}
            assert used <= allowed, name


def test_records_are_read_without_torch():
    known = modules()
    heavy = {"torch", "lightning", "hydra", "timm"}
    for name, path in known.items():
        if name.startswith("bdia.results"):
            assert not {used.split(".")[0] for used in imports(path)} & heavy, name
