"""Give every key of every config group odd values, and see that each works or is refused in one line.

Usage: python scripts/settings_walk.py [key=value ...]

  bases=[]      names of the configs that are walked; []: all, see BASES below
  part=1/1      walk the first of so many parts of the keys, so that several processes can share the work
  out=results/settings   folder of the record

A value *works* where `bdia train` ends well with a record, is *refused* where it ends with exit code 2 and one line
that begins with "error:", and *ended* where training ended early for a reason that a record tells (an overflow of the
grid, a loss that is not finite). Anything else is a failure: a traceback, a crash, more than 6 GiB or 90 seconds. Each
try is a process of its own, forked from one that has imported everything. 40 minutes on one CPU core.
"""

import os
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from bdia.bench.studies.record import StudyRecord
from bdia.build import compose
from bdia.build.keys import plain_values
from bdia.cli.arguments import script_arguments
from bdia.cli.main import main as command
from bdia.results.record import without_folders
from bdia.results.store import read_records
from bdia.train import job  # noqa: F401 # imported before the forks

ODD = [
    "abc",
    "''",
    "[1,2]",
    "{a: 1}",
    "true",
    "null",
    "-1",
    "0",
    "0.5",
    "1000000000",
    "1000000000000000000",
    "1e30",
    "nan",
]
REMOVED = "~"  # the key is taken out
SHORT = ["trainer.max_epochs=1", "+trainer.limit_train_batches=2", "trainer.enable_progress_bar=false", "logger=csv"]
SHORT += ["trainer.accelerator=cpu", "+trainer.limit_val_batches=1", "+trainer.limit_test_batches=1"]
IMAGES = ["data=digits", "data.train_per_class=4", "data.batch_size=8", "model.net.width=16", "model.net.depth=3"]
IMAGES += ["model.net.heads=2", "model.net.head_dim=8", "model.net.mlp_hidden=16"]
PAIRS = ["data=numbers", "data.source.train=60", "data.source.val=12", "data.source.test=12", "data.token_budget=700"]
PAIRS += ["data.tokenizer.vocab_size=280", "model=seq2seq_demo", "model.net.width=16", "model.net.heads=2"]
PAIRS += ["model.net.mlp_hidden=16", "model.net.encoder_depth=2", "model.net.decoder_depth=2", "model.beam=2"]
TEXT = ["data=pydoc", "data.fraction=0.06", "data.context=32", "data.batch_size=8", "data.tokenizer.vocab_size=300"]
TEXT += ["model=gpt2_demo", "model.net.width=16", "model.net.heads=2", "model.net.depth=3"]
PROMPTS = ["data=restaurants", "data.source.train=40", "model=gpt2_prompts_demo", "model.net.width=16"]
PROMPTS += ["model.net.heads=2", "model.net.depth=3", "model.new_tokens=5", "data.tokenizer.vocab_size=300"]
STORED = "stack.backward=stored"
# name: choices, and the groups whose keys are walked; "" is every key.
BASES: dict[str, tuple[list[str], list[str]]] = {
    "images": (IMAGES, [""]),
    "checkpoint": ([*IMAGES, "stack=checkpoint"], ["stack"]),
    "checkpoint_two_level": ([*IMAGES, "stack=checkpoint_two_level"], ["stack"]),
    "revvit": ([*IMAGES, "stack=revvit"], ["stack"]),
    "standard": ([*IMAGES, "stack=standard", "optimizer=adamw", "scheduler=constant"], ["optimizer", "scheduler"]),
    "pairs": (PAIRS, ["data", "model"]),
    "text": (TEXT, ["data", "model"]),
    "bytes": ([*TEXT[:-5], *TEXT[-4:], "tokenizer@data.tokenizer=bytes"], ["data.tokenizer"]),
    "prompts": (PROMPTS, ["data", "model"]),
    "discrete": ([*IMAGES, "gamma@stack.gamma=discrete"], ["stack.gamma"]),
    "uniform": ([*IMAGES, "gamma@stack.gamma=uniform", STORED], ["stack.gamma"]),
    "ramp": ([*IMAGES, "gamma@stack.gamma=ramp"], ["stack.gamma"]),
    "growing": ([*IMAGES, "gamma@stack.gamma=growing"], ["stack.gamma"]),
    "zero": ([*IMAGES, "gamma@stack.gamma=zero", STORED], ["stack.gamma"]),
}  # fmt: skip
LIMIT_BYTES, LIMIT_SECONDS = 6 * 2**30, 90


@dataclass
class Arguments:
    """The command line; the module's text says what each means."""

    bases: list[str] = field(default_factory=list)
    part: str = "1/1"
    out: str = "results/settings"


def keys_of(node: Any, place: str = "") -> Iterator[str]:
    """Yield every key of a config, nodes and what is in them."""
    for key, value in node.items() if isinstance(node, dict) else ():
        path = f"{place}.{key}".lstrip(".")
        if key.startswith("_") or path in ("paths",):
            continue
        yield path
        yield from keys_of(value, path)


def tries(base: str) -> Iterator[tuple[str, str, list[str]]]:
    """Yield (key, value, choices) of everything that is tried on a base."""
    choices, groups = BASES[base]
    choices = [*choices, *SHORT]
    for key in keys_of(plain_values(compose(choices))):
        if not any(group == "" or key == group or key.startswith(f"{group}.") for group in groups):
            continue
        others = [choice for choice in choices if choice.lstrip("+").partition("=")[0] != key]
        for value in ODD:
            yield key, value, [*others, f"++{key}={value}"]
        yield key, REMOVED, [*(c for c in others if not c.lstrip("+").startswith(f"{key}.")), f"~{key}"]


def attempt(choices: Sequence[str], folder: Path) -> dict[str, Any]:
    """Give the command in a process of its own; return its result and what it said."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    pid = os.fork()
    if not pid:
        code = 1
        try:
            for number, name in ((1, "out"), (2, "err")):
                os.dup2(os.open(folder / name, os.O_WRONLY | os.O_CREAT), number)
            resource.setrlimit(resource.RLIMIT_AS, (LIMIT_BYTES, LIMIT_BYTES))
            signal.alarm(LIMIT_SECONDS)
            os.chdir(folder)
            command(["train", *choices])
            code = 0
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else 1
        except BaseException:  # what Python would print
            sys.excepthook(*sys.exc_info())
        finally:
            sys.stderr.flush()
            os._exit(code)
    _, status = os.waitpid(pid, 0)
    code, said = os.waitstatus_to_exitcode(status), (folder / "err").read_text(errors="replace").strip()
    lines = [line for line in said.splitlines() if line.startswith("error:")]
    return {"code": code, "error": lines[-1] if lines else said[-400:], "traceback": "Traceback" in said}


def judged(key: str, found: dict[str, Any], folder: Path) -> str:
    """Return "works", "refused", "ended" or "FAILURE"."""
    records = [record for root in folder.rglob("*.json") if root.parent.name != "hydra" for record in [root]]
    statuses = [r.status for place in {path.parent.parent for path in records} for r in _records(place)]
    if found["traceback"]:
        return "FAILURE"
    if found["code"] == 0 and "ok" in statuses:
        return "works"
    if found["code"] == 2 and found["error"].startswith("error:"):
        return "refused" if not statuses else "ended"
    return "ended" if "diverged" in statuses else "FAILURE"


def _records(place: Path) -> list[Any]:
    try:
        return read_records(place)
    except Exception:  # no folder of records
        return []


def walk(arguments: Arguments) -> list[dict[str, Any]]:
    """Try everything; one row per try."""
    number, parts = map(int, arguments.part.split("/"))
    base_folder, rows = Path(tempfile.mkdtemp(prefix="bdia-settings-")), []
    try:
        for base in arguments.bases or BASES:
            everything = [each for place, each in enumerate(tries(base)) if place % parts == number - 1]
            for key, value, choices in everything:
                clock = time.monotonic()
                found = attempt(choices, base_folder / "try")
                result = judged(key, found, base_folder / "try")
                row = {
                    "base": base,
                    "key": key,
                    "value": value,
                    "result": result,
                    "said": without_folders(found["error"])[:300],
                }
                rows.append(row if result != "works" else {**row, "said": ""})
                if result == "FAILURE":
                    print(f"FAILURE {base}: {key}={value}: exit {found['code']}: {found['error'][-300:]}", flush=True)
                if time.monotonic() - clock > 20:
                    print(f"slow {base}: {key}={value}: {time.monotonic() - clock:.0f} s", flush=True)
            print(f"{base}: {dict(Counter(row['result'] for row in rows if row['base'] == base))}", flush=True)
    finally:
        shutil.rmtree(base_folder, ignore_errors=True)
    return rows


def main(argv: Sequence[str] | None = None) -> None:
    """Read the command line, walk, write the record."""
    arguments = script_arguments(Arguments(), __doc__, argv)
    torch.set_num_threads(1)
    record = StudyRecord("settings", asdict(arguments), Path(arguments.out))
    rows = walk(arguments)
    counts = Counter(row["result"] for row in rows)
    print(record.write(rows), f"{len(rows)} tries: {dict(counts)}", sep="\n")
    sys.exit(1 if counts["FAILURE"] else 0)


if __name__ == "__main__":
    main()
