"""How long jobs are expected to take: of records made here, else of steps timed as a job runs them."""

from dataclasses import replace

import pytest

import bdia.train.step_time
from bdia import BdiaError
from bdia.build import CONFIGS, build_data, compose
from bdia.results.identity import config_sha256
from bdia.results.store import finished_records
from bdia.train.forecast import STARTUP, Forecast, expected_ends, limited
from bdia.train.job import RECORD, recorded_config, run_folder
from bdia.train.side_by_side import ENVIRONMENT
from bdia.train.step_time import seconds_per_step, step_seconds
from bdia.train.studies import study_jobs
from bdia.train.weights import pretraining

RESULTS = CONFIGS.parent / "results"
TRANSLATION = ["experiment=translation", "scale/translation=smoke", "data.source.train=60"]


@pytest.mark.parametrize(
    "choices",
    [
        pytest.param(TRANSLATION, id="translation"),
        pytest.param(["experiment=gpt2", "scale/gpt2=smoke", "data.fraction=0.05"], id="gpt2", marks=pytest.mark.slow),
        pytest.param(["experiment=table1_cifar10", "scale/cifar10=smoke"], id="images"),
    ],
)
def test_a_step_is_timed_on_batches_of_every_kind_of_data(choices, places, one_thread):
    cfg = compose([*choices, "stack=bdia", *places])
    data = build_data(cfg)
    data.setup()
    assert seconds_per_step(cfg, data, "cpu", repeats=1) > 0


def test_a_forecast_takes_the_time_of_a_record_made_here_else_counts_steps(monkeypatch, one_thread, tmp_path):
    monkeypatch.setattr("bdia.train.forecast.step_seconds", lambda configs: [10.0] * len(configs))
    standard, revvit, bdia = study_jobs("table1_cifar10", "smoke")
    steps = 2 * 2  # two batches of 64 of a hundred digits, two epochs
    (counted,) = Forecast([], tmp_path).seconds_of([bdia])
    assert steps * 10 + STARTUP < counted < steps * 10 + STARTUP + 80  # with the validation and the test
    example = next(iter(finished_records(RESULTS).values()))
    here = {"name": Forecast([], tmp_path).name}
    known = replace(example, config=bdia.recorded, device=here, wall_s=77.0)
    forecast = Forecast([known, replace(known, device={"name": "another"}, wall_s=1.0)], tmp_path)
    assert forecast.seconds_of([standard, revvit, bdia]) == [counted, counted, 77.0]


def test_jobs_are_expected_to_end_as_free_workers_take_them():
    assert expected_ends([3.0, 1.0, 1.0, 1.0], 2) == [3.0, 1.0, 2.0, 3.0]


def test_a_step_s_time_leaves_out_compilation_and_whatever_else_the_machine_does(monkeypatch, places, one_thread):
    """The first seconds once made 160 hours of two."""
    cfg = compose(["experiment=table1_cifar10", "scale/cifar10=smoke", "stack=standard", *places])
    clock, took = [0.0], iter([300.0, 90.0, 0.9, 0.2, 0.5, 0.7, 0.4])

    class Step:
        def __init__(self, *_):
            pass

        def step(self):
            clock[0] += next(took)  # of the enclosing test, as it is then

    data = build_data(cfg)
    data.setup()
    monkeypatch.setattr(bdia.train.step_time, "Workload", Step)
    monkeypatch.setattr(bdia.train.step_time.time, "perf_counter", lambda: clock[0])
    assert seconds_per_step(cfg, data, "cpu") == pytest.approx(0.2)
    took = iter([300.0, 90.0, 6.0, 1.0])  # long steps are not timed five times
    assert seconds_per_step(cfg, data, "cpu") == pytest.approx(6.0)


@pytest.mark.slow
def test_steps_are_timed_in_a_process_with_a_job_s_environment(monkeypatch):
    seen, run = [], bdia.train.step_time.subprocess.run
    monkeypatch.setattr("subprocess.run", lambda *words, **more: seen.append(more["env"]) or run(*words, **more))
    jobs = study_jobs("depth_batch", "smoke")
    found = step_seconds([jobs[0].config, jobs[-1].config])
    assert len(found) == 2 and all(0 < seconds < 60 for seconds in found)
    assert ENVIRONMENT.items() <= seen[0].items()


@pytest.mark.slow
def test_a_step_that_can_not_be_timed_is_one_clear_error():
    (job, *_) = study_jobs("depth_batch", "smoke")
    job.config.stack._target_ = "bdia.Nonesuch"
    with pytest.raises(BdiaError, match=r"a step could not be timed: .*bdia.Nonesuch"):
        step_seconds([job.config])


@pytest.mark.parametrize(("limit", "wanted"), [(None, 10), (8, 8), (20, 10), (0.5, 5), (0, 0)])
def test_a_limit_is_a_number_of_batches_or_a_share(limit, wanted):
    assert limited(10, limit) == wanted


def test_the_limits_of_batches_and_the_text_tasks_are_counted(monkeypatch, one_thread, tmp_path):
    monkeypatch.setattr("bdia.train.forecast.step_seconds", lambda configs: [10.0] * len(configs))
    (job, *_) = study_jobs("depth_batch", "smoke")
    assert Forecast([], tmp_path).seconds_of([job]) == [STARTUP + 8 * 10]  # eight batches, no validation, no test
    (text, *_) = study_jobs("translation", "smoke")
    assert STARTUP + 10 < Forecast([], tmp_path).seconds_of([text])[0] < 10_000


@pytest.mark.parametrize("study", ["finetune_vit_cifar10", "finetune_gpt2_e2e"])
def test_a_pretraining_counts_once_and_no_more_when_it_is_done(study, monkeypatch, one_thread, tmp_path):
    """A text model's tokenizer lies beside weights that are not there yet; its steps are counted all the same."""
    monkeypatch.setattr("bdia.train.forecast.step_seconds", lambda configs: [10.0] * len(configs))
    jobs = study_jobs(study, "smoke")
    first, second = Forecast([], tmp_path).seconds_of(jobs)
    assert first > second + STARTUP and second > STARTUP
    before = pretraining(jobs[0].config)
    folder = run_folder(before, config_sha256(recorded_config(before)), tmp_path)
    folder.mkdir(parents=True)
    (folder / RECORD).touch()
    assert Forecast([], tmp_path).seconds_of(jobs) == [second, second]
