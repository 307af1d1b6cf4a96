"""The wheel: configs, template and command are in it, and it works from any folder without the repository."""

import configparser
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import bdia
from helpers.places import CONFIGS, ROOT
from helpers.training_helpers import TINY


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built as `pip install .` builds it, with the packages that are here."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "--wheel-dir", folder, ROOT], check=True, timeout=300)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path) -> Path:
    """A folder with the wheel's contents, which goes before the repository's sources on the path."""
    folder = wheel.parent / "installed"
    with zipfile.ZipFile(wheel) as file:
        file.extractall(folder)
    return folder


def run(installed: Path, cwd: Path, *arguments: str) -> str:
    """Run Python with the wheel's package in another folder; return what it printed."""
    environment = os.environ | {"PYTHONPATH": str(installed), "OMP_NUM_THREADS": "1", "COLUMNS": "120"}
    command = [sys.executable, *arguments]
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_the_wheel_holds_the_configs_the_template_and_the_types_and_nothing_beside_the_package(wheel, installed):
    found = {path.relative_to(installed / "bdia/configs") for path in (installed / "bdia/configs").rglob("*.yaml")}
    assert found == {path.relative_to(CONFIGS) for path in CONFIGS.rglob("*.yaml")}
    names = zipfile.ZipFile(wheel).namelist()
    assert {"bdia/results/report.html.jinja", "bdia/py.typed"} <= set(names)
    info = f"bdia-{bdia.__version__}.dist-info"
    assert {name.split("/")[0] for name in names} == {"bdia", info}
    assert f"{info}/licenses/LICENSE" in names


def test_the_wheel_has_the_command(installed):
    scripts = configparser.ConfigParser()
    scripts.read(installed / f"bdia-{bdia.__version__}.dist-info" / "entry_points.txt")
    assert dict(scripts["console_scripts"]) == {"bdia": "bdia.cli.main:main"}


def test_the_wheel_composes_every_experiment_from_another_folder(installed, tmp_path):
    code = """
from bdia.build import CONFIGS, compose
for path in sorted((CONFIGS / "experiment").glob("*.yaml")):
    assert compose([f"experiment={path.stem}"]).name
print(CONFIGS)
"""
    assert run(installed, tmp_path, "-c", code).strip() == str(installed / "bdia" / "configs")


def test_the_command_answers_from_another_folder(installed, tmp_path):
    assert "experiment" in run(installed, tmp_path, "-m", "bdia.train", "--help")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_run_and_its_report_stay_in_the_folder_where_they_were_started(installed, tmp_path):
    run(installed, tmp_path, "-m", "bdia.train", *TINY, "trainer.max_epochs=1")
    run(installed, tmp_path, "-m", "bdia.cli", "report")
    assert {path.name for path in tmp_path.iterdir()} == {"results", "runs"}
    assert len(list(tmp_path.glob("results/custom/*.json"))) == 1
    assert (tmp_path / "results" / "report.html").is_file()
