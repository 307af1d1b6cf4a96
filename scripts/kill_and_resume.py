"""Kill a training at random moments, give the same command again until it ends, and compare with an uninterrupted one.

Usage: python scripts/kill_and_resume.py [key=value ...]

  kills=200      in all: SIGKILL, SIGTERM, SIGINT in turn
  full=0         share of the tries in which the disk is full from some write on, beside them
  seed=0         of the moments
  runs=/dev/shm  a folder for the runs, best on another file system than the temporary folder
  out=results/kills   folder of the record

A tiny ViT on the embedded digits: gradients of three batches are accumulated, validation lies inside the epochs, a
checkpoint is written at every optimizer step. Half of the kills come after a random time, half inside the writing of a
checkpoint: before it, in its middle, before and after the disk is waited for, before and after the rename. Weights,
optimizer and every recorded number but times and memory must be equal to the last bit. Ten minutes on one CPU core.
"""

import contextlib
import errno
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
from typing import Any, NamedTuple

import torch

from bdia.bench.studies.record import StudyRecord
from bdia.cli.arguments import script_arguments
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
REFUSED = 2  # exit code of an error in one line
PARTS = ("state_dict", "optimizer_states", "lr_schedulers", "epoch", "global_step")


@dataclass
class Arguments:
    """The command line; the module's text says what each means."""

    kills: int = 200
    full: float = 0.0
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


def fill_disk(at: random.Random) -> None:
    """Let the disk be full for this process from its n-th write on."""
    left, fsync = [at.randint(1, 40)], os.fsync

    def full(descriptor: int) -> None:
        left[0] -= 1
        if left[0] <= 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(descriptor)

    os.fsync = full


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
    folder: Path, at: random.Random, seconds: float, kills: int, given: int, full: float
) -> tuple[int, list[dict[str, Any]]]:
    """Give the command until it ends, with at most so many kills and full disks; returns exit code and those.

    Args:
        seconds: of a whole run. given: kills before, for the turn of the signals. full: share of full disks.
    """
    rows: list[dict[str, Any]] = []
    while len(rows) < kills:
        if full and at.random() < full:
            seed = at.random()
            status = ended(start(folder, lambda seed=seed: fill_disk(random.Random(seed))), 600)
            if status != REFUSED:
                return (1 if status is None else status), rows
            rows.append({"signal": "full disk", "aimed": True, "exit": status})
            continue
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
        if status not in (-number, 128 + number):
            return (1 if status is None else status), rows
        rows.append({**row, "exit": status})
    code = ended(start(folder), 600)
    return (1 if code is None else code), rows


class Whole(NamedTuple):
    """What the uninterrupted run came to: its seconds, final checkpoint and recorded numbers."""

    seconds: float
    weights: dict[str, Any]
    numbers: dict[tuple[Any, ...], float]


def whole_run(base: Path) -> Whole:
    """Train without an interruption."""
    folder, clock = base / "whole", time.monotonic()
    folder.mkdir()
    if ended(start(folder), 600) != 0:
        sys.exit(f"the uninterrupted run failed: {(folder / 'log').read_text()[-2000:]}")
    return Whole(time.monotonic() - clock, *outcome(folder))


def compared_run(
    folder: Path, whole: Whole, at: random.Random, kills: int, given: int = 0, full: float = 0.0
) -> tuple[list[str], list[dict[str, Any]]]:
    """Train with interruptions; returns what differs from the uninterrupted run, and the interruptions."""
    folder.mkdir()
    code, killed = interrupted_run(folder, at, whole.seconds, kills, given, full)
    if code != 0:
        return [f"exit code {code}: {(folder / 'log').read_text()[-300:]}"], killed
    weights, numbers = outcome(folder)
    found = [text for part in PARTS for text in differences(weights[part], whole.weights[part], part)]
    found += [
        f"record: {key} {whole.numbers.get(key)} {numbers.get(key)}"
        for key in whole.numbers.keys() | numbers.keys()
        if whole.numbers.get(key) != numbers.get(key)
    ]
    found += [f"left behind: {path.name}" for path in folder.rglob(".unfinished-*")]
    if not found:
        shutil.rmtree(folder)
    return found, killed


def measure(arguments: Arguments) -> tuple[list[dict[str, Any]], int]:
    """Return one row per run: its kills and what differed; and how many runs were wrong."""
    at, rows, given, wrong = random.Random(arguments.seed), [], 0, 0
    base = Path(tempfile.mkdtemp(prefix="bdia-kills-", dir=arguments.runs))
    try:
        whole = whole_run(base)
        while given < arguments.kills:
            kills = min(8, arguments.kills - given)
            found, killed = compared_run(base / f"run{len(rows)}", whole, at, kills, given, arguments.full)
            given += len(killed)
            wrong += bool(found)
            rows.append({"kills": killed, "different": found[:20]})
            print(
                f"run {len(rows)}: {len(killed)} kills ({given} of {arguments.kills}), {found or 'equal'}", flush=True
            )
    finally:
        if not wrong:
            shutil.rmtree(base)
    return rows, wrong


def main(argv: Sequence[str] | None = None) -> None:
    """Read the command line, measure, write the record."""
    arguments = script_arguments(Arguments(), __doc__, argv)
    torch.set_num_threads(1)
    record = StudyRecord("kills", asdict(arguments), Path(arguments.out))
    rows, wrong = measure(arguments)
    with contextlib.suppress(BrokenPipeError):
        print(record.write(rows), f"{wrong} of {len(rows)} runs differ", sep="\n")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
