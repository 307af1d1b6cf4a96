"""English -> French numerals, ordinals, years, dates and amounts of money: pairs made here, no download.

The words are those of the package num2words, with "vingtsième" and "centsième" corrected to "vingtième" and "centième";
the sentences around them are written here. A translation is unique, so that BLEU can reach 100.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from functools import cache
from pathlib import Path

import torch
from num2words import num2words

from bdia import InvalidValueError
from bdia.data.loader import seeded_generator
from bdia.data.text.splits import SPLITS, Pair, Pairs

MONTHS = (
    ("January", "janvier"),
    ("February", "février"),
    ("March", "mars"),
    ("April", "avril"),
    ("May", "mai"),
    ("June", "juin"),
    ("July", "juillet"),
    ("August", "août"),
    ("September", "septembre"),
    ("October", "octobre"),
    ("November", "novembre"),
    ("December", "décembre"),
)
HELD_OUT = 10  # one item in ten of every kind can be test data, one can be validation data


@cache
def english(number: int, to: str = "cardinal") -> str:
    """Return the number in English words; `to` is "cardinal", "ordinal" or "year"."""
    return num2words(number, lang="en", to=to)


@cache
def french(number: int, to: str = "cardinal") -> str:
    """Return the number in French words; `to` is "cardinal" or "ordinal"."""
    return num2words(number, lang="fr", to=to).replace("tsième", "tième")


def cardinal(number: int) -> Pair:
    """Return "forty-two", "quarante-deux"."""
    return english(number), french(number)


def ordinal(number: int) -> Pair:
    """Return "forty-second", "quarante-deuxième"."""
    return english(number, "ordinal"), french(number, "ordinal")


def year(number: int) -> Pair:
    """Return "in nineteen eighty-four", "en mille neuf cent quatre-vingt-quatre"."""
    return f"in {english(number, 'year')}", f"en {french(number)}"


def day(number: int) -> Pair:
    """Return "the third of March nineteen eighty-four", "le trois mars mille neuf cent quatre-vingt-quatre".

    `number` counts days in the calendar of today from the first of January of the year one, which is day 1.
    """
    when = date.min + timedelta(days=number - 1)
    english_month, french_month = MONTHS[when.month - 1]
    french_day = "premier" if when.day == 1 else french(when.day)
    return (
        f"the {english(when.day, 'ordinal')} of {english_month} {english(when.year, 'year')}",
        f"le {french_day} {french_month} {french(when.year)}",
    )


def amount(cents: int) -> Pair:
    """Return "twelve euros and five cents", "douze euros et cinq centimes"; what is zero is left out."""
    parts = [
        [
            f"{words(count)} {unit}{'s' * (count > 1)}"
            for count, unit in zip(divmod(cents, 100), units, strict=True)
            if count
        ]
        for words, units in ((english, ("euro", "cent")), (french, ("euro", "centime")))
    ]
    return " and ".join(parts[0]), " et ".join(parts[1])


@dataclass(frozen=True)
class Kind:
    """The items `make(n)` for n in `first..last`."""

    make: Callable[[int], Pair]
    first: int
    last: int

    def parts(self, seed: int) -> dict[str, torch.Tensor]:
        """Return the items' numbers in random order by split, cut 8 : 1 : 1; no item is in two."""
        count = self.last - self.first + 1
        generator = seeded_generator("numbers", seed, self.make.__name__, self.first)
        order = self.first + torch.randperm(count, generator=generator)
        held = count // HELD_OUT
        return dict(zip(SPLITS, order.split([count - 2 * held, held, held]), strict=True))


KINDS = (
    *(Kind(cardinal, first, last) for first, last in ((0, 99), (100, 999), (1000, 9999), (10_000, 1_000_000))),
    *(Kind(ordinal, first, last) for first, last in ((1, 99), (100, 999), (1000, 9999))),
    Kind(year, 1000, 2099),
    *(
        Kind(day, date(first, 1, 1).toordinal(), date(last, 12, 31).toordinal())
        for first, last in ((1600, 1899), (1900, 2099))
    ),
    *(Kind(amount, first, last) for first, last in ((1, 999), (1000, 9999), (10_000, 999_999))),
)


class Numbers:
    """Pairs of every kind in equal numbers, as far as a kind has so many; small kinds are used up.

    An item is training, validation or test data for one `seed` whatever the sizes, and a smaller size is the beginning
    of a larger one: runs with less training data keep their test set. No source or target sentence is in two splits.

    Args:
        train, val, test: pairs per split.
        seed: of the split and of the choice.
        kinds: what to draw from.
    Raises:
        ValueError: a size below 1, or more than there are; names the config key.
    """

    source_language, target_language = "en", "fr"

    def __init__(
        self, train: int = 6000, val: int = 300, test: int = 500, seed: int = 0, kinds: Sequence[Kind] = KINDS
    ) -> None:
        self.sizes = {"train": train, "val": val, "test": test}
        self.parts = [kind.parts(seed) for kind in kinds]
        self.kinds = kinds
        for split, size in self.sizes.items():
            there = sum(len(parts[split]) for parts in self.parts)
            if not 1 <= size <= there:
                raise InvalidValueError(
                    f"{split}={size}: wanted 1..{there} pairs, all that exist; set data.source.{split}"
                )

    def load(self, data_dir: Path) -> Pairs:
        """Make the pairs, seconds for thousands; `data_dir` is not looked at."""
        return {split: self._make(split, size) for split, size in self.sizes.items()}

    def _make(self, split: str, size: int) -> list[Pair]:
        counts = fair_shares(size, [len(parts[split]) for parts in self.parts])
        return [
            kind.make(number)
            for kind, parts, count in zip(self.kinds, self.parts, counts, strict=True)
            for number in parts[split][:count].tolist()
        ]


def fair_shares(total: int, capacities: Sequence[int]) -> list[int]:
    """Share `total` equally. What does not fit into a small capacity is shared among the others."""
    shares = [0] * len(capacities)
    order = sorted(range(len(capacities)), key=lambda number: capacities[number])
    for place, number in enumerate(order):
        shares[number] = min(capacities[number], total // (len(order) - place))
        total -= shares[number]
    return shares
