"""The study of the whole step: what is counted at its peak, and what the host takes."""

import json

import pytest
import torch

from bdia.bench.studies import whole_step
from bdia.bench.studies.host import inputs_on_host
from bdia.cli import study
from bdia.profiling.storage_meter import StorageMeter

SMALL = whole_step.Arguments(width=32, heads=2, vocabulary=40, batch=1, tokens=64)
STREAM = 64 * 32 * 4  # bytes


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole_step")
    own = ["width=32", "heads=2", "vocabulary=40", "batch=1", "tokens=64", "depths=[8]", "rounds=1"]
    own += ["ways=[checkpoint,bdia,checkpoint_in_backward,host_in_backward,bdia_in_backward]"]
    study.run(["name=whole_step", *own, f"out={folder}"])
    (path,) = folder.iterdir()
    return {row["way"]: row for row in json.loads(path.read_text(encoding="utf-8"))["rows"]}


def test_gradients_leave_the_peak_where_weights_are_stepped_in_backward(rows):
    plain, stepped = rows["bdia"], rows["bdia_in_backward"]
    assert stepped["gradients"] < plain["gradients"] / 4
    assert stepped["peak"] < plain["peak"] and stepped["optimizer"] == plain["optimizer"]
    assert rows["checkpoint"]["peak_ratio"] == rows["checkpoint"]["time_ratio"] == 1.0


def test_the_inputs_of_checkpointed_layers_are_counted_on_the_host_alone(rows):
    here, there = rows["checkpoint_in_backward"], rows["host_in_backward"]
    assert there["on_host"] >= 8 * STREAM
    assert here["held"] - there["held"] >= 7 * STREAM
    assert "rounds_ms" not in there, "on a CPU the copies' time says nothing"


def test_a_step_with_its_inputs_on_the_host_has_the_same_gradients():
    works = [whole_step.build(SMALL, ("stack=checkpoint",), 3) for _ in range(2)]
    found = []
    for work, moves in zip(works, (False, True), strict=True):
        torch.manual_seed(0)
        with inputs_on_host(work.task, moves), StorageMeter([], []):
            work.task.loss(work.batch).backward()
        found.append([p.grad for p in work.task.parameters()])
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


def test_an_unknown_way_is_refused_by_name():
    with pytest.raises(ValueError, match=r"ways=\['bida'\]: wanted some of standard"):
        next(whole_step.measure(whole_step.Arguments(ways=["bida"])))
