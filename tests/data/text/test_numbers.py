"""The embedded pairs: right words, no leakage, repeatable."""

from datetime import date
from pathlib import Path

import pytest

from bdia.data.text import numbers
from bdia.data.text.numbers import KINDS, Kind, Numbers, amount, cardinal, day, fair_shares, ordinal, year

NOWHERE = Path("nowhere")


@pytest.mark.parametrize(
    ("found", "english", "french"),
    [
        (cardinal(0), "zero", "zéro"),
        (cardinal(71), "seventy-one", "soixante et onze"),
        (cardinal(80), "eighty", "quatre-vingts"),
        (cardinal(1_000_000), "one million", "un million"),
        (ordinal(1), "first", "premier"),
        (ordinal(80), "eightieth", "quatre-vingtième"),
        (ordinal(200), "two hundredth", "deux centième"),
        (ordinal(9), "ninth", "neuvième"),
        (year(1984), "in nineteen eighty-four", "en mille neuf cent quatre-vingt-quatre"),
        (
            day(date(1984, 3, 3).toordinal()),
            "the third of March nineteen eighty-four",
            "le trois mars mille neuf cent quatre-vingt-quatre",
        ),
        (day(date(2000, 8, 1).toordinal()), "the first of August two thousand", "le premier août deux mille"),
        (amount(1205), "twelve euros and five cents", "douze euros et cinq centimes"),
        (amount(101), "one euro and one cent", "un euro et un centime"),
        (amount(2), "two cents", "deux centimes"),
        (amount(8000), "eighty euros", "quatre-vingts euros"),
    ],
)
def test_an_item_is_written_in_correct_english_and_french(found, english, french):
    assert found == (english, french)


def test_no_french_ordinal_keeps_the_plural_s_that_num2words_leaves():
    assert not [number for number in range(1, 2000) if "tsième" in ordinal(number)[1]]


@pytest.mark.parametrize("seed", [0, 1])
def test_no_source_and_no_target_sentence_is_in_two_splits_or_twice_in_one(seed):
    pairs = [pair for part in Numbers(train=3000, val=300, test=500, seed=seed).load(NOWHERE).values() for pair in part]
    assert len(pairs) == 3800
    assert len({source for source, _ in pairs}) == len({target for _, target in pairs}) == 3800


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: f"{kind.make.__name__}{kind.first}")
def test_the_numbers_of_a_kind_are_in_one_split_each_and_lie_in_its_range(kind):
    parts = kind.parts(seed=0)
    drawn = [number for part in parts.values() for number in part.tolist()]
    assert sorted(drawn) == list(range(kind.first, kind.last + 1))
    assert len(parts["val"]) == len(parts["test"]) == len(drawn) // 10


def test_the_same_seed_gives_the_same_pairs_and_another_seed_others():
    first, again, other = (Numbers(200, 30, 50, seed).load(NOWHERE) for seed in (0, 0, 1))
    assert first == again
    assert not set(first["test"]) & set(first["train"])
    assert set(first["test"]) != set(other["test"])


def test_fewer_training_pairs_are_part_of_more_and_the_test_set_stays():
    few, many = (Numbers(train, 30, 50).load(NOWHERE) for train in (100, 1000))
    assert set(few["train"]) < set(many["train"])
    assert (few["val"], few["test"]) == (many["val"], many["test"])


def test_every_kind_is_in_every_split_and_both_short_and_long_numerals_occur():
    for part in Numbers(train=1300, val=130, test=130).load(NOWHERE).values():
        sources = [source for source, _ in part]
        for word in ("in ", "the ", "euro", "cent", "th"):
            assert any(word in source for source in sources)
        lengths = [len(source.split()) for source in sources]
        assert min(lengths) == 1
        assert max(lengths) >= 8


@pytest.mark.parametrize("split", ["train", "val", "test"])
@pytest.mark.parametrize("size", [0, 81])
def test_more_items_than_exist_or_none_is_refused_by_key(split, size):
    kinds = [Kind(cardinal, 0, 99)]
    sizes = {"train": 80, "val": 10, "test": 10}
    everything = [pair for part in Numbers(**sizes, kinds=kinds).load(NOWHERE).values() for pair in part]
    assert sorted(everything) == sorted(cardinal(number) for number in range(100))
    with pytest.raises(ValueError, match=rf"{split}={size}: wanted 1\.\.{sizes[split]} .*data\.source\.{split}"):
        Numbers(**{**sizes, split: size}, kinds=kinds)


@pytest.mark.parametrize(
    ("total", "capacities", "shares"),
    [(10, [5, 5], [5, 5]), (10, [2, 100, 100], [2, 4, 4]), (8, [3, 3, 3], [2, 3, 3]), (7, [9, 1, 1], [5, 1, 1])],
)
def test_shares_are_equal_and_small_capacities_are_used_up(total, capacities, shares):
    assert fair_shares(total, capacities) == shares


def test_loading_makes_only_the_pairs_that_are_wanted(monkeypatch):
    made = []
    monkeypatch.setattr(numbers, "english", lambda number, to="cardinal": made.append(number) or str(number))
    Numbers(20, 2, 3, kinds=[Kind(cardinal, 0, 999_999)]).load(NOWHERE)
    assert len(made) == 25
