"""Reproduce a table or figure of the paper: fetch the data, say how long it takes, run the sweep, print the table.

Usage: bdia reproduce recipe=cifar10 [key=value ...]

  recipe=            cifar10, cifar100: Table 1; translation: Fig. 4; gpt2: Fig. 5
  scale=             paper: as published; cpu: the same comparison on little data, for 2 cores; smoke: a minute or two;
                     empty: paper with a GPU, else cpu
  seeds=3            runs of each variant
  data=              folder of the data; empty: BDIA_DATA, else data
  results=results    folder of the records

Typed again, the command leaves out what has ended well and continues what was stopped.

Examples:
  bdia reproduce recipe=cifar10 scale=smoke seeds=1
  bdia reproduce recipe=translation scale=cpu data=my-folder
"""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bdia import MissingFileError
from bdia.cli.arguments import MISSING, read_arguments


@dataclass
class Arguments:
    """The command line; the module's text says what each means."""

    recipe: str = MISSING
    scale: str = ""
    seeds: int = 3
    data: str = ""
    results: str = "results"


def run(argv: Sequence[str]) -> None:
    """Run the recipe; exits with the sweep's code."""
    arguments = read_arguments(Arguments(), argv)
    if arguments.data:
        if not Path(arguments.data).is_dir():
            raise MissingFileError(f"data={arguments.data}: no such folder; wanted one with the data")
        os.environ["BDIA_DATA"] = arguments.data
    from bdia.train.reproduce import reproduce

    sys.exit(reproduce(arguments.recipe, arguments.scale, arguments.seeds, Path(arguments.results)))
