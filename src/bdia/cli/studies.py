"""Train the studies in order of priority until a budget of time is spent, as many runs side by side as fit.

Usage: bdia studies [key=value ...]

  scale=cpu          of each study: a file of its group in configs/scale, such as paper, long, few, cpu, smoke
  budget=25min       time from the start to the end, such as 90s, 25min, 8h; empty: until all is done
  only=[]            names of studies; empty: all of configs/studies.yaml that have the scale
  seeds=[]           seeds; empty: those of the scale
  workers=0          runs side by side; 0: one a core, on a GPU as many as its free memory takes, 2 GiB each
  data=              folder of the data; empty: BDIA_DATA, else data
  results=results    folder of the records; what is recorded there is left out
  runs=runs          folder of checkpoints and logs

At the start it says what it will do and expects to end, at the end what is left. A run that the budget cuts off saves a
checkpoint; typed again, the command goes on there. On another machine it leaves out what `results` holds.

Examples:
  bdia studies scale=smoke
  bdia studies scale=few budget=25min only=[bits_cifar10] seeds=[0,1,2]
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bdia import InvalidValueError, MissingFileError
from bdia.cli.arguments import read_arguments


@dataclass
class Arguments:
    """The command line; the module's text says what each means."""

    scale: str = "cpu"
    budget: str = ""
    only: list[str] = field(default_factory=list)
    seeds: list[int] = field(default_factory=list)
    workers: int = 0
    data: str = ""
    results: str = "results"
    runs: str = "runs"


def run(argv: Sequence[str]) -> None:
    """Run them; exits with 1 where a job failed."""
    arguments = read_arguments(Arguments(), argv)
    seconds = read_budget(arguments.budget)
    if arguments.workers < 0:
        raise InvalidValueError(f"workers={arguments.workers}: wanted 0 or more; set workers")
    if arguments.data:
        if not Path(arguments.data).is_dir():
            raise MissingFileError(f"data={arguments.data}: no such folder; wanted one with the data")
        os.environ["BDIA_DATA"] = arguments.data
    from bdia.train.budget import Asked, run_studies

    asked = Asked(
        arguments.scale, arguments.only, arguments.seeds, arguments.workers, seconds,
        Path(arguments.results).resolve(), Path(arguments.runs).resolve(),
    )  # fmt: skip
    run_studies(asked)


def read_budget(text: str) -> float:
    """Return the seconds of a length of time such as "25min"; infinity for an empty text.

    Raises:
        ValueError: it is none, or not above zero.
    """
    if not text:
        return float("inf")
    from pandas import Timedelta

    try:
        seconds = Timedelta(text).total_seconds() if text[-1:].isalpha() else 0.0
    except ValueError:
        seconds = 0.0
    if not seconds > 0:
        raise InvalidValueError(f"budget={text}: wanted a length of time such as 90s, 25min or 8h; set budget")
    return seconds
