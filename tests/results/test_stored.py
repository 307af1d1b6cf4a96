"""What is said of runs that stored activations although they could have been reversible."""

import warnings
from dataclasses import replace

import pytest

from bdia.build import CONFIGS, compose
from bdia.results.report import build_report, notes, table_text
from bdia.results.store import read_records, write_record
from bdia.results.stored import has_inverse
from bdia.reversible.arithmetic.gamma import GammaLaw
from helpers.places import RESULTS
from helpers.synthetic_records import BDIA, GAMMA, STANDARD, make_metrics, make_record, only

STORED = {**BDIA, "backward": "stored"}
REVERSIBLE = {**BDIA, "backward": "reversible"}


def about(records, runs):
    return [line for line in notes(only(records), runs) if "stored" in line or "reversible" in line]


def test_a_stored_run_takes_memory_and_time_from_a_reversible_run_of_the_same_config():
    records = [make_record(STANDARD), make_record(STORED, at=1), make_record(STORED, seed=1, at=2)]
    twin = make_record(REVERSIBLE, at=3, experiment="table1", metrics=make_metrics(memory=40.0, step_ms=65.0))
    other = make_record({**REVERSIBLE, "bits": 7}, at=4, experiment="bits", metrics=make_metrics(memory=1.0))
    assert about(records, [*records, twin, other]) == [
        "Trained stored (equal weights to the bit): BDIA. Memory and time of these rows are those of storing all "
        "activations.",
        "BDIA, reversible run of table1: peak memory 40.0 MiB, step 65.0 ms.",
    ]
    told = "Of these rows no reversible run is among the records: stack.backward=reversible trains one."
    for alone in ([other], [replace(twin, status="failed", error="x")], [replace(twin, device={"name": "another"})]):
        assert about(records, [*records, *alone])[1:] == [told]


def test_nothing_is_said_of_reversible_runs_and_of_laws_without_an_inverse():
    zero = {**STORED, "gamma": {**GAMMA, "value": "0"}}
    for stack in (REVERSIBLE, zero, {**STORED, "bits": None}):
        records = [make_record(STANDARD), make_record(stack, at=1)]
        assert about(records, records) == []


@pytest.mark.parametrize("law", sorted(path.stem for path in (CONFIGS / "gamma").glob("*.yaml")))
def test_which_laws_have_an_inverse_is_what_the_engine_says(law):
    from hydra.utils import instantiate

    cfg = compose([f"gamma@stack.gamma={law}", "stack.backward=stored"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        built: GammaLaw = instantiate(cfg.stack.gamma, _convert_="all")
    assert has_inverse(dict(cfg.stack)) == built.reversible
    assert not has_inverse({**cfg.stack, "bits": None})


def test_the_table_page_and_terminal_say_it_with_the_records_of_all_experiments(tmp_path):
    records = [make_record(STORED, experiment="bits"), make_record(REVERSIBLE, at=1, experiment="table1")]
    for record in records:
        write_record(record, tmp_path)
    page = build_report(tmp_path, tmp_path).read_text(encoding="utf-8").partition("<noscript>")[0]
    for text in (table_text(records), (tmp_path / "tables" / "bits.md").read_text(encoding="utf-8"), page):
        assert "BDIA, reversible run of table1: peak memory 100.0 MiB, step 50.0 ms." in text


def test_of_table_2_the_reversible_run_of_gamma_one_half_is_that_of_table_1():
    records = read_records(RESULTS)
    lines = about([record for record in records if record.experiment == "table2_cifar10_few"], records)
    assert any(line.startswith("BDIA, gamma ±1/2, bits 9, reversible run of table1_cifar10_few:") for line in lines)
