"""A few kills of scripts/kill_and_resume.py; the 200 of the record are run by hand."""

import json
import subprocess
import sys

import pytest

from helpers.places import ROOT

SCRIPT = ROOT / "scripts" / "kill_and_resume.py"


def run(folder, *choices):
    command = [sys.executable, str(SCRIPT), f"runs={folder}", f"out={folder / 'out'}", *choices]
    return subprocess.run(command, capture_output=True, text=True, timeout=600)


@pytest.mark.slow
def test_a_killed_training_ends_as_the_uninterrupted_one(tmp_path):
    done = run(tmp_path, "kills=6", "seed=3")
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = (tmp_path / "out").iterdir()
    rows = json.loads(path.read_text(encoding="utf-8"))["rows"]
    assert sum(len(row["kills"]) for row in rows) == 6
    assert all(row["different"] == [] for row in rows)


@pytest.mark.slow
def test_a_difference_is_seen(tmp_path, monkeypatch):
    """The broken copy: a checkpoint forgets the epoch's means so far."""
    code = "import sys, runpy, bdia.tasks.task as t; t.Task.on_train_start = lambda self: None\n"
    code += f"sys.argv = ['x', 'kills=9', 'seed=1', 'runs={tmp_path}', 'out={tmp_path / 'out'}']\n"
    code += f"runpy.run_path({str(SCRIPT)!r}, run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=600)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "runs differ" in done.stdout
