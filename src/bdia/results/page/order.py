"""The order of the studies on the page, and what the file of a study says of it. A new study needs no line here."""

import re
from dataclasses import dataclass
from pathlib import Path

import bdia

# The paper's order: tables, then figures; then what it does not have. A study that is not named comes after these.
ORDER = (
    "table1_cifar10",
    "table1_cifar100",
    "memory_paper",
    "table2_cifar10",
    "inference",  # Fig. 1
    "reconstruction",  # Fig. 2
    "translation",  # Fig. 4
    "gpt2",  # Fig. 5
)
LAST = ("memory_gpt2", "finetune_vit_cifar10", "finetune_gpt2_e2e", "demo")
SCALES = ("paper", "", "long", "cpu", "few", "smoke")  # the largest first

_PACKAGE = Path(bdia.__file__).parent
_PACKAGED = _PACKAGE / "configs"  # in an installed package; a checkout has them at its top
EXPERIMENTS = (_PACKAGED if _PACKAGED.is_dir() else _PACKAGE.parents[1] / "configs") / "experiment"


@dataclass(frozen=True)
class Header:
    """What opens the file of a study.

    Args:
        title: its first sentence. text: the others. command: what runs it, at the scale of the records.
        limits: what the study can and can't say, after "Limits: "; "" where the file has no such sentence.
    """

    title: str
    text: str
    command: str
    limits: str = ""


def split_name(experiment: str) -> tuple[str, str]:
    """Return study and scale, e.g. ("gpt2", "cpu") of "gpt2_cpu"; no scale where the name has none."""
    study, _, scale = experiment.rpartition("_")
    whole = experiment in (*ORDER, *LAST) or not study
    return (experiment, "") if whole or scale not in SCALES else (study, scale)


def place(experiment: str) -> tuple[int, str, int]:
    """Return the key by which experiments are sorted on the page."""
    study, scale = split_name(experiment)
    named = (*ORDER, "", *LAST)  # "" is where studies go that are not named
    return named.index(study if study in named else ""), study, SCALES.index(scale)


def header(experiment: str, folder: Path = EXPERIMENTS) -> Header:
    """Return what the study's file says; of a study without a file, its name and the command that any has."""
    study, scale = split_name(experiment)
    found = [path for name in (experiment, study) if (path := folder / f"{name}.yaml").is_file()]
    fallback = Header(experiment, "", f"bdia train experiment={experiment}")
    if not found:
        return fallback
    lines = [line[1:].strip() for line in found[0].read_text(encoding="utf-8").splitlines() if line.startswith("#")]
    told, _, command = " ".join(line for line in lines if not line.startswith("@")).partition("Run: ")
    command = re.sub(r"SCALE=\w+", f"SCALE={scale}", command) if scale else command
    told, _, limits = told.partition("Limits: ")
    title, _, text = re.sub(r"\. (?=[A-Z])", ".\n", told.strip()).partition("\n")
    return Header(
        title.rstrip(".") or experiment, " ".join(text.split()), command.strip() or fallback.command, limits.strip()
    )
