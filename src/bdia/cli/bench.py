"""Time and memory of every stack, interleaved in one process; JSON, tables and plots in results/bench/.

Usage: bdia bench [quick=true] [key=value ...]

  quick=false          true: one small cell, three minutes on two cores; other keys still change it
  what=[table,curve]   table: all variants; curve: time against memory over `keep`; overhead: a run's own cost
  models=[vit_paper,vit_base,gpt2]
  depths=[6,12,24,48]
  precisions=[32-true,bf16-mixed]
  variants=[...]       of the table: VARIANTS
  curve_model=vit_paper  curve_depth=6    of the curve and of overhead
  repeats=7            rounds; every variant is timed once in each
  batch=[]             one number per model, in their order, for table and curve; [] takes bdia/bench/cases.py's
  device=auto          cuda where there is a GPU; cpu and cuda insist
  threads=null         of a CPU; null leaves torch's choice
  fits=true            plan the largest batch and depth within 1, 4 and 16 GiB, for the first of the precisions
  out=results/bench    folder of the JSON, the tables and the plots
  show=null            JSON of an earlier bench: print it and write its tables and plots again, run nothing

An interrupted bench keeps the cells it has finished.

Examples:
  bdia bench quick=true
  bdia bench what=[table] models=[vit_paper] depths=[6,24] precisions=[32-true]
"""

from collections.abc import Sequence
from dataclasses import dataclass
from textwrap import wrap

from bdia.bench.cases import VARIANTS
from bdia.cli.arguments import read_arguments

__doc__ = (__doc__ or "").replace("VARIANTS", ("\n" + 23 * " ").join(wrap(" ".join(VARIANTS), 82)))


@dataclass
class Choice:
    """What is read before all other arguments: which defaults these have."""

    quick: bool = False


def run(argv: Sequence[str]) -> None:
    """Measure, or show an earlier bench."""
    first = [word for word in argv if word.startswith("quick=")]
    rest = [word for word in argv if word not in first]
    choice = read_arguments(Choice(), first)
    from bdia.bench.run import Arguments, quick, run

    run(read_arguments(quick() if choice.quick else Arguments(), rest))
