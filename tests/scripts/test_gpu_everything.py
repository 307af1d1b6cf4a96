"""The kit's one command keeps to its budget, and its wheels are those of constraints.txt."""

import json
import sys
import time

import pytest
from gpu_kit import everything, wheels
from gpu_kit.everything import Part, parts, run_all

from helpers.places import ROOT


def python(code):
    return [sys.executable, "-S", "-c", code]


def test_a_part_that_fails_or_outlasts_its_share_does_not_stop_the_next(tmp_path, monkeypatch):
    monkeypatch.setattr(everything, "GRACE", 1)
    todo = [
        Part("check", python("print('here')"), 0.5),
        Part("tests", python("raise SystemExit(3)"), 0.5),
        Part("bench", python("import time; time.sleep(60)"), 0.1),
        Part("table1", python("print('last')"), 1.0),
    ]
    began = time.monotonic()
    found = run_all(todo, 10, tmp_path)
    assert time.monotonic() - began < 11
    assert [(row["part"], row["ended"]) for row in found] == [
        ("check", "ok"), ("tests", "failed"), ("bench", "stopped"), ("table1", "ok")
    ]  # fmt: skip
    assert json.loads((tmp_path / "summary.json").read_text()) == found
    assert (tmp_path / "table1.log").read_text() == "last\n"


def test_nothing_runs_on_a_machine_that_fails_the_check_or_without_time(tmp_path, monkeypatch):
    monkeypatch.setattr(everything, "GRACE", 0)
    todo = [Part("check", python("raise SystemExit(1)"), 1.0), Part("tests", python(""), 1.0)]
    assert [row["ended"] for row in run_all(todo, 10, tmp_path)] == ["failed"]
    assert [row["ended"] for row in run_all(todo, 0, tmp_path / "none")] == ["not started"]


def test_the_parts_are_those_of_the_kit(tmp_path):
    names = [part.name for part in parts(tmp_path, "few", "data", 540)]
    assert names == ["check", "tests", "gpu_check", "bench", "table1"]


def test_what_is_installed_is_not_missing_and_what_is_not_is():
    assert wheels.missing(["pytest", "no-such-package-of-ours"]) == ["no-such-package-of-ours"]
    assert {"hydra-core", "lightning", "timm", "pytest"} <= set(wheels.wanted()) and "bdia" not in wheels.wanted()


def test_wheels_are_of_the_versions_in_constraints():
    constraints = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    assert wheels.pinned(["antlr4_python3_runtime"], constraints) == ["antlr4-python3-runtime==4.9.3"]
    with pytest.raises(SystemExit, match=r"nothing: not in constraints\.txt"):
        wheels.pinned(["nothing"], constraints)
