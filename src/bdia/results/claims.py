"""The paper's claims as data: what is compared, in which experiments, and what the paper found.

Fixed before a study runs. `verdicts.py` has the rule that judges them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from bdia.results.published import HALF_IN_FLOAT, HALF_ON_GRID, REVVIT, STANDARD, ZERO_IN_FLOAT
from bdia.results.record import RunRecord
from bdia.results.statistics import value_of

Form = tuple[Any, ...]
SCALES = ("paper", "long", "few", "cpu")  # of image studies, the most telling first: `cpu` is too short to over-fit


@dataclass(frozen=True)
class Measure:
    """A number of a run.

    Args:
        repeats: whether a second run of the same config gives the same number, as memory on a CPU does. A claim on such
            a number needs no test.
    """

    text: str
    unit: str
    of: Callable[[RunRecord], float | None]
    digits: int = 2
    repeats: bool = False


def _final(name: str, split: str | None) -> Callable[[RunRecord], float | None]:
    return lambda record: record.final(name, split)


def _rise(record: RunRecord) -> float | None:
    """Return how far the validation loss ends above its least value: the over-fitting."""
    best, final = value_of(record.best("loss", "val", higher=False)), record.final("loss", "val")
    return None if best is None or final is None else final - best


def command_of(name: str) -> str:
    """Return the command that trains what an experiment's records hold; a study's are named `<study>_<scale>`."""
    study, _, scale = name.rpartition("_")
    is_study = scale in (*SCALES, "smoke") and not study.startswith("memory")
    return f"make study NAME={study} SCALE={scale}" if is_study else f"bdia train experiment={name}"


TEST_ACCURACY = Measure("test accuracy", "points", _final("accuracy", "test"))
TRAIN_LOSS = Measure("training loss at the end", "nat", _final("loss", "train"), digits=3)
VAL_LOSS = Measure("validation loss at the end", "nat", _final("loss", "val"), digits=3)
RISE = Measure("rise of the validation loss from its least value", "nat", _rise, digits=3)
PEAK = Measure("peak memory of a step", "MiB", _final("peak_allocated", None), digits=1, repeats=True)


@dataclass(frozen=True)
class Claim:
    """One claim: `ours` is above (`sign` 1) or below (`sign` -1) `theirs`.

    Args:
        place, paper: where the paper says it, and what it found.
        study: claims of one study are corrected together.
        experiments: those that test it, the largest scale first. None yet: no study measures it.
        ours, theirs: forms of the stack, see `published.form_of`.
        size: the paper's difference in the measure's unit, with which the power of our runs is computed.
    """

    text: str
    place: str
    paper: str
    study: str
    experiments: tuple[str, ...]
    ours: Form
    theirs: Form
    measure: Measure
    sign: int
    size: float | None = None


def _table_1(data: str, text: str, paper: tuple[float, float], ours: Form, theirs: Form) -> Claim:
    name = {"CIFAR-10": "cifar10", "CIFAR-100": "cifar100"}[data]
    scales = tuple(f"table1_{name}_{scale}" for scale in SCALES)
    found = f"{paper[0]:.2f} against {paper[1]:.2f} %, n = 3"
    size = round(paper[0] - paper[1], 2)
    return Claim(text, f"Table 1, {data}", found, f"Table 1, {data}", scales, ours, theirs, TEST_ACCURACY, 1, size)


def _table_1_memory(text: str, paper: str, ours: Form, theirs: Form) -> Claim:
    scales = ("table1_cifar10_paper", "memory_paper")
    return Claim(text, "Table 1, memory", paper, "Table 1, memory", scales, ours, theirs, PEAK, -1)


def _table_2(text: str, paper: str, ours: Form, theirs: Form, size: float | None = None) -> Claim:
    scales = tuple(f"table2_cifar10_{scale}" for scale in SCALES)
    return Claim(text, "Table 2", paper, "Table 2", scales, ours, theirs, TEST_ACCURACY, 1, size)


def _curves(figure: str, text: str, experiments: tuple[str, ...], measure: Measure, sign: int) -> Claim:
    return Claim(text, figure, "curves, no numbers", figure, experiments, HALF_ON_GRID, STANDARD, measure, sign)


def _float_gamma(value: str) -> Form:
    return (*HALF_IN_FLOAT[:2], Fraction(value), None)


VIT = tuple(f"table1_cifar10_{scale}" for scale in SCALES)
TRANSLATION = ("translation_paper", "translation_long", "translation_cpu")
GPT2 = ("gpt2_paper", "gpt2_cpu")

CLAIMS = (
    _table_1("CIFAR-10", "BDIA is more accurate than the standard ViT", (89.10, 88.15), HALF_ON_GRID, STANDARD),
    _table_1("CIFAR-10", "BDIA is more accurate than RevViT", (89.10, 86.22), HALF_ON_GRID, REVVIT),
    _table_1("CIFAR-10", "the standard ViT is more accurate than RevViT", (88.15, 86.22), STANDARD, REVVIT),
    _table_1("CIFAR-100", "BDIA is more accurate than the standard ViT", (66.09, 61.86), HALF_ON_GRID, STANDARD),
    _table_1("CIFAR-100", "BDIA is more accurate than RevViT", (66.09, 61.89), HALF_ON_GRID, REVVIT),
    _table_1_memory("BDIA needs less memory than the standard ViT", "693.4 against 1570.6 MB", HALF_ON_GRID, STANDARD),
    _table_1_memory("RevViT needs less memory than BDIA", "572.7 against 693.4 MB", REVVIT, HALF_ON_GRID),
    _table_2("gamma ±1/2 is better than 0", "89.12 against 88.15 %", HALF_IN_FLOAT, ZERO_IN_FLOAT, 0.97),
    _table_2("gamma ±1/2 is better than ±1/4", "±1/2 is the best", HALF_IN_FLOAT, _float_gamma("1/4")),
    _table_2("gamma ±1/2 is better than ±3/5", "±1/2 is the best", HALF_IN_FLOAT, _float_gamma("3/5")),
    _curves("Fig. 3", "BDIA's training loss ends above the standard ViT's", VIT, TRAIN_LOSS, 1),
    _curves("Fig. 4", "BDIA's validation loss ends below standard's", TRANSLATION, VAL_LOSS, -1),
    _curves("Fig. 4", "BDIA's training loss ends above standard's", TRANSLATION, TRAIN_LOSS, 1),
    _curves("Fig. 5", "BDIA's validation loss ends below standard's", GPT2, VAL_LOSS, -1),
    _curves("Fig. 5", "BDIA's validation loss rises less from its least value", GPT2, RISE, -1),
)  # fmt: skip
