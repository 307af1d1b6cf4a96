"""`bdia studies`: as many jobs of the studies as a budget of time allows."""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from bdia import InvalidValueError
from bdia.results.output import say
from bdia.results.store import finished_records
from bdia.train.forecast import Forecast, expected_ends
from bdia.train.progress import duration
from bdia.train.side_by_side import Command, Ended, run_side_by_side
from bdia.train.studies import GPU_MEMORY, StudyJob, is_done, scales_of, studies, study_jobs


@dataclass(frozen=True)
class Asked:
    """What is asked for.

    Args:
        only, seeds: empty for all.
        workers: runs side by side; 0 for as many as fit.
        seconds: budget, infinite where there is none.
    """

    scale: str
    only: Sequence[str]
    seeds: Sequence[int]
    workers: int
    seconds: float
    results: Path
    runs: Path


def run_studies(asked: Asked) -> None:
    """Say what will be done, do it, say what is left.

    Raises:
        ValueError: no such study or scale. DataNotFoundError, DataCorruptError: before anything is trained.
        SystemExit: 1 where a job failed.
    """
    finished = finished_records(asked.results) if asked.results.is_dir() else {}
    jobs = [job for name in _chosen(asked) for job in _jobs(name, asked)]
    waiting = [job for job in jobs if not is_done(job, finished, asked.runs)]
    say(f"{len(jobs)} runs at scale {asked.scale}, {len(jobs) - len(waiting)} of them done before")
    if not waiting:
        return
    workers = min(asked.workers or _workers(), len(waiting))
    torch.set_num_threads(1)  # as each job has
    seconds = Forecast(list(finished.values()), asked.runs).seconds_of(waiting)
    _tell_plan(waiting, seconds, workers, asked.seconds)
    commands = [_command(job, asked) for job in waiting]
    good: set[int] = set()
    failed = 0

    def tell(ended: Ended) -> None:
        nonlocal failed
        if ended.code == 0:
            good.add(ended.index)
        failed += ended.code not in (0, None)
        how = {0: "ended well", None: "was told to end: goes on from its checkpoint"}.get(ended.code)
        how = how or f"failed, see {commands[ended.index].log}"
        took = f"{duration(ended.seconds)}, expected {duration(seconds[ended.index])}"
        say(f"[{len(good)}/{len(waiting)}] {waiting[ended.index]}: {how} after {took}")

    run_side_by_side(commands, workers, asked.seconds, tell)
    left = sum(took for index, took in enumerate(seconds) if index not in good)
    if len(good) < len(waiting):
        say(f"{len(waiting) - len(good)} runs are left, {duration(left / workers)} with {workers} side by side: type "
            "the command again")  # fmt: skip
    else:
        say("all runs are done")
    if failed:
        sys.exit(1)


def _chosen(asked: Asked) -> list[str]:
    """Return the studies asked for, in order of priority; without a wish those that have the scale."""
    known = studies()
    if unknown := [name for name in asked.only if name not in known]:
        raise InvalidValueError(f"only={unknown[0]}: wanted some of {', '.join(known)}; set only")
    if asked.only:
        return [name for name in known if name in asked.only]
    chosen = [name for name in known if asked.scale in scales_of(name)[1]]
    if not chosen:
        scales = sorted({scale for name in known for scale in scales_of(name)[1]})
        raise InvalidValueError(f"scale={asked.scale}: wanted one of {', '.join(scales)}; set scale")
    return chosen


def _jobs(name: str, asked: Asked) -> list[StudyJob]:
    seeds = [f"seed={','.join(map(str, asked.seeds))}"] if asked.seeds else []
    return study_jobs(name, asked.scale, seeds)


def _workers() -> int:
    """Return how many runs fit side by side: one a core; on a GPU no more than its free memory takes."""
    cores = len(os.sched_getaffinity(0))
    if not torch.cuda.is_available():
        return cores
    free, _ = torch.cuda.mem_get_info()
    return max(1, min(cores, int(free // GPU_MEMORY)))


def _tell_plan(jobs: Sequence[StudyJob], seconds: Sequence[float], workers: int, budget: float) -> None:
    """Say which studies wait, and what is expected to end within the budget."""
    ends = expected_ends(seconds, workers)
    for name in dict.fromkeys(job.study for job in jobs):
        own = [index for index, job in enumerate(jobs) if job.study == name]
        last = max(ends[index] for index in own)
        in_time = sum(ends[index] <= budget for index in own)
        say(f"  {name}: {len(own)} runs to do, {in_time} expected in time, the last after {duration(last)}")
    total = sum(end <= budget for end in ends)
    limit = f"of a budget of {duration(budget)}" if budget < float("inf") else "without a budget"
    say(f"{workers} side by side, {limit}: {total} of {len(jobs)} runs expected; all take {duration(max(ends))}")


def _command(job: StudyJob, asked: Asked) -> Command:
    log = asked.runs / "logs" / f"{job.config.name}_{job.sha[:8]}_s{job.config.seed}.log"
    return Command(str(job), job.argv(asked.runs, asked.results), log)
