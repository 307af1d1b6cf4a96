"""Fig. 2 in the report: the table, the figure, the verdict and a record that is none."""

import json

import pytest

from bdia.results import reconstruction
from bdia.results.record import RecordError
from bdia.results.report import build_report
from bdia.results.store import write_record
from helpers.synthetic_records import make_study

DEVICE = {"name": "CPU (test)", "torch": "2.14.0"}
SETTINGS = {"model": "gpt2_demo", "width": 8, "tokens": 4, "gamma": "1/2", "bits": 9, "seeds": [0, 1]}


def make(growth=1000.0):
    """Errors that grow by `growth` between x_10 and x_0 in one seed, twice as much in the other; exact: none."""
    rows = [
        {"depth": 12, "seed": seed, "form": "float32", "k": k, "error": 1.0,
         "relative": (seed + 1) ** (k == 0) * 1e-7 * growth ** ((10 - min(k, 10)) / 10) if k < 11 else 0.0}
        for seed in (0, 1) for k in range(13)
    ]  # fmt: skip
    rows += [{**row, "form": "exact", "relative": 0.0, "error": 0.0} for row in rows]
    header = {"schema": 1, "study": "reconstruction", "git": {"sha": "abcdef0123456789", "dirty": False}}
    return {**header, "device": DEVICE, "settings": SETTINGS, "started_utc": "", "wall_s": 12.0, "rows": rows}


@pytest.mark.parametrize(("growth", "outcome"), [(1000.0, "reproduced"), (50.0, "not resolved"), (4.0, "contradicted")])
def test_the_claim_is_judged_by_the_growth_in_every_seed(growth, outcome):
    row = reconstruction.claim(make(growth))
    assert row.cells[-1] == outcome
    assert row.cells[3] == f"{growth:,.0f} to {2 * growth:,.0f} times from x_10 to x_0"
    assert "exact form 0" in row.cells[2]


def test_without_a_record_the_claim_is_not_run():
    assert reconstruction.claim(None).cells[-1] == "not run"


def test_the_table_gives_median_and_range_and_a_plain_zero():
    float_row, exact_row = reconstruction.table(make()).rows
    assert float_row == ["float form in float32", "1.5e-04 (1.0e-04 to 2.0e-04)"]
    assert exact_row == ["exact, on the grid", "0"]


def test_the_report_shows_it(tmp_path):
    for record in make_study():
        write_record(record, tmp_path)
    folder = tmp_path / "reconstruction"
    folder.mkdir()
    (folder / "20261126T000000000000Z_abcdef0.json").write_text(json.dumps(make()))
    page = build_report(tmp_path, tmp_path).read_text(encoding="utf-8")
    assert reconstruction.TITLE.replace("'", "&#39;") in page and "blocks inverted" in page
    claims = (tmp_path / "tables" / "claims.md").read_text(encoding="utf-8")
    assert claims.index("Table 2: gamma") < claims.index("Fig. 2: the error") < claims.index("Fig. 3: BDIA")


@pytest.mark.parametrize("text", ["", "{}", '{"rows": [{"k": 0}]}', '{"rows": 3}'])
def test_a_file_that_is_no_record_is_named(tmp_path, text):
    (tmp_path / "reconstruction").mkdir()
    (tmp_path / "reconstruction" / "x.json").write_text(text)
    with pytest.raises(RecordError, match=r"x\.json"):
        reconstruction.read_newest(tmp_path)
