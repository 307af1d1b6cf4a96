"""The notebooks run from top to bottom, without network, in kernels of their own."""

import re

import pytest

from bdia.results import write_record
from helpers.places import ROOT
from helpers.synthetic_records import make_study

nbformat = pytest.importorskip("nbformat", reason="the dev extra (nbconvert, ipykernel) is not installed")
preprocessors = pytest.importorskip("nbconvert.preprocessors", reason="the dev extra (nbconvert) is not installed")
pytest.importorskip("ipykernel", reason="the dev extra (ipykernel) is not installed")

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def shown(name: str) -> str:
    """Run a notebook and return everything that its cells printed or displayed."""
    notebook = nbformat.read(ROOT / "notebooks" / name, as_version=4)
    preprocessors.ExecutePreprocessor(timeout=300, kernel_name="python3").preprocess(notebook, {})
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    return "\n".join(str(output.get("text", "")) + str(output.get("data", "")) for output in outputs)


def test_how_bdia_works_shows_the_bit_the_inverse_and_the_error_of_floats():
    text = shown("01_how_bdia_works.ipynb")
    assert "kept: 1 byte" in text and "bit for bit the same: True" in text
    assert "on the grid 0.0e+00" in text and "image/png" in text


@pytest.mark.slow
def test_exactness_and_memory_finds_equal_gradients_and_one_bit_a_block():
    text = shown("02_exactness_and_memory.ipynb")
    assert "gradients are equal bit for bit" in text and "bits per activation and block: 1" in text
    peaks = {
        name.strip(): float(peak) for name, peak in re.findall(r"^(.+?) +peak +([\d.]+) streams", text, re.MULTILINE)
    }
    assert peaks["BDIA"] < peaks["checkpointing"] < peaks["standard"]


def test_results_gives_every_claim_its_verdict_from_the_records_it_was_given(tmp_path, monkeypatch):
    for record in make_study(bdia=61.0):
        write_record(record, tmp_path / "results")
    monkeypatch.setenv("BDIA_RESULTS", str(tmp_path / "results"))
    text = shown("03_results.ipynb")
    assert "9 records in" in text and "not run" in text
    assert "61.0" in text and "image/png" in text


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_committed_without_outputs(path):
    notebook = nbformat.read(path, as_version=4)
    assert all(not cell.outputs and cell.execution_count is None for cell in notebook.cells if cell.cell_type == "code")
