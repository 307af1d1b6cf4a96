"""StepTimer on a clock that the test sets."""

import importlib
from types import SimpleNamespace

import pytest
import torch

from bdia.callbacks import StepTimer
from bdia.train.job import train

timer_module = importlib.import_module("bdia.callbacks.step_time")


class Clock:
    """Seconds, moved by hand."""

    now = 100.0

    def perf_counter(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(timer_module, "time", clock)
    return clock


class Points:
    """A logger that keeps what it gets."""

    def __init__(self):
        self.points = []

    def log_metrics(self, metrics, step):
        self.points.append(metrics)


def run(timer, clock, steps, epochs=1, logger=None):
    """Feed (seconds, batch size) per step; `epochs` equal epochs; one second passes between steps."""
    progress = SimpleNamespace(total=SimpleNamespace(ready=0))
    loop = SimpleNamespace(epoch_loop=SimpleNamespace(batch_progress=progress))
    loggers = [logger] if logger else []
    trainer = SimpleNamespace(world_size=1, fit_loop=loop, loggers=loggers, current_epoch=0, global_step=0)
    module = SimpleNamespace(device=torch.device("cpu"), throughput="throughput", size=lambda batch: len(batch[0]))
    for _ in range(epochs):
        timer.on_train_epoch_start(trainer, module)
        for seconds, size in steps:
            progress.total.ready += 1
            batch = (torch.zeros(size), torch.zeros(size))
            timer.on_train_batch_start(trainer, module, batch, 0)
            clock.now += seconds
            timer.on_train_batch_end(trainer, module, None, batch, 0)
            clock.now += 1
        timer.on_train_epoch_end(trainer, module)
    timer.on_train_end(trainer, module)
    return {row.name: row.value for row in timer.rows}


def test_step_time_is_the_median_in_milliseconds_and_throughput_its_images_per_second(clock):
    found = run(StepTimer(skip=0), clock, [(0.25, 8), (0.5, 8), (2.0, 8)])
    assert found == {"step_time": 500.0, "throughput": 16.0, "epoch_time": 5.75}


def test_the_first_steps_are_skipped_and_only_so_many_are_kept(clock):
    steps = [(9.0, 8), (9.0, 8), (0.25, 8), (0.5, 8), (0.25, 8), (9.0, 8), (9.0, 8), (9.0, 8)]
    assert run(StepTimer(skip=2, keep=3), clock, steps)["step_time"] == 250.0


def test_short_last_batches_do_not_count(clock):
    found = run(StepTimer(skip=0), clock, [(0.5, 8), (0.125, 3)], epochs=3)
    assert (found["step_time"], found["throughput"]) == (500.0, 16.0)


def test_batches_of_text_that_all_differ_in_size_all_count(clock):
    found = run(StepTimer(skip=0), clock, [(0.5, 8), (0.125, 6), (0.25, 7)])
    assert (found["step_time"], found["throughput"]) == (250.0, 28.0)


def test_epoch_time_is_the_median_over_epochs(clock):
    assert run(StepTimer(skip=0), clock, [(0.5, 8)], epochs=3)["epoch_time"] == 1.5


def test_every_epoch_draws_its_own_medians_also_when_no_more_steps_are_kept_for_the_record(clock):
    timer, logger = StepTimer(skip=1, keep=3), Points()
    run(timer, clock, [(0.25, 8), (0.5, 8), (0.5, 8)], epochs=1, logger=logger)
    timer.epochs = []
    found = run(timer, clock, [(9.0, 8), (2.0, 8), (2.0, 8)], epochs=2, logger=logger)
    names = ("step_time", "throughput", "epoch_time")
    drawn = [tuple(point[name] for name in names) for point in logger.points]
    assert drawn == [(500.0, 16.0, 4.25), (2000.0, 4.0, 16.0), (2000.0, 4.0, 16.0)]
    assert found["step_time"] == 500.0


class Event:
    """One of a device: not reached, it may not be asked for a time."""

    def __init__(self, at, is_over):
        self.at, self.is_over = at, is_over

    def query(self):
        return self.is_over

    def synchronize(self):
        assert self.is_over, "waited for the device"

    def elapsed_time(self, end):
        return end.at - self.at


def test_what_the_device_has_not_reached_at_an_epochs_end_is_left_out_and_not_waited_for(clock):
    timer, logger = StepTimer(skip=0), Points()
    events = iter([Event(0, True), Event(40, True), Event(40, True), Event(90, False)])
    timer_now, timer_module._now = timer_module._now, lambda device: next(events)
    try:
        with pytest.raises(AssertionError, match="waited for the device"):  # when training ends, it is
            run(timer, clock, [(1, 8), (1, 8)], logger=logger)
    finally:
        timer_module._now = timer_now
    assert logger.points == [{"step_time": 40, "throughput": 200.0, "epoch_time": 4.0, "epoch": 0}]


def test_too_few_steps_leave_no_step_time(clock):
    assert run(StepTimer(skip=5), clock, [(0.5, 8)]) == {"epoch_time": 1.5}


def test_a_real_run_has_all_three_in_consistent_units(tiny):
    record = train(tiny("trainer.max_epochs=2"))
    assert record.final("throughput") == pytest.approx(8000 / record.final("step_time"))
    assert 5 * record.final("step_time") / 1000 < record.final("epoch_time") < record.wall_s
