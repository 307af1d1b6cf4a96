"""The study that takes planned limits on a GPU: what is read, what is lowered, what is refused."""

import gc
import json
import weakref

import pytest
import torch

from bdia import InvalidValueError, MissingFileError
from bdia.bench.studies import largest, limits

ROW = {"question": "largest batch", "way": "bdia_in_backward", "label": "BDIA", "gib": 16.0, "largest": 200, "peak": 9}
FIT = {"fit_model": "gpt2_demo", "fit_vocabulary": 40, "fit_depth": 4, "fit_tokens": 32, "fit_batch": 2}


def record(folder, *rows):
    path = folder / "planned.json"
    path.write_text(json.dumps({"rows": [{"question": "depth", "way": "standard"}, *rows], "settings": FIT}))
    return str(path)


def memory_of(most):
    def taken(size):
        if size > most:
            raise torch.OutOfMemoryError
        return {"peak": size}

    return taken


@pytest.mark.parametrize(("most", "ran"), [(300, 200), (199, 198), (162, 162), (161, 0)])
def test_a_planned_size_is_lowered_until_it_runs(most, ran):
    found = limits.lowered(ROW, limits.Arguments(), memory_of(most))
    assert (found["planned"], found["ran"], found.get("peak")) == (200, ran, ran or None)
    assert f"{ran:,} ran, 200 were planned" in limits.told([found])


class Step:
    """A step whose parts refer to each other, as a model and its hooks do."""

    def __init__(self):
        self.itself = self


def test_a_step_that_did_not_run_is_gone_before_the_next_one():
    steps = []

    def taken(size):
        assert all(step() is None for step in steps)
        step = Step()
        steps.append(weakref.ref(step))
        if size > 190:
            raise torch.OutOfMemoryError
        return {}

    gc.disable()
    try:
        assert limits.lowered(ROW, limits.Arguments(), taken)["ran"] == 190 and len(steps) == 6
    finally:
        gc.enable()


def test_a_text_is_lowered_by_its_unit():
    row = ROW | {"question": largest.LONGEST, "largest": 5 * largest.TEXT}
    assert limits.lowered(row, limits.Arguments(), memory_of(4 * largest.TEXT))["ran"] == 4 * largest.TEXT


def test_the_rows_asked_for_are_read_with_the_sizes_of_their_record(tmp_path):
    rows = ROW, ROW | {"gib": 4.0, "largest": 0}, ROW | {"question": "most blocks"}, ROW | {"way": "standard"}
    asked = limits.Arguments(record(tmp_path, *rows), [4.0, 16.0], ["bdia_in_backward"], ["largest batch"])
    settings, found = limits.read_plans(asked)
    assert found == [ROW]
    assert largest.size_of("largest batch", 7, settings) == largest.Size(4, 32, 7)
    assert largest.size_of("most blocks", 7, settings) == largest.Size(7, 32, 2)
    assert largest.size_of(largest.LONGEST, 512, settings) == largest.Size(4, 512, 1)


@pytest.mark.parametrize(
    ("key", "value"), [("gib", [3.0]), ("ways", ["quickest"]), ("questions", ["deepest"])], ids=lambda v: str(v)
)
def test_what_was_not_planned_is_refused_with_its_key(tmp_path, key, value):
    asked = {"ways": ["bdia_in_backward"], "questions": ["largest batch"]} | {key: value}
    with pytest.raises(InvalidValueError, match=rf"{key}=\[.*planned for .*; set {key}$"):
        limits.read_plans(limits.Arguments(record(tmp_path, ROW), **asked))


def test_without_a_record_the_way_out_is_said(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MissingFileError, match="run bdia study name=length, or set record"):
        limits.read_plans(limits.Arguments())


@pytest.mark.skipif(torch.cuda.is_available(), reason="for machines without a GPU")
def test_without_a_gpu_it_is_refused(tmp_path):
    asked = limits.Arguments(record(tmp_path, ROW), ways=["bdia_in_backward"], questions=["largest batch"])
    with pytest.raises(InvalidValueError, match=r"gib=\[16.0\]: .*here 0.0 GiB; set gib"):
        next(limits.measure(asked))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_a_step_is_taken_within_the_memory(tmp_path):
    path = record(tmp_path, ROW | {"gib": 0.5, "largest": 8})
    asked = limits.Arguments(path, [0.5], ["bdia_in_backward"], ["largest batch"])
    (found,) = next(limits.measure(asked))
    torch.cuda.set_per_process_memory_fraction(1.0)
    assert found["ran"] == 8 and 0 < found["peak"] <= found["reserved"] <= 2**29


@pytest.mark.parametrize(("key", "value"), [("fit_depth", None), ("fit_depth", "many")])
def test_a_record_whose_settings_are_no_sizes_is_refused_with_the_key(tmp_path, key, value):
    path = record(tmp_path, ROW)
    whole = json.loads((tmp_path / "planned.json").read_text())
    whole["settings"] = {**FIT, key: value} if value else {name: FIT[name] for name in FIT if name != key}
    (tmp_path / "planned.json").write_text(json.dumps(whole))
    with pytest.raises(InvalidValueError, match=rf"settings\.{key}: .*; wanted a record of bdia study name=length"):
        limits.read_plans(limits.Arguments(record=path, ways=["bdia_in_backward"], questions=["largest batch"]))
