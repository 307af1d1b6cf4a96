"""Kill a training at random moments, give the same command again until it ends, and compare with an uninterrupted one.

Usage: python scripts/kill_and_resume.py [key=value ...]

  kills=200      in all: SIGKILL, SIGTERM, SIGINT in turn
  seed=0         of the moments
  runs=/dev/shm  a folder for the runs, best on another file system than the temporary folder
  out=results/kills   folder of the record

A tiny ViT on the embedded digits: gradients of three batches are accumulated, validation lies inside the epochs, a
checkpoint is written at every optimizer step. Half of the kills come after a random time, half inside the writing of a
checkpoint: before it, in its middle, before and after the disk is waited for, before and after the rename. Weights,
optimizer and every recorded number but times and memory must be equal to the last bit. Ten minutes on one CPU core.
"""

import contextlib
import io
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf

from bdia.bench.studies.record import StudyRecord
from bdia.cli.main import main as command
from bdia.results.store import read_records
from bdia.train import checkpoints, job  # noqa: F401 # imported before the forks

CHOICES = [
    *("data=digits", "data.train_per_class=24", "data.val_fraction=0.05", "data.batch_size=16"),
    *("data.eval_batch_size=64", "model.net.width=16", "model.net.depth=3", "model.net.heads=2"),
    *("model.net.head_dim=8", "model.net.mlp_hidden=16", "model.net.dropout=0.1", "trainer.max_epochs=3"),
    *("trainer.accumulate_grad_batches=3", "+trainer.val_check_interval=5", "trainer.accelerator=cpu"),
    *("trainer.enable_progress_bar=false", "logger=csv", "callbacks.checkpoint.every_n_epochs=null"),
    *("+callbacks.checkpoint.every_n_train_steps=1", "name=killed"),
]
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
VARY = {"step_time", "epoch_time", "throughput", "peak_allocated", "peak_reserved"}  # not the same in two whole runs
PARTS = ("state_dict", "optimizer_states", "lr_schedulers", "epoch", "global_step")


@dataclass
class Arguments:
    """The command line; the module's text says what each means."""

    kills: int = 200
    seed: int = 0
    runs: str = "/dev/shm"  # nosec B108 # a file system of its own, a new folder in it
    out: str = "results/kills"


def kill_while_writing(at: random.Random, number: int) -> None:
    """Let this process kill itself at one step of writing its n-th checkpoint."""
    wanted, step = at.randint(1, 12), at.choice(("before", "middle", "fsync", "synced", "replace", "replaced"))
    seen, save, fsync, replace = [0], torch.save, os.fsync, os.replace

    def die(here: str) -> None:
        if seen[0] == wanted and here == step:
            os.kill(os.getpid(), number)

    def cut_save(content: Any, file: Any) -> None:
        seen[0] += 1
        die("before")
        buffer = io.BytesIO()
        save(content, buffer)
        half = len(buffer.getvalue()) // 2
        file.write(buffer.getvalue()[:half])
        file.flush()
        die("middle")
        file.write(buffer.getvalue()[half:])

    def around(function: Callable[..., Any], before: str, after: str) -> Callable[..., Any]:
        def called(*args: Any) -> Any:
            die(before)
            found = function(*args)
            die(after)
            return found

        return called

    checkpoints.torch.save = cut_save
    os.fsync, os.replace = around(fsync, "fsync", "synced"), around(replace, "replace", "replaced")


def start(folder: Path, aimed: Callable[[], None] | None = None) -> int:
    """Fork a process that gives the command; returns its number."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        log = os.open(folder / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1), os.dup2(log, 2)
        os.chdir(folder)
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job starts without it
        if aimed is not None:
            aimed()
        command(["train", *CHOICES, f"paths.runs={folder / 'runs'}", f"paths.results={folder / 'results'}"])
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    finally:
        os._exit(code)


def ended(pid: int, seconds: float) -> int | None:
    """Wait so long for a process; returns its exit status, None while it runs."""
    end = time.monotonic() + seconds
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > end:
            return None
        time.sleep(0.005)


def outcome(folder: Path) -> tuple[dict[str, Any], dict[tuple[Any, ...], float]]:
    """Return the final checkpoint of a run that ended and what its record holds."""
    (path,) = folder.glob("runs/killed/*/final.ckpt")
    records = [record for record in read_records(folder / "results") if record.status == "ok"]
    rows = {(row.name, row.split, row.step): row.value for row in records[-1].metrics if row.name not in VARY}
    return torch.load(path, weights_only=True), rows


def differences(found: Any, wanted: Any, where: str) -> list[str]:
    """Return the places in which two nested values differ."""
    if isinstance(wanted, torch.Tensor):
        return [] if torch.equal(found, wanted) else [where]
    if isinstance(wanted, dict):
        keys = [f"{where}: keys" for _ in [0] if found.keys() != wanted.keys()]
        return keys + [
            text for key in wanted if key in found for text in differences(found[key], wanted[key], f"{where}.{key}")
        ]
    if isinstance(wanted, list | tuple):
        pairs = zip(found, wanted, strict=False)
        return [text for i, pair in enumerate(pairs) for text in differences(*pair, f"{where}[{i}]")]
    return [] if found == wanted else [where]


def interrupted_run(
    folder: Path, at: random.Random, seconds: float, kills: int, given: int
) -> tuple[int, list[dict[str, Any]]]:
    """Give the command until it ends, killing it at most so many times; returns exit code and one row per kill."""
    rows: list[dict[str, Any]] = []
    while True:
        if len(rows) == kills:
            code = ended(start(folder), 600)
            return (1 if code is None else code), rows
        number, aimed = SIGNALS[(given + len(rows)) % 3], at.random() < 0.5
        seed = at.random()
        pid = start(
            folder,
            (lambda seed=seed, number=number: kill_while_writing(random.Random(seed), number)) if aimed else None,
        )
        status = ended(pid, 600 if aimed else at.uniform(0.1, seconds))
        row = {"signal": signal.Signals(number).name, "aimed": aimed}
        if status is None:
            os.kill(pid, number)
            status = ended(pid, 600)
        rows += [{**row, "exit": status}] if status in (-number, 128 + number) else []
        if status not in (-number, 128 + number):
            return (1 if status is None else status), rows


def measure(arguments: Arguments) -> tuple[list[dict[str, Any]], int]:
    """Return one row per run: its kills and what differed; and how many runs were wrong."""
    at, rows, given, wrong = random.Random(arguments.seed), [], 0, 0
    base = Path(tempfile.mkdtemp(prefix="bdia-kills-", dir=arguments.runs))
    try:
        whole = base / "whole"
        whole.mkdir()
        clock = time.monotonic()
        if ended(start(whole), 600) != 0:
            sys.exit(f"the uninterrupted run failed: {(whole / 'log').read_text()[-2000:]}")
        seconds, (weights, numbers) = time.monotonic() - clock, outcome(whole)
        while given < arguments.kills:
            folder = base / f"run{len(rows)}"
            folder.mkdir()
            code, killed = interrupted_run(folder, at, seconds, min(8, arguments.kills - given), given)
            given += len(killed)
            found = [f"exit code {code}: {(folder / 'log').read_text()[-300:]}"]
            if code == 0:
                theirs, measured = outcome(folder)
                found = [text for part in PARTS for text in differences(theirs[part], weights[part], part)]
                found += [
                    f"record: {key} {numbers.get(key)} {measured.get(key)}"
                    for key in numbers.keys() | measured.keys()
                    if numbers.get(key) != measured.get(key)
                ]
                found += [f"left behind: {path.name}" for path in folder.rglob(".unfinished-*")]
            wrong += bool(found)
            rows.append({"kills": killed, "different": found[:20]})
            print(
                f"run {len(rows)}: {len(killed)} kills ({given} of {arguments.kills}), {found or 'equal'}", flush=True
            )
            if not found:
                shutil.rmtree(folder)
    finally:
        if not wrong:
            shutil.rmtree(base)
    return rows, wrong


def main(argv: Sequence[str] | None = None) -> None:
    """Read the command line, measure, write the record."""
    given = list(sys.argv[1:] if argv is None else argv)
    if {"-h", "--help"} & set(given):
        print((__doc__ or "").strip())
        return
    arguments = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Arguments), OmegaConf.from_cli(given)))
    torch.set_num_threads(1)
    record = StudyRecord("kills", asdict(arguments), Path(arguments.out))
    rows, wrong = measure(arguments)
    with contextlib.suppress(BrokenPipeError):
        print(record.write(rows), f"{wrong} of {len(rows)} runs differ", sep="\n")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
