"""The scripts that compare two commits: what counts as a difference, and their arguments."""

import subprocess
import sys

import compare_commits
import golden_check
import pytest
from golden_check import compared, difference

from helpers.places import ROOT


def said(before, after):
    return [str(item) for item in compared("config", before, after)]


def test_what_only_the_first_has_is_a_difference_and_what_only_the_second_has_is_a_note():
    (dropped,) = compared("gradients", {"revvit": "a"}, {})
    (added,) = compared("gradients", {}, {"revvit": "a"})
    assert dropped.wrong and str(dropped) == "gradients: revvit: different: only in the first"
    assert added.wrong is None and str(added) == "gradients: revvit: only in the second"


def test_equal_values_are_equal_and_others_show_the_first_place_where_they_differ():
    before = {"demo": {"lr": 0.1, "net": {"depth": 6}}, "other": 1}
    after = {"demo": {"lr": 0.1, "net": {"depth": 7}}, "other": 1}
    assert said(before, after) == ["config: demo: different: net.depth: 6 became 7", "config: other: equal"]


def test_a_class_under_its_older_name_is_no_difference():
    before = {"demo": {"_target_": "bdia.measure.History"}}
    after = {"demo": {"_target_": "bdia.callbacks.History"}}
    assert said(before, after) == ["config: demo: equal but for renamed classes"]


def test_a_key_of_one_side_is_named_with_its_side():
    assert difference({"a": {"b": 1}}, {"a": {}}) == "a.b is only in the first"
    assert difference({"a": {}}, {"a": {"b": 1}}) == "a.b is only in the second"
    assert difference({"a": [1, 2]}, {"a": [1, 2]}) is None


def test_the_exit_code_is_1_where_an_item_differs(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["golden_check.py", "HEAD", "--epochs", "0"])
    monkeypatch.setattr(golden_check, "checked_out", lambda commit: pytest.MonkeyPatch.context())
    for documents, code in ((({"a": 1}, {"a": 1, "b": 2}), 0), (({"a": 1, "b": 2}, {"a": 1}), 1)):
        answers = iter([*documents, {}, {}])
        monkeypatch.setattr(golden_check, "ask", lambda *_, answers=answers: next(answers))
        assert golden_check.main() == code
        assert capsys.readouterr().out.endswith(f"2 compared, {code} different\n")


@pytest.mark.parametrize("script", [compare_commits, golden_check])
def test_without_a_commit_the_script_says_its_usage(script, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [script.__file__])
    with pytest.raises(SystemExit, match="2"):
        script.main()
    assert "usage:" in capsys.readouterr().err


def test_the_worker_steps_a_stack_and_answers_a_time_and_a_peak():
    settings = {"depth": 1, "width": 8, "tokens": 2, "batch": 1, "stacks": compare_commits.STACKS}
    worker = compare_commits.Worker(ROOT, settings)
    try:
        assert worker.ask("peak", "bdia") > 0 and worker.ask("time", "standard") > 0
    finally:
        worker.close()


@pytest.mark.parametrize("script", sorted((ROOT / "scripts" / "gpu_kit").glob("*.sh")), ids=lambda path: path.name)
def test_a_shell_script_parses(script):
    subprocess.run(["bash", "-n", script], check=True)
