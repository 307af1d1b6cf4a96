"""What validation chose: of several strengths or rates the one with the least validation loss, and its test result.

A study gives every group as many trials, so that none is favoured; one that is not finished is said to be so. The test
results of the others play no part.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from bdia.results.claims import TEST_ACCURACY, VAL_LOSS
from bdia.results.page import order
from bdia.results.page.part import Part
from bdia.results.paired import Paired, holm
from bdia.results.record import RunRecord
from bdia.results.statistics import NONE, Experiment, Variant
from bdia.results.tables import Table, short, without_empty
from bdia.results.variants import UNSET, Settings, label
from bdia.results.verdicts import p_text

GAMMA = "stack.gamma.value"
# Study -> the settings that are tried at several values, 0 where a run has nothing of it.
TRIALS: Mapping[str, tuple[str, ...]] = {
    "regularisers_cifar10": (
        GAMMA, "model.net.dropout", "model.net.drop_path", "optimizer.weight_decay", "model.label_smoothing",
    ),
    "optimizers_cifar10": ("optimizer.lr",),
}  # fmt: skip
COLUMNS = ["stack", "tried", "chosen", "val loss nat, end", "test accuracy % (mean ± std, n)", "test loss nat",
           "accuracy minus nothing's, points (95 % interval; p after Holm)"]  # fmt: skip


@dataclass(frozen=True)
class Group:
    """The trials of one thing, such as dropout on the standard stack.

    Args:
        key: the setting that is tried at several values; None where there is one trial.
        trials: by the value of `key`.
        is_plain: whether its runs have none of the settings that the study tries.
    """

    name: str
    key: str | None
    trials: Mapping[object, Variant]
    is_plain: bool

    @property
    def chosen(self) -> object:
        """The value with the least validation loss at the end of training, mean over the seeds."""
        return min(self.trials, key=lambda value: _mean(self.trials[value]))

    @property
    def at_edge(self) -> bool:
        """Whether the chosen value is the least or the largest that was tried: a better one may lie beyond."""
        ends = (min(self.trials, key=_number), max(self.trials, key=_number)) if self.key else ()
        return self.chosen in ends

    @property
    def tried(self) -> str:
        """The setting and its values, e.g. "dropout 0.1, 0.2, 0.3"; "nothing"; a dash for one trial."""
        if self.key is None:
            return "nothing" if self.is_plain else NONE
        name = "gamma" if self.key == GAMMA else self.key.rpartition(".")[2].replace("_", " ")
        return f"{name} {', '.join(map(str, sorted(self.trials, key=_number)))}"


def _number(value: object) -> float:
    return float(Fraction(str(value)))


def _mean(variant: Variant) -> float:
    found = variant.spread_of(VAL_LOSS.of)
    return found.mean if found else float("inf")  # a group has only variants with a validation loss


def groups(experiment: Experiment) -> list[Group]:
    """Return the groups of trials, in the order of the experiment's variants; none of an experiment without trials."""
    keys = TRIALS.get(order.split_name(experiment.name)[0], ())
    members: dict[tuple[Settings, tuple[str, ...]], list[Variant]] = {}
    for variant in experiment.variants if keys else ():
        settings = dict(variant.settings)
        used = tuple(key for key in keys if settings.get(key) not in (None, UNSET, 0))
        others = tuple(pair for pair in variant.settings if pair[0] not in keys)
        if variant.values(VAL_LOSS.of):
            members.setdefault((others, used), []).append(variant)
    return [_group(others, used, found) for (others, used), found in members.items()]


def _group(others: Settings, used: tuple[str, ...], variants: Sequence[Variant]) -> Group:
    values = [dict(variant.settings) for variant in variants]
    key = next((key for key in used if len({value[key] for value in values}) > 1), None)
    held = tuple(pair for pair in variants[0].settings if pair in others or (pair[0] in used and pair[0] != key))
    trials = {value[key] if key else None: one for value, one in zip(values, variants, strict=True)}
    return Group(label(variants[0].example, held), key, trials, is_plain=not used)


def table(experiment: Experiment) -> Table:
    """Return one row per group: what was tried, what was chosen, and its result beside that of nothing at all."""
    found = groups(experiment)
    plain = next((group.trials[None] for group in found if group.is_plain), None)
    pairs = [None if plain is None else _paired(group, plain) for group in found]
    corrected = holm([pair.p if pair else float("nan") for pair in pairs])
    rows = [_row(group, pair, p) for group, pair, p in zip(found, pairs, corrected, strict=True)]
    return without_empty(Table(COLUMNS, rows))


def _paired(group: Group, plain: Variant) -> Paired | None:
    variant = group.trials[group.chosen]
    return Paired.of(variant.values(TEST_ACCURACY.of), plain.values(TEST_ACCURACY.of)) if variant != plain else None


def _row(group: Group, pair: Paired | None, p: float) -> list[str]:
    variant = group.trials[group.chosen]
    numbers = [variant.spread_of(measure) for measure in (VAL_LOSS.of, TEST_ACCURACY.of, _test_loss)]
    loss, accuracy, test_loss = (
        short(spread, digits) for spread, digits in zip(numbers, (3, TEST_ACCURACY.digits, 3), strict=True)
    )
    counted = f"{accuracy} (n={len(variant.runs)})"
    picked = str(group.chosen) if group.key else NONE
    return [group.name, group.tried, picked, loss, counted, test_loss, _told_pair(pair, p)]


def _told_pair(pair: Paired | None, p: float) -> str:
    if pair is None:
        return NONE
    if pair.n == 1:
        return f"{pair.mean:+.2f} (one pair)"
    low, high = pair.interval
    return f"{pair.mean:+.2f} ({low:+.2f} to {high:+.2f}; p {p_text(p)})"


def _test_loss(record: RunRecord) -> float | None:
    return record.final("loss", "test")


def parts(experiments: Sequence[Experiment]) -> list[Part]:
    """Return, for each experiment with trials, the choice as the page shows it."""
    made = []
    for experiment in experiments:
        found = groups(experiment)
        if not any(group.key for group in found):
            continue
        edges = "; ".join(f"{group.name}, {group.key}={group.chosen}" for group in found if group.at_edge)
        told = [f"At the edge of what was tried, so a better value may lie beyond: {edges}."] if edges else []
        if len({len(group.trials) for group in found if group.key}) > 1:
            told.append("The study is not finished: some groups have fewer trials than others.")
        text = "The value with the least validation loss at the end of training, and what it does on the test images."
        source = f"The records of {experiment.name}."
        made.append(
            Part(
                f"chosen-{experiment.name}", f"{experiment.name}, chosen", "What validation chose", text,
                table(experiment), None, tuple(told), "bdia report", source, (), (), order.place(experiment.name),
            )
        )  # fmt: skip
    return made
