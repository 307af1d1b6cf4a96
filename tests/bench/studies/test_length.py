"""The study of depth and length: what is planned is what is measured, and what fits, fits."""

import pytest

from bdia.bench.studies import largest, length
from bdia.bench.studies.timm_depth import OWN, timm_rows
from bdia.bench.studies.whole_step import WAYS

PAIR = ["checkpoint_in_backward", "bdia_in_backward"]
TINY = {"width": 32, "heads": 2, "vocabulary": 40, "ways": PAIR, "lengths": [], "gib": []}
TINY |= {"what": ["depth"]}
SIZES = ("peak", "optimizer", "activations")


def points(**settings):
    return [row for rows in length.measure(length.Arguments(**TINY | settings)) for row in rows]


@pytest.mark.slow
def test_a_planned_point_is_the_measured_one_and_says_so():
    measured, planned = (points(depths=[8], tokens=64, measured_gflop=gflop) for gflop in (100.0, 0.0))
    assert {row["origin"] for row in measured} == {"measured"} and {row["origin"] for row in planned} == {"planned"}
    for one, other in zip(measured, planned, strict=True):
        assert one["way"] == other["way"] and one["tokens_per_s"] > 0 and "ms" not in other
        assert [other[name] for name in SIZES] == pytest.approx([one[name] for name in SIZES], rel=0.02)


@pytest.mark.slow
def test_the_largest_sizes_fit_and_bdia_takes_longer_texts_than_checkpointing():
    fits = {"fit_model": "gpt2_demo", "fit_vocabulary": 40, "fit_depth": 24, "fit_tokens": 64, "fit_batch": 2}
    rows = points(depths=[], **fits | {"gib": [0.05, 0.1], "what": ["depth", "length"]})
    assert all(row["peak"] <= row["gib"] * 2**30 for row in rows)
    found = {(row["question"], row["way"], row["gib"]): row["largest"] for row in rows}
    for question in ("longest text", "most blocks", "largest batch"):
        checkpoint, bdia = (found[question, way, 0.1] for way in PAIR)
        assert bdia > checkpoint >= found[question, PAIR[0], 0.05]


FITS = {"fit_model": "gpt2_demo", "fit_vocabulary": 40, "fit_depth": 6, "fit_tokens": 256, "fit_batch": 2}


@pytest.mark.slow
@pytest.mark.parametrize("way", ["two_level_in_backward", "bdia_tiled_in_backward"])
@pytest.mark.parametrize("question", [largest.LONGEST, largest.BATCH])
def test_what_lies_on_a_line_fits_and_one_more_does_not(way, question):
    arguments = length.Arguments(**FITS | {"gib": [1.0], "ways": [way]})
    (row,) = largest.limits(arguments, way, [question])
    steps = largest.Steps(["model=gpt2_demo"], 40, "cuda")
    sizes = [largest.size_of(question, row["largest"] + more * largest.unit_of(question), arguments) for more in (0, 1)]
    fits, not_any_more = (steps.cost(WAYS[way], size).peak for size in sizes)
    assert row["peak"] == fits <= 2**30 < not_any_more
    assert row["origin"] == "planned"


@pytest.mark.slow
def test_the_most_blocks_of_two_levels_lie_on_a_line_and_the_row_says_so():
    arguments = length.Arguments(**FITS | {"gib": [0.1]})
    (row,) = largest.limits(arguments, "two_level_in_backward", [largest.DEEPEST])
    assert row["origin"] == "planned, on a line through two depths"
    cost = largest.Steps(["model=gpt2_demo"], 40, "cuda").cost(
        WAYS["two_level_in_backward"], largest.size_of(largest.DEEPEST, row["largest"], arguments)
    )
    assert cost.peak == pytest.approx(0.1 * 2**30, rel=0.1)  # its segments make steps of the line


def test_timm_s_checkpointing_takes_nearly_the_memory_of_ours():
    rows = {row["way"]: row for row in timm_rows(4, 2)}
    timm, ours = rows[OWN], rows["checkpoint_in_backward"]
    assert timm["origin"] == "measured" and "held" not in timm
    assert timm["activations"] == pytest.approx(ours["activations"], rel=0.05)


@pytest.mark.parametrize("key", ["what", "ways"])
def test_an_unknown_word_is_refused_by_name(key):
    with pytest.raises(ValueError, match=rf"{key}=\['bida'\]: wanted some of .*; set {key}"):
        next(length.measure(length.Arguments(**{key: ["bida"]})))
