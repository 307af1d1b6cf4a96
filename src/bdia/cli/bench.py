"""Time and memory of every stack, interleaved in one process; JSON, tables and plots in results/bench/.

Usage: bdia bench [quick=true] [key=value ...]

  quick=false          true: one small cell, three minutes on two cores; other keys still change it
  what=[table,curve]   table: all variants; curve: time against memory over `keep`; overhead: a run's own cost;
                       or depth, length, timm, compiled, transformers: studies with keys of their own (below)
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

what=[depth]: memory and time of a whole step against blocks, and the most blocks in 4 to 80 GiB. what=[length]: the
same against tokens, the longest text and the largest batch. what=[timm]: timm's own checkpointing. All ways step
weights in backward; what does not run here is planned, and its row says so. They have no part in a bench of the
others. Their keys are those that `bdia study --help` lists for name=length; out=results/length.
what=[compiled]: `bdia study name=compiled`: compiled layers under every stack, and what torch.compile recomputes by
itself (activation_memory_budget). what=[transformers]: `bdia study name=transformers`: transformers' own checkpointing.

Examples:
  bdia bench quick=true
  bdia bench what=[depth] depths=[6,24] ways=[checkpoint_in_backward,bdia_in_backward]
  bdia bench what=[table] models=[vit_paper] depths=[6,24] precisions=[32-true]
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from textwrap import wrap

from bdia import InvalidValueError
from bdia.bench.cases import PARTS, STUDIES, VARIANTS
from bdia.cli.arguments import read_arguments

__doc__ = (__doc__ or "").replace("VARIANTS", ("\n" + 23 * " ").join(wrap(" ".join(VARIANTS), 82)))


LENGTH = "length"  # the study that has parts, of which `what` chooses


@dataclass
class What:
    """What decides whose the other arguments are."""

    what: list[str] = field(default_factory=list)


@dataclass
class Choice:
    """What is read before all other arguments: which defaults these have."""

    quick: bool = False


def _study_asked_for(argv: Sequence[str]) -> str:
    """Return the study that measures what `what` names; empty where the bench itself does.

    Raises:
        ValueError: it names parts of two of them, or something unknown.
    """
    asked = read_arguments(What(), [word for word in argv if word.startswith("what=")]).what
    known = {**dict.fromkeys(PARTS, ""), **STUDIES}
    groups = [", ".join(name for name, one in known.items() if one == study) for study in dict.fromkeys(known.values())]
    if unknown := [name for name in asked if name not in known]:
        raise InvalidValueError(f"what={','.join(unknown)}: wanted some of {'; or some of '.join(groups)}; set what")
    found = {known[name] for name in asked}
    if len(found) > 1:
        raise InvalidValueError(
            f"what={','.join(asked)}: wanted some of {'; or some of '.join(groups)}; the groups have other keys; "
            "set what"
        )
    return found.pop() if found else ""


def run(argv: Sequence[str]) -> None:
    """Measure, or show an earlier bench."""
    if name := _study_asked_for(argv):
        from bdia.cli import study

        rest = argv if name == LENGTH else [word for word in argv if not word.startswith("what=")]
        study.run([f"name={name}", *rest])
        return
    first = [word for word in argv if word.startswith("quick=")]
    rest = [word for word in argv if word not in first]
    choice = read_arguments(Choice(), first)
    from bdia.bench.run import Arguments, quick, run

    run(read_arguments(quick() if choice.quick else Arguments(), rest))
