"""Bad input to `bdia.train` ends with one line; accidents keep their traceback."""

import os
import pickle
import subprocess
import sys

import pytest
from hydra.core.utils import JobReturn, JobStatus
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from torch.nn import Linear

from bdia.build import CONFIGS, build_task
from bdia.results.store import read_records
from bdia.train.refusals import refusal
from helpers.training_helpers import TINY, compose_config

ENVIRONMENT = {key: value for key, value in os.environ.items() if key != "HYDRA_FULL_ERROR"} | {"OMP_NUM_THREADS": "1"}


def run(*arguments, **environment):
    command = [sys.executable, "-m", "bdia.train", *arguments, *TINY, "trainer.max_epochs=1"]
    return subprocess.run(command, env=ENVIRONMENT | environment, capture_output=True, text=True, timeout=300)


def caught(action, *arguments):
    with pytest.raises(Exception) as error:
        action(*arguments)
    return error.value


# --- The command ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("stack.bits=99", ["bits=99", "1 to 20", "stack.bits"]),
        ("stack.bitz=9", ["stack.bitz", "not in struct"]),
        ("stack=nonesuch", ["stack/nonesuch", "bdia bdia_pretrained checkpoint revvit standard"]),
        ("gibberish", ["gibberish"]),
    ],
)
def test_bad_input_ends_with_one_line_that_names_it(override, words, places):
    done = run(override, *places)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.splitlines()) == 1
    assert all(word in done.stderr for word in words)
    assert str(CONFIGS) not in done.stderr
    assert "HYDRA_FULL_ERROR" not in done.stderr


def test_full_errors_are_shown_on_request(places):
    done = run("stack.bitz=9", *places, HYDRA_FULL_ERROR="1")
    assert done.returncode == 1
    assert "Traceback (most recent call last)" in done.stderr
    assert "Could not override 'stack.bitz'" in done.stderr


@pytest.mark.slow
def test_an_accident_keeps_its_traceback(places, tmp_path):
    (tmp_path / "accident.py").write_text("class Net:\n    def __init__(self, **_):\n        [][1]\n")
    path = os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")]))
    done = run("+model.net.extra.a._target_=accident.Net", *places, PYTHONPATH=path)
    assert done.returncode == 1
    assert "Traceback (most recent call last)" in done.stderr
    assert "[][1]" in done.stderr


@pytest.mark.slow
def test_a_sweep_says_of_each_failed_job_why_lets_the_others_finish_and_exits_with_1(places, tmp_path):
    done = run("-m", "stack.bits=99,9,98", *places)
    assert done.returncode == 1
    assert [record.status for record in read_records(tmp_path / "results")] == ["failed", "ok", "failed"]
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: bits=99")
    assert all(f"[ERROR] - bits={bits}" in done.stdout for bits in (99, 98))


# --- What is a refusal ----------------------------------------------------------------------------------------------


def build(override):
    return build_task(compose_config(override), {"num_classes": 10})


def test_an_error_of_ours_is_told_without_hydras_words():
    assert (
        refusal(caught(build, "stack.bits=99"))
        == "bits=99: the grid 2^-bits needs an integer from 1 to 20; set stack.bits"
    )


def test_an_error_of_a_library_names_the_part_of_the_config():
    line = refusal(caught(build, "+model.net.tokenizer.drop=2"))
    assert line is None or "full_key" in line
    error = caught(instantiate, {"_target_": "lightning.pytorch.Trainer", "accelerator": "abacus"})
    assert "lightning" in refusal(error)
    assert "abacus" in refusal(error)


def test_an_argument_that_a_class_does_not_have_is_a_refusal():
    line = refusal(caught(build, "+model.net.colour=red"))
    assert "unexpected keyword argument 'colour'" in line
    assert line.endswith("full_key: model.net")


def test_accidents_are_no_refusals():
    def raised_by_torch():
        Linear(1, 1).get_submodule("nonesuch")

    accidents = [caught(lambda: [][1]), caught(lambda: int("x")), caught(raised_by_torch), KeyError("never raised")]
    assert [refusal(error) for error in accidents] == [None] * 4


def test_an_accident_inside_a_constructor_is_no_refusal():
    error = caught(instantiate, {"_target_": "builtins.int", "_args_": ["x"]})
    assert isinstance(error, InstantiationException)
    nested = caught(instantiate, {"_target_": "test_refusals.Broken"})
    assert refusal(nested) is None


class Broken:
    """A class with an accident in it."""

    def __init__(self):
        [][1]


def test_an_accident_that_a_worker_process_sent_without_its_traceback_is_no_refusal():
    sent = pickle.loads(pickle.dumps(caught(lambda: [][0])))  # as joblib sends it
    returned = JobReturn(status=JobStatus.FAILED)
    returned.return_value = sent
    assert refusal(caught(lambda: returned.return_value)) is None
