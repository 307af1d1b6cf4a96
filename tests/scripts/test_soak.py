"""A short soak finds nothing in the engine, and finds a broken copy of it."""

import sys
import warnings

import pytest
import torch

from helpers.places import ROOT

sys.path.insert(0, str(ROOT / "scripts"))
import soak


def verdicts(seeds):
    return [soak.trial(seed) for seed in seeds if seed % soak.EVERY != soak.EVERY - 1]


def test_some_trials_and_inversions_have_no_wrong_bit():
    rows = verdicts(range(60))
    assert not [row for row in rows if row["verdict"] not in ("equal", "refused", "unchecked")]
    assert {row["verdict"] for row in rows} >= {"equal", "refused"}
    found = soak.invert(0, float("inf"), 300)
    assert found["values_wrong"] == 0 and found["inversions"] == 300


@pytest.mark.slow
def test_converted_models_of_transformers_have_no_wrong_bit():
    rows = [soak.trial(seed) for seed in range(soak.EVERY - 1, 400, soak.EVERY)]
    assert {row["stack"] for row in rows} == {"hf_gpt2", "hf_llama"}
    assert {row["verdict"] for row in rows} == {"equal", "refused"}, [row for row in rows if row["verdict"] == "SILENT"]


@pytest.mark.slow
def test_a_training_that_is_killed_and_finds_a_full_disk_ends_with_the_bits_of_any(tmp_path):
    whole = soak.kill_and_resume.whole_run(tmp_path)
    rows = [soak.interrupted(tmp_path, whole, seed) for seed in range(3)]
    assert all(row["verdict"] == "equal" for row in rows), rows
    assert any("full disk" in row["what"] for row in rows)


def test_a_bit_that_is_lost_from_the_side_information_is_found(monkeypatch):
    from bdia.reversible.engine import passes

    real = passes.inverse_kernel

    def lossy(rule, x, x_curr, y, packed, verify, kernel):
        real(rule, x, x_curr, y, packed * 0, verify, kernel)
        return None  # and nobody looks at the sums

    monkeypatch.setattr(passes, "inverse_kernel", lossy)
    # Without the sums of rebuilt streams the engine's other sums still see some of it: both count as found.
    assert any(soak.in_child(seed)["verdict"] in ("SILENT", "CRASH") for seed in range(20))


@pytest.mark.slow
def test_a_held_stream_that_nobody_checks_is_found(monkeypatch):
    from bdia.reversible.engine.findings import Findings

    monkeypatch.setattr(Findings, "note_changed", lambda self, k, wrong: None)
    rows = [row for row in verdicts(range(160)) if row["fault"] == "state"]
    assert any(row["verdict"] == "SILENT" for row in rows)


def test_wrong_inverses_are_counted(monkeypatch):
    real = soak.BdiaRule.invert
    monkeypatch.setattr(soak.BdiaRule, "invert", lambda self, *args: real(self, *args) + 2.0**-20)
    assert soak.invert(0, float("inf"), 20)["values_wrong"] > 0


@pytest.fixture(autouse=True)
def own_threads():
    before = torch.get_num_threads()
    with warnings.catch_warnings():
        yield
    torch.set_num_threads(before)
