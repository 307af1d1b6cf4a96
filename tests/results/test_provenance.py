"""Every result in the repository names its code, machine and time, and none was changed after it was committed."""

import json
import subprocess

import pytest

from helpers.places import ROOT

RESULTS = ROOT / "results"
FILES = sorted(path.relative_to(RESULTS).as_posix() for path in RESULTS.rglob("*.json"))
WITHOUT_DEVICE = ("finetune_gamma/",)  # "versions" holds torch's and Python's
IN_THE_NAME = ("gpu/",)  # commit and time; the folder is the card
REPLACED = ("plans/",)  # computed, not measured: `bdia plan` writes the file again
CHANGED = {  # what was changed before this test stood
    "finetune_gamma/20261126T020804889377Z_3a996e9.json",
    "soak/20261126T214327664889Z_97cef35.json",
}


def test_a_result_names_its_code_its_machine_and_its_time():
    for name in [name for name in FILES if not name.startswith(IN_THE_NAME)]:
        found = json.loads((RESULTS / name).read_text(encoding="utf-8"))
        assert len(found["git"]["sha"]) == 40 and found["git"]["dirty"] is False, name
        assert found.get("started_utc") or found.get("created_utc"), name
        assert found["schema"] == 1, name
        assert found.get("device") or name.startswith(WITHOUT_DEVICE), name


def test_no_committed_result_was_ever_changed():
    """A later run is a file of its own. Skipped where the history is not there."""
    command = ["git", "-C", str(ROOT), "log", "--diff-filter=M", "--format=", "--name-only", "--", "results/**/*.json"]
    history = subprocess.run(command, capture_output=True, text=True)
    if history.returncode or (ROOT / ".git" / "shallow").exists():
        pytest.skip("no history")
    changed = {line.removeprefix("results/") for line in history.stdout.split()}
    assert {name for name in changed - CHANGED if not name.startswith(REPLACED)} == set()
