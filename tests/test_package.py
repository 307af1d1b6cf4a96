"""What installing bdia brings: torch alone for the engine, an extra for everything else, named where it is missing."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import bdia
from helpers.places import ROOT

PACKAGE = Path(bdia.__file__).parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
IMPORTED_AS = {
    "hydra-core": "hydra",
    "pillow": "PIL",
    "pyyaml": "yaml",
    "scikit-learn": "sklearn",
    "wandb-workspaces": "wandb_workspaces",
}
WITHOUT_EXTRAS = """
import sys
from importlib.machinery import BuiltinImporter, FrozenImporter, PathFinder
import bdia

class Installed(PathFinder):
    def find_spec(name, path=None, target=None):
        return None if name in bdia._EXTRA_OF else PathFinder.find_spec(name, path, target)

sys.meta_path[:] = [BuiltinImporter, FrozenImporter, Installed]
"""


def run_without_extras(code: str) -> subprocess.CompletedProcess[str]:
    """Run code where every package of an extra is hidden, as it is after `pip install bdia`."""
    command = [sys.executable, "-c", WITHOUT_EXTRAS + code]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def test_the_engine_is_one_dependency():
    assert [re.split("[<>=]", wanted)[0] for wanted in PROJECT["dependencies"]] == ["torch"]


def test_the_engine_works_with_torch_alone():
    done = run_without_extras("""
import torch
from bdia import BdiaStack, convert, register_adapter, revert
from torch import nn
layer = nn.TransformerEncoderLayer(8, 2, 8, batch_first=True, norm_first=True)
model = nn.TransformerEncoder(layer, 4, enable_nested_tensor=False)
convert(model)
model(torch.randn(2, 3, 8)).sum().backward()
revert(model)
assert not set(sys.modules) & set(bdia._EXTRA_OF)
""")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("extra", bdia._EXTRAS)
def test_an_extra_is_listed_alike_in_pyproject_and_in_the_package(extra):
    names = {re.split("[<>=]", wanted)[0] for wanted in PROJECT["optional-dependencies"][extra]}
    assert {IMPORTED_AS.get(name, name) for name in names} == set(bdia._EXTRAS[extra])


def test_everything_imported_is_in_an_extra():
    found = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                found.add(node.module.partition(".")[0])
    # triton comes with torch where there is a GPU; where it does not, its kernels are left out
    assert found - sys.stdlib_module_names - {"bdia", "torch", "triton", "typing_extensions"} <= set(bdia._EXTRA_OF)


@pytest.mark.parametrize(
    ("statement", "package", "extra"),
    [
        ("from bdia import export", "safetensors", "train"),
        ("from bdia.data import DigitsDataModule", "numpy", "train"),
        ("from bdia.tasks import Task", "lightning", "train"),
        ("bdia.import_module('bdia.bench.drawing')", "matplotlib", "report"),
    ],
)
def test_an_import_that_lacks_its_extra_names_it(statement, package, extra):
    done = run_without_extras(f"""
try:
    {statement}
except bdia.MissingExtraError as error:
    print(isinstance(error, ModuleNotFoundError), error.name, error, sep=";")
""")
    kind, name, text = done.stdout.strip().split(";")
    assert (kind, name) == ("True", package), done.stderr
    assert text.endswith(
        f"needs the package {package}, which is not installed: pip install '.[{extra}]' in bdia's checkout"
    )


def test_a_missing_module_of_ours_is_no_missing_extra():
    with pytest.raises(ModuleNotFoundError) as caught:
        bdia.import_module("bdia.no_such_module")
    assert not isinstance(caught.value, bdia.BdiaError)
