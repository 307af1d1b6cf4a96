"""`bdia.bench.run.run`: a bench of a tiny model from end to end, and one clear error for what cannot be had."""

import json
import re
import sys
from dataclasses import replace

import pytest
import torch

import bdia.bench.run
from bdia import InvalidValueError, MissingExtraError
from bdia.bench import cases
from bdia.bench.record import read_bench
from bdia.bench.run import Arguments, cells, quick, run
from helpers.bench_helpers import TINY, bench, row

SMALL = Arguments(models=["tiny"], depths=[2, 3], precisions=["32-true"], threads=1, fits=False)


@pytest.fixture
def tiny(monkeypatch, one_thread):
    """A model named tiny, for the table, the curve and the overhead."""
    monkeypatch.setitem(cases.MODELS, "tiny", TINY)
    monkeypatch.setitem(cases.OVERHEAD, "tiny", ("data.batch_size=32", "logger=csv"))
    monkeypatch.setitem(cases.CURVE_BATCH, "cpu", 2)


def files(folder):
    return sorted(path.suffix for path in folder.iterdir())


def test_a_bench_leaves_json_tables_and_plots_and_prints_the_tables(tiny, tmp_path, capsys):
    run(replace(SMALL, curve_model="tiny", curve_depth=4, variants=["standard", "bdia_keep_0"], out=str(tmp_path)))
    assert files(tmp_path) == [".json", ".md", ".svg", ".svg", ".svg"]
    (path,) = tmp_path.glob("*.json")
    found = read_bench(path)
    assert found.status == "ok"
    assert [(r.part, r.depth) for r in found.rows if r.variant == "standard"] == [
        ("curve", 4),
        ("table", 2),
        ("table", 3),
    ]
    assert all(r.status == "ok" and len(r.ms) == 7 for r in found.rows)
    out, progress = capsys.readouterr()
    shown = path.with_suffix(".md").read_text()
    for r in found.rows:
        assert f"{r.depth}, 32-true, {r.label}" in out and f"{r.depth}, 32-true, {r.label}" in shown
    assert "Trade-off curve over keep, 5 points" in out and "Trade-off curve over keep, 5 points" in shown
    assert re.search(r"about \d+ minutes", progress) and "[3/3] table: tiny, 3 blocks" in progress
    assert str(tmp_path) not in path.read_text() + shown


def test_what_fits_is_planned_for_the_first_precision_and_what_cannot_be_planned_is_said(
    tiny, tmp_path, capsys, monkeypatch
):
    def planned(cell, variant, rows):
        if variant is cases.VARIANTS["revvit"]:
            raise ValueError("no trace")
        return [replace(row, fits={"1": {"batch": 96, "depth": 3}}) for row in rows]

    monkeypatch.setattr(bdia.bench.run, "add_fits", planned)
    both = {"precisions": ["32-true", "bf16-mixed"], "variants": ["standard", "revvit"]}
    run(replace(SMALL, **both, fits=True, what=["table"], depths=[2], out=str(tmp_path)))
    (path,) = tmp_path.glob("*.json")
    fits = {(r.precision, r.variant): r.fits for r in read_bench(path).rows}
    assert fits.pop(("32-true", "standard")) == {"1": {"batch": 96, "depth": 3}}
    assert list(fits.values()) == [{}, {}, {}]
    out, progress = capsys.readouterr()
    assert "largest batch in 1 GiB" in out and "revvit: not planned (ValueError: no trace)" in progress


def test_an_interrupted_bench_keeps_the_cells_it_has_finished(tiny, tmp_path, monkeypatch):
    real, seen = bdia.bench.run.run_cell, []

    def interrupted(cell, rounds):
        seen.append(cell.depth)
        if len(seen) == 2:
            raise KeyboardInterrupt
        return real(cell, rounds)

    monkeypatch.setattr(bdia.bench.run, "run_cell", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(replace(SMALL, what=["table"], out=str(tmp_path)))
    (path,) = tmp_path.iterdir()
    found = read_bench(path)
    assert (found.status, {r.depth for r in found.rows}) == ("running", {2})


def test_an_earlier_bench_is_shown_again_without_running(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(bdia.bench.run, "run_cell", lambda *_: pytest.fail("ran"))
    path = bench(row(), row(depth=12)).write(tmp_path)
    before = path.read_bytes()
    run(Arguments(show=str(path)))
    assert "12, 32-true, standard" in capsys.readouterr().out
    assert files(tmp_path) == [".json", ".md", ".svg", ".svg"]
    assert path.read_bytes() == before


@pytest.fixture
def without_matplotlib(monkeypatch):
    """As without the extra `report`."""
    for name in ("bdia.bench.plots", "bdia.bench.drawing"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, "matplotlib", None)


def test_without_the_plots_extra_a_bench_without_plots_runs(tiny, tmp_path, without_matplotlib):
    run(replace(SMALL, what=["table"], depths=[2], variants=["standard"], out=str(tmp_path)))
    assert files(tmp_path) == [".json", ".md"]


@pytest.mark.parametrize("asked", [{"what": ["table"]}, {"what": ["curve"], "depths": [2]}], ids=str)
def test_without_the_plots_extra_a_bench_with_plots_says_so_before_anything_runs(
    tiny, tmp_path, without_matplotlib, monkeypatch, asked
):
    monkeypatch.setattr(bdia.bench.run, "_measure", lambda *_: pytest.fail("ran"))
    with pytest.raises(MissingExtraError, match=r"needs the package matplotlib.*\.\[report\]"):
        run(replace(SMALL, curve_model="tiny", out=str(tmp_path), **asked))


def test_without_the_plots_extra_an_earlier_bench_with_plots_says_so(tmp_path, without_matplotlib):
    alone, several = bench(row()).write(tmp_path / "a"), bench(row(), row(depth=12)).write(tmp_path / "b")
    run(Arguments(show=str(alone)))
    with pytest.raises(MissingExtraError, match="matplotlib"):
        run(Arguments(show=str(several)))


def test_quick_is_one_small_cell():
    asked = quick()
    assert (asked.models, asked.depths, asked.precisions, asked.what) == (["vit_paper"], [6], ["32-true"], ["table"])
    assert asked.variants == list(cases.COMPARED) and asked.repeats == 7
    (cell,) = cells(asked, torch.device("cpu"))
    assert cell.batch == 32


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"models": ["abacus"]}, r"models=abacus: wanted some of vit_paper, vit_base, gpt2; set models"),
        ({"models": []}, r"models=nothing: wanted some of"),
        ({"variants": ["standard", "fast"]}, r"variants=fast: wanted some of standard, checkpoint"),
        ({"precisions": ["16"]}, r"precisions=16: wanted some of 32-true, bf16-mixed"),
        ({"what": ["all"]}, r"what=all: wanted some of table, curve, overhead"),
        ({"curve_model": "abacus"}, r"curve_model=abacus: wanted some of"),
        ({"repeats": 6}, r"repeats=6: wanted at least 7, .*set repeats"),
        ({"depths": [0]}, r"depths=\[0\]: wanted numbers of at least 1"),
        ({"depths": []}, r"depths=\[\]: wanted"),
        ({"curve_depth": 0}, r"curve_depth=\[0\]: wanted"),
        ({"batch": [1, 2]}, r"batch=\[1, 2\]: wanted one number for each of models"),
        ({"batch": [0, 1, 1]}, r"batch=\[0, 1, 1\]: wanted numbers of at least 1"),
        ({"threads": 0}, r"threads=0: wanted at least 1"),
        ({"device": "abacus"}, r"device=abacus: wanted cpu, or cuda"),
        ({"show": "nothing.json"}, r"show=nothing\.json: not found; wanted the JSON"),
    ],
    ids=str,
)
def test_what_cannot_be_had_is_refused_before_anything_runs_and_names_the_key(changes, message, monkeypatch):
    monkeypatch.setattr(bdia.bench.run, "_measure", lambda *_: pytest.fail("ran"))
    with pytest.raises(InvalidValueError, match=message):
        run(replace(Arguments(), **changes))


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is here")
def test_cuda_is_not_replaced_by_the_cpu(monkeypatch):
    monkeypatch.setattr(bdia.bench.run, "_measure", lambda *_: pytest.fail("ran"))
    with pytest.raises(InvalidValueError, match="device=cuda: wanted cpu, or cuda with a CUDA GPU; set device"):
        run(Arguments(device="cuda"))


def test_a_folder_that_cannot_be_written_is_found_out_before_anything_runs(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(bdia.bench.run, "run_cell", lambda *_: pytest.fail("ran"))
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        run(replace(SMALL, out=str(tmp_path / "file" / "bench")))


@pytest.mark.slow
def test_a_whole_runs_cost_beside_its_steps_is_measured_in_turn(tiny, tmp_path, capsys):
    run(replace(SMALL, what=["overhead"], out=str(tmp_path)))
    (path,) = tmp_path.glob("*.json")
    (found,) = json.loads(path.read_text())["overhead"]
    assert len(found["run_ms"]) == len(found["bare_ms"]) == 7
    assert "overhead, %" in capsys.readouterr().out
    assert "wandb" not in sys.modules or sys.modules["wandb"].run is None
