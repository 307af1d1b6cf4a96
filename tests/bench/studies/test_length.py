"""The study of depth and length: what is planned is what is measured, and what fits, fits."""

import pytest

from bdia.bench.studies import length

WAYS = ["checkpoint_in_backward", "bdia_in_backward"]
TINY = {"width": 32, "heads": 2, "vocabulary": 40, "ways": WAYS, "lengths": [], "gib": []}
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
    rows = points(depths=[], **fits | {"gib": [0.05, 0.1]})
    assert all(row["peak"] <= row["gib"] * 2**30 for row in rows)
    found = {(row["question"], row["way"], row["gib"]): row["largest"] for row in rows}
    for question in ("longest text", "most blocks", "largest batch"):
        checkpoint, bdia = (found[question, way, 0.1] for way in WAYS)
        assert bdia > checkpoint >= found[question, WAYS[0], 0.05]
