"""The notebook runs from top to bottom on records of its own, in a kernel of its own."""

import pytest

from bdia.results import write_record
from helpers.places import ROOT
from helpers.synthetic_records import make_study

nbformat = pytest.importorskip("nbformat", reason="the dev extra (nbconvert, ipykernel) is not installed")
preprocessors = pytest.importorskip("nbconvert.preprocessors", reason="the dev extra (nbconvert) is not installed")
pytest.importorskip("ipykernel", reason="the dev extra (ipykernel) is not installed")

NOTEBOOK = ROOT / "notebooks" / "explore_records.ipynb"


def text_of(notebook) -> str:
    """Return everything the cells printed or displayed."""
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    return "\n".join(str(output.get("text", "")) + str(output.get("data", "")) for output in outputs)


def test_notebook_executes_and_shows_the_records_it_was_given(tmp_path, monkeypatch):
    for record in make_study(bdia=61.0):
        write_record(record, tmp_path / "results")
    monkeypatch.setenv("BDIA_RESULTS", str(tmp_path / "results"))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    preprocessors.ExecutePreprocessor(timeout=60, kernel_name="python3").preprocess(notebook, {})
    shown = text_of(notebook)
    assert "9 records of 1 experiments" in shown
    assert "61.00 ± 1.00 (n=3)" in shown
    assert "vnd.plotly" in shown


def test_notebook_is_committed_without_outputs():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    assert all(not cell.outputs and cell.execution_count is None for cell in notebook.cells if cell.cell_type == "code")
