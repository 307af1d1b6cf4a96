"""Train a list of small runs side by side on one device until a deadline, and pack the records that ended well.

    python scripts/gpu_kit/run_jobs.py --experiments table1_cifar10_long --seeds 6 --workers 18 --seconds 500 \
        --runs RUNS --results RESULTS --out OUT

Jobs go seed by seed, all stacks of a seed together, so that whatever ends is balanced. First a few epochs of every
stack are run with all workers busy, to time an epoch; of several numbers of workers the fastest is taken. From this
follows how many epochs fit in the time left: the configured number, or fewer for all stacks and seeds of an experiment
alike. The last experiment is cut first.
Typed again, the command skips what has ended and continues what was stopped.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

STACKS = ("bdia", "revvit", "standard")  # the slowest first
STARTUP = 25.0  # seconds until a run's first step, and for its test
SHORTEST = 0.25  # of the configured epochs: an experiment that would be cut below is left out


class Job(NamedTuple):
    """One run."""

    experiment: str
    stack: str
    seed: int

    def command(self, runs: Path, results: Path, overrides: Sequence[str]) -> list[str]:
        """Return the command line."""
        condition = [f"experiment={self.experiment}", f"stack={self.stack}", f"seed={self.seed}"]
        places = [f"paths.runs={runs}", f"paths.results={results}", "hydra.mode=RUN"]
        return [sys.executable, "-m", "bdia.train", *condition, *places, *overrides]


def jobs_of(experiment: str, seeds: int) -> list[Job]:
    """Return the jobs of an experiment, seed by seed."""
    return [Job(experiment, stack, seed) for seed in range(seeds) for stack in STACKS]


def run(work: Sequence[tuple[Job, list[str]]], workers: int, until: float, runs: Path, results: Path) -> int:
    """Run commands side by side, in order; end those that still run at `until`, a time of `time.monotonic`.

    Returns:
        How many ended with exit code 0.
    """
    waiting, running, good = list(work), {}, 0
    (runs / "logs").mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TORCHINDUCTOR_COMPILE_THREADS": "1"}
    while (waiting or running) and time.monotonic() < until:
        while waiting and len(running) < workers:
            job, overrides = waiting.pop(0)
            command = job.command(runs, results, overrides)
            with (runs / "logs" / f"{job.experiment}_{job.stack}_s{job.seed}.log").open("a") as log:
                running[subprocess.Popen(command, stdout=log, stderr=log, env=environment)] = job, time.monotonic()
        time.sleep(0.2)
        for process in [process for process in running if process.poll() is not None]:
            job, started = running.pop(process)
            good += process.returncode == 0
            print(f"{job} ended with {process.returncode} after {time.monotonic() - started:.0f} s", flush=True)
    for process in running:
        process.send_signal(signal.SIGTERM)  # saves a checkpoint and leaves a record with status "interrupted"
    last = time.monotonic() + 20
    for process, (job, _) in running.items():
        try:
            process.wait(max(0.1, last - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
        print(f"{job} was stopped", flush=True)
    return good


def records(results: Path, experiment: str) -> list[tuple[Path, dict]]:
    """Return the records of an experiment that ended well."""
    found = [(path, json.loads(path.read_text())) for path in sorted((results / experiment).glob("*.json"))]
    return [(path, record) for path, record in found if record["status"] == "ok"]


def value(record: dict, name: str) -> float:
    """Return the last value of a metric in a record."""
    return [row["value"] for row in record["metrics"] if row["name"] == name][-1]


def time_an_epoch(experiment: str, workers: int, runs: Path, overrides: list[str], until: float) -> dict[str, float]:
    """Return the seconds of an epoch by stack, the median over runs of as many workers side by side."""
    folder = runs / f"calibration_{time.time():.0f}"
    short = [*overrides, "trainer.max_epochs=10", "trainer.check_val_every_n_epoch=5"]
    work = [(Job(experiment, STACKS[i % len(STACKS)], i), short) for i in range(workers)]
    run(work, workers, until, folder, folder / "results")
    seconds: dict[str, list[float]] = {}
    for _, record in records(folder / "results", experiment):
        stack = record["config"]["stack"]["_target_"].rpartition(".")[2]
        seconds.setdefault(stack, []).append(value(record, "epoch_time"))
    found = {stack: sorted(times)[len(times) // 2] for stack, times in seconds.items()}
    print(f"{workers} side by side, seconds an epoch: {found}", flush=True)
    return found


def epochs_that_fit(seconds: float, wanted: int, rounds: float, epoch: float) -> int:
    """Return how many epochs fit, `wanted` at most, a multiple of ten."""
    fit = int((seconds / rounds - STARTUP) / epoch) // 10 * 10
    return max(0, min(wanted, fit))


def fastest(asked: argparse.Namespace, until: float) -> tuple[int, float]:
    """Return the number of workers that trains most epochs a second, and the seconds of one epoch then."""
    found = {}
    for workers in asked.workers:
        times = time_an_epoch(asked.experiments[0], workers, asked.runs, asked.override, until)
        if not times:
            raise SystemExit(f"Error: no run of {workers} side by side ended well, see {asked.runs}/calibration_*/logs")
        found[workers] = sum(times.values()) / len(times)
    workers = max(found, key=lambda workers: workers / found[workers])
    print(f"{workers} workers: {workers / found[workers]:.2f} epochs a second", flush=True)
    return workers, found[workers]


def plan(asked: argparse.Namespace, workers: int, epoch: float, seconds: float) -> list[tuple[Job, list[str]]]:
    """Return the work that fits; the first experiment gets all the time that it needs."""
    work = []
    for experiment in asked.experiments:
        jobs = jobs_of(experiment, asked.seeds)
        rounds = max(1.0, len(jobs) / workers)
        epochs = epochs_that_fit(seconds * asked.margin, asked.epochs, rounds, epoch)
        enough = epochs >= SHORTEST * asked.epochs
        print(f"{experiment}: {epochs} epochs for {len(jobs)} runs fit{'' if enough else ': left out'}", flush=True)
        if enough:
            overrides = list(asked.override)
            overrides += [f"trainer.max_epochs={epochs}"] if epochs != asked.epochs else []
            work += [(job, overrides) for job in jobs]
            seconds -= rounds * (STARTUP + epochs * epoch)
    return work


def pack(asked: argparse.Namespace) -> None:
    """Write the records that ended well into `<out>/records.tar.gz`, and the logs beside it."""
    asked.out.mkdir(parents=True, exist_ok=True)
    with tarfile.open(asked.out / "records.tar.gz", "w:gz") as tar:
        for experiment in asked.experiments:
            done = records(asked.results, experiment)
            print(f"{experiment}: {len(done)} records", flush=True)
            for path, _ in done:
                tar.add(path, f"{experiment}/{path.name}")
    with tarfile.open(asked.out / "logs.tar.gz", "w:gz") as tar:
        if (asked.runs / "logs").is_dir():
            tar.add(asked.runs / "logs", "logs")


def main() -> None:
    """Read the command line, time an epoch, run, pack."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experiments", nargs="+", required=True)
    parser.add_argument("--seeds", type=int, default=6)
    parser.add_argument("--epochs", type=int, default=320, help="the number that the experiments' configs set")
    parser.add_argument("--workers", type=int, nargs="+", default=[18], help="numbers to choose the fastest of")
    parser.add_argument("--seconds", type=float, required=True, help="from the start to the deadline")
    parser.add_argument("--margin", type=float, default=0.93, help="share of the time that is planned for")
    parser.add_argument("--epoch", type=float, default=0, help="seconds of an epoch with the first of --workers")
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--override", nargs="*", default=[], help="further overrides of every run")
    asked = parser.parse_args()
    until = time.monotonic() + asked.seconds
    workers, epoch = (asked.workers[0], asked.epoch) if asked.epoch else fastest(asked, until)
    work = plan(asked, workers, epoch, until - time.monotonic())
    good = run(work, workers, until, asked.runs, asked.results)
    print(f"{good} of {len(work)} runs ended well", flush=True)
    pack(asked)


if __name__ == "__main__":
    main()
