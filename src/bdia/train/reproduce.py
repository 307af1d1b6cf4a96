"""`bdia reproduce`: choose a scale, say what it will take, run the sweep, print the table.

Scales: "paper" is the published setting, "cpu" the same comparison in the low-data regime for two cores, "smoke" takes
a minute or two (text: on the embedded data).
"""

import os
import signal
import subprocess
import sys
from pathlib import Path

import torch

from bdia import InvalidValueError
from bdia.build import build_data, compose, quoted
from bdia.data.module import DataModule
from bdia.results import table_text
from bdia.results.output import printable, say
from bdia.results.report import build_report
from bdia.results.store import read_records, read_remarks
from bdia.train.job import free_memory
from bdia.train.launch import jobs_of
from bdia.train.progress import duration
from bdia.train.step_time import seconds_per_step
from bdia.train.studies import overrides_of

SCALES = ("paper", "cpu", "smoke")
# What can be reproduced -> its study.
RECIPES = {
    "cifar10": "table1_cifar10",
    "cifar100": "table1_cifar100",
    "translation": "translation",
    "gpt2": "gpt2",
}


def choose_scale(asked: str | None, has_gpu: bool) -> tuple[str, str]:
    """Return (scale, why). Without a wish: paper with a GPU, else cpu.

    Raises:
        ValueError: a scale that does not exist.
    """
    if asked and asked not in SCALES:
        raise InvalidValueError(f"scale={asked}: wanted one of {', '.join(SCALES)}; set scale")
    if asked:
        return asked, f"scale={asked} was asked for"
    return ("paper", "a CUDA GPU is here") if has_gpu else ("cpu", "no CUDA GPU is here; scale=paper would insist")


def sweep_of(study: str, scale: str) -> list[list[str]]:
    """Return the overrides of each of a study's variants: its sweep with one seed, which is left out."""
    return [[word for word in job if word != "seed=0"] for job in jobs_of([*overrides_of(study, scale), "seed=0"])]


def estimate_minutes(variants: list[list[str]], data: DataModule, seeds: int, device: str, jobs: int) -> float:
    """Minutes for all jobs, from a few timed steps per variant on this machine; evaluation is not in it."""
    configs = [compose(overrides) for overrides in variants]
    steps = len(data.train_dataloader())
    total = sum(seconds_per_step(cfg, data, device) * steps * cfg.trainer.max_epochs for cfg in configs)
    free_memory()  # the jobs are other processes on the same device
    return total * seeds / jobs / 60


def reproduce(recipe: str, asked: str | None, seeds: int, results: Path) -> int:
    """Run a recipe's variants with `seeds` seeds; an interrupted sweep goes on where it was. Returns the exit code.

    Raises:
        ValueError: no such recipe or scale, or no seed. DataNotFoundError, DataCorruptError: before anything runs.
    """
    if recipe not in RECIPES:
        raise InvalidValueError(f"recipe={recipe}: wanted one of {', '.join(RECIPES)}; set recipe")
    if seeds < 1:
        raise InvalidValueError(f"seeds={seeds}: wanted at least 1; set seeds")
    has_gpu = torch.cuda.is_available()
    scale, why = choose_scale(asked, has_gpu)
    study = RECIPES[recipe]
    variants = sweep_of(study, scale)
    first = compose(variants[0])
    data = build_data(first)
    data.prepare_data()  # once, here: jobs that start together would download into each other's files
    data.setup()
    # A small model uses one core far better than several: one job per core. A GPU takes its jobs one by one.
    jobs = 1 if has_gpu else min(len(os.sched_getaffinity(0)), len(variants) * seeds)
    name = torch.cuda.get_device_name() if has_gpu else f"{jobs} CPU core(s)"
    torch.set_num_threads(1)
    minutes = estimate_minutes(variants, data, seeds, "cuda" if has_gpu else "cpu", jobs)
    size = f"{len(variants)} variants x {seeds} seeds on {name}"
    say(
        f"scale {scale}: {why}. {size}: about {duration(minutes * 60)} of training steps, then start-up and evaluation."
    )
    code = run_sweep(sweep_command(study, scale, seeds, jobs, results), one_thread=not has_gpu)
    if results.is_dir() and (records := read_records(results)):
        page = build_report(results, results)
        own = [record for record in records if record.experiment == first.name]
        print(printable(table_text(own, read_remarks(results))), f"\nReport: {page}")
    return code


def sweep_command(study: str, scale: str, seeds: int, jobs: int, results: Path) -> list[str]:
    """Return the command that trains every variant with every seed, `jobs` at a time."""
    command = [sys.executable, "-m", "bdia.train", *overrides_of(study, scale), *quoted([f"paths.results={results}"])]
    command.append("hydra.sweeper.params.seed='" + ",".join(map(str, range(seeds))) + "'")
    return command + (["hydra/launcher=joblib", f"hydra.launcher.n_jobs={jobs}"] if jobs > 1 else [])


def run_sweep(command: list[str], one_thread: bool) -> int:
    """Run the sweep in a process group of its own, so that SIGTERM and Ctrl-C reach every job and each saves."""
    environment = os.environ | ({"OMP_NUM_THREADS": "1"} if one_thread else {})
    child = subprocess.Popen(command, env=environment, start_new_session=True)

    def end(signum: int, frame: object) -> None:
        os.killpg(child.pid, signal.SIGTERM)

    before = {signum: signal.signal(signum, end) for signum in (signal.SIGTERM, signal.SIGINT)}
    try:
        code = child.wait()
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
    return 128 - code if code < 0 else code
